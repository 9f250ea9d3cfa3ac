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
import mmap
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from vedcore.config_files.plain import short
from vedcore.errors import CheckpointCorruptError, CheckpointError, CheckpointLimitError
from vedcore.weights.finite import is_finite
from vedcore.weights.hashing import THREADS, blocks, over_blocks
from vedcore.weights.places import Place
from vedcore.weights.snapshot import json_object

__all__ = ["DTYPES", "StoredTensor", "TensorFile"]

MAX_HEADER_BYTES = 16 << 20
_PIECE = 1 << 20
"""Bytes that are read, looked at and laid out while they are in the cache; whole numbers of every type."""
_CHUNK = 1 << 22
"""Bytes that one thread takes at a time."""
_AHEAD = 4
"""Such chunks of a block that are read, or being read, before the first of them is hashed."""
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
        self.sha256: tuple[str, ...] = ()
        """Of the file's blocks, once `read` has taken it."""
        self.not_finite: list[str] = []
        """Tensors in which `read` has found NaN or Inf."""
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

    def map(self) -> dict[str, Tensor]:
        """The tensors in the file, mapped until they are written to; those that are not aligned there are left out.

        Who cuts the file, or writes into it, cuts or changes them.

        Raises:
            CheckpointCorruptError: the file was cut meanwhile.
            CheckpointError: it cannot be mapped.
        """
        if os.fstat(self._file.fileno()).st_size != self.size:
            raise self._corrupt("the file was cut while it was read")
        try:
            mapped = mmap.mmap(self._file.fileno(), self.size, access=mmap.ACCESS_COPY)
        except OSError as error:
            message = f"cannot be mapped: {error.strerror}"
            raise CheckpointError(message, path=self.path, hint="load it with mmap=False") from None
        tensors = {}
        for name, stored in self.tensors.items():
            at = len(self._header) + stored.start
            if stored.stop > stored.start and at % stored.dtype.itemsize == 0:
                bytes_ = torch.frombuffer(mapped, dtype=torch.uint8, count=stored.stop - stored.start, offset=at)
                tensors[name] = bytes_.view(stored.dtype).view(stored.shape)
        return tensors

    def read(
        self,
        places: Mapping[str, Place],
        *,
        mapped: Mapping[str, Tensor] = MappingProxyType({}),
        block: int | None = None,
        check_finite: bool = True,
    ) -> None:
        """Read tensors to where they belong.

        Args:
            places: by name, for those that are to be read.
            mapped: those that `map` has given, which are only looked at.
            block: set `sha256` of the file's blocks of so many bytes; it takes longer than reading.
            check_finite: name in `not_finite` those of both that have NaN or Inf.

        Raises:
            CheckpointCorruptError: the file was cut meanwhile.
            CheckpointError: the disk fails.
        """
        odd: set[str] = set()
        scratch = _Scratch()

        def take(batch: list[_Piece]) -> Future[list[tuple[_Piece, Tensor | None, bool]]]:
            return readers.submit(self._take, batch, scratch, check_finite, block is not None)

        def read_block(span: tuple[int, int]) -> str:
            """Bring what is in these bytes of the file to where it belongs; their sha256."""
            low, high = span
            digest = hashlib.sha256(self._header[low:high])
            batches = _batches(self._pieces(places, mapped, block is not None, low, high))
            begun = deque(map(take, islice(batches, _AHEAD)))
            while begun:
                for piece, memory, finite in begun.popleft().result():
                    if not finite:
                        odd.add(piece.name)
                    if memory is not None:
                        ours = memory[max(0, low - piece.at) : max(0, high - piece.at)]
                        digest.update(ours.numpy())  # type: ignore[arg-type]
                begun.extend(map(take, islice(batches, 1)))
            return digest.hexdigest()

        with ThreadPoolExecutor(THREADS) as readers:
            hashes = tuple(over_blocks(read_block, blocks(self.size, block or self.size)))
        self.not_finite = [name for name in self.tensors if name in odd]
        if block is not None:
            self.sha256 = hashes

    def _pieces(
        self, places: Mapping[str, Place], mapped: Mapping[str, Tensor], every: bool, low: int, high: int
    ) -> Iterator[_Piece]:
        """What is to be read or looked at between two bytes of the file, in order; ``every`` tensor, wanted or not.

        The first and the last may reach beyond, and are read for the neighbour, too.
        """
        for name, stored in self.tensors.items():
            at, size = len(self._header) + stored.start, stored.stop - stored.start
            if at + size <= low or at >= high:
                continue
            there, place = mapped.get(name), places.get(name)
            if there is not None:
                memory: Tensor | None = there.view(-1).view(torch.uint8)
            else:
                memory = None if place is None else place.memory(stored.dtype)
            if size and (there is not None or place is not None or every):
                # where rows are laid out anew, a piece is whole rows
                row = 1 if place is None or memory is not None else size // stored.shape[0]
                step = max(1, _PIECE // row) * row
                for start in range(max(0, low - at) // step * step, min(size, high - at), step):
                    count = min(step, size - start)
                    yield _Piece(
                        name, stored, at + start, count, None if memory is None else memory[start : start + count],
                        place, start // row, is_there=there is not None,
                    )  # fmt: skip

    def _take(
        self, batch: list[_Piece], scratch: _Scratch, look: bool, keep: bool
    ) -> list[tuple[_Piece, Tensor | None, bool]]:
        """Bring the pieces to where they belong; with each, its bytes to ``keep`` and whether they are finite."""
        taken: list[tuple[_Piece, Tensor | None, bool]] = []
        for piece in batch:
            memory = piece.memory
            if memory is None:
                memory = torch.empty(piece.size, dtype=torch.uint8) if keep else scratch.take(piece.size)
            if not piece.is_there:
                self._fill(piece, memory)
            wanted = piece.is_there or piece.place is not None
            finite = not (look and wanted) or is_finite(memory.view(piece.stored.dtype))
            if piece.memory is None and piece.place is not None:
                rows = memory.view(piece.stored.dtype).view(-1, *piece.stored.shape[1:])
                piece.place.put(rows, piece.first_row)
            taken.append((piece, memory if keep else None, finite))
        return taken

    def _fill(self, piece: _Piece, memory: Tensor) -> None:
        view, filled = memoryview(memory.numpy()), 0  # type: ignore[arg-type]
        while filled < len(view):
            try:
                count = os.preadv(self._file.fileno(), [view[filled:]], piece.at + filled)
            except OSError as error:
                message = f"cannot be read: {error.strerror}"
                raise CheckpointError(message, path=self.path, field=piece.name, hint="check the disk") from None
            if not count:
                raise self._corrupt("the file was cut while it was read", piece.name)
            filled += count


class _Piece(NamedTuple):
    """Some bytes of a tensor."""

    name: str
    stored: StoredTensor
    at: int
    """First byte, in the file."""
    size: int
    memory: Tensor | None
    """Where they belong as they are."""
    place: Place | None
    first_row: int
    """Of the tensor, for its place."""
    is_there: bool
    """Whether the memory is the file."""


class _Scratch(threading.local):
    """A thread's memory for what is laid out anew; mapped, since the process keeps what threads allocate and free."""

    memory = torch.empty(0, dtype=torch.uint8)

    def take(self, size: int) -> Tensor:
        """That many bytes, good until the thread takes some again."""
        if len(self.memory) < size:
            self.memory = torch.frombuffer(mmap.mmap(-1, size), dtype=torch.uint8)
        return self.memory[:size]


def _batches(pieces: Iterable[_Piece]) -> Iterator[list[_Piece]]:
    """Pieces that one thread takes at a time: single ones cost more to hand over than to read."""
    batch, size = list[_Piece](), 0
    for piece in pieces:
        batch.append(piece)
        size += piece.size
        if size >= _CHUNK:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
