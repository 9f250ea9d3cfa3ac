"""The tensors of a folder into a model: shards, ties, hashes, and what does not fit, all at once.

The files may be ours or, through a key map, those of another library. Tensors are read straight into the model's memory
wherever one is, or is a part of, one of ours.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

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
from vedcore.weights.keymap import Assignment, Assignments, Row, assign, their_name
from vedcore.weights.safetensors_file import StoredTensor, TensorFile
from vedcore.weights.saving import INDEX, SINGLE
from vedcore.weights.snapshot import FileRecord, Snapshot, check_name, json_object

if TYPE_CHECKING:
    from vedcore.weights.torch_file import TorchFile

__all__ = ["CheckFinite", "LoadReport", "Weights"]

NAMES_SHOWN = 5
LAYOUTS = ((SINGLE, INDEX), ("pytorch_model.bin", "pytorch_model.bin.index.json"))
"""Where weights may be, in the order in which they are looked for: one file, or an index of shards."""
_AGAIN = "get the folder from its source again"
_SERIAL = 32_000
"""Numbers that torch adds up in one thread: waiting for a second one takes longer, much longer on a busy machine."""
_AS_IT_IS = Row("*", "*")
CheckFinite = bool | Literal["warn"]
Stored: TypeAlias = "TensorFile | TorchFile"
Select: TypeAlias = Callable[[Sequence[str]], Mapping[str, str]]


def _all(names: Sequence[str]) -> Mapping[str, str]:
    return {name: name for name in names}


class LoadReport(NamedTuple):
    """What became of a checkpoint and of the part of a model that it was loaded into; ``str(report)`` is a table."""

    source: str
    """The folder."""
    loaded: list[str]
    """Parameters and buffers of ours that were filled."""
    fresh: list[str]
    """Those that were left as they were."""
    left: list[str]
    """Tensors of the checkpoint that were not used."""

    def __str__(self) -> str:
        lines = [self.source]
        for what, names in (("loaded", self.loaded), ("fresh", self.fresh), ("left behind", self.left)):
            layers: dict[str, int] = {}
            for name in names:
                pattern = re.sub(r"(?<=\.)\d+(?=\.)", "*", name)
                layers[pattern] = layers.get(pattern, 0) + 1
            lines.append(f"  {what:<12} {len(names):>5} tensors")
            if what != "loaded":
                lines += [f"    {count:>4} x {pattern}" for pattern, count in layers.items()]
        return "\n".join(lines)


class Weights:
    """The tensors of an opened folder: names, types and shapes at once, values when `load_into` asks for them.

    Where a folder holds weights more than once, the first of these counts: ``model.safetensors``, its index of shards,
    ``pytorch_model.bin``, its index. The others are never opened.

    Args:
        snapshot: the folder; it must stay open until the weights are loaded.
        rows: the key map where the names are not ours.
        select: from the names of all stored tensors, those of interest, with the name that each has in the key map.
        pickles: whether ``pytorch_model.bin`` may be read.

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
        self.rows = rows
        self.files: dict[str, Stored] = {}
        self.stored: dict[str, StoredTensor] = {}
        """What is in the files, under the names that it has there."""
        self.ties: dict[str, str] = {}
        """Names that are not stored because they are another tensor."""
        single, index_name = _layout(snapshot, pickles)
        index = None if index_name is None else _read_index(snapshot, index_name)
        for file_name in [single] if index is None else sorted(set(index.values())):
            file = _open_file(snapshot, file_name, None if index is None else index_name)
            for name in file.tensors:
                if name in self.stored:
                    raise CheckpointCorruptError(f"{short(name)} is in two shards", path=file.path, hint=_AGAIN)
            self.files[file_name] = file
            self.stored |= file.tensors
        for file in self.files.values():
            declared = {alias: name for alias, name in file.metadata.items() if name in file.tensors}
            self.ties |= {alias: name for alias, name in declared.items() if alias not in self.stored}
        if index is not None:
            self._check_index(index, index_name)
        self._assign(select or _all)

    def _check_index(self, index: Mapping[str, str], index_name: str | None) -> None:
        for name, file_name in index.items():
            if name not in self.files[file_name].tensors and name not in self.ties:
                raise CheckpointCorruptError(
                    f"{short(name)} is not in {file_name}, where the index has it",
                    path=self.folder / str(index_name), hint=_AGAIN,
                )  # fmt: skip

    def _assign(self, select: Select) -> None:
        """Find out which stored tensors make which of ours."""
        names = select([*self.stored, *self.ties])
        selected = {name: new for name, new in names.items() if name in self.stored}
        self.ties = {names[a]: names[name] for a, name in self.ties.items() if a in names and name in names}
        self.tensors: dict[str, tuple[int, ...]] = {}
        """Shapes of what there is for us, under our names."""
        self.plans: dict[str, tuple[Assignment, int]] = {}
        """By the stored name: what the tensor becomes, and its place among the sources."""
        if self.rows is None:
            self.assignments = Assignments([], [], [])
            self.tensors = {new: self.stored[name].shape for name, new in selected.items()}
            self.plans = {name: (Assignment((new,), (new,), _AS_IT_IS, False), 0) for name, new in selected.items()}
            return
        self.ties = {}  # what is tied in theirs is tied in ours by its settings
        back = {new: name for name, new in selected.items()}
        self.assignments = assign(selected.values(), self.rows)
        for assignment in self.assignments.found:
            sources = [None if source is None else back[source] for source in assignment.sources]
            for position, name in enumerate(sources):
                if name is not None:
                    self.plans[name] = assignment, position
            like = [None if n is None else torch.empty(self.stored[n].shape, device="meta") for n in sources]
            targets = _shapes(assignment, like)
            if targets is None:
                self.assignments.unexpected.append(next(name for name in assignment.sources if name is not None))
                continue
            self.tensors |= targets

    def check(
        self,
        model: nn.Module,
        *,
        strict: bool = True,
        fresh: Collection[str] = (),
        settings: Mapping[str, Any] | None = None,
    ) -> LoadReport:
        """Compare names and shapes with the model's, which may be on the meta device.

        Args:
            model: what the tensors shall belong to.
            strict: False accepts names that only one side has.
            fresh: names of the model that may be missing.
            settings: dotted names to values of the config, to say which one a wrong shape comes from.

        Raises:
            CheckpointMismatchError: all that does not fit, at once.
        """
        return _Check(self, model, settings or {}).names(strict, fresh)

    def load_into(
        self,
        model: nn.Module,
        *,
        strict: bool = True,
        fresh: Collection[str] = (),
        check_finite: CheckFinite = True,
        manifest: Mapping[str, FileRecord] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> LoadReport:
        """Fill the model's parameters and buffers in place; each takes the type that is stored.

        Args:
            model: what the tensors belong to.
            strict: False leaves parameters as they are for which nothing is stored, drops what has no parameter, and
                warns of both.
            fresh: names of the model that may be missing, and then stay as they are.
            check_finite: refuse NaN and Inf; ``"warn"`` warns, False does not look.
            manifest: sizes and hashes that the files must have; None does not look.
            settings: as `check` takes it.

        Raises:
            CheckpointMismatchError: names or shapes that are not the model's, all of them at once, before anything
                is read; ties of the model that are stored twice and differ.
            CheckpointCorruptError: a file that is not as the manifest says.
            NonFiniteError: naming the first tensor.
        """
        report = self.check(model, strict=strict, fresh=fresh, settings=settings)
        self._tie(model)
        filling = _Filling(self, model)
        looks: list[tuple[str, Future[bool]]] = []
        with ThreadPoolExecutor(1) as worker:  # looking for NaN goes on while the next tensor is read
            for file_name, file in self.files.items():
                for name in file.read(filling.place, take_hash=manifest is not None):
                    tensor = filling.take(name)
                    if check_finite and tensor is not None:
                        looks.append((name, worker.submit(_is_finite, tensor)))
                if manifest is not None:
                    _check_hash(file, file_name, manifest)
        filling.check_twice()
        odd = [name for name, look in looks if not look.result()]
        if odd:
            self._non_finite(odd, check_finite)
        return report

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


class _Filling:
    """Where stored tensors go while a model is filled.

    A stored tensor that is a parameter of ours, or rows of one, is read straight into it. Others are read beside the
    model, and kept until all that belong together are there.
    """

    def __init__(self, weights: Weights, model: nn.Module) -> None:
        self.weights = weights
        self.state: dict[str, Tensor] = model.state_dict(keep_vars=True)
        self.filled: dict[int, str] = {}
        self.twice: list[tuple[str, str, Tensor]] = []
        self.waiting: dict[str, Tensor] = {}
        """Read, by their stored names."""
        self.parts: dict[int, tuple[Tensor, ...]] = {}
        """Of assignments that are read in place: where each source goes."""
        self.beside: dict[int, dict[int, Tensor]] = {}
        """Of assignments that are not complete: the sources that are, by their position."""

    def place(self, name: str, stored: StoredTensor) -> Tensor | None:
        """The memory that the stored tensor is to be read into."""
        plan = self.weights.plans.get(name)
        if plan is None or not any(target in self.state for target in plan[0].targets):
            return None
        memory = self._rows(*plan, stored.dtype) if plan[0].plain else torch.empty(stored.shape, dtype=stored.dtype)
        self.waiting[name] = memory
        return memory

    def _rows(self, assignment: Assignment, position: int, dtype: torch.dtype) -> Tensor:
        """The part of a tensor of ours that one of several stored ones is; what none of them is, is zeros."""
        if id(assignment) not in self.parts:
            name = str(assignment.targets[0])
            whole = self._target(name, dtype, self.weights.tensors[name]).detach()
            parts = whole.chunk(len(assignment.sources)) if len(assignment.sources) > 1 else (whole,)
            for part, source in zip(parts, assignment.sources, strict=True):
                if source is None:
                    part.zero_()
            self.parts[id(assignment)] = parts
        return self.parts[id(assignment)][position]

    def _target(self, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        """The tensor of ours of that name, of that type; another where it is filled under another name already."""
        target = self.state[name]
        first = self.filled.setdefault(id(target), name)
        if first != name:
            memory = torch.empty(shape, dtype=dtype)
            self.twice.append((first, name, memory))
            return memory
        if target.dtype != dtype:
            target.data = torch.empty(shape, dtype=dtype, device=target.device)
        return target

    def take(self, name: str) -> Tensor | None:
        """A stored tensor has been read: hand it on where it was read beside the model; what it is now."""
        memory = self.waiting.pop(name, None)
        if memory is None:
            return None
        assignment, position = self.weights.plans[name]
        if assignment.plain:
            return memory
        found = self.beside.setdefault(id(assignment), {})
        found[position] = memory
        if len(found) == sum(source is not None for source in assignment.sources):
            del self.beside[id(assignment)]
            targets = assignment.apply([found.get(i) for i in range(len(assignment.sources))], views=True)
            for target, tensor in (targets or {}).items():
                if target in self.state:
                    self._target(target, tensor.dtype, tuple(tensor.shape)).detach().copy_(tensor)
        return memory

    def check_twice(self) -> None:
        """Refuse two stored tensors that differ for one of ours."""
        for first, name, memory in self.twice:
            if not torch.equal(_bytes(self.state[first]), _bytes(memory)):
                raise CheckpointMismatchError(
                    f"the model has one tensor for {first} and {name}, and the file two that differ",
                    path=self.weights.folder, hint="set decoder.tie_word_embeddings to false in config.json",
                )  # fmt: skip


def _shapes(assignment: Assignment, like: Sequence[Tensor | None]) -> dict[str, tuple[int, ...]] | None:
    """Shapes of the targets for sources on the meta device; None where they cannot be joined or cut."""
    if len({tensor.shape for tensor in like if tensor is not None}) > 1:
        return None
    targets = assignment.apply(like, views=True)
    return None if targets is None else {name: tuple(tensor.shape) for name, tensor in targets.items()}


class _Check:
    """The comparison of what is stored with what the model has."""

    def __init__(self, weights: Weights, model: nn.Module, settings: Mapping[str, Any]) -> None:
        self.weights, self.settings = weights, settings
        self.shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        self.same = _groups(model)

    def names(self, strict: bool, fresh: Collection[str]) -> LoadReport:
        """Raise one error for all that does not fit."""
        weights, stored, ties = self.weights, self.weights.tensors, self.weights.ties
        there = {*stored, *ties}
        absent = [n for n in self.shapes if n not in there and not any(twin in there for twin in self.same.get(n, ()))]
        missing = [name for name in absent if name not in fresh]
        unexpected = [*(n for n in there if n not in self.shapes), *weights.assignments.unexpected]
        shapes = ((name, stored[ties.get(name, name)], shape) for name, shape in self.shapes.items() if name in there)
        wrong = [(name, found, due) for name, found, due in shapes if found != due]
        if not strict and (missing or unexpected):
            said = {"left random": missing, "not used": sorted(unexpected)}
            message = "; ".join(f"{what}: {_some(names)}" for what, names in said.items() if names)
            warnings.warn(f"{weights.folder}: {message}", UserWarning, stacklevel=6)
        if wrong or (strict and (missing or unexpected)):
            raise self._mismatch(missing if strict else [], sorted(unexpected) if strict else [], wrong)
        left = [name for name in weights.stored if name not in weights.plans]
        return LoadReport(str(weights.folder), [n for n in self.shapes if n not in absent], absent, left)

    def _theirs(self, name: str) -> str:
        """A tensor's name as the file has it, so that one can look it up there."""
        return name if self.weights.rows is None else their_name(name, self.weights.rows) or name

    def _mismatch(
        self, missing: list[str], unexpected: list[str], wrong: list[tuple[str, tuple[int, ...], tuple[int, ...]]]
    ) -> CheckpointMismatchError:
        missing = list(dict.fromkeys(map(self._theirs, missing)))
        shapes = [f"{self._theirs(name)} {list(found)} instead of {list(due)}" for name, found, due in wrong]
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
                part = name.partition(".")[0]
                fields = [
                    f for f, v in self.settings.items() if v == here and ("." not in f or f.startswith(f"{part}."))
                ]
                if fields:
                    return f"{' or '.join(fields[:3])} is {here} in config.json, and {there} in the file"
        return ""


def _groups(model: nn.Module) -> dict[str, list[str]]:
    """For each name of a tensor that has several: all of them."""
    names: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    return {name: group for group in names.values() if len(group) > 1 for name in group}


def _layout(snapshot: Snapshot, pickles: bool) -> tuple[str, str | None]:
    """The file that the weights are in, or the name of the index of their shards."""
    for single, index in LAYOUTS[: 2 if pickles else 1]:
        if snapshot.has(single):
            return single, None
        if snapshot.has(index):
            return "", index
    what = " and no ".join(name for layout in LAYOUTS[: 2 if pickles else 1] for name in layout)
    raise CheckpointNotFoundError(f"no {what}", path=snapshot.path, hint=snapshot.listing())


def _read_index(snapshot: Snapshot, index: str) -> dict[str, str]:
    """Tensor names to the names of their shards."""
    path = snapshot.path / index
    try:
        weight_map = json_object(snapshot.read(index), path).get("weight_map")
    except CheckpointLimitError as error:
        raise CheckpointCorruptError(str(error)) from None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointCorruptError("no weight_map with tensors", path=path, hint=_AGAIN)
    ending = os.path.splitext(index.removesuffix(".index.json"))[1]
    checked: set[str] = set()
    for name in weight_map.values():
        if not isinstance(name, str) or name not in checked:
            checked.add(_shard_name(name, path, ending))
    return weight_map


def _shard_name(name: object, path: Path, ending: str) -> str:
    if not check_name(name, path).endswith(ending):
        raise CheckpointUnsafeError(f"shard {short(name)} is no {ending} file", path=path, hint=_AGAIN)
    return str(name)


def _open_file(snapshot: Snapshot, name: str, index: str | None) -> Stored:
    try:
        file = snapshot.open(name)
    except CheckpointNotFoundError:
        if index is None:
            raise
        raise CheckpointNotFoundError(
            f"no such file, and {index} names it", path=snapshot.path / name, hint=_AGAIN
        ) from None
    if not name.endswith(".bin"):
        return TensorFile(file, snapshot.path / name)
    from vedcore.weights.torch_file import TorchFile  # rarely needed

    return TorchFile(file, snapshot.path / name)


def _check_hash(file: Stored, name: str, manifest: Mapping[str, FileRecord]) -> None:
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
