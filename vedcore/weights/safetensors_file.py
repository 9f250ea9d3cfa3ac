"""Reading one safetensors file: its header, checked whole before anything is allocated, and then its tensors.

They are read here and not by the ``safetensors`` package, in several threads, which look for NaN while the bytes are
at hand, and take the sha256 of the same memory that the model gets. That package maps the file, so that a file cut
while it is in use kills the process, has no limit of its own below 100 MB of header, takes duplicate names, and would
need a second pass for the hash. Mapping is there too, for who asks for it.

The format: 8 bytes with the header's length N, little-endian; N bytes of JSON, ``{name: {"dtype": "F32", "shape":
[2, 3], "data_offsets": [start, stop]}}`` and text under ``__metadata__``; then the tensors, without gaps.
"""

from __future__ import annotations

import hashlib
import io
import math
import mmap as mapping
import os
from collections import deque
from collections.abc import Container, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from vedcore.config_files.plain import short
from vedcore.errors import CheckpointCorruptError, CheckpointError, CheckpointLimitError
from vedcore.weights.finite import is_finite
from vedcore.weights.snapshot import json_object

__all__ = ["DTYPES", "StoredTensor", "TensorFile"]

MAX_HEADER_BYTES = 16 << 20
_CHUNK = 1 << 23
"""Bytes that one thread reads at a time; whole numbers of every type."""
_AHEAD = 1 << 25
"""Bytes that are read, or being read, before the tensor that comes first is handed out."""
_READERS = min(4, os.cpu_count() or 1)
_AGAIN = "get the file from its source again"
DTYPES = {
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
        self.sha256 = ""
        """Of the file, once `read` has taken it."""
        self.not_finite: list[str] = []
        """Tensors in which `read` has found NaN or Inf."""
        self._file = file
        self._mapped: mapping.mmap | None = None
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
                if code not in DTYPES:
                    raise self._corrupt(f"unknown dtype {short(code)}", name)
                if not all(type(n) is int and 0 <= n < 1 << 63 for n in (*shape, start, stop)) or len(shape) > 64:
                    raise self._corrupt(f"shape {short(shape)} at {short([start, stop])}", name)
                needed = math.prod(shape) * DTYPES[code].itemsize
                if stop - start != needed:
                    has = f"has {short(stop - start)}"
                    raise self._corrupt(f"shape {short(shape)} of {code} takes {short(needed)} bytes, and {has}", name)
                return name, StoredTensor(DTYPES[code], tuple(shape), start, stop)
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

    def read(
        self, names: Container[str], *, take_hash: bool = True, check_finite: bool = True, mmap: bool = False
    ) -> Generator[tuple[str, Tensor], None, None]:
        """Read tensors, in the order of the file, some ahead of the one that is handed out.

        Args:
            names: of the tensors to read.
            take_hash: set `sha256` of the file at the end; it takes longer than reading.
            check_finite: add the tensors with NaN or Inf to `not_finite`.
            mmap: leave the tensors in the file, mapped, until they are written to: who cuts the file, or writes into
                it, cuts or changes them. Tensors that are not aligned there are read.

        Yields:
            Names and tensors, contiguous, each in memory of its own or in the map.

        Raises:
            CheckpointCorruptError: the file was cut meanwhile.
            CheckpointError: the disk fails, or the file cannot be mapped.
        """
        self._mapped = self._map() if mmap else None
        chosen = [name for name in self.tensors if take_hash or name in names]
        digest = hashlib.sha256(self._header)
        hashed: Future[None] | None = None
        with ThreadPoolExecutor(_READERS) as readers, ThreadPoolExecutor(1) as hasher:
            for name, memory, chunks in self._begun(readers, chosen, check_finite):
                finite = [chunk.result() for chunk in chunks]
                if take_hash:
                    if hashed is not None:
                        hashed.result()  # so that at most one tensor is kept for it
                    hashed = hasher.submit(digest.update, memory.numpy())  # type: ignore[arg-type]
                if name in names:
                    if not all(finite):
                        self.not_finite.append(name)
                    stored = self.tensors[name]
                    yield name, memory.view(stored.dtype).reshape(stored.shape)
        if take_hash:
            self.sha256 = digest.hexdigest()

    def _map(self) -> mapping.mmap:
        """The whole file, of which what is written to becomes ours."""
        if os.fstat(self._file.fileno()).st_size != self.size:
            raise self._corrupt("the file was cut while it was read")
        try:
            return mapping.mmap(self._file.fileno(), self.size, access=mapping.ACCESS_COPY)
        except OSError as error:
            message = f"cannot be mapped: {error.strerror}"
            raise CheckpointError(message, path=self.path, hint="load it with mmap=False") from None

    def release(self, names: Iterable[str]) -> None:
        """Let the pages go that hold the tensors of these names, where the file is mapped: they have been copied."""
        page = mapping.PAGESIZE
        for name in names:
            stored = self.tensors.get(name)
            if self._mapped is not None and stored is not None and hasattr(mapping, "MADV_DONTNEED"):
                start, stop = (len(self._header) + at for at in (stored.start, stored.stop))
                start, stop = -(-start // page) * page, stop // page * page
                if start < stop:
                    self._mapped.madvise(mapping.MADV_DONTNEED, start, stop - start)

    def _begun(
        self, readers: ThreadPoolExecutor, names: list[str], check_finite: bool
    ) -> Iterator[tuple[str, Tensor, list[Future[bool]]]]:
        """The bytes of each tensor, and the readers at work on them: they begin on what comes next before it is due."""
        begun: deque[tuple[str, Tensor, list[Future[bool]]]] = deque()
        ahead = 0
        for name in names:
            stored, at = self.tensors[name], len(self._header) + self.tensors[name].start
            size, mapped = stored.stop - stored.start, self._mapped is not None and not at % stored.dtype.itemsize
            if mapped and size:
                memory = torch.frombuffer(self._mapped, dtype=torch.uint8, count=size, offset=at)
            else:
                memory = torch.empty(size, dtype=torch.uint8)
            look = stored.dtype if check_finite else None
            chunks = [
                readers.submit(self._read, name, chunk, None if mapped else at + number * _CHUNK, look)
                for number, chunk in enumerate(torch.split(memory, _CHUNK))
                if look or not mapped
            ]
            begun.append((name, memory, chunks))
            ahead += size
            while ahead - len(begun[0][1]) > _AHEAD:
                ahead -= len(begun[0][1])
                yield begun.popleft()
        yield from begun

    def _read(self, name: str, chunk: Tensor, at: int | None, look: torch.dtype | None) -> bool:
        """Fill the chunk with the bytes from there on, if they are to be read; whether they are finite numbers."""
        view, filled = memoryview(chunk.numpy()), 0  # type: ignore[arg-type]
        while at is not None and filled < len(view):
            try:
                count = os.preadv(self._file.fileno(), [view[filled:]], at + filled)
            except OSError as error:
                message = f"cannot be read: {error.strerror}"
                raise CheckpointError(message, path=self.path, field=name, hint="check the disk") from None
            if not count:
                raise self._corrupt("the file was cut while it was read", name)
            filled += count
        return look is None or is_finite(chunk.view(look))
