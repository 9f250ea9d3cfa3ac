"""Tensors as a .npz file of numpy, and back; nothing in a file is unpickled.

numpy has no bfloat16: such a tensor is stored as 2 raw bytes a number (``V2``), as JAX's arrays are.
"""

from __future__ import annotations

import hashlib
import io
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from vedcore import CheckpointCorruptError, CheckpointMismatchError, CheckpointUnsafeError
from vedcore.formats import FileRecord

__all__ = ["read_arrays", "write_arrays"]

BFLOAT16 = np.dtype("V2")
AGAIN = "get the file from its source again"
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    NotImplementedError,
    RuntimeError,
)
"""The errors of zipfile and numpy for files that are not what they seem."""


def write_arrays(tensors: Mapping[str, Tensor], path: Path) -> FileRecord:
    """Create a .npz file with the tensors; its record for the manifest."""
    arrays: dict[str, Any] = {name: _as_array(tensor) for name, tensor in tensors.items()}
    np.savez(path, **arrays)
    with open(path, "rb") as file:
        return FileRecord(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def read_arrays(file: io.FileIO, path: Path) -> dict[str, Tensor]:
    """The arrays of an opened .npz file as tensors, by name.

    Args:
        file: the file.
        path: its name in messages.

    Raises:
        CheckpointCorruptError: not a .npz file, or a damaged one.
        CheckpointMismatchError: an array of a type that torch does not have.
        CheckpointUnsafeError: pickled objects, which are not read.
    """
    tensors: dict[str, Tensor] = {}
    try:
        with zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if name in tensors or name == member.filename:
                    raise CheckpointCorruptError(f"{name} is not an array, or is there twice", path=path, hint=AGAIN)
                with archive.open(member) as stream:
                    tensors[name] = _read_array(stream, member.file_size, path, name)
    except DAMAGE as error:
        raise CheckpointCorruptError(f"a damaged .npz file: {error}", path=path, hint=AGAIN) from None
    return tensors


def _as_array(tensor: Tensor) -> np.ndarray[Any, Any]:
    tensor = tensor.detach().cpu().contiguous()
    return tensor.view(torch.int16).numpy().view(BFLOAT16) if tensor.dtype == torch.bfloat16 else tensor.numpy()


def _read_array(stream: Any, size: int, path: Path, name: str) -> Tensor:
    """The tensor of one member of ``size`` bytes; its header is compared with the size before anything is allocated."""
    version = npy.read_magic(stream)
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran_order, dtype = read_header(stream)
    if dtype.hasobject:
        hint = "save plain arrays: no dtype=object"
        raise CheckpointUnsafeError("a pickled object, which is not read", path=path, field=name, hint=hint)
    if math.prod(shape) * dtype.itemsize != size - stream.tell():
        message = f"{size - stream.tell():,} bytes for {dtype} of {shape}"
        raise CheckpointCorruptError(message, path=path, field=name, hint=AGAIN)
    array = np.ndarray(shape, dtype, bytearray(stream.read()), order="F" if fortran_order else "C")
    if dtype == BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    try:
        return torch.from_numpy(array.astype(dtype.newbyteorder("="), order="C", copy=False))
    except TypeError:
        message = f"numbers of type {dtype}, which torch does not have"
        raise CheckpointMismatchError(message, path=path, field=name, hint="save them as float32") from None
