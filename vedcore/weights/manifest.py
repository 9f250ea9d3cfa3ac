"""The manifest of a save: the size of each file, and sha256 of each small one, each header of tensors, each tensor.

    {"files": {"config.json": {"size": 812, "sha256": "…"},
               "model.safetensors": {"size": 957000000, "header": "…", "tensors": {"decoder.embedding.weight": "…"}}}}

A tensor's hash is that of its bytes in the file, whatever stands before it. Earlier versions hashed a tensor file as
a whole or in blocks; `FileRecord.difference` compares those, a load does not.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import torch
from torch import Tensor

__all__ = ["FileRecord", "file_sha256", "tensor_sha256"]

_CHUNK = 1 << 22
_SMALLEST_BLOCK = 1 << 20
"""Bytes of a block at least: a manifest may be of anybody."""


class TensorSpans(Protocol):
    """Where a file has its tensors, as `vedcore.weights.safetensors_file` finds it."""

    header_sha256: str
    spans: Mapping[str, tuple[int, int]]
    """Names of tensors to their first byte and the one after their last."""


@dataclass(frozen=True)
class FileRecord:
    """The manifest's entry for a file."""

    size: int
    """Bytes."""
    sha256: str = ""
    """Of the whole file; empty where one of the others stands for it."""
    header: str = ""
    """Sha256 of a tensor file from its first byte to its first tensor."""
    tensors: Mapping[str, str] = field(default_factory=dict)
    """Names of tensors to their sha256."""
    blocks: tuple[str, ...] = ()
    """Of an earlier version: sha256 of each block of ``block_size`` bytes, in order."""
    block_size: int = 0

    @classmethod
    def of(cls, content: bytes) -> Self:
        """The record of a small file that has this content."""
        return cls(len(content), hashlib.sha256(content).hexdigest())

    @classmethod
    def from_json(cls, data: object) -> Self | None:
        """The record that `as_json` or an earlier version wrote; None for anything else."""
        match data:
            case {"size": int(size), "sha256": str(sha256)}:
                return cls(size, sha256)
            case {"size": int(size), "header": str(header), "tensors": dict(tensors)}:
                if header and all(isinstance(one, str) for one in tensors.values()):
                    return cls(size, header=header, tensors=tensors)
            case {"size": int(size), "sha256": list(blocks), "block_size": int(block_size)}:
                whole = block_size >= _SMALLEST_BLOCK and len(blocks) == max(1, -(-size // block_size))
                if whole and all(isinstance(one, str) for one in blocks):
                    return cls(size, blocks=tuple(blocks), block_size=block_size)
        return None

    def as_json(self) -> dict[str, Any]:
        """The entry as the manifest has it."""
        if self.header:
            return {"size": self.size, "header": self.header, "tensors": dict(self.tensors)}
        return {"size": self.size, "sha256": self.sha256}

    def difference(self, file: io.FileIO, tensors: TensorSpans | None = None) -> str:
        """How the bytes of an opened file differ from the record, in words; empty where they do not.

        They are read, and not mapped: a disk that fails is an error and not the end of the process.

        Args:
            file: it is read where it is needed.
            tensors: the same file, where it holds tensors.

        Raises:
            OSError: it cannot be read.
        """
        if self.header and tensors is not None:
            hashes = {name: _sha256(file, *span) for name, span in tensors.spans.items() if name in self.tensors}
            changed = next((name for name, due in self.tensors.items() if hashes.get(name) != due), "")
            changed = changed if tensors.header_sha256 == self.header else "the header"
            return f"is not what its sha256 says: {changed}" if changed else ""
        same = file_sha256(file, self.block_size or None) == (self.blocks or (self.sha256,))
        return "" if same else "is not what its sha256 says"


def file_sha256(file: io.FileIO, block_size: int | None = None) -> tuple[str, ...]:
    """The sha256 of each block of an opened file; of the whole file where there is no size of blocks.

    Raises:
        OSError: it cannot be read.
    """
    size = os.fstat(file.fileno()).st_size
    step = block_size or max(size, 1)
    return tuple(_sha256(file, start, min(start + step, size)) for start in range(0, max(size, 1), step))


def _sha256(file: io.FileIO, start: int, stop: int) -> str:
    """The sha256 of some bytes of a file; of what is there, where it is shorter."""
    digest, left = hashlib.sha256(), stop - start
    file.seek(start)
    while left and (chunk := file.read(min(_CHUNK, left))):
        digest.update(chunk)
        left -= len(chunk)
    return digest.hexdigest()


def tensor_sha256(tensor: Tensor) -> str:
    """The sha256 of a tensor's bytes as safetensors stores them; it is on the CPU and contiguous."""
    raw = tensor.detach().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(raw).hexdigest()  # type: ignore[arg-type]
