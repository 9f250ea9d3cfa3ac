"""Running graphs with torch, without the model's code: by it the proof of ``--to graph`` is made."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from vedcore.export.graphs import CONSTANTS, Graph, Node
from vedcore.model_files import WEIGHTS

__all__ = ["read_tensors", "run"]

_OWN: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "getitem": operator.getitem,
    "view": torch.reshape,  # a tensor of other sizes than the recorded ones may lie otherwise
    "_unsafe_view": torch.reshape,
}


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The weights and constants of an export."""
    return {**load_file(folder / WEIGHTS), **load_file(folder / CONSTANTS)}


def run(graph: Graph, tensors: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The outputs of a graph, by name.

    Args:
        graph: the program.
        tensors: at least those that it reads.
        inputs: a tensor for each of its inputs.
    """
    values: dict[str, Any] = {port.node: inputs[port.name] for port in graph.inputs}
    values |= {port.node: tensors[port.name] for port in graph.tensors}
    for node in graph.nodes:
        operation = _OWN.get(node.op) or _of_torch(node)
        arguments = [_argument(each, values) for each in node.args]
        keywords = {name: _argument(each, values) for name, each in node.kwargs.items()}
        values[node.name] = operation(*arguments, **keywords)
    return {port.name: values[port.node] for port in graph.outputs}


def _of_torch(node: Node) -> Callable[..., Any]:
    name, _, overload = node.op.partition(".")
    found: Callable[..., Any] = getattr(getattr(torch.ops.aten, name), overload or "default")
    return found


def _argument(value: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_argument(each, values) for each in value]
    if not isinstance(value, dict):
        return value
    ((kind, given),) = value.items()
    return values[given] if kind == "node" else getattr(torch, given) if kind == "dtype" else float(given)
