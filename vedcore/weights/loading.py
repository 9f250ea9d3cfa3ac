"""The tensors of a folder into a model: shards, ties, hashes, and what does not fit, all at once.

Where a folder holds both ``model.safetensors`` and an index of shards, the single file counts. Files of any other
kind (``.bin``, ``.pt``) are never opened.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vedcore.config_files.plain import short
from vedcore.errors import (
    CheckpointCorruptError,
    CheckpointLimitError,
    CheckpointMismatchError,
    CheckpointNotFoundError,
    CheckpointUnsafeError,
    NonFiniteError,
)
from vedcore.weights.safetensors_file import StoredTensor, TensorFile
from vedcore.weights.saving import INDEX, SINGLE
from vedcore.weights.snapshot import FileRecord, Snapshot, check_name, json_object

__all__ = ["CheckFinite", "Weights"]

NAMES_SHOWN = 5
_AGAIN = "get the folder from its source again"
_SERIAL = 32_000
"""Numbers that torch adds up in one thread: waiting for a second one takes longer, much longer on a busy machine."""
CheckFinite = bool | Literal["warn"]


class Weights:
    """The tensors of an opened folder: names, types and shapes at once, values when `load_into` asks for them.

    Args:
        snapshot: the folder; it must stay open until the weights are loaded.

    Raises:
        CheckpointNotFoundError: no weights, or a shard that the index names is missing.
        CheckpointCorruptError: a damaged file or index.
        CheckpointUnsafeError: an index that leads out of the folder.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.folder = snapshot.path
        self.files: dict[str, TensorFile] = {}
        self.tensors: dict[str, StoredTensor] = {}
        self.ties: dict[str, str] = {}
        """Names that are not stored because they are another tensor."""
        index = None if snapshot.has(SINGLE) else _read_index(snapshot)
        for file_name in [SINGLE] if index is None else sorted(set(index.values())):
            file = TensorFile(_open_shard(snapshot, file_name, index), snapshot.path / file_name)
            for name in file.tensors:
                if name in self.tensors:
                    raise CheckpointCorruptError(f"{short(name)} is in two shards", path=file.path, hint=_AGAIN)
            self.files[file_name] = file
            self.tensors |= file.tensors
        for file in self.files.values():
            declared = {alias: name for alias, name in file.metadata.items() if name in file.tensors}
            self.ties |= {alias: name for alias, name in declared.items() if alias not in self.tensors}
        if index is not None:
            self._check_index(index)

    def _check_index(self, index: Mapping[str, str]) -> None:
        for name, file_name in index.items():
            if name not in self.files[file_name].tensors and name not in self.ties:
                raise CheckpointCorruptError(
                    f"{short(name)} is not in {file_name}, where the index has it", path=self.folder / INDEX,
                    hint=_AGAIN,
                )  # fmt: skip

    def check(self, model: nn.Module, *, strict: bool = True, settings: Mapping[str, Any] | None = None) -> None:
        """Compare names and shapes with the model's, which may be on the meta device.

        Args:
            model: what the tensors shall belong to.
            strict: False accepts names that only one side has.
            settings: dotted names to values of the config, to say which one a wrong shape comes from.

        Raises:
            CheckpointMismatchError: all that does not fit, at once.
        """
        _Check(self, model, settings or {}).names(strict)

    def load_into(
        self,
        model: nn.Module,
        *,
        strict: bool = True,
        check_finite: CheckFinite = True,
        manifest: Mapping[str, FileRecord] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Fill the model's parameters and buffers in place; each takes the type that is stored.

        Args:
            model: what the tensors belong to.
            strict: False leaves parameters as they are for which nothing is stored, drops what has no parameter, and
                warns of both.
            check_finite: refuse NaN and Inf; ``"warn"`` warns, False does not look.
            manifest: sizes and hashes that the files must have; None does not look.
            settings: as `check` takes it.

        Raises:
            CheckpointMismatchError: names or shapes that are not the model's, all of them at once, before anything
                is read; ties of the model that are stored twice and differ.
            CheckpointCorruptError: a file that is not as the manifest says.
            NonFiniteError: naming the first tensor.
        """
        self.check(model, strict=strict, settings=settings)
        self._tie(model)
        state = model.state_dict(keep_vars=True)
        filled: dict[int, str] = {}
        twice: list[tuple[str, str, Tensor]] = []
        odd: list[str] = []

        def place(name: str, stored: StoredTensor) -> Tensor:
            target: Tensor | None = state.get(name)
            first = None if target is None else filled.setdefault(id(target), name)
            if target is None or first != name:
                memory = torch.empty(stored.shape, dtype=stored.dtype)
                if first is not None:
                    twice.append((first, name, memory))
                return memory
            if target.dtype != stored.dtype:
                target.data = torch.empty(stored.shape, dtype=stored.dtype, device=target.device)
            return target

        for file_name, file in self.files.items():
            for name in file.read(place, take_hash=manifest is not None):
                if check_finite and name in state and not _is_finite(state[name]):
                    odd.append(name)
            if manifest is not None:
                _check_hash(file, file_name, manifest)
        for first, name, memory in twice:
            if not torch.equal(_bytes(state[first]), _bytes(memory)):
                raise CheckpointMismatchError(
                    f"the model has one tensor for {first} and {name}, and the file two that differ", path=self.folder,
                    hint="set decoder.tie_word_embeddings to false in config.json",
                )  # fmt: skip
        if odd:
            self._non_finite(odd, check_finite)

    def _tie(self, model: nn.Module) -> None:
        state = model.state_dict(keep_vars=True)
        for alias, name in self.ties.items():
            if alias in state and name in state and state[alias] is not state[name]:
                parent, _, leaf = alias.rpartition(".")
                setattr(model.get_submodule(parent), leaf, state[name])

    def _non_finite(self, names: list[str], check_finite: CheckFinite) -> None:
        message = f"NaN or Inf in {_some(names)}"
        if check_finite == "warn":
            warnings.warn(f"{self.folder}: {message}", RuntimeWarning, stacklevel=4)
            return
        hint = 'take an earlier checkpoint, or load with check_finite="warn"'
        raise NonFiniteError(message, path=self.folder, hint=hint, details="\n".join(names))


class _Check:
    """The comparison of what is stored with what the model has."""

    def __init__(self, weights: Weights, model: nn.Module, settings: Mapping[str, Any]) -> None:
        self.weights, self.settings = weights, settings
        self.shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        self.same = _groups(model)

    def names(self, strict: bool) -> None:
        """Raise one error for all that does not fit."""
        stored, ties = self.weights.tensors, self.weights.ties
        there = {*stored, *ties}
        missing = [n for n in self.shapes if n not in there and not any(twin in there for twin in self.same.get(n, ()))]
        unexpected = [n for n in there if n not in self.shapes]
        wrong = [
            (name, stored[ties.get(name, name)].shape, shape)
            for name, shape in self.shapes.items()
            if name in there and stored[ties.get(name, name)].shape != shape
        ]
        if not strict and (missing or unexpected):
            said = {"left random": missing, "not used": sorted(unexpected)}
            message = "; ".join(f"{what}: {_some(names)}" for what, names in said.items() if names)
            warnings.warn(f"{self.weights.folder}: {message}", UserWarning, stacklevel=5)
        if wrong or (strict and (missing or unexpected)):
            raise self._mismatch(missing if strict else [], sorted(unexpected) if strict else [], wrong)

    def _mismatch(
        self, missing: list[str], unexpected: list[str], wrong: list[tuple[str, tuple[int, ...], tuple[int, ...]]]
    ) -> CheckpointMismatchError:
        shapes = [f"{name} {list(found)} instead of {list(due)}" for name, found, due in wrong]
        parts = (("missing", missing), ("unexpected", unexpected), ("of a wrong shape", shapes))
        room = NAMES_SHOWN
        said = []
        for what, names in parts:
            if names:
                said.append(f"{len(names)} {what}: {', '.join(names[: max(1, room)])}")
                room -= len(names[: max(1, room)])
        hint = self._suspect(wrong) or "is it the checkpoint of this config.json? strict=False takes what fits"
        return CheckpointMismatchError(
            f"tensors {'; '.join(said)}", path=self.weights.folder, hint=hint,
            details="\n".join(f"{what}: {name}" for what, names in parts for name in names),
        )  # fmt: skip

    def _suspect(self, wrong: list[tuple[str, tuple[int, ...], tuple[int, ...]]]) -> str:
        """The config field that has the number which the model has and the file has not."""
        for name, found, due in wrong:
            pairs = [(a, b) for a, b in zip(found, due, strict=False) if a != b] if len(found) == len(due) else []
            for there, here in pairs:
                fields = [f for f, v in self.settings.items() if v == here and f.split(".")[0] == name.split(".")[0]]
                if fields:
                    return f"{' or '.join(fields[:3])} is {here} in config.json, and {there} in the file"
        return ""


def _groups(model: nn.Module) -> dict[str, list[str]]:
    """For each name of a tensor that has several: all of them."""
    names: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    return {name: group for group in names.values() if len(group) > 1 for name in group}


def _read_index(snapshot: Snapshot) -> dict[str, str]:
    """Tensor names to the names of their shards."""
    path = snapshot.path / INDEX
    if not snapshot.has(INDEX):
        raise CheckpointNotFoundError(f"no {SINGLE} and no {INDEX}", path=snapshot.path, hint=snapshot.listing())
    try:
        weight_map = json_object(snapshot.read(INDEX), path).get("weight_map")
    except CheckpointLimitError as error:
        raise CheckpointCorruptError(str(error)) from None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointCorruptError("no weight_map with tensors", path=path, hint=_AGAIN)
    checked: set[str] = set()
    for name in weight_map.values():
        if not isinstance(name, str) or name not in checked:
            checked.add(_shard_name(name, path))
    return weight_map


def _shard_name(name: object, path: Path) -> str:
    if not check_name(name, path).endswith(".safetensors"):
        raise CheckpointUnsafeError(f"shard {short(name)} is no .safetensors file", path=path, hint=_AGAIN)
    return str(name)


def _open_shard(snapshot: Snapshot, name: str, index: object) -> io.FileIO:
    try:
        return snapshot.open(name)
    except CheckpointNotFoundError as error:
        if index is None:
            raise
        raise CheckpointNotFoundError(
            f"no such file, and {INDEX} names it", path=snapshot.path / name, hint=error.hint
        ) from None


def _check_hash(file: TensorFile, name: str, manifest: Mapping[str, FileRecord]) -> None:
    if name not in manifest:
        hint = "load with verify=False if you put it there"
        raise CheckpointCorruptError("is not in the manifest", path=file.path, hint=hint)
    if file.sha256 != manifest[name].sha256:
        differs = "another sha256"
        if file.size != manifest[name].size:
            differs = f"{file.size:,} bytes instead of {manifest[name].size:,}"
        raise CheckpointCorruptError(
            f"not what was saved: {differs}", path=file.path,
            hint="get it from its source again, or load with verify=False if you changed it",
        )  # fmt: skip


def _is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or Inf: the sums of its parts tell, unless one overflows."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    values = tensor.detach()
    values = (torch.view_as_real(values) if values.is_complex() else values).reshape(-1)
    if values.dtype.itemsize == 1:
        values = values.float()
    type_ = torch.float64 if values.dtype == torch.float64 else torch.float32
    sums = [part.sum(dtype=type_) for part in torch.split(values, _SERIAL)]
    return bool(torch.stack(sums).isfinite().all()) or bool(values.isfinite().all())


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
