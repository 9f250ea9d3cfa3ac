"""All graphs of a model, and the folder that holds them."""

from __future__ import annotations

from dataclasses import replace
from importlib import metadata
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from vedcore.export.graphs import CONSTANTS, GRAPH, Graph, Graphs
from vedcore.export.programs import programs
from vedcore.export.tracing import trace
from vedcore.model import VisionEncoderDecoder
from vedcore.model_files import WEIGHTS

__all__ = ["record"]


def record(model: VisionEncoderDecoder, folder: Path) -> Graphs:
    """Write the model's own folder and, beside it, its graphs and the constants that they read.

    Nothing of the model changes, whether it trains, is frozen, was packed or has generated.

    Args:
        model: the model.
        folder: a new folder.

    Returns:
        The graphs.

    Raises:
        IncompatibleError: a part of the model that cannot be recorded, with its place in the source.
        CheckpointWriteError: the folder cannot be written.
    """
    model.save_pretrained(folder, max_shard_size=1 << 60)  # in one file
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        stored = set(file.keys())
        ties = {alias: name for alias, name in (file.metadata() or {}).items() if name in stored}
    graphs, constants = dict[str, Graph](), dict[str, Tensor]()
    for program in programs(model):
        graph, tensors = trace(program)
        graphs[graph.name] = _with_stored_names(graph, ties)
        constants |= {name: each for name, each in tensors.items() if ties.get(name, name) not in stored}
    save_file({name: each.detach().contiguous().clone() for name, each in constants.items()}, folder / CONSTANTS)
    ids = model.token_ids
    height, width = graphs["encode"].inputs[0].shape[2:]  # type: ignore[index]
    found = Graphs(
        graphs,
        ties,
        tuple(name for name, _ in model.named_parameters()),
        {"start": ids.start, "eos": list(ids.eos), "pad": ids.pad},
        (model.num_channels, *(size if isinstance(size, int) else None for size in (height, width))),
        model.decoder.vocab_size,
        model.decoder.max_positions,
        {"vedcore": metadata.version("vedcore"), "torch": torch.__version__},
    )
    (folder / GRAPH).write_text(found.to_json(), encoding="utf-8")
    return found


def _with_stored_names(graph: Graph, ties: dict[str, str]) -> Graph:
    """The graph with each tied tensor under the one name that is stored: its gradients add up by themselves."""
    return replace(graph, tensors=tuple(replace(port, name=ties.get(port.name, port.name)) for port in graph.tensors))
