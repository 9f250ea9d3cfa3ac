"""A model's tensors as safetensors files, or Flax's: a single file or shards with an index.

Tied tensors (an output layer tied to the embedding) are stored once. The metadata of the file maps the other names,
``{"decoder.head.weight": "decoder.embed.weight"}``, as huggingface_hub does.
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
from vedcore.model_files import FLAX_INDEX, FLAX_WEIGHTS, SHARD_INDEX, WEIGHTS
from vedcore.weights.flax_saving import write_flax
from vedcore.weights.folder import FileWriter
from vedcore.weights.framework_names import to_flax
from vedcore.weights.manifest import FileRecord, tensor_sha256
from vedcore.weights.safetensors_file import DTYPES, MAX_IO_THREADS

__all__ = ["weight_files"]

_STORABLE = frozenset(DTYPES.values())


def weight_files(
    state: Mapping[str, Tensor],
    max_shard_size: int | str = "5GB",
    dtype: torch.dtype | None = None,
    *,
    hashes: bool = True,
    flax: bool = False,
) -> dict[str, bytes | FileWriter]:
    """The files that hold the tensors of ``state``; tensors are converted only when a file is written.

    Args:
        state: names to tensors, as from ``module.state_dict()``.
        max_shard_size: bytes, or text such as ``"500MB"``; larger states are split into shards with an index.
        dtype: type in which floating-point tensors are stored; None keeps their types.
        hashes: whether the manifest has the sha256 of each tensor; else loading checks that of the header only.
        flax: write ``flax_model.msgpack``, whose whole file has a sha256, for names of transformers' PyTorch classes.

    Raises:
        CheckpointWriteError: a tensor that is not dense, has no values, or has a type that safetensors lacks.
        UsageError: ``max_shard_size`` is not a size.
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
            filename_pattern=(FLAX_WEIGHTS if flax else WEIGHTS).replace(".", "{suffix}."),
            max_shard_size=max_shard_size,
        )
    except ValueError:
        raise UsageError(
            f"{short(max_shard_size)} is not a size", field="max_shard_size", hint='write "5GB", or a number of bytes'
        ) from None
    files: dict[str, bytes | FileWriter] = {}
    for file_name, names in split.filename_to_tensors.items():
        metadata = {"format": "pt", **{alias: name for alias, name in ties.items() if name in names}}
        tensors = {name: (kept[name], types[name]) for name in names}
        write = partial(write_flax, tensors) if flax else partial(_write, tensors, metadata, hashes)
        files[file_name] = FileWriter(sum(sizes[name] for name in names), write)
    if split.is_sharded:
        shards = split.tensor_to_filename
        if flax:
            shards = {"/".join(to_flax(name, kept[name].ndim)[0]): file_name for name, file_name in shards.items()}
        index = {"metadata": split.metadata, "weight_map": shards}
        files[FLAX_INDEX if flax else SHARD_INDEX] = (json.dumps(index, indent=2) + "\n").encode()
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
        what, hint = "a name that safetensors reserves", "rename the tensor"
    if what:
        raise CheckpointWriteError(what, field=short(name), hint=hint)


def _ties(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Names of tied tensors to the name that comes first in ``state``."""
    first: dict[object, str] = {}
    ties = {}
    for name, tensor in state.items():
        identity = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and first.setdefault(identity, name) != name:
            ties[name] = first[identity]
    return ties


def _write(
    tensors: Mapping[str, tuple[Tensor, torch.dtype]], metadata: dict[str, str], hashes: bool, path: Path
) -> FileRecord:
    """Write one file; its entry for the manifest."""
    with ThreadPoolExecutor(MAX_IO_THREADS) as threads:
        converted = threads.map(_as_stored, *zip(*tensors.values(), strict=True))
        stored = _unshared(dict(zip(tensors, converted, strict=True)))
        digests = threads.map(tensor_sha256, stored.values()) if hashes else ()
        try:
            save_file(stored, path, metadata)
        except SafetensorError as error:
            raise _as_os_error(error) from None
        found = dict(zip(stored, digests, strict=False))
    with open(path, "r+b") as file:
        length = file.read(8)
        header = _sorted(file.read(int.from_bytes(length, "little")))
        file.seek(8)
        file.write(header)
        size = os.fstat(file.fileno()).st_size
    return FileRecord(size, header=hashlib.sha256(length + header).hexdigest(), tensors=found)


def _sorted(header: bytes) -> bytes:
    """The header with its metadata in order: the package writes them in any, and two saves would differ."""
    data = json.loads(header)
    data["__metadata__"] = dict(sorted(data["__metadata__"].items()))
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode().ljust(len(header))
    return text if len(text) == len(header) else header


def _as_os_error(error: SafetensorError) -> OSError | ValueError:
    """The error of the system that the package quotes in its message."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else ValueError(str(error))


def _as_stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor with the bytes that the file has."""
    return tensor.detach().to("cpu", dtype).resolve_conj().resolve_neg().contiguous()


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, copied where they share memory, which the package refuses."""
    memory: set[int] = set()
    unshared = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        if storage.data_ptr() in memory or storage.nbytes() != tensor.nbytes:
            tensor = tensor.clone()
        memory.add(tensor.untyped_storage().data_ptr())
        unshared[name] = tensor
    return unshared
