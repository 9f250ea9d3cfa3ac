"""Tensors that a format has read itself, in the place of an opened file."""

from __future__ import annotations

import os
from collections.abc import Mapping

from torch import Tensor

from vedcore.weights.safetensors_file import StoredTensor

__all__ = ["TensorsInMemory"]


class TensorsInMemory:
    """Named tensors that `Weights` takes like those of a file.

    Args:
        tensors: names to tensors.
        path: the file that they come from, for messages.
    """

    note = ""
    """The part of the file that was taken, for a warning: all of it."""

    def __init__(self, tensors: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
        self.path = path
        self.metadata: dict[str, str] = {}
        self.size = sum(tensor.nbytes for tensor in tensors.values())
        """Bytes."""
        self.tensors = {name: StoredTensor(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
        """Names to types and shapes."""
        self._values = tensors

    def sha256(self) -> str:
        """Empty: the hashes of a file are for those who read it."""
        return ""

    def get(self, name: str, *, keep: bool = False) -> Tensor:
        """A tensor.

        Args:
            name: name of the tensor.
            keep: as `TensorFile.get` takes it; without effect.
        """
        return self._values[name].detach().cpu()
