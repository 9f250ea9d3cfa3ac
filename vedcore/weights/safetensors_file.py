"""One safetensors file, opened by the ``safetensors`` package after a check of its header.

The check is for three things that the package does not do: it accepts headers of up to 100 MB and duplicate names, and
calls the header invalid where the file is a pointer of git-lfs or a web page.

The format: 8 bytes with the header's length N, little-endian; N bytes of JSON, ``{name: {"dtype": "F32", "shape":
[2, 3], "data_offsets": [start, stop]}}`` and text under ``__metadata__``; then the tensors, without gaps.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vedcore.config_files.plain import short
from vedcore.errors import CheckpointCorruptError, CheckpointError, CheckpointLimitError
from vedcore.files import other_content_error
from vedcore.weights.manifest import file_sha256
from vedcore.weights.origins import Unhashed
from vedcore.weights.snapshot import FILE_AGAIN_HINT, json_object

__all__ = [
    "DTYPES",
    "MAX_IO_THREADS",
    "StoredTensor",
    "TensorFile",
    "reopen_path",
    "require_same_file",
    "whole_sha256",
]

MAX_HEADER_BYTES = 16 << 20
MAX_IO_THREADS = min(4, os.cpu_count() or 1)
"""Threads that read or write tensors at the same time."""
_MAX_MAPPED_BYTES = 32 << 20
"""Bytes of tensors after which a thread maps the file again, to free the pages that it has read."""
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "C64": torch.complex64,
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "U16": torch.uint16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "I64": torch.int64,
    "U64": torch.uint64,
}


class StoredTensor(NamedTuple):
    """Type and shape of a tensor in a file."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    def empty(self) -> Tensor:
        """A tensor like it on the meta device."""
        return torch.empty(self.shape, dtype=self.dtype, device="meta")


