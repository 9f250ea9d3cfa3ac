"""Reading one safetensors file: its header, checked whole before anything is allocated, and then its tensors.

The ``safetensors`` package writes our files. They are read here, in one pass that fills the parameters' own memory
and takes the sha256 on the way: that package maps the file, so that a file cut while it is in use kills the process,
has no limit of its own below 100 MB of header, takes duplicate names, and would need a second pass for the hash.

The format: 8 bytes with the header's length N, little-endian; N bytes of JSON, ``{name: {"dtype": "F32", "shape":
[2, 3], "data_offsets": [start, stop]}}`` and text under ``__metadata__``; then the tensors, without gaps.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from vedcore.config_files.plain import short
from vedcore.errors import CheckpointCorruptError, CheckpointError, CheckpointLimitError
from vedcore.weights.snapshot import json_object

__all__ = ["StoredTensor", "TensorFile"]

MAX_HEADER_BYTES = 16 << 20
_CHUNK = 1 << 23
_AGAIN = "get the file from its source again"
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz, "C64": torch.complex64, "BOOL": torch.bool, "U8": torch.uint8,
    "I8": torch.int8, "I16": torch.int16, "U16": torch.uint16, "I32": torch.int32, "U32": torch.uint32,
    "I64": torch.int64, "U64": torch.uint64,
}  # fmt: skip


class StoredTensor(NamedTuple):
    """What the header says of a tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    """First byte, from the end of the header."""
    stop: int


class TensorFile:
    """An opened safetensors file.

    Args:
        file: at its beginning; it is read from, and not closed.
        path: what to call it in messages.

    Raises:
        CheckpointCorruptError: it is cut, has more than it says, or its header contradicts itself.
        CheckpointLimitError: a header of more than 16 MB.
    """

    def __init__(self, file: io.FileIO, path: str | os.PathLike[str]) -> None:
        self.path = path
        self._file = file
        self.size = os.fstat(file.fileno()).st_size
        self._header = self._read_header(self.size)
        data = json_object(self._header[8:], path)
        self.metadata = self._metadata(data.pop("__metadata__", {}))
        self.tensors = dict(sorted((self._tensor(*item) for item in data.items()), key=lambda item: item[1].start))
        """By name, in the order of the file."""
        self._check_layout(self.size - len(self._header))

    def _corrupt(self, message: str, tensor: str | None = None) -> CheckpointCorruptError:
        return CheckpointCorruptError(message, path=self.path, field=tensor and short(tensor), hint=_AGAIN)

    def _read_header(self, size: int) -> bytes:
        """The length and the header, as they are in the file."""
        first = self._file.read(8) or b""
        if len(first) < 8:
            raise self._corrupt(f"{size:,} bytes, and a safetensors file has more than 8")
        length = int.from_bytes(first, "little")
        if length > size - 8:
            raise self._corrupt(f"a header of {length:,} bytes is announced in a file of {size:,}")
        if length > MAX_HEADER_BYTES:
            raise CheckpointLimitError(
                f"a header of {length:,} bytes, and at most {MAX_HEADER_BYTES:,} are read", path=self.path, hint=_AGAIN
            )
        header = self._file.read(length) or b""
        if len(header) < length or not header.startswith(b"{"):
            raise self._corrupt("the header is not a JSON object")
        return first + header

    def _metadata(self, data: object) -> dict[str, str]:
        if isinstance(data, dict) and all(isinstance(value, str) for value in data.values()):
            return data
        raise self._corrupt("the metadata is not text by name", "__metadata__")

    def _tensor(self, name: str, entry: object) -> tuple[str, StoredTensor]:
        match entry:
            case {"dtype": str(code), "shape": list(shape), "data_offsets": [start, stop], **rest} if not rest:
                if code not in _DTYPES:
                    raise self._corrupt(f"unknown dtype {short(code)}", name)
                if not all(type(n) is int and 0 <= n < 1 << 63 for n in (*shape, start, stop)) or len(shape) > 64:
                    raise self._corrupt(f"shape {short(shape)} at {short([start, stop])}", name)
                needed = math.prod(shape) * _DTYPES[code].itemsize
                if stop - start != needed:
                    has = f"has {short(stop - start)}"
                    raise self._corrupt(f"shape {short(shape)} of {code} takes {short(needed)} bytes, and {has}", name)
                return name, StoredTensor(_DTYPES[code], tuple(shape), start, stop)
        raise self._corrupt("dtype, shape and data_offsets expected", name)

    def _check_layout(self, size: int) -> None:
        end = 0
        for name, tensor in self.tensors.items():
            if tensor.start != end:
                gap = tensor.start - end
                raise self._corrupt("overlaps the one before" if gap < 0 else f"leaves a hole of {gap:,} bytes", name)
            end = tensor.stop
        if end != size:
            raise self._corrupt(f"{size:,} bytes of tensors, and the header announces {end:,}")

    def read(self, place: Callable[[str, StoredTensor], Tensor | None], *, take_hash: bool = True) -> Iterator[str]:
        """Read the tensors, each into what ``place`` returns for it.

        Args:
            place: a tensor of the stored dtype and shape to fill; on the CPU and contiguous it is filled directly.
                None leaves the stored one where it is.
            take_hash: set `sha256` of the file at the end; it takes about as long as reading.

        Yields:
            The name of each tensor when it has been read; the others have no part in it.

        Raises:
            CheckpointCorruptError: the file was cut meanwhile.
        """
        digest = hashlib.sha256(self._header)
        hashed: Future[None] | None = None
        with ThreadPoolExecutor(1) as worker:  # hashing goes on while the next chunk is read
            for name, stored in self.tensors.items():
                target = place(name, stored)
                if target is None and not take_hash:
                    self._file.seek(stored.stop - stored.start, os.SEEK_CUR)
                    continue
                target = torch.empty(stored.shape, dtype=stored.dtype) if target is None else target.detach()
                direct = target.device.type == "cpu" and target.is_contiguous() and target.dtype == stored.dtype
                memory = target if direct else torch.empty(stored.shape, dtype=stored.dtype)
                view = memoryview(memory.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
                for at in range(0, len(view), _CHUNK):
                    chunk = view[at : at + _CHUNK]
                    self._fill(chunk, name)
                    if take_hash:
                        hashed = worker.submit(digest.update, chunk)
                if not direct:
                    target.copy_(memory)
                    if hashed is not None:
                        hashed.result()  # at most one tensor waits outside the model
                yield name
        self.sha256 = digest.hexdigest()

    def _fill(self, chunk: memoryview, name: str) -> None:
        filled = 0
        while filled < len(chunk):
            try:
                count = self._file.readinto(chunk[filled:])
            except OSError as error:
                message = f"cannot be read: {error.strerror}"
                raise CheckpointError(message, path=self.path, field=name, hint="check the disk") from None
            if not count:
                raise self._corrupt("the file was cut while it was read", name)
            filled += count
