"""Reading all tensors of a file, or some, into memory of their own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from vedcore.weights.places import Place, empty
from vedcore.weights.safetensors_file import TensorFile
from vedcore.weights.torch_file import TorchFile

__all__ = ["read_all"]


def read_all(
    file: TensorFile | TorchFile, names: Iterable[str] | None = None, *, mmap: bool = False, **options: Any
) -> dict[str, Tensor]:
    """The tensors by name; those that can be mapped are, with ``mmap``."""
    wanted = list(file.tensors if names is None else names)
    mapped = {name: tensor for name, tensor in file.map().items() if name in wanted} if mmap else {}
    read = {name: empty(file.tensors[name].shape, file.tensors[name].dtype) for name in wanted if name not in mapped}
    for tensor in read.values():
        if tensor.numel():
            tensor.view(-1).view(torch.uint8).fill_(0x5A)  # so that what is not written is seen
    file.read({name: Place((tensor,)) for name, tensor in read.items()}, mapped=mapped, **options)
    return {name: (mapped | read)[name] for name in wanted}
