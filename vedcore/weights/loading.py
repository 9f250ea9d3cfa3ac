"""The tensors of a folder into a model: ties, hashes, and memory that is read into once.

The files may be ours or, through a key map, those of another library.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from vedcore.errors import CheckpointMismatchError, NonFiniteError
from vedcore.weights.checking import Check, LoadReport, some
from vedcore.weights.hashing import FileRecord
from vedcore.weights.keymap import Assignment, Assignments, Row, assign
from vedcore.weights.opening import check_hash, open_weights, record_of
from vedcore.weights.places import Place, empty
from vedcore.weights.safetensors_file import StoredTensor
from vedcore.weights.snapshot import Snapshot

__all__ = ["CheckFinite", "LoadReport", "Weights"]

_AS_IT_IS = Row("*", "*")
CheckFinite = bool | Literal["warn"]
Select: TypeAlias = Callable[[Sequence[str]], Mapping[str, str]]


def _all(names: Sequence[str]) -> Mapping[str, str]:
    return {name: name for name in names}


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
        self.files = open_weights(snapshot, pickles=pickles)
        self.stored: dict[str, StoredTensor] = {}
        """What is in the files, under the names that it has there."""
        self.ties: dict[str, str] = {}
        """Names that are not stored because they are another tensor."""
        for file in self.files.values():
            self.stored |= file.tensors
        for file in self.files.values():
            declared = {alias: name for alias, name in file.metadata.items() if name in file.tensors}
            self.ties |= {alias: name for alias, name in declared.items() if alias not in self.stored}
        self._assign(select or _all)

    def _assign(self, select: Select) -> None:
        """Find out which stored tensors make which of ours."""
        names = select([*self.stored, *self.ties])
        selected = {name: new for name, new in names.items() if name in self.stored}
        self.ties = {names[a]: names[name] for a, name in self.ties.items() if a in names and name in names}
        self.tensors: dict[str, tuple[int, ...]] = {}
        """Shapes of what there is for us, under our names."""
        self.plans: list[Assignment] = []
        """What becomes of the stored tensors; the sources are under the names that they have in the files."""
        if self.rows is None:
            self.assignments = Assignments([], [], [])
            self.tensors = {new: self.stored[name].shape for name, new in selected.items()}
            self.plans = [Assignment((name,), (new,), _AS_IT_IS, False) for name, new in selected.items()]
            return
        self.ties = {}  # what is tied in theirs is tied in ours by its settings
        back = {new: name for name, new in selected.items()}
        self.assignments = assign(selected.values(), self.rows)
        for assignment in self.assignments.found:
            sources = tuple(None if name is None else back[name] for name in assignment.sources)
            like = [None if n is None else torch.empty(self.stored[n].shape, device="meta") for n in sources]
            targets = _shapes(assignment, like)
            if targets is None:
                self.assignments.unexpected.append(next(name for name in assignment.sources if name is not None))
                continue
            self.tensors |= targets
            self.plans.append(replace(assignment, sources=sources))

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
        return Check(self, model, settings or {}).names(strict, fresh)

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
        """Give the model's parameters and buffers the memory that the tensors were read into, and their types.

        Args:
            model: what the tensors belong to.
            strict: False leaves parameters as they are for which nothing is stored, drops what has no parameter, and
                warns of both.
            fresh: names of the model that may be missing, and then stay as they are.
            check_finite: refuse NaN and Inf; ``"warn"`` warns, False does not look.
            manifest: sizes and hashes that the files must have; None does not look.
            settings: as `check` takes it.
            mmap: leave the weights in the files, mapped, as far as they are there as the model has them.

        Raises:
            CheckpointMismatchError: names or shapes that are not the model's, all of them at once, before anything
                is read; ties of the model that are stored twice and differ.
            CheckpointCorruptError: a file that is not as the manifest says; of another size, before anything is read.
            NonFiniteError: naming the first tensor.
            UsageError: ``mmap``, and the weights are no safetensors files.
        """
        report = self.check(model, strict=strict, fresh=fresh, settings=settings)
        records: dict[str, FileRecord] = {}
        if manifest is not None:
            records = {name: record_of(file, name, manifest) for name, file in self.files.items()}
        self._tie(model)
        mapped: dict[str, Tensor] = {}
        for file in self.files.values() if mmap else ():
            mapped |= file.map()
        filling = _Filling(self, model, mapped)
        for file_name, file in self.files.items():
            record = records.get(file_name)
            block = None if record is None else record.block
            file.read(filling.places, mapped=filling.mapped, block=block, check_finite=bool(check_finite))
            if record is not None:
                check_hash(file, record)
        filling.fill()
        odd = [name for file in self.files.values() for name in file.not_finite]
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
        message = f"NaN or Inf in {some(names)}"
        if check_finite == "warn":
            warnings.warn(f"{self.folder}: {message}", RuntimeWarning, stacklevel=4)
            return
        hint = 'take an earlier checkpoint, or load with check_finite="warn"'
        raise NonFiniteError(message, path=self.folder, hint=hint, details="\n".join(names))


class _Filling:
    """The memory that a model's tensors will have: that of the file where it is mapped and holds one as it is.

    Args:
        weights: what is to be filled in.
        model: whose tensors.
        mapped: stored tensors by name.
    """

    def __init__(self, weights: Weights, model: nn.Module, mapped: Mapping[str, Tensor]) -> None:
        self.folder = weights.folder
        self.state: dict[str, Tensor] = model.state_dict(keep_vars=True)
        self.values: list[Mapping[str, Tensor]] = []
        """What the tensors of the model will be, by their names."""
        self.later: list[tuple[Assignment, list[Tensor | None]]] = []
        """What they are made of once it has been read, where a plugin's key map changes numbers on the way."""
        self.places: dict[str, Place] = {}
        """Of the stored tensors, which are to be read there."""
        self.mapped: dict[str, Tensor] = {}
        """Those that stay in the file."""
        for plan in weights.plans:
            if not any(target in self.state for target in plan.targets):
                continue
            sources = [name for name in plan.sources if name is not None]
            if len(plan.sources) == 1 and sources[0] in mapped:
                self.mapped[sources[0]] = mapped[sources[0]]
                self.values.append(plan.apply([mapped[sources[0]]], views=True) or {})
            else:
                dtype = reduce(torch.promote_types, (weights.stored[name].dtype for name in sources))
                targets = {name: empty(weights.tensors[name], dtype) for name in plan.targets if name is not None}
                places = plan.places(targets)
                if places is None:
                    stored = {name: empty(weights.stored[name].shape, weights.stored[name].dtype) for name in sources}
                    self.later.append((plan, [None if name is None else stored[name] for name in plan.sources]))
                    places = {name: Place((memory,)) for name, memory in stored.items()}
                else:
                    self.values.append(targets)
                self.places |= places

    def fill(self) -> None:
        """Give it to the model, once it has been read."""
        self.values += [plan.apply(found) or {} for plan, found in self.later]
        filled: dict[int, str] = {}
        for name, value in ((name, value) for values in self.values for name, value in values.items()):
            if name not in self.state:
                continue
            target = self.state[name]
            first = filled.setdefault(id(target), name)
            if first == name:
                target.data = value.to(target.device)
            elif not torch.equal(_bytes(target), _bytes(value)):
                raise CheckpointMismatchError(
                    f"the model has one tensor for {first} and {name}, and the file two that differ",
                    path=self.folder, hint="set decoder.tie_word_embeddings to false in config.json",
                )  # fmt: skip


def _shapes(assignment: Assignment, like: Sequence[Tensor | None]) -> dict[str, tuple[int, ...]] | None:
    """Shapes of the targets for sources on the meta device; None where they cannot be joined or cut."""
    if len({tensor.shape for tensor in like if tensor is not None}) > 1:
        return None
    targets = assignment.apply(like, views=True)
    return None if targets is None else {name: tuple(tensor.shape) for name, tensor in targets.items()}


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
