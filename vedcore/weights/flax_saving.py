"""Tensors as one ``flax_model.msgpack`` in transformers' Flax names; `vedcore.weights.flax_file` reads it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vedcore.extras import need
from vedcore.weights.flax_file import CHUNKED, NDARRAY
from vedcore.weights.framework_names import to_flax
from vedcore.weights.manifest import FileRecord

__all__ = ["write_flax"]

MAX_CHUNK_BYTES = 1 << 30
"""Bytes of an array that is written in one piece, as Flax writes it: msgpack ends at 4 GB."""


def write_flax(tensors: Mapping[str, tuple[Tensor, torch.dtype]], path: Path) -> FileRecord:
    """Write a file; its entry for the manifest. Tensors are converted one after the other.

    Args:
        tensors: transformers' PyTorch names to tensors, none of them tied to another, and the types to store them in.
        path: the file.

    Raises:
        MissingExtraError: msgpack is not installed.
        OSError: it cannot be written.
    """
    msgpack: Any = need("msgpack", "legacy", "a file of Flax")
    tree: dict[str, Any] = {}
    for name, (tensor, dtype) in tensors.items():
        (*groups, last), change = to_flax(name, tensor.ndim)
        group = tree
        for each in groups:
            group = group.setdefault(each, {})
        group[last] = change.to_theirs(tensor.detach()), dtype
    digest, size = hashlib.sha256(), 0
    with open(path, "xb") as file:

        def write(data: bytes) -> None:
            nonlocal size
            digest.update(data)
            size += file.write(data)

        _pack(tree, msgpack, write)
    return FileRecord(size, digest.hexdigest())


def _pack(value: Any, msgpack: Any, write: Callable[[bytes], None]) -> None:
    """Write a map, an array with its type, or a plain value."""
    if isinstance(value, tuple):
        array, dtype = value
        array = array.to("cpu", dtype).resolve_conj().resolve_neg().contiguous()
        if array.nbytes > MAX_CHUNK_BYTES:
            value = _in_pieces(array)
        else:
            raw = array.reshape(-1).view(torch.uint8).numpy().tobytes()
            named = str(dtype).removeprefix("torch.")
            value = msgpack.ExtType(NDARRAY, msgpack.packb((tuple(array.shape), named, raw)))
    if isinstance(value, dict):
        write(msgpack.Packer().pack_map_header(len(value)))
        for key, inner in value.items():
            write(msgpack.packb(key))
            _pack(inner, msgpack, write)
    else:
        write(msgpack.packb(value))


def _in_pieces(array: Tensor) -> dict[str, Any]:
    """An array as Flax's map of pieces."""
    pieces = torch.split(array.reshape(-1), max(1, MAX_CHUNK_BYTES // array.itemsize))
    return {
        CHUNKED: True,
        "shape": _numbered(array.shape),
        "chunks": _numbered((piece, array.dtype) for piece in pieces),
    }


def _numbered(values: Iterable[Any]) -> dict[str, Any]:
    """A list as Flax's map with the keys 0, 1, 2, …"""
    return {str(index): value for index, value in enumerate(values)}
