"""Loading of the tensors of a folder into a model, in a few threads.

The files may be vedcore's or, through a key map, those of another library.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from vedcore.errors import CheckpointCorruptError, CheckpointMismatchError, NonFiniteError, UsageError, warn_caller
from vedcore.weights.checking import CheckpointTensors, Fit, LoadReport, abbreviated, compare
from vedcore.weights.finite import is_finite
from vedcore.weights.in_memory import TensorsInMemory
from vedcore.weights.keymap import Assignment, Assignments, Row, assign, matcher, their_name
from vedcore.weights.manifest import FileRecord, tensor_sha256
from vedcore.weights.opening import WeightFile, open_weights
from vedcore.weights.origins import Origin, folder_label, read_provenance
from vedcore.weights.safetensors_file import MAX_IO_THREADS, StoredTensor, TensorFile
from vedcore.weights.snapshot import Snapshot
from vedcore.weights.unwrapping import NameMatch, refuse_adapters, unwrap

__all__ = ["CheckFinite", "Fit", "LoadReport", "Weights"]

CheckFinite = bool | Literal["warn"]
Select: TypeAlias = Callable[[Sequence[str]], Mapping[str, str]]
_IDENTITY_ROW = Row("*", "*")
_CHANGED_HINT = "get it from its source again, or load with verify=False if you changed it"


def _all(names: Sequence[str]) -> Mapping[str, str]:
    return {name: name for name in names}


class _Converted(NamedTuple):
    """The tensors of the model that one assignment of a key map makes from stored tensors."""

    values: Mapping[str, Tensor]
    """Names in the model to tensors."""
    not_finite: Sequence[str]
    """Stored tensors with NaN or Inf."""


class _Matched(NamedTuple):
    """The stored tensors under the names of a model."""

    selected: list[str]
    """The stored tensors that were selected."""
    assignments: list[Assignment]
    """The conversions of those that the key map has."""
    found: CheckpointTensors
    """Their types and shapes, to compare."""


class Weights:
    """The tensors of an opened folder: names, types and shapes are read at once, values by `load_into`.

    Where a folder has weights in several layouts, the first of these is used: ``model.safetensors``,
    ``pytorch_model.bin``, ``flax_model.msgpack``, ``tf_model.h5``, each before its index of shards. The others are
    never opened.

    Names and dicts that training wrapped (``module.``, ``_orig_mod.``) are unwrapped by `check`, with one warning.

    Args:
        source: the opened folder, or one opened file; it must stay open until the weights are loaded.
        rows: the key map, where the names are another library's.
        select: function from the names of all stored tensors to those to use, each with its name in the key map.
        pickles: whether other layouts than safetensors may be read.

    Raises:
        CheckpointNotFoundError: no weights, or a shard that the index names is missing.
        CheckpointCorruptError: a damaged file or index.
        CheckpointMismatchError: adapters of LoRA that were not merged.
        CheckpointUnsafeError: an index that leads out of the folder.
    """

    def __init__(
        self,
        source: Snapshot | WeightFile,
        rows: Sequence[Row] | None = None,
        *,
        select: Select | None = None,
        pickles: bool = False,
    ) -> None:
        self.folder = Path(source.path)
        self._snapshot = source if isinstance(source, Snapshot) else None
        self._published: Mapping[str, str] = {}
        self.files: Mapping[str, WeightFile]
        if isinstance(source, Snapshot):
            self.files = open_weights(source, pickles=pickles)
        else:
            self.files = {self.folder.name: source}
        self.stored: dict[str, StoredTensor] = {}
        """Names of the tensors in the files to types and shapes."""
        self._file_of: dict[str, WeightFile] = {}
        self._ties: dict[str, str] = {}
        self._rows, self._select = rows, select or _all
        self._matched: _Matched | None = None
        for file in self.files.values():
            self.stored |= file.tensors
            self._file_of |= dict.fromkeys(file.tensors, file)
        for file in self.files.values():
            declared = {alias: name for alias, name in file.metadata.items() if name in file.tensors}
            self._ties |= {alias: name for alias, name in declared.items() if alias not in self.stored}
        refuse_adapters(self.stored, self.folder)

    def _match(self, model: nn.Module) -> _Matched:
        """The stored tensors under the model's names; found once, with one warning of all that is unwrapped."""
        if self._matched is not None:
            return self._matched
        files, stored = list(self.files.values()), [*self.stored, *self._ties]
        ours = model.state_dict(keep_vars=True).keys()
        notes = [file.note for file in files]
        matched = self._match_names({name: name for name in stored})
        if self._rows is None or matched.found.unexpected or not matched.selected:
            is_ours: Callable[[str], bool] = ours.__contains__ if self._rows is None else matcher(self._rows)

            def match(names: Sequence[str]) -> NameMatch:
                selected = self._select(names)
                fitting = {name for name, new in selected.items() if is_ours(new)}
                return NameMatch(fitting, selected.keys() - fitting)

            unwrapped = unwrap(stored, match)
            if unwrapped.note:
                notes.append(unwrapped.note)
                matched = self._match_names(unwrapped.names)
        if notes := [*filter(None, dict.fromkeys(notes))]:
            path = files[0].path if len(files) == 1 else self.folder
            warn_caller(f"{path}: taken from it: {'; '.join(notes)}")
        self._matched = matched
        return matched

    def _match_names(self, unwrapped: Mapping[str, str]) -> _Matched:
        """The stored tensors under the key map's names, for names in the file to names without wrappers."""
        selection, rows = self._select(list(unwrapped.values())), self._rows
        names = {name: selection[new] for name, new in unwrapped.items() if new in selection}
        selected = {name: new for name, new in names.items() if name in self.stored}
        assignments, tensors, unexpected = self._assign(selected, rows)
        present = set(names.values())
        ties = self._ties if rows is None else {}  # else the config ties the tensors of our model
        found = CheckpointTensors(
            self.folder,
            tensors,
            {names[alias]: names[name] for alias, name in ties.items() if alias in names and name in names},
            unexpected,
            file_names_of=lambda name: _file_names(name, rows, present),
        )
        return _Matched(list(selected), assignments, found)

    def _assign(
        self, selected: Mapping[str, str], rows: Sequence[Row] | None
    ) -> tuple[list[Assignment], dict[str, StoredTensor], list[str]]:
        """Assignments of the selected tensors, types and shapes under our names, and tensors that no row matches."""
        back = {new: name for name, new in selected.items()}
        if rows is None:
            assignments = Assignments([Assignment((name,), (name,), _IDENTITY_ROW, False) for name in back], [], [])
        else:
            assignments = assign(back, rows)
        possible, tensors, unexpected = [], dict[str, StoredTensor](), list(assignments.unexpected)
        for assignment in assignments.found:
            sources = tuple(back[name] for name in assignment.sources)
            like = [self.stored[name].empty() for name in sources]
            targets = assignment.apply(like) if len({tensor.shape for tensor in like}) == 1 else None
            if targets is None:
                unexpected.append(assignment.sources[0])
                continue
            possible.append(replace(assignment, sources=sources))
            tensors |= {name: StoredTensor(tensor.dtype, tuple(tensor.shape)) for name, tensor in targets.items()}
        return possible, tensors, unexpected

    def check(
        self,
        model: nn.Module,
        *,
        strict: bool = True,
        fresh: Collection[str] = (),
        settings: Mapping[str, Any] | None = None,
        fit: Fit | None = None,
        loose_hint: str = "",
    ) -> LoadReport:
        """Compare names, shapes and kinds of numbers with the model's, which may be on the meta device.

        Args:
            model: the module that the tensors are for.
            strict: False accepts names that only one side has.
            fresh: names of the model that may be missing.
            settings: dotted names to values of the config, to name the one that a wrong shape comes from.
            fit: given a name of the model and a stored tensor, the one to load in its place, or None. It is first
                asked with a tensor on the meta device.
            loose_hint: how to take what fits, for the message where only names differ.

        Raises:
            CheckpointMismatchError: with all mismatches.
        """
        matched = self._match(model)
        absent, resampled = compare(
            matched.found, model, strict=strict, fresh=fresh, settings=settings, fit=fit, loose_hint=loose_hint
        )
        used = {name for assignment in matched.assignments for name in assignment.sources}
        loaded = [name for name in model.state_dict(keep_vars=True) if name not in absent]
        left = [name for name in self.stored if name not in used]
        return LoadReport(str(self.folder), loaded, absent, left, resampled)

    def compare_files(self, hashes: Mapping[str, str]) -> None:
        """Compare whole files with the sha256 that their source publishes.

        Args:
            hashes: file names to sha256; files without one are not compared.

        Raises:
            CheckpointCorruptError: a file with another sha256.
        """
        self._published = hashes
        for name, file in self.files.items():
            if name in hashes and file.sha256() != hashes[name]:
                raise CheckpointCorruptError("another sha256 than its source has", path=file.path, hint=_CHANGED_HINT)

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
        fit: Fit | None = None,
    ) -> LoadReport:
        """Set the values and types of the model's parameters and buffers, which may be on the meta device.

        Args:
            model: the module that the tensors are for.
            strict: False leaves parameters unchanged that are not stored, ignores tensors that have no parameter, and
                warns of both.
            fresh: names of the model that may be missing, and are unchanged then.
            check_finite: refuse NaN and Inf; ``"warn"`` warns of them, False does not check.
            manifest: sizes and hashes that files and tensors must have; None does not check.
            settings: as in `check`.
            mmap: map tensors that need no conversion into memory instead of reading them. The process crashes if such a
                file is truncated later.
            fit: as in `check`.

        Raises:
            CheckpointMismatchError: names, shapes or kinds of numbers that differ from the model's, all at once, before
                any tensor is read; tied tensors of the model that are stored twice with different values.
            CheckpointCorruptError: a file that differs from the manifest; a wrong size before any tensor is read.
            NonFiniteError: naming the first tensors.
            UsageError: ``mmap`` for weights that are not in safetensors files.
        """
        report = self.check(model, strict=strict, fresh=fresh, settings=settings, fit=fit)
        for name, file in self.files.items():
            if mmap and not isinstance(file, TensorFile):
                raise UsageError(
                    f"{file.path} is not a safetensors file, and cannot be mapped",
                    field="mmap",
                    hint="load without mmap, or convert the folder first: `vedcore convert`",
                )
            if manifest is not None:
                _check_file(file, manifest.get(name))
        origins = self._origins(report, manifest)
        hashes = _tensor_hashes(manifest, self.files, self.folder)
        self._tie(model)
        state = model.state_dict(keep_vars=True)

        matched = self._match(model)
        assignments = [a for a in matched.assignments if any(name in state for name in a.targets)]
        used = {name for assignment in assignments for name in assignment.sources}
        others = [name for name in matched.selected if name in hashes and name not in used]

        def convert(assignment: Assignment) -> _Converted:
            return self._convert(assignment, hashes, check_finite=bool(check_finite), mmap=mmap)

        with ThreadPoolExecutor(MAX_IO_THREADS) as threads:
            results = list(threads.map(convert, assignments))
            list(threads.map(partial(self._read, hashes=hashes), others))  # check the hashes of unused tensors too
        not_finite = [name for result in results for name in result.not_finite]
        if not_finite and check_finite != "warn":
            self._refuse_not_finite(not_finite)
        values = {name: t for result in results for name, t in result.values.items() if name in state}
        for name in report.resampled:
            made = fit(name, values[name]) if fit else None
            values[name] = values[name] if made is None else made.contiguous()
        self._fill(model, values)
        if not_finite:
            warn_caller(f"{self.folder}: NaN or Inf in {abbreviated(not_finite)}", RuntimeWarning)
        return report._replace(origins=origins)

    def _origins(self, report: LoadReport, manifest: Mapping[str, FileRecord] | None) -> dict[str, Origin]:
        """The origin of each tensor of the model: the one that the folder's provenance.json says, else a file of it.

        A provenance.json counts where its tensors are those that were saved with it, by their hashes.
        """
        given: Mapping[str, Origin] = {}
        if self._snapshot is not None and manifest and self._rows is None:
            given = read_provenance(self._snapshot, manifest) or {}
        of_file = {name: self._origin_of(name, file, manifest) for name, file in self.files.items()}
        name_of = {id(file): name for name, file in self.files.items()}
        origins: dict[str, Origin] = {}
        matched = self._matched
        for assignment in matched.assignments if matched else ():
            source = assignment.sources[0]
            origin = given.get(source)
            if origin is None or origin.source == "tied":
                origin = of_file[name_of[id(self._file_of[source])]]
            origins |= dict.fromkeys(assignment.targets, origin)
        for name in report.resampled:
            shape = matched.found.tensors[name].shape if matched else ()
            origins[name] = origins[name].then(f"resized from {shape}")
        return origins

    def _origin_of(self, name: str, file: WeightFile, manifest: Mapping[str, FileRecord] | None) -> Origin:
        """The origin of the tensors of a file, with the hash with which they are compared, if there is one."""
        label = f"{folder_label(self.folder)}/{name}"
        if self._snapshot is not None and manifest and name in manifest and manifest[name].tensors:
            return Origin("file", label, manifest_sha256=self._snapshot.manifest_sha256)
        if name in self._published:
            return Origin("file", label, sha256=self._published[name])
        return Origin("file", label, unhashed=None if isinstance(file, TensorsInMemory) else file.unhashed())

    def _convert(
        self, assignment: Assignment, hashes: Mapping[str, str], *, check_finite: bool, mmap: bool
    ) -> _Converted:
        """Read the stored tensors, check them, and convert them to the model's; copied unless they stay mapped."""
        found = [self._read(name, hashes, keep=mmap) for name in assignment.sources]
        pairs = zip(assignment.sources, found, strict=True)
        not_finite = [name for name, tensor in pairs if check_finite and not is_finite(tensor)]
        values = assignment.apply(found) or {}
        concatenated = len(found) > 1 == len(values)  # which has copied them
        if not concatenated:
            values = {name: value if mmap and _is_aligned(value) else _copied(value) for name, value in values.items()}
        return _Converted(values, not_finite)

    def _read(self, name: str, hashes: Mapping[str, str], *, keep: bool = False) -> Tensor:
        """A stored tensor, mapped from its file; its hash is checked."""
        file = self._file_of[name]
        tensor = file.get(name, keep=keep)
        if name in hashes and tensor_sha256(tensor) != hashes[name]:
            message = "another sha256 than when it was saved"
            raise CheckpointCorruptError(message, path=file.path, field=name, hint=_CHANGED_HINT)
        return tensor

    def _refuse_not_finite(self, names: list[str]) -> None:
        hint = 'take an earlier checkpoint, or load with check_finite="warn"'
        raise NonFiniteError(
            f"NaN or Inf in {abbreviated(names)}", path=self.folder, hint=hint, details="\n".join(names)
        )

    def _tie(self, model: nn.Module) -> None:
        """Tie the tensors that were tied when they were saved."""
        state = model.state_dict(keep_vars=True)
        for alias, name in self._match(model).found.ties.items():
            if alias in state and name in state and state[alias] is not state[name]:
                parent, _, leaf = alias.rpartition(".")
                setattr(model.get_submodule(parent), leaf, state[name])

    def _fill(self, model: nn.Module, values: Mapping[str, Tensor]) -> None:
        """Set the values: a tensor in memory takes the new memory, a tensor on the meta device is replaced."""
        state: dict[str, Tensor] = model.state_dict(keep_vars=True)
        first: dict[int, str] = {}
        for name, value in values.items():
            twin = first.setdefault(id(state[name]), name)
            if twin != name and not torch.equal(_bytes(values[twin]), _bytes(value)):
                raise CheckpointMismatchError(
                    f"{twin} and {name} are one tensor in the model, and differ in the file",
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


def _file_names(name: str, rows: Sequence[Row] | None, present: Collection[str]) -> list[str]:
    """The names in the file of what makes a tensor of the model: those that the file lacks, else all."""
    needed = [name] if rows is None else (their_name(name, rows) or name).split(", ")
    return [each for each in needed if each not in present] or needed


def _check_file(file: WeightFile, record: FileRecord | None) -> None:
    """Compare size and header of a file with its entry in the manifest."""
    if record is None:
        hint = "load with verify=False if you added it"
        raise CheckpointCorruptError("is not in the manifest", path=file.path, hint=hint)
    wrong = f"{file.size:,} bytes instead of {record.size:,}" if file.size != record.size else ""
    if record.tensors and (without := sorted(file.tensors.keys() - record.tensors.keys())):
        wrong = wrong or f"the manifest has no hash of {abbreviated(without)}"
    if record.header and isinstance(file, TensorFile) and file.header_sha256 != record.header:
        wrong = wrong or "another sha256 of its header"
    if record.sha256 and not isinstance(file, TensorFile) and not wrong and file.sha256() != record.sha256:
        wrong = "another sha256"
    if wrong:
        raise CheckpointCorruptError(f"not what was saved: {wrong}", path=file.path, hint=_CHANGED_HINT)


def _tensor_hashes(
    manifest: Mapping[str, FileRecord] | None, files: Mapping[str, WeightFile], folder: object
) -> dict[str, str]:
    """The sha256 of each stored tensor that has one in the manifest."""
    records = [] if manifest is None else [manifest[name] for name, f in files.items() if isinstance(f, TensorFile)]
    if not all(record.header for record in records):
        warn_caller(
            f"{folder}: saved by an earlier version, whose hashes are not checked by loading; run "
            "`vedcore inspect --verify`, or save it again"
        )
    return {name: sha256 for record in records for name, sha256 in record.tensors.items()}


def _copied(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)


def _is_aligned(tensor: Tensor) -> bool:
    return tensor.data_ptr() % tensor.dtype.itemsize == 0


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
