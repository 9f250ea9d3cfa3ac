"""A model's tensors as safetensors files: one, or shards and an index, written by the ``safetensors`` package.

Tensors that are one and the same (an output layer tied to the embedding) are stored once; the metadata of the file
names the others, ``{"decoder.head.weight": "decoder.embed.weight"}``, as huggingface_hub does it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from vedcore.config_files.plain import short
from vedcore.errors import CheckpointWriteError, UsageError
from vedcore.model_files import SHARD_INDEX, WEIGHTS
from vedcore.weights.folder import Written
from vedcore.weights.manifest import FileRecord, tensor_sha256
from vedcore.weights.safetensors_file import DTYPES

__all__ = ["weight_files"]

_STORABLE = frozenset(DTYPES.values())
_THREADS = min(4, os.cpu_count() or 1)


def weight_files(
    state: Mapping[str, Tensor],
    max_shard_size: int | str = "5GB",
    dtype: torch.dtype | None = None,
    *,
    hashes: bool = True,
) -> dict[str, bytes | Written]:
    """The files that hold the tensors of ``state``; nothing is copied until they are written.

    Args:
        state: names to tensors, as ``module.state_dict()`` gives them.
        max_shard_size: bytes, or text such as ``"500MB"``; more than that becomes several files and an index.
        dtype: store real numbers in this type; None leaves each its own.
        hashes: False leaves the sha256 of each tensor out of the manifest: a load then looks at the header alone.

    Raises:
        CheckpointWriteError: something that is not a dense tensor with values, or of a type that safetensors lacks.
        UsageError: a text that is not a size.
    """
    from huggingface_hub import split_state_dict_into_shards_factory  # not needed to load

    for name, tensor in state.items():
        _check_storable(name, tensor)
    ties = _ties(state)
    kept = {name: tensor for name, tensor in state.items() if name not in ties}
    types = {name: dtype if dtype is not None and t.is_floating_point() else t.dtype for name, t in kept.items()}
    sizes = {name: tensor.numel() * types[name].itemsize for name, tensor in kept.items()}
    try:
        split = split_state_dict_into_shards_factory(
            sizes,
            get_storage_size=int,
            filename_pattern=WEIGHTS.replace(".", "{suffix}."),
            max_shard_size=max_shard_size,
        )
    except ValueError:
        raise UsageError(
            f"{short(max_shard_size)} is not a size", field="max_shard_size", hint='write "5GB", or a number of bytes'
        ) from None
    files: dict[str, bytes | Written] = {}
    for file_name, names in split.filename_to_tensors.items():
        metadata = {"format": "pt", **{alias: name for alias, name in ties.items() if name in names}}
        tensors = {name: (kept[name], types[name]) for name in names}
        files[file_name] = Written(sum(sizes[name] for name in names), partial(_write, tensors, metadata, hashes))
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        files[SHARD_INDEX] = (json.dumps(index, indent=2) + "\n").encode()
    return files


def _check_storable(name: str, tensor: object) -> None:
    what, hint = "", "make it a dense tensor before saving"
    if not isinstance(tensor, Tensor):
        what = f"a {type(tensor).__name__}, not a tensor"
    elif tensor.is_meta:
        what = "on the meta device, so it has no values"
    elif tensor.layout != torch.strided or tensor.is_quantized:
        what = f"stored as {tensor.dtype if tensor.is_quantized else tensor.layout}, not densely"
    elif tensor.dtype not in _STORABLE:
        what, hint = f"of type {tensor.dtype}, which safetensors lacks", "cast it to another type before saving"
    if name == "__metadata__":
        what, hint = "a name that safetensors has for itself", "name the tensor otherwise"
    if what:
        raise CheckpointWriteError(what, field=short(name), hint=hint)


def _ties(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Names of tensors that are another one, to the name of that one, which comes first in ``state``."""
    first: dict[object, str] = {}
    ties = {}
    for name, tensor in state.items():
        same = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and first.setdefault(same, name) != name:
            ties[name] = first[same]
    return ties


def _write(
    tensors: Mapping[str, tuple[Tensor, torch.dtype]], metadata: dict[str, str], hashes: bool, path: Path
) -> FileRecord:
    """Write the file; the record of it for the manifest."""
    with ThreadPoolExecutor(_THREADS) as threads:
        made = _apart(dict(zip(tensors, threads.map(_as_stored, *zip(*tensors.values(), strict=True)), strict=True)))
        digests = threads.map(tensor_sha256, made.values()) if hashes else ()
        try:
            save_file(made, path, metadata)
        except SafetensorError as error:
            raise _as_os_error(error) from None
        found = dict(zip(made, digests, strict=False))
    with open(path, "rb") as file:
        length = file.read(8)
        header = length + file.read(int.from_bytes(length, "little"))
        size = os.fstat(file.fileno()).st_size
    return FileRecord(size, header=hashlib.sha256(header).hexdigest(), tensors=found)


def _as_os_error(error: SafetensorError) -> OSError | ValueError:
    """The system's error that the package tells of in its text."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else ValueError(str(error))


def _as_stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor as its bytes in the file."""
    return tensor.detach().to("cpu", dtype).resolve_conj().resolve_neg().contiguous()


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, each in memory that no other one has, as the package demands."""
    memory: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        if storage.data_ptr() in memory or storage.nbytes() != tensor.nbytes:
            tensor = tensor.clone()
        memory.add(tensor.untyped_storage().data_ptr())
        apart[name] = tensor
    return apart
