"""What a manifest says of a file: its size and its sha256, one for each block, so that several threads can take them.

One core takes the sha256 of 1.8 GB a second, and a file is read and written faster than that.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Self

__all__ = ["BLOCK", "THREADS", "FileRecord", "blocks", "hash_blocks", "over_blocks"]

BLOCK = 1 << 26
"""Bytes of a block of what we write."""
_SMALLEST = 1 << 20
"""Bytes of a block at least in what we read: a manifest may be of anybody."""
_CHUNK = 1 << 20
"""Bytes that are read at a time."""
THREADS = min(4, os.cpu_count() or 1)


class FileRecord(NamedTuple):
    """What the manifest says of a file."""

    size: int
    """Bytes."""
    sha256: tuple[str, ...]
    """Of each block, in order; one of an empty file."""
    block: int = BLOCK
    """Bytes of each block but the last."""

    @classmethod
    def of(cls, content: bytes) -> Self:
        """The record of a file that has this content."""
        spans = blocks(len(content), BLOCK)
        return cls(len(content), tuple(hashlib.sha256(content[low:high]).hexdigest() for low, high in spans))

    @classmethod
    def from_json(cls, data: object) -> Self | None:
        """What `as_json` has made; None for anything else."""
        match data:
            case {"size": int(size), "sha256": str(sha256)}:
                return cls(size, (sha256,), max(size, _SMALLEST))
            case {"size": int(size), "sha256": list(hashes), "block_size": int(block)}:
                whole = block >= _SMALLEST and len(hashes) == max(1, -(-size // block))
                if whole and all(isinstance(one, str) for one in hashes):
                    return cls(size, tuple(hashes), block)
        return None

    def as_json(self) -> dict[str, Any]:
        """``size`` and ``sha256``; where there are several blocks, a list of hashes, and ``block_size``."""
        if len(self.sha256) == 1:
            return {"size": self.size, "sha256": self.sha256[0]}
        return {"size": self.size, "sha256": list(self.sha256), "block_size": self.block}


def blocks(size: int, block: int) -> list[tuple[int, int]]:
    """The first byte of each block of a file of ``size`` bytes, and the first after it; an empty file is a block."""
    return [(low, min(size, low + block)) for low in range(0, max(size, 1), block)]


def over_blocks(take: Callable[[tuple[int, int]], str], spans: Sequence[tuple[int, int]]) -> Generator[str, None, None]:
    """``take`` of each block, in order, in several threads; of a single one in this, where Ctrl-C stops it at once."""
    if len(spans) == 1:
        yield take(spans[0])
        return
    with ThreadPoolExecutor(THREADS) as threads:
        yield from threads.map(take, spans)


def hash_blocks(file: io.FileIO, size: int, block: int) -> tuple[str, ...]:
    """The sha256 of each block of an opened file, wherever it stands; of what is there, where it is shorter.

    Raises:
        OSError: it cannot be read.
    """

    def take(span: tuple[int, int]) -> str:
        digest, (at, end) = hashlib.sha256(), span
        while at < end and (chunk := os.pread(file.fileno(), min(_CHUNK, end - at), at)):
            digest.update(chunk)
            at += len(chunk)
        return digest.hexdigest()

    return tuple(over_blocks(take, blocks(size, block)))
