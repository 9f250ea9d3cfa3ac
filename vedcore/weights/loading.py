"""The tensors of a folder into a model: each is brought home by one function, in a few threads, and assigned at once.

The files may be ours or, through a key map, those of another library.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from vedcore.errors import CheckpointCorruptError, CheckpointMismatchError, NonFiniteError, UsageError
from vedcore.weights.checking import LoadReport, Stored, compare, some
from vedcore.weights.finite import is_finite
from vedcore.weights.keymap import Assignment, Assignments, Row, assign, their_name
from vedcore.weights.manifest import FileRecord, tensor_sha256
from vedcore.weights.opening import WeightFile, open_weights
from vedcore.weights.safetensors_file import StoredTensor, TensorFile
from vedcore.weights.snapshot import Snapshot

__all__ = ["CheckFinite", "LoadReport", "Weights"]

CheckFinite = bool | Literal["warn"]
Select: TypeAlias = Callable[[Sequence[str]], Mapping[str, str]]
_AS_IT_IS = Row("*", "*")
_THREADS = min(4, os.cpu_count() or 1)
_EDITED = "get it from its source again, or load with verify=False if you changed it"


def _all(names: Sequence[str]) -> Mapping[str, str]:
    return {name: name for name in names}


class _BroughtHome(NamedTuple):
    """The tensors that one row of a key map makes of stored ones."""

    values: Mapping[str, Tensor]
    """Tensors of the model, by its names."""
    not_finite: Sequence[str]
    """Stored tensors with NaN or Inf."""


class Weights:
    """The tensors of an opened folder: names, types and shapes at once, values when `load_into` asks for them.

    Where a folder holds weights more than once, the first of these counts: ``model.safetensors``, its index of shards,
    ``pytorch_model.bin``, its index. The others are never opened.

    Args:
        snapshot: the folder; it must stay open until the weights are loaded.
        rows: the key map where the names are not ours.
        select: from the names of all stored tensors, those of interest, with the name that each has in the key map.
        pickles: True where ``pytorch_model.bin`` may be read.

    Raises:
        CheckpointNotFoundError: no weights, or a shard that the index names is missing.
        CheckpointCorruptError: a damaged file or index.
        CheckpointUnsafeError: an index that leads out of the folder.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        rows: Sequence[Row] | None = None,
        *,
        select: Select | None = None,
        pickles: bool = False,
    ) -> None:
        self.folder = snapshot.path
        self.files = open_weights(snapshot, pickles=pickles)
        self.stored: dict[str, StoredTensor] = {}
        """Types and shapes of what is in the files, under the names that it has there."""
        self._file_of: dict[str, WeightFile] = {}
        ties: dict[str, str] = {}
        for file in self.files.values():
            self.stored |= file.tensors
            self._file_of |= dict.fromkeys(file.tensors, file)
        for file in self.files.values():
            declared = {alias: name for alias, name in file.metadata.items() if name in file.tensors}
            ties |= {alias: name for alias, name in declared.items() if alias not in self.stored}
        names = (select or _all)([*self.stored, *ties])
        selected = {name: new for name, new in names.items() if name in self.stored}
        self._selected = list(selected)
        self._plans, tensors, unexpected = self._assigned(selected, rows)
        if rows is not None:  # what is tied in theirs is tied in ours by its settings
            ties = {}
        tied = {names[alias]: names[name] for alias, name in ties.items() if alias in names and name in names}
        self._ours = Stored(
            self.folder,
            tensors,
            tied,
            unexpected,
            name_there=lambda name: name if rows is None else their_name(name, rows) or name,
        )

    def _assigned(
        self, selected: Mapping[str, str], rows: Sequence[Row] | None
    ) -> tuple[list[Assignment], dict[str, StoredTensor], list[str]]:
        """What becomes of the selected tensors, what there is for us by that, and those that no row explains."""
        back = {new: name for name, new in selected.items()}
        if rows is None:
            assignments = Assignments([Assignment((name,), (name,), _AS_IT_IS, False) for name in back], [], [])
        else:
            assignments = assign(back, rows)
        plans, tensors, unexpected = [], dict[str, StoredTensor](), list(assignments.unexpected)
        for assignment in assignments.found:
            sources = tuple(back[name] for name in assignment.sources)
            like = [self.stored[name].empty() for name in sources]
            targets = assignment.apply(like) if len({tensor.shape for tensor in like}) == 1 else None
            if targets is None:
                unexpected.append(assignment.sources[0])
                continue
            plans.append(replace(assignment, sources=sources))
            tensors |= {name: StoredTensor(tensor.dtype, tuple(tensor.shape)) for name, tensor in targets.items()}
        return plans, tensors, unexpected

    def check(
        self,
        model: nn.Module,
        *,
        strict: bool = True,
        fresh: Collection[str] = (),
        settings: Mapping[str, Any] | None = None,
    ) -> LoadReport:
        """Compare names, shapes and kinds of numbers with the model's, which may be on the meta device.

        Args:
            model: the module that the tensors shall belong to.
            strict: False accepts names that only one side has.
            fresh: names of the model that may be missing.
            settings: dotted names to values of the config, to say which one a wrong shape comes from.

        Raises:
            CheckpointMismatchError: all that does not fit, at once.
        """
        absent = compare(self._ours, model, strict=strict, fresh=fresh, settings=settings)
        used = {name for plan in self._plans for name in plan.sources}
        loaded = [name for name in model.state_dict() if name not in absent]
        return LoadReport(str(self.folder), loaded, absent, [name for name in self.stored if name not in used])

    def compare_files(self, hashes: Mapping[str, str]) -> None:
        """Compare whole files with the sha256 that their source has of them, by name; others are passed over.

        Raises:
            CheckpointCorruptError: a file of other bytes.
        """
        for name, file in self.files.items():
            if name in hashes and file.sha256() != hashes[name]:
                raise CheckpointCorruptError("another sha256 than its source has", path=file.path, hint=_EDITED)

    def load_into(
        self,
        model: nn.Module,
        *,
        strict: bool = True,
        fresh: Collection[str] = (),
        check_finite: CheckFinite = True,
        manifest: Mapping[str, FileRecord] | None = None,
        settings: Mapping[str, Any] | None = None,
        mmap: bool = False,
    ) -> LoadReport:
        """Give the model's parameters and buffers, which may be on the meta device, the values and their types.

        Args:
            model: the module that the tensors belong to.
            strict: False leaves parameters as they are for which nothing is stored, drops what has no parameter, and
                warns of both.
            fresh: names of the model that may be missing, and then stay as they are.
            check_finite: refuse NaN and Inf; ``"warn"`` warns, False does not look.
            manifest: sizes and hashes that files and tensors must have; None does not look.
            settings: as `check` takes it.
            mmap: leave the weights in the files, mapped, as far as they are there as the model has them. Who cuts such
                a file kills the process.

        Raises:
            CheckpointMismatchError: names, shapes or kinds of numbers that are not the model's, all of them at once,
                before anything is read; ties of the model that are stored twice and differ.
            CheckpointCorruptError: a file that is not as the manifest says; of another size, before anything is read.
            NonFiniteError: naming the first tensors.
            UsageError: ``mmap``, and the weights are not in safetensors files.
        """
        report = self.check(model, strict=strict, fresh=fresh, settings=settings)
        for name, file in self.files.items():
            if mmap and not isinstance(file, TensorFile):
                raise UsageError(
                    f"{file.path} is not a safetensors file, and cannot be mapped",
                    field="mmap",
                    hint="leave it out, or convert the folder first: `vedcore convert`",
                )
            if manifest is not None:
                _check_file(file, manifest.get(name))
        hashes = _tensor_hashes(manifest, self.files, self.folder)
        self._tie(model)
        state = model.state_dict(keep_vars=True)

        plans = [plan for plan in self._plans if any(name in state for name in plan.targets)]
        used = {name for plan in plans for name in plan.sources}
        others = [name for name in self._selected if name in hashes and name not in used]

        def bring(plan: Assignment) -> _BroughtHome:
            return self._bring_home(plan, hashes, check_finite=bool(check_finite), mmap=mmap)

        with ThreadPoolExecutor(_THREADS) as threads:
            brought = list(threads.map(bring, plans))
            list(threads.map(partial(self._read, hashes=hashes), others))  # what is dropped may not be damaged either
        not_finite = [name for one in brought for name in one.not_finite]
        if not_finite and check_finite != "warn":
            self._refuse_not_finite(not_finite)
        self._fill(model, {name: value for one in brought for name, value in one.values.items() if name in state})
        if not_finite:
            warnings.warn(f"{self.folder}: NaN or Inf in {some(not_finite)}", RuntimeWarning, stacklevel=4)
        return report

    def _bring_home(
        self, plan: Assignment, hashes: Mapping[str, str], *, check_finite: bool, mmap: bool
    ) -> _BroughtHome:
        """Stored tensors as the model's: looked at, hashed, changed, and copied unless they stay in the file."""
        found = [self._read(name, hashes, keep=mmap) for name in plan.sources]
        pairs = zip(plan.sources, found, strict=True)
        not_finite = [name for name, tensor in pairs if check_finite and not is_finite(tensor)]
        values = plan.apply(found) or {}
        joined = len(found) > 1 == len(values)  # in memory of its own by that
        if not joined:
            values = {name: value if mmap and _is_aligned(value) else _copied(value) for name, value in values.items()}
        return _BroughtHome(values, not_finite)

    def _read(self, name: str, hashes: Mapping[str, str], *, keep: bool = False) -> Tensor:
        """A stored tensor, in its file, once its hash is the one that it should have."""
        file = self._file_of[name]
        tensor = file.get(name, keep=keep)
        if name in hashes and tensor_sha256(tensor) != hashes[name]:
            message = "not what was saved: another sha256"
            raise CheckpointCorruptError(message, path=file.path, field=name, hint=_EDITED)
        return tensor

    def _refuse_not_finite(self, names: list[str]) -> None:
        hint = 'take an earlier checkpoint, or load with check_finite="warn"'
        raise NonFiniteError(f"NaN or Inf in {some(names)}", path=self.folder, hint=hint, details="\n".join(names))

    def _tie(self, model: nn.Module) -> None:
        """Make one tensor of those that were one when they were saved."""
        state = model.state_dict(keep_vars=True)
        for alias, name in self._ours.ties.items():
            if alias in state and name in state and state[alias] is not state[name]:
                parent, _, leaf = alias.rpartition(".")
                setattr(model.get_submodule(parent), leaf, state[name])

    def _fill(self, model: nn.Module, values: Mapping[str, Tensor]) -> None:
        """Give the values to the model: a tensor in memory takes the new memory, one on the meta device is replaced."""
        state: dict[str, Tensor] = model.state_dict(keep_vars=True)
        first: dict[int, str] = {}
        for name, value in values.items():
            twin = first.setdefault(id(state[name]), name)
            if twin != name and not torch.equal(_bytes(values[twin]), _bytes(value)):
                raise CheckpointMismatchError(
                    f"the model has one tensor for {twin} and {name}, and the file two that differ",
                    path=self.folder,
                    hint="set decoder.tie_word_embeddings to false in config.json",
                )
        made: dict[int, Tensor] = {}
        for number, name in first.items():
            target, value = state[name], values[name]
            if not target.is_meta:
                target.data = value.to(target.device)
            elif isinstance(target, nn.Parameter):
                made[number] = nn.Parameter(value, target.requires_grad)
            else:
                made[number] = value
        if made:
            model.load_state_dict({name: made.get(id(t), t) for name, t in state.items()}, strict=True, assign=True)


