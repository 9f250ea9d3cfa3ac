"""The contents of a model's or part's folder, read from its settings and the headers of its tensor files.

Nothing is built and no part's code is imported, so that models of plugins that are not installed can be inspected.
Damage to one file becomes a line of the report and does not hide the others.
"""

from __future__ import annotations

import contextlib
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vedcore.checkpoints.inspection_report import PART_FORMAT, FoundPart, Inspection, NeededPlugin
from vedcore.checkpoints.recognition import find_format
from vedcore.checkpoints.transformers import PROJECTOR_ROW
from vedcore.checkpoints.wiring import read_wiring
from vedcore.composer.request import PART_KINDS
from vedcore.composer.snapshot_files import read_json, read_preprocessing, read_tokenizer_of
from vedcore.config import ModelConfig, TokenIds
from vedcore.config_files.plain import short
from vedcore.errors import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointNotFoundError,
    PluginConflictError,
    TokenizerError,
    UnknownComponentError,
    VedcoreError,
)
from vedcore.generation.options.config import GenerationConfig
from vedcore.hf.generation import read_generation
from vedcore.hf.sections import WHOLE
from vedcore.hub import expected_hashes
from vedcore.model_files import CONFIG, GENERATION_CONFIG, MANIFEST, PROVENANCE, TOKENIZER
from vedcore.plugins import list_plugins, registry
from vedcore.processing.processor import vocab_size_of
from vedcore.registry import Kind, canonical
from vedcore.transformers_class import COMMON_FIELDS
from vedcore.weights.loading import Weights
from vedcore.weights.manifest import FileRecord
from vedcore.weights.opening import WeightFile
from vedcore.weights.origins import Provenance, read_provenance
from vedcore.weights.safetensors_file import TensorFile
from vedcore.weights.snapshot import Snapshot, read_folder

__all__ = ["inspect_folder"]

_WEIGHT_FILE = re.compile(r".*\.(safetensors|bin|msgpack|h5)(\.index\.json)?")


def inspect_folder(folder: Path, *, verify: bool = False) -> Inspection:
    """Report the contents of a folder, without building a model.

    Args:
        folder: holds a model in any format, or a part in transformers' format.
        verify: True reads all files and compares their sha256 with the manifest's or the hub's; False compares sizes.

    Raises:
        CheckpointNotFoundError: the folder is missing, or has no config.json.
        ConfigError: the config.json is not a JSON object.
    """
    return read_folder(folder, lambda snapshot: _Inspector(snapshot).run(verify))


