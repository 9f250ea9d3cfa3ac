"""The manifest of a save: the size of each file, and the sha256 of each small file, tensor header and tensor.

    {"files": {"config.json": {"size": 812, "sha256": "…"},
               "model.safetensors": {"size": 957000000, "header": "…", "tensors": {"decoder.embedding.weight": "…"}}}}

The hash of a tensor is that of its bytes in the file, wherever they are. Earlier versions hashed a tensor file as a
whole or in blocks; `FileRecord.difference` compares those hashes, loading does not.
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

_MAX_READ_BYTES = 1 << 22
_MIN_BLOCK_BYTES = 1 << 20
"""Smaller blocks are refused: a manifest is untrusted, and tiny blocks are slow to hash."""


class TensorSpans(Protocol):
    """The positions of the tensors in a file, as `vedcore.weights.safetensors_file.TensorFile` has them."""

    header_sha256: str
    spans: Mapping[str, tuple[int, int]]
    """Names of tensors to the offsets of their first byte and of the byte after their last."""


@dataclass(frozen=True)
class FileRecord:
    """The entry of a file in the manifest."""

    size: int
    """Bytes."""
    sha256: str = ""
    """Sha256 of the whole file; empty where other hashes replace it."""
    header: str = ""
    """Sha256 of a tensor file from its first byte to its first tensor."""
    tensors: Mapping[str, str] = field(default_factory=dict)
    """Names of tensors to their sha256."""
    blocks: tuple[str, ...] = ()
    """Sha256 of each block of ``block_size`` bytes, in order, as an earlier version wrote them."""
    block_size: int = 0

    @classmethod
    def of(cls, content: bytes) -> Self:
        """The record of a small file with this content."""
        return cls(len(content), hashlib.sha256(content).hexdigest())

    @classmethod
    def from_json(cls, data: object) -> Self | None:
        """The record that `as_json` or an earlier version wrote; None for anything else."""
        match data:
            case {"size": int(size), "sha256": str(sha256)}:
                return cls(size, sha256)
            case {"size": int(size), "header": str(header), "tensors": dict(tensors)}:
                if header and all(isinstance(digest, str) for digest in tensors.values()):
                    return cls(size, header=header, tensors=tensors)
            case {"size": int(size), "sha256": list(blocks), "block_size": int(block_size)}:
                whole = block_size >= _MIN_BLOCK_BYTES and len(blocks) == max(1, -(-size // block_size))
                if whole and all(isinstance(digest, str) for digest in blocks):
                    return cls(size, blocks=tuple(blocks), block_size=block_size)
        return None

    def as_json(self) -> dict[str, Any]:
        """The entry as JSON data."""
        if self.header:
            return {"size": self.size, "header": self.header, "tensors": dict(self.tensors)}
        if self.blocks:
            return {"size": self.size, "sha256": list(self.blocks), "block_size": self.block_size}
        return {"size": self.size, "sha256": self.sha256}

    def difference(self, file: io.FileIO, tensors: TensorSpans | None = None) -> str:
        """A description of how the bytes of an opened file differ from the record; empty where they do not.

        The file is read, not mapped into memory: so a failing disk raises an error instead of killing the process.

        Args:
            file: the opened file.
            tensors: positions of its tensors, if it is a tensor file.

        Raises:
            OSError: the file cannot be read.
        """
        if self.header and tensors is not None:
            hashes = {name: _sha256(file, *span) for name, span in tensors.spans.items() if name in self.tensors}
            changed = next((name for name, due in self.tensors.items() if hashes.get(name) != due), "")
            changed = changed if tensors.header_sha256 == self.header else "the header"
            return f"does not match its sha256: {changed}" if changed else ""
        same = file_sha256(file, self.block_size or None) == (self.blocks or (self.sha256,))
        return "" if same else "does not match its sha256"


def file_sha256(file: io.FileIO, block_size: int | None = None) -> tuple[str, ...]:
    """The sha256 of each block of an opened file; of the whole file where ``block_size`` is None.

    Raises:
        OSError: the file cannot be read.
    """
    size = os.fstat(file.fileno()).st_size
    step = block_size or max(size, 1)
    return tuple(_sha256(file, start, min(start + step, size)) for start in range(0, max(size, 1), step))


def _sha256(file: io.FileIO, start: int, stop: int) -> str:
    """The sha256 of the bytes of a file from ``start`` to ``stop`` or to its end."""
    digest, left = hashlib.sha256(), stop - start
    file.seek(start)
    while left and (chunk := file.read(min(_MAX_READ_BYTES, left))):
        digest.update(chunk)
        left -= len(chunk)
    return digest.hexdigest()


def tensor_sha256(tensor: Tensor) -> str:
    """The sha256 of a tensor's bytes as safetensors stores them.

    Args:
        tensor: on the CPU and contiguous.
    """
    raw = tensor.detach().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(raw).hexdigest()  # type: ignore[arg-type]
