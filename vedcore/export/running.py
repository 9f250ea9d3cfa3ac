"""Running graphs with torch, without the model's code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from vedcore.export.graphs import CONSTANTS, Graph
from vedcore.export.interpreter import interpret
from vedcore.model_files import WEIGHTS

__all__ = ["read_tensors", "run"]


class _Operations(dict[str, Callable[..., Any]]):
    """Torch's own operations by the names in graphs."""

    def __missing__(self, name: str) -> Callable[..., Any]:
        base, _, overload = name.partition(".")
        found: Callable[..., Any] = getattr(getattr(torch.ops.aten, base), overload or "default")
        return self.setdefault(name, found)


_OPERATIONS = _Operations(view=torch.reshape, _unsafe_view=torch.reshape)  # strides may differ from those recorded


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
    return interpret(graph, _OPERATIONS, lambda name: getattr(torch, name), tensors, inputs)
