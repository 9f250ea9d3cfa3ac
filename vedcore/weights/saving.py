"""A model's tensors as safetensors files: one, or shards and an index.

Tensors that are one and the same (an output layer tied to the embedding) are stored once; the metadata of the file
names the others, ``{"decoder.head.weight": "decoder.embed.weight"}``, as huggingface_hub does it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from vedcore.config_files.plain import short
from vedcore.errors import CheckpointWriteError, UsageError
from vedcore.weights.folder import Written

__all__ = ["INDEX", "SINGLE", "weight_files"]

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def weight_files(state: Mapping[str, Tensor], max_shard_size: int | str = "5GB") -> dict[str, bytes | Written]:
    """The files that hold the tensors of ``state``; nothing is copied until they are written.

    Args:
        state: names to tensors, as ``module.state_dict()`` gives them.
        max_shard_size: bytes, or text such as ``"500MB"``; more than that becomes several files and an index.

    Raises:
        CheckpointWriteError: something that is no dense tensor with values.
        UsageError: a size that is none.
    """
    from huggingface_hub import split_torch_state_dict_into_shards  # slow to import, and loading needs none of it

    for name, tensor in state.items():
        _check_storable(name, tensor)
    ties = _ties(state)
    kept = {name: tensor for name, tensor in state.items() if name not in ties}
    try:
        split = split_torch_state_dict_into_shards(kept, max_shard_size=max_shard_size)
    except ValueError:
        raise UsageError(
            f"{short(max_shard_size)} is no size", field="max_shard_size", hint='write "5GB", or a number of bytes'
        ) from None
    files: dict[str, bytes | Written] = {}
    for file_name, names in split.filename_to_tensors.items():
        tensors = {name: kept[name] for name in names}
        metadata = {"format": "pt", **{alias: name for alias, name in ties.items() if name in tensors}}
        size = sum(tensor.nbytes for tensor in tensors.values())
        files[file_name] = Written(size, partial(_write, tensors, metadata))
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        files[INDEX] = (json.dumps(index, indent=2) + "\n").encode()
    return files


def _check_storable(name: str, tensor: object) -> None:
    what = ""
    if not isinstance(tensor, Tensor):
        what = f"a {type(tensor).__name__}, not a tensor"
    elif tensor.is_meta:
        what = "on the meta device, so it has no values"
    elif tensor.layout != torch.strided or tensor.is_quantized:
        what = f"stored as {tensor.dtype if tensor.is_quantized else tensor.layout}, not densely"
    if what:
        raise CheckpointWriteError(what, field=short(name), hint="make it a dense tensor before saving")


def _ties(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Names of tensors that are another one, to the name of that one, which comes first in ``state``."""
    first: dict[object, str] = {}
    ties = {}
    for name, tensor in state.items():
        if tensor.numel() == 0:
            continue
        same = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if first.setdefault(same, name) != name:
            ties[name] = first[same]
    return ties


def _write(tensors: Mapping[str, Tensor], metadata: dict[str, str], path: Path) -> None:
    owners: dict[int, int] = {}
    for tensor in tensors.values():
        storage = tensor.untyped_storage().data_ptr()
        owners[storage] = owners.get(storage, 0) + 1
    dense = {}
    for name, tensor in tensors.items():
        alone = owners[tensor.untyped_storage().data_ptr()] == 1
        on_cpu = tensor.detach().cpu()
        dense[name] = on_cpu.contiguous() if alone else on_cpu.clone(memory_format=torch.contiguous_format)
    try:
        save_file(dense, path, metadata)
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        raise OSError(int(code[1]) if code else 0, os.strerror(int(code[1])) if code else str(error)) from None