class TensorFile:
    """An opened safetensors file: names, types and shapes are read at once, tensors by `get`.

    Args:
        file: the file at its beginning, opened by its path; it is not closed here.
        path: its name in messages.

    Raises:
        CheckpointCorruptError: the file is truncated or too long, or its header contradicts itself.
        CheckpointLimitError: a header of more than 16 MB.
        CheckpointError: the file cannot be mapped.
    """

    note = ""
    """The part of the file that was taken, for a warning: all of it."""

    def __init__(self, file: io.FileIO, path: str | os.PathLike[str]) -> None:
        self.path = path
        self._file = file
        self.size = os.fstat(file.fileno()).st_size
        header = self._read_header()
        self.header_sha256 = hashlib.sha256(header).hexdigest()
        """Sha256 of the file from its first byte to its first tensor."""
        data = json_object(header[8:], path)
        metadata = data.pop("__metadata__", {})
        if not (isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())):
            raise self._corrupt("the metadata is not text by name", "__metadata__")
        self.metadata: dict[str, str] = metadata
        entries = [self._entry(name, entry) for name, entry in data.items()]
        self.tensors = {name: tensor for name, tensor, _, _ in sorted(entries, key=lambda entry: entry[2:])}
        """Names to types and shapes, in the order of the file."""
        self.spans: Mapping[str, tuple[int, int]] = {
            name: (len(header) + start, len(header) + stop) for name, _, start, stop in entries
        }
        """Names of tensors to the offsets of their first byte and of the byte after their last."""
        announced, found = max((stop for *_, stop in entries), default=0), self.size - len(header)
        if announced != found:
            raise self._corrupt(f"{found:,} bytes of tensors, and the header announces {announced:,}")
        self._mapped = _Mapped()
        self._map()

    def _map(self) -> Any:
        """The file mapped by the package, which validates the whole header."""
        try:
            return safe_open(reopen_path(self._file), "pt")
        except SafetensorError as error:
            named = re.search(r"tensor `(.*)`", str(error))
            message = str(error).removeprefix("Error while deserializing header: ")
            raise self._corrupt(message, named and named[1]) from None
        except OSError as error:
            message = f"cannot be read: {error.strerror or error}"
            raise CheckpointError(message, path=self.path, hint="check the disk") from None
        finally:
            require_same_file(self._file, self.path)

    def _corrupt(self, message: str, tensor: str | None = None) -> CheckpointCorruptError:
        return CheckpointCorruptError(message, path=self.path, field=tensor and short(tensor), hint=FILE_AGAIN_HINT)

    def _read_header(self) -> bytes:
        """The bytes of the header, with its length before it."""
        prefix = self._file.read(8) or b""
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8:
            raise self._corrupt(f"{self.size:,} bytes, and a safetensors file has more than 8")
        head = prefix + (self._file.read(504) or b"")
        if (error := other_content_error(head, self.path, CheckpointCorruptError)) is not None:
            raise error
        if length > self.size - 8:
            raise self._corrupt(f"a header of {length:,} bytes is announced in a file of {self.size:,}")
        if length > MAX_HEADER_BYTES:
            message = f"a header of {length:,} bytes, and at most {MAX_HEADER_BYTES:,} are read"
            raise CheckpointLimitError(message, path=self.path, hint=FILE_AGAIN_HINT)
        self._file.seek(0)
        header = self._file.read(8 + length) or b""
        if len(header) < 8 + length or header[8:9] != b"{":
            raise self._corrupt("the header is not a JSON object")
        return header

    def _entry(self, name: str, entry: object) -> tuple[str, StoredTensor, int, int]:
        """A tensor of the header: name, type and shape, and the offsets of its first byte and after its last byte."""
        match entry:
            case {"dtype": str(code), "shape": list(shape), "data_offsets": [start, stop], **rest} if not rest:
                if code not in DTYPES:
                    raise self._corrupt(f"dtype {short(code)} is not one that torch has", name)
                if not all(type(n) is int and 0 <= n < 1 << 63 for n in (*shape, start, stop)):
                    raise self._corrupt(f"shape {short(shape)} at {short([start, stop])}", name)
                needed = math.prod(shape) * DTYPES[code].itemsize
                if stop - start != needed:
                    has = f"has {short(stop - start)}"
                    raise self._corrupt(f"shape {short(shape)} of {code} takes {short(needed)} bytes, and {has}", name)
                return name, StoredTensor(DTYPES[code], tuple(shape)), start, stop
        raise self._corrupt("dtype, shape and data_offsets expected", name)

    def sha256(self) -> str:
        """The sha256 of the whole file.

        Raises:
            CheckpointError: the file cannot be read.
        """
        return whole_sha256(self._file, self.path)

    def unhashed(self) -> Unhashed:
        """Identify the file, to tell later that it is the same file still."""
        return Unhashed.of(self.path, self._file)

    def get(self, name: str, *, keep: bool = False) -> Tensor:
        """A tensor in the mapped file.

        Args:
            name: name of the tensor.
            keep: the caller keeps the tensor, and thus the map: it is not renewed on account of this tensor.

        Raises:
            CheckpointCorruptError: the file was truncated meanwhile.
        """
        if os.fstat(self._file.fileno()).st_size != self.size:
            raise self._corrupt("the file was truncated while it was read", name)
        mapped = self._mapped
        if mapped.file is None or mapped.bytes_read > _MAX_MAPPED_BYTES:
            mapped.file, mapped.bytes_read = self._map(), 0
        tensor: Tensor = mapped.file.get_tensor(name)
        mapped.bytes_read += 0 if keep else tensor.nbytes
        return tensor


class _Mapped(threading.local):
    """The map of the file in one thread. Its pages count as memory of the process, so it is renewed now and then."""

    file: Any = None
    bytes_read = 0
    """Bytes of the tensors that were read from this map."""


def whole_sha256(file: io.FileIO, path: str | os.PathLike[str]) -> str:
    """The sha256 of an opened file.

    Raises:
        CheckpointError: the file cannot be read.
    """
    try:
        return file_sha256(file)[0]
    except OSError as error:
        message = f"cannot be read: {error.strerror or error}"
        raise CheckpointError(message, path=path, hint="check the disk") from None


def reopen_path(file: io.FileIO) -> str:
    """A path by which a library can open the file again; on Linux also where another file has its name by now."""
    path = f"/proc/self/fd/{file.fileno()}"
    return path if os.path.exists(path) else os.fsdecode(file.name)


def require_same_file(file: io.FileIO, path: str | os.PathLike[str]) -> None:
    """Refuse a file that was replaced by another before a library opened it again.

    Raises:
        CheckpointCorruptError: its path is that of another file.
    """
    try:
        same = os.path.samestat(os.fstat(file.fileno()), os.stat(reopen_path(file)))
    except OSError:
        same = False
    if not same:
        message = "replaced by another file while it was opened"
        raise CheckpointCorruptError(message, path=path, hint="load it again")
