"""A model's tensors as safetensors files: one, or shards and an index.

A file is written in one pass, each tensor from the memory that it is in, and its sha256 taken on the way; a few
threads write a block of the file each. What is to be cast, laid out anew or fetched from a device goes through a
megabyte of each thread's, whatever its size. The format is told in `vedcore.weights.safetensors_file`.

Tensors that are one and the same (an output layer tied to the embedding) are stored once; the metadata of the file
names the others, ``{"decoder.head.weight": "decoder.embed.weight"}``, as huggingface_hub does it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from vedcore.config_files.plain import short
from vedcore.errors import CheckpointWriteError, UsageError
from vedcore.model_files import SHARD_INDEX, WEIGHTS
from vedcore.weights.exchange import make_room
from vedcore.weights.folder import Written
from vedcore.weights.hashing import BLOCK, FileRecord, blocks, over_blocks
from vedcore.weights.keymap import Joined
from vedcore.weights.safetensors_file import DTYPES

__all__ = ["weight_files"]

_CODES = {dtype: code for code, dtype in DTYPES.items()}
_CHUNK = 1 << 20
"""Bytes that are laid out, hashed and written while they are in the cache."""
_ALIGNMENT = 64
"""Where the tensors begin in a file is a multiple of this, so that whoever maps it finds them aligned."""


class _Entry:
    """A tensor that is to be stored, in the type that it is to have there."""

    def __init__(self, tensor: Tensor | Joined, dtype: torch.dtype | None) -> None:
        self.source = tensor
        self.dtype = dtype if dtype is not None and tensor.dtype.is_floating_point else tensor.dtype
        self.nbytes = tensor.shape.numel() * self.dtype.itemsize

    def tensor(self) -> Tensor:
        return (self.source.make() if isinstance(self.source, Joined) else self.source).detach()


def weight_files(
    state: Mapping[str, Tensor | Joined], max_shard_size: int | str = "5GB", dtype: torch.dtype | None = None
) -> dict[str, bytes | Written]:
    """The files that hold the tensors of ``state``; nothing is copied until they are written.

    Args:
        state: names to tensors, as ``module.state_dict()`` gives them.
        max_shard_size: bytes, or text such as ``"500MB"``; more than that becomes several files and an index.
        dtype: store real numbers in this type; None leaves each its own.

    Raises:
        CheckpointWriteError: something that is no dense tensor with values, or of a type that safetensors has not.
        UsageError: a size that is none.
    """
    from huggingface_hub import split_state_dict_into_shards_factory  # not needed to load

    for name, tensor in state.items():
        _check_storable(name, tensor)
    ties = _ties(state)
    kept = {name: _Entry(tensor, dtype) for name, tensor in state.items() if name not in ties}
    try:
        split = split_state_dict_into_shards_factory(
            kept,
            get_storage_size=lambda entry: entry.nbytes,
            filename_pattern=WEIGHTS.replace(".", "{suffix}."),
            max_shard_size=max_shard_size,
        )
    except ValueError:
        raise UsageError(
            f"{short(max_shard_size)} is no size", field="max_shard_size", hint='write "5GB", or a number of bytes'
        ) from None
    files: dict[str, bytes | Written] = {}
    for file_name, names in split.filename_to_tensors.items():
        # by falling size of their numbers, as safetensors does it, so that every tensor is aligned
        entries = {name: kept[name] for name in sorted(names, key=lambda name: (-kept[name].dtype.itemsize, name))}
        metadata = {"format": "pt", **{alias: name for alias, name in ties.items() if name in entries}}
        size = sum(entry.nbytes for entry in entries.values())
        files[file_name] = Written(size, partial(_write, entries, metadata))
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        files[SHARD_INDEX] = (json.dumps(index, indent=2) + "\n").encode()
    return files


def _check_storable(name: str, tensor: object) -> None:
    what, hint = "", "make it a dense tensor before saving"
    for part in _parts(tensor):
        if not isinstance(part, Tensor):
            what = f"a {type(part).__name__}, not a tensor"
        elif part.is_meta:
            what = "on the meta device, so it has no values"
        elif part.layout != torch.strided or part.is_quantized:
            what = f"stored as {part.dtype if part.is_quantized else part.layout}, not densely"
        elif part.dtype not in _CODES:
            what, hint = f"of type {part.dtype}, which safetensors has not", "cast it to another type before saving"
    if name == "__metadata__":
        what, hint = "a name that safetensors has for itself", "name the tensor otherwise"
    if what:
        raise CheckpointWriteError(what, field=short(name), hint=hint)


def _parts(source: object) -> Sequence[object]:
    return source.parts if isinstance(source, Joined) else [source]


def _ties(state: Mapping[str, Tensor | Joined]) -> dict[str, str]:
    """Names of tensors that are another one, to the name of that one, which comes first in ``state``."""
    first: dict[object, str] = {}
    ties = {}
    for name, tensor in state.items():
        if isinstance(tensor, Joined) or tensor.numel() == 0:
            continue
        same = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if first.setdefault(same, name) != name:
            ties[name] = first[same]
    return ties


def _header(entries: Mapping[str, _Entry], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for name, entry in entries.items():
        start, end = end, end + entry.nbytes
        shape = list(entry.source.shape)
        header[name] = {"dtype": _CODES[entry.dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _write(entries: Mapping[str, _Entry], metadata: Mapping[str, str], path: Path) -> FileRecord:
    """Write the file, several blocks at a time, and let the disk begin with what is there."""
    header = _header(entries, metadata)
    for device in {entry.source.device for entry in entries.values()} - {torch.device("cpu")}:
        torch.accelerator.synchronize(device)  # the caller's stream may still be at work on them
    size = len(header) + sum(entry.nbytes for entry in entries.values())
    spans = blocks(size, BLOCK)
    hashes: list[str] = []
    syncing: Future[None] | None = None
    with open(path, "xb", buffering=0) as file, ThreadPoolExecutor(1) as disk:
        if len(spans) > 1:
            make_room(file.fileno(), size)
        write = partial(_write_block, file.fileno(), header, list(entries.values()))
        with closing(over_blocks(write, spans)) as written:  # no thread writes once the file is closed
            for sha256 in written:
                hashes.append(sha256)
                if len(hashes) < len(spans) and (syncing is None or syncing.done()):
                    if syncing is not None:
                        syncing.result()
                    syncing = disk.submit(os.fsync, file.fileno())
        if syncing is not None:
            syncing.result()
    return FileRecord(size, tuple(hashes), BLOCK)


def _write_block(file: int, header: bytes, entries: Sequence[_Entry], span: tuple[int, int]) -> str:
    """Write this block of the file; its sha256, of the same memory while it is in the cache."""
    digest, at = hashlib.sha256(), span[0]
    for view in _block(header, entries, *span):
        digest.update(view)
        while view:
            written = os.pwrite(file, view, at)
            view, at = view[written:], at + written
    return digest.hexdigest()


def _block(header: bytes, entries: Iterable[_Entry], low: int, high: int) -> Iterator[memoryview]:
    """The bytes of the file from ``low`` to ``high``, in order; some are good until the next are asked for."""
    yield memoryview(header)[low:high]
    room = torch.empty(_CHUNK, dtype=torch.uint8)
    end = len(header)
    for entry in entries:
        at, end = end, end + entry.nbytes
        if end <= low or at >= high:
            continue
        tensor = entry.tensor()
        as_stored = _as_stored(tensor, entry.dtype)
        for piece in _pieces(tensor, entry.dtype.itemsize, _CHUNK):
            size = piece.numel() * entry.dtype.itemsize
            if at + size > low and at < high:  # one that two blocks share is made for each
                if not as_stored:
                    piece = room[:size].view(entry.dtype).view(piece.shape).copy_(_whole(piece))
                bytes_ = memoryview(piece.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
                yield bytes_[max(0, low - at) : high - at]
            at += size


def _pieces(tensor: Tensor, itemsize: int, limit: int) -> Iterator[Tensor]:
    """The tensor cut along its first axes into pieces of so many bytes at most; nothing for one that is empty."""
    size = tensor.numel() * itemsize
    if size > limit:
        rows = max(1, limit * len(tensor) // size)
        for at in range(0, len(tensor), rows):
            yield from _pieces(tensor[at : at + rows] if rows > 1 else tensor[at], itemsize, limit)
    elif size:
        yield tensor


def _whole(piece: Tensor) -> Tensor:
    """Columns of a transposed matrix as a matrix of their own, which torch transposes four times faster."""
    if piece.ndim != 2 or piece.stride(0) != 1 or piece.device.type != "cpu":
        return piece
    return piece.T.contiguous().T


def _as_stored(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Whether its memory holds just the bytes to be stored."""
    lazy = tensor.is_conj() or tensor.is_neg()
    return tensor.device.type == "cpu" and tensor.dtype == dtype and tensor.is_contiguous() and not lazy
