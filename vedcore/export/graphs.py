"""The graphs of a model as data: ``graph.json``, beside the weights of the folder.

Nothing here imports torch: what runs a graph in another framework reads it with these classes.

A value in the arguments of a node is a number, a string, a bool, None or a list of values; ``{"node": "view_3"}`` is
what another node gives (one of several results by the operation ``getitem``), ``{"dtype": "float32"}`` a type,
``{"float": "inf"}`` a number that JSON lacks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vedcore.config_files.plain import short
from vedcore.errors import CheckpointError

__all__ = ["CONSTANTS", "GRAPH", "VERSION", "Graph", "Graphs", "Node", "Port", "read_graphs"]

GRAPH = "graph.json"
CONSTANTS = "constants.safetensors"
"""Tensors that graphs read and the weights do not hold: tables that a model computes when it is built."""
VERSION = 1
"""Of the format; a folder of another is refused."""
MAX_GRAPH_BYTES = 1 << 28
"""Limit of graph.json; that of a model with 48 layers has 2 million."""


@dataclass(frozen=True)
class Port:
    """An input or output of a graph, or a tensor that it reads."""

    name: str
    shape: tuple[int | str, ...] | None
    """A size that varies is a name or an expression, such as ``"rows"``; None for a single number."""
    dtype: str
    node: str = ""
    """The node that stands for it in the graph; of a constant the number itself, as JSON."""


@dataclass(frozen=True)
class Node:
    """An operation."""

    name: str
    op: str
    """A name in `vedcore.export.operations.OPERATIONS`."""
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    shape: tuple[int | str, ...] | None
    """Of the result where it is one tensor, else None."""
    dtype: str | None
    source: str = ""
    """Module, function and line of the code that it comes from."""


@dataclass(frozen=True)
class Graph:
    """A program of tensors alone: inputs and tensors to outputs, node by node."""

    name: str
    inputs: tuple[Port, ...]
    tensors: tuple[Port, ...]
    """Names are those of the weights, or of the constants."""
    nodes: tuple[Node, ...]
    outputs: tuple[Port, ...]


@dataclass(frozen=True)
class Graphs:
    """All graphs of a model, and what a program that generates text has to know.

    Attributes:
        graphs: ``encode``, ``cross``, ``positions``, ``step``, ``shift``, ``loss``; ``encode.train``, ``cross.train``
            and ``step.train`` as the model is in training.
        ties: names of tensors that are another one, to the name of that in the weights. A gradient is the sum of both.
        trained: names of the tensors that are parameters; others, such as running statistics, get no gradient.
        token_ids: ``start``, ``eos`` (a list) and ``pad``.
        image: ``(C, H, W)`` of an image; None for a size that may vary.
        vocab_size: V.
        max_positions: most tokens of a text; None for any number.
        made_by: versions of vedcore and torch.
    """

    graphs: Mapping[str, Graph]
    ties: Mapping[str, str]
    trained: tuple[str, ...]
    token_ids: Mapping[str, Any]
    image: tuple[int | None, ...]
    vocab_size: int
    max_positions: int | None
    made_by: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Graph:
        return self.graphs[name]

    def operations(self) -> Iterator[tuple[Graph, Node]]:
        """Each node of each graph."""
        for graph in self.graphs.values():
            for node in graph.nodes:
                yield graph, node

    def to_json(self) -> str:
        """The text of ``graph.json``."""
        return json.dumps({"format": "vedcore graph", "version": VERSION, **asdict(self)}, separators=(",", ":")) + "\n"


def read_graphs(folder: str | os.PathLike[str]) -> Graphs:
    """The graphs of an export.

    Raises:
        CheckpointError: the folder has none, of another version, or damaged ones.
    """
    path = Path(folder) / GRAPH
    try:
        if path.stat().st_size > MAX_GRAPH_BYTES:
            raise CheckpointError("too large", path=path, hint="export the model anew")
        data = json.loads(path.read_bytes())
    except OSError as error:
        hint = "give the folder of an export: vedcore export MODEL FOLDER"
        raise CheckpointError(str(error.strerror or error), path=path, hint=hint) from None
    except (ValueError, RecursionError):
        raise CheckpointError("not JSON", path=path, hint="export the model anew") from None
    if not isinstance(data, dict) or data.pop("format", None) != "vedcore graph":
        raise CheckpointError("not the graphs of a model", path=path, hint="export the model anew")
    version = data.pop("version", None)
    if version != VERSION:
        message = f"version {short(version)} of the format, but this vedcore reads {VERSION}"
        raise CheckpointError(message, path=path, hint="export the model anew")
    try:
        return Graphs(
            graphs={name: _graph(each) for name, each in data.pop("graphs").items()},
            trained=tuple(data.pop("trained")),
            image=tuple(data.pop("image")),
            **data,
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"damaged: {error}", path=path, hint="export the model anew") from None


def _graph(data: Mapping[str, Any]) -> Graph:
    ports = {name: tuple(_port(each) for each in data[name]) for name in ("inputs", "tensors", "outputs")}
    nodes = tuple(
        Node(**{**each, "args": tuple(each["args"]), "shape": _shape(each["shape"])}) for each in data["nodes"]
    )
    return Graph(data["name"], nodes=nodes, **ports)


def _port(data: Mapping[str, Any]) -> Port:
    return Port(**{**data, "shape": _shape(data["shape"])})


def _shape(data: Any) -> tuple[int | str, ...] | None:
    return None if data is None else tuple(data)
