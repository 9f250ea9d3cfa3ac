"""The files of a folder that hold its weights: a single file or shards with an index, of any framework."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from vedcore.config_files.plain import short
from vedcore.errors import (
    CheckpointCorruptError,
    CheckpointLimitError,
    CheckpointNotFoundError,
    CheckpointUnsafeError,
)
from vedcore.model_files import WEIGHT_LAYOUTS
from vedcore.weights.framework_names import flax_name, index_name, keras_name
from vedcore.weights.in_memory import TensorsInMemory
from vedcore.weights.safetensors_file import TensorFile
from vedcore.weights.snapshot import FOLDER_AGAIN_HINT, Snapshot, check_name, json_object
from vedcore.weights.unwrapping import ADAPTER_ALONE, ADAPTER_CONFIG, ADAPTER_HINT

if TYPE_CHECKING:
    from vedcore.weights.array_file import ArrayFile
    from vedcore.weights.torch_file import TorchFile

__all__ = ["WeightFile", "open_tensors", "open_weights"]

WeightFile: TypeAlias = "TensorFile | TorchFile | ArrayFile | TensorsInMemory"


def open_weights(snapshot: Snapshot, *, pickles: bool) -> dict[str, WeightFile]:
    """The files that hold the weights, by name; only the first layout that is there is opened.

    Args:
        snapshot: the folder.
        pickles: whether other layouts than safetensors may be read: ``pytorch_model.bin``, Flax's and TensorFlow's.

    Raises:
        CheckpointNotFoundError: no weights, or a shard of the index is missing.
        CheckpointCorruptError: a damaged file or index.
        CheckpointUnsafeError: an index that names a file outside the folder.
    """
    single, index_name = _layout(snapshot, pickles)
    if index_name is None:
        return {single: open_tensors(snapshot, single)}
    index = _read_index(snapshot, index_name)
    files: dict[str, WeightFile] = {}
    seen: set[str] = set()
    for file_name in sorted(set(index.values())):
        file = files[file_name] = open_tensors(snapshot, file_name, index_name)
        for name in file.tensors:
            if name in seen:
                raise CheckpointCorruptError(f"{short(name)} is in two shards", path=file.path, hint=FOLDER_AGAIN_HINT)
        seen.update(file.tensors)
    aliases = {alias for file in files.values() for alias, name in file.metadata.items() if name in file.tensors}
    for name, file_name in index.items():
        if name not in files[file_name].tensors and name not in aliases - seen:
            raise CheckpointCorruptError(
                f"{short(name)} is not in {file_name}, where the index has it",
                path=snapshot.path / index_name,
                hint=FOLDER_AGAIN_HINT,
            )
    return files


def _layout(snapshot: Snapshot, pickles: bool) -> tuple[str, str | None]:
    """The name of the single file of weights and None, or an empty name and that of the index."""
    for single, index in WEIGHT_LAYOUTS[: None if pickles else 1]:
        if snapshot.has(single):
            return single, None
        if snapshot.has(index):
            return "", index
    if snapshot.has(ADAPTER_CONFIG):
        raise CheckpointNotFoundError(ADAPTER_ALONE, path=snapshot.path, hint=ADAPTER_HINT)
    first, *others = (single for single, _ in WEIGHT_LAYOUTS[: None if pickles else 1])
    what = ", ".join([first, *others[:-1]]) + "".join(f" or {name}" for name in others[-1:])
    raise CheckpointNotFoundError(f"no {what}, nor an index of shards", path=snapshot.path, hint=snapshot.listing())


def _read_index(snapshot: Snapshot, index: str) -> dict[str, str]:
    """Tensor names to the names of their shards."""
    path = snapshot.path / index
    try:
        weight_map = json_object(snapshot.read(index), path).get("weight_map")
    except CheckpointLimitError as error:
        raise CheckpointCorruptError(str(error)) from None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointCorruptError("no weight_map with tensors", path=path, hint=FOLDER_AGAIN_HINT)
    ending = os.path.splitext(index.removesuffix(".index.json"))[1]
    checked: set[str] = set()
    for name in weight_map.values():
        if not isinstance(name, str) or name not in checked:
            checked.add(_shard_name(name, path, ending))
    return {index_name(name, index): shard for name, shard in weight_map.items()}


def _shard_name(name: object, path: Path, ending: str) -> str:
    if not check_name(name, path).endswith(ending):
        raise CheckpointUnsafeError(f"shard {short(name)} is not a {ending} file", path=path, hint=FOLDER_AGAIN_HINT)
    return str(name)


def open_tensors(snapshot: Snapshot, name: str, index: str | None = None) -> WeightFile:
    """One opened file of weights: its tensors' types and shapes, and `get` for one of them.

    Args:
        snapshot: the folder.
        name: a pickle where it ends in ``.bin``, Flax's with ``.msgpack``, TensorFlow's with ``.h5``, else safetensors.
        index: the index that names it, for messages.
    """
    try:
        file = snapshot.open(name)
    except CheckpointNotFoundError:
        if index is None:
            raise
        raise CheckpointNotFoundError(
            f"no such file, and {index} names it", path=snapshot.path / name, hint=FOLDER_AGAIN_HINT
        ) from None
    path = snapshot.path / name
    if name.endswith(".bin"):  # these are rarely needed
        from vedcore.weights.torch_file import TorchFile

        return TorchFile(file, path)
    if name.endswith((".msgpack", ".h5")):
        from vedcore.weights.array_file import ArrayFile
        from vedcore.weights.flax_file import read_flax
        from vedcore.weights.keras_file import read_keras

        return ArrayFile(file, path, *((read_flax, flax_name) if name[-1] == "k" else (read_keras, keras_name)))
    return TensorFile(file, path)