class _Inspector:
    """Fills one `Inspection` from an opened folder."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.found = Inspection(str(snapshot.path), "")
        self.plugins_format = self._plugins_format()
        if self.plugins_format is None and not snapshot.has(CONFIG):
            raise CheckpointNotFoundError(f"no {CONFIG} in this folder", path=snapshot.path, hint=snapshot.listing())
        self.config = self._json(CONFIG) if self.plugins_format is None else {}
        self.model_type = self.config.get("model_type")
        self.weight_files: Mapping[str, WeightFile] = {}

    def run(self, verify: bool) -> Inspection:
        """The report; warnings become notes."""
        found = self.found
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found.format = self._format()
            readers = {"native": self._native, "transformers": self._transformers, PART_FORMAT: self._part}
            readers.get(found.format, self._unknown_settings)()
            with self._collect_problems():
                try:
                    found.weights = self._weights()
                except CheckpointNotFoundError:
                    if self.plugins_format is None:  # else its weights may have any names
                        raise
            if found.format == "native":
                with self._collect_problems():
                    self._provenance()
            found.files = dict(self._files())
            with self._collect_problems():
                self._integrity(verify)
        found.notes += [str(warning.message) for warning in caught]
        return found

    @contextlib.contextmanager
    def _collect_problems(self) -> Iterator[None]:
        """Turn an error into a problem of the report; raise it where the folder was replaced and is read again."""
        try:
            yield
        except VedcoreError as error:
            if isinstance(error, CheckpointError) and self.snapshot.replaced():
                raise
            self.found.problems.append(str(error))

    def _json(self, name: str) -> dict[str, Any]:
        return read_json(self.snapshot, name)

    def _plugins_format(self) -> str | None:
        """The name of the plugin's format that recognises the folder, if one does; a problem where one fails."""
        with self._collect_problems():
            format = find_format(self.snapshot.path)
            if format is not None and not format.is_built_in:
                return registry().shown_name("format", format.entry)
        return None

    def _format(self) -> str:
        if self.plugins_format is not None:
            return self.plugins_format
        if "model_type" not in self.config:
            return "native"
        return "transformers" if self.model_type == WHOLE else PART_FORMAT

    def _unknown_settings(self) -> None:
        self.found.notes.append(f"only the plugin of format {self.found.format!r} knows what the settings mean")

    def _native(self) -> None:
        path, found = self.snapshot.path, self.found
        with self._collect_problems():
            ModelConfig.parse(self.config, path=path / CONFIG)
        recorded = _mapping(self.config.get("plugins"))
        needed: dict[str, list[str]] = {}
        for kind in PART_KINDS:
            section = self.config.get(kind)
            section = {"name": section} if isinstance(section, str) else _mapping(section)
            fields = {name: value for name, value in section.items() if value is not None}
            name, variant = fields.pop("name", None), fields.pop("variant", None)
            found.parts[kind] = FoundPart(_text(name), None, _text(variant), fields)
            if (owner := _text(recorded.get(kind)) or self._distribution_of(kind, name)) is not None:
                needed.setdefault(owner, []).append(kind)
        self._report_plugins(needed)
        with self._collect_problems():
            found.token_ids = TokenIds.parse(_mapping(self.config.get("token_ids"))).model_dump(mode="json")
        with self._collect_problems():
            found.generation = _non_default_options(
                GenerationConfig.parse(self._json(GENERATION_CONFIG), path=path / GENERATION_CONFIG)
            )
        self._preprocessing(None)
        name = self.config.get("tokenizer")
        self._tokenizer(None, None if name is None else str(name))
        self._wiring()

    def _wiring(self) -> None:
        """The report of `vedcore.check_wiring`; a note where it is damaged."""
        try:
            report = read_wiring(self.snapshot)
            self.found.wiring = None if report is None else report.summary
        except CheckpointError as error:
            self.found.notes.append(str(error))

    def _transformers(self) -> None:
        found = self.found
        needed: dict[str, list[str]] = {}
        for kind in ("encoder", "decoder"):
            self._section(kind, _mapping(self.config.get(kind)), needed)
        self._report_plugins(needed)
        with self._collect_problems():
            generation = self._json(GENERATION_CONFIG) if self.snapshot.has(GENERATION_CONFIG) else None
            decoder = _mapping(self.config.get("decoder"))
            ids, options = read_generation(generation, self.config, decoder, path=self.snapshot.path)
            found.token_ids, found.generation = ids.model_dump(mode="json"), _non_default_options(options)
        self._preprocessing(str(_mapping(self.config.get("encoder")).get("model_type")))
        self._tokenizer(_text(_mapping(self.config.get("decoder")).get("model_type")))

    def _part(self) -> None:
        needed: dict[str, list[str]] = {}
        kinds = [kind for kind in ("encoder", "decoder") if self._find_family(kind, self.model_type)]
        for kind in kinds or [PART_FORMAT]:
            self._section(kind, self.config, needed)
        self._report_plugins(needed)
        if "decoder" not in kinds:
            self._preprocessing(str(self.model_type))
        self._tokenizer(_text(self.model_type))

    def _section(self, kind: str, section: Mapping[str, Any], needed: dict[str, list[str]]) -> None:
        """Report a section of transformers' config.json, and note the distribution that opens it in ``needed``."""
        model_type = section.get("model_type")
        family = self._find_family(kind, model_type)
        fields = {name: v for name, v in section.items() if v is not None and name not in COMMON_FIELDS}
        self.found.parts[kind] = FoundPart(family and family[0], _text(model_type), None, fields)
        if family:
            needed.setdefault(family[1], []).append(kind)
        else:
            part = "encoder or decoder" if kind == PART_FORMAT else kind
            self.found.notes.append(f"no {part} that is installed opens model_type {short(model_type)}")

    def _find_family(self, kind: str, model_type: object) -> tuple[str, str] | None:
        """The family that opens a ``model_type`` and its distribution, or None."""
        if kind in ("encoder", "decoder") and isinstance(model_type, str):
            with contextlib.suppress(UnknownComponentError):
                entry = registry().find_model_type(kind, model_type)  # type: ignore[arg-type]
                return registry().shown_name(kind, entry), str(entry.owner)  # type: ignore[arg-type]
        return None

    def _distribution_of(self, kind: Kind, name: object) -> str | None:
        """The installed distribution of a family, for native folders that record none."""
        with contextlib.suppress(UnknownComponentError, PluginConflictError):
            return str(registry().find(kind, str(name)).entry.owner)
        return None

    def _report_plugins(self, needed: Mapping[str, list[str]]) -> None:
        for requirement, kinds in needed.items():
            self.found.plugins.append(NeededPlugin(requirement, kinds, _status(requirement)))

    def _preprocessing(self, model_type: str | None) -> None:
        with self._collect_problems():
            preprocessing = read_preprocessing(self.snapshot, model_type)
            if preprocessing is not None:
                self.found.preprocessing = preprocessing.model_dump(mode="json")

    def _tokenizer(self, model_type: str | None, name: str | None = None) -> None:
        with self._collect_problems():
            tokenizer = read_tokenizer_of(self.snapshot, model_type)
            if tokenizer is not None:
                kind, tokens = type(tokenizer.model).__name__, vocab_size_of(tokenizer)
                self.found.tokenizer = {"name": name or TOKENIZER, "kind": kind, "tokens": tokens}
            elif name is not None:
                listing = self.snapshot.listing()
                raise TokenizerError("no such file", path=self.snapshot.path / TOKENIZER, hint=listing)

    def _weights(self) -> dict[str, Any]:
        """Counts from the headers of the tensor files."""
        weights = Weights(self.snapshot, pickles=self.found.format != "native")
        self.weight_files = weights.files
        if self.found.format == "transformers":
            linear = any(PROJECTOR_ROW.theirs in name.split(".") for name in weights.stored)
            self.found.parts["projector"] = FoundPart("linear" if linear else "identity", None, None, {})
        sizes = [(tensor.dtype, math.prod(tensor.shape)) for tensor in weights.stored.values()]
        types = Counter(str(dtype).removeprefix("torch.") for dtype, _ in sizes)
        return {
            "files": list(weights.files),
            "tensors": len(sizes),
            "parameters": sum(count for dtype, count in sizes if dtype.is_floating_point),
            "bytes": sum(count * dtype.itemsize for dtype, count in sizes),
            "dtypes": dict(types.most_common()),
        }

    def _provenance(self) -> None:
        snapshot, name = self.snapshot, PROVENANCE
        provenance = read_provenance(snapshot, snapshot.manifest() if snapshot.has(MANIFEST) else {})
        if provenance is not None:
            names = [n for file in self.weight_files.values() for n in (*file.tensors, *file.metadata)]
            self.found.provenance = provenance.rows()
            for part, text in Provenance({n: provenance[n] for n in names if n in provenance}).summary():
                self.found.origins.setdefault(part, []).append(text)
        elif snapshot.has(name):
            self.found.notes.append(f"{name} is not in {MANIFEST}: it is of another save, and is not read")

    def _files(self) -> Iterator[tuple[str, int]]:
        for name in self.snapshot.names():
            with contextlib.suppress(OSError):  # removed meanwhile, or a broken link
                path = self.snapshot.path / name
                if path.is_file():
                    yield name, path.stat().st_size

    def _integrity(self, verify: bool) -> None:
        """Compare the files with the manifest, or with the hub's hashes where there is no manifest."""
        snapshot = self.snapshot
        if self.found.format == "native" or snapshot.has(MANIFEST):
            records = snapshot.manifest()
        else:
            hashes = expected_hashes(snapshot.path).items()
            records = {name: FileRecord(self.found.files.get(name, 0), sha256) for name, sha256 in hashes}
        if not records:
            self.found.notes.append("no manifest and no hashes: a changed byte would not be seen")
        for name, record in records.items() if verify or snapshot.has(MANIFEST) else ():  # the hub has no sizes
            size = self.found.files.get(name)
            if size is None:
                wrong = "is missing"
            elif size != record.size:
                wrong = f"has {size:,} bytes, and the manifest says {record.size:,}"
            elif not verify or not (wrong := self._difference(name, record)):
                hashed = not record.header or bool(record.tensors)
                self.found.checked[name] = "sha256" if verify and hashed else "size"
                if not hashed:
                    self.found.notes.append(f"{name} was saved without hashes: a changed number would not be seen")
                continue
            if _WEIGHT_FILE.fullmatch(name):
                error = CheckpointCorruptError(wrong, path=self.snapshot.path / name, hint="get it again")
                self.found.problems.append(str(error))
            else:  # settings may be edited by hand
                self.found.notes.append(f"{name} {wrong}")

    def _difference(self, name: str, record: FileRecord) -> str:
        """How a file's bytes differ from its record, in words; empty where they agree."""
        opened = self.weight_files.get(name)
        try:
            return record.difference(self.snapshot.open(name), opened if isinstance(opened, TensorFile) else None)
        except OSError as error:
            return f"cannot be read: {(error.strerror or str(error)).lower()}"


def _mapping(value: object) -> Mapping[str, Any]:
    """The value if it is an object, else an empty one: the schema already reports a wrong type."""
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _non_default_options(config: GenerationConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude_defaults=True, exclude_none=True)


def _status(requirement: str) -> str:
    """Status of a distribution, as in `NeededPlugin.status`."""
    distribution, _, version = requirement.partition("==")
    here = [plugin for plugin in list_plugins() if canonical(plugin.distribution) == canonical(distribution)]
    loaded = next((plugin for plugin in here if plugin.status == "loaded"), None)
    if loaded is not None:
        return "installed" if loaded.version == version or not version else f"installed, version {loaded.version}"
    if here:
        return here[0].status if here[0].status == "blocked" else f"failed: {here[0].reason}"
    return "not installed"