def _check_file(file: WeightFile, record: FileRecord | None) -> None:
    """Compare a file's size and header with the manifest's record."""
    if record is None:
        hint = "load with verify=False if you put it there"
        raise CheckpointCorruptError("is not in the manifest", path=file.path, hint=hint)
    wrong = f"{file.size:,} bytes instead of {record.size:,}" if file.size != record.size else ""
    if record.tensors and (without := sorted(file.tensors.keys() - record.tensors.keys())):
        wrong = wrong or f"the manifest has no hash of {some(without)}"
    if record.header and isinstance(file, TensorFile) and file.header_sha256 != record.header:
        wrong = wrong or "another sha256 of its header"
    if wrong:
        raise CheckpointCorruptError(f"not what was saved: {wrong}", path=file.path, hint=_EDITED)


def _tensor_hashes(
    manifest: Mapping[str, FileRecord] | None, files: Mapping[str, WeightFile], folder: object
) -> dict[str, str]:
    """The sha256 of each stored tensor, as far as the manifest has them."""
    records = [] if manifest is None else [manifest[name] for name in files]
    if not all(record.header for record in records):
        warnings.warn(
            f"{folder}: an earlier version saved it: `vedcore inspect --verify` compares its hashes, loading does not; "
            "save it again to have both",
            UserWarning,
            stacklevel=4,
        )
    return {name: sha256 for record in records for name, sha256 in record.tensors.items()}


def _copied(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)


def _is_aligned(tensor: Tensor) -> bool:
    return tensor.data_ptr() % tensor.dtype.itemsize == 0


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
