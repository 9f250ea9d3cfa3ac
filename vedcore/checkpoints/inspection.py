"""What is in the folder of a model or of a part, told from its settings and the headers of its tensor files.

Nothing is built and no part's code is imported, so that a model is told of whose plugin is gone. What is damaged is
told beside what is not.
"""

from __future__ import annotations

import contextlib
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vedcore.checkpoints.transformers import PROJECTOR_ROW
from vedcore.composer.folder_files import read_json, read_preprocessing, read_tokenizer_of
from vedcore.composer.plan import in_units
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
    printable,
)
from vedcore.generation.config import GenerationConfig
from vedcore.hf.generation import read_generation
from vedcore.hf.sections import WHOLE
from vedcore.hub import expected_hashes
from vedcore.model_files import CONFIG, GENERATION_CONFIG, MANIFEST, TOKENIZER
from vedcore.plugins import list_plugins, load_component, registry
from vedcore.processing.processor import vocab_size_of
from vedcore.registry import BUILT_IN, Kind, canonical
from vedcore.transformers_class import COMMON_FIELDS
from vedcore.weights.loading import Weights
from vedcore.weights.manifest import FileRecord
from vedcore.weights.opening import WeightFile
from vedcore.weights.safetensors_file import TensorFile
from vedcore.weights.snapshot import Snapshot, read_folder

__all__ = ["FoundPart", "Inspection", "NeededPlugin", "inspect_folder"]

PART = "part"
"""What the format is called where a folder holds an encoder or a decoder alone."""
KINDS: tuple[Kind, ...] = ("encoder", "projector", "decoder")
_MAIN = {"depths", "dim", "embd", "embeddings", "ffn", "head", "heads", "layer", "layers", "model", "positions", "size"}
"""Words in the names of settings that people look for first, where the value is a whole number or several."""
_WEIGHTS = re.compile(r".*\.(safetensors|bin)(\.index\.json)?")
_REQUIREMENT = re.compile(r"[A-Za-z0-9][\w.-]*==[A-Za-z0-9][\w.+!-]*")


@dataclass
class FoundPart:
    """An encoder, projector or decoder as the settings name it."""

    name: str | None
    """The family; None where nothing that is installed opens the ``model_type``."""
    model_type: str | None
    """What transformers calls it; None in a folder of ours."""
    variant: str | None
    fields: dict[str, Any]
    """Its settings as they stand in the file, without those that are null or have no part in the arithmetic."""


@dataclass
class NeededPlugin:
    """A distribution that brings parts of the model."""

    requirement: str
    """``distribution==version``, as it was saved with; as it is installed where the folder does not say."""
    kinds: list[str]
    """What it brings."""
    status: str
    """``installed``, ``blocked``, ``not installed``, or ``failed`` and why."""


@dataclass
class Inspection:
    """What `inspect_folder` finds; ``str(inspection)`` is a table."""

    folder: str
    format: str
    """``native``, ``transformers``, the name of a plugin's format, or ``part``."""
    parts: dict[str, FoundPart] = field(default_factory=dict)
    token_ids: dict[str, Any] | None = None
    generation: dict[str, Any] | None = None
    """The options that are not the defaults of ``generate``."""
    preprocessing: dict[str, Any] | None = None
    tokenizer: dict[str, Any] | None = None
    """``name`` as the settings have it, ``kind`` of its model, and ``tokens``, one more than its highest id."""
    weights: dict[str, Any] | None = None
    """``files``, ``tensors``, ``parameters`` (numbers in floating point), ``bytes``, and tensors by ``dtypes``."""
    files: dict[str, int] = field(default_factory=dict)
    """Names to bytes."""
    checked: dict[str, str] = field(default_factory=dict)
    """Files that are as they were saved, and whether their ``size`` or their ``sha256`` says so."""
    plugins: list[NeededPlugin] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What is worth knowing."""
    problems: list[str] = field(default_factory=list)
    """What is damaged or missing: `vedcore.load` would refuse it."""

    def __str__(self) -> str:
        rows = [("folder", f"{self.folder} ({self.format})")]
        rows += [(kind, _part_row(self.parts[kind])) for kind in (*KINDS, PART) if kind in self.parts]
        if self.token_ids is not None:
            ids = TokenIds.parse(self.token_ids)
            rows.append(("token ids", f"start {ids.start}, eos {', '.join(map(str, ids.eos)) or None}, pad {ids.pad}"))
        if self.generation is not None:
            rows.append(("generation", _listed(self.generation) or "defaults"))
        if (images := self.preprocessing) is not None:
            size = " x ".join(map(str, images["image_size"]))
            rows.append(("images", f"{size} px, {images['resize_mode']}, {images['interpolation']}"))
        if (tokenizer := self.tokenizer) is not None:
            rows.append(("tokenizer", f"{tokenizer['name']}: {tokenizer['kind']}, {tokenizer['tokens']:,} tokens"))
        if (weights := self.weights) is not None:
            types = ", ".join(
                name if len(weights["dtypes"]) == 1 else f"{name} ({count})"
                for name, count in weights["dtypes"].items()
            )
            numbers = f"{weights['tensors']:,} tensors, {weights['parameters']:,} parameters"
            rows.append(("weights", f"{numbers}, {in_units(weights['bytes'])}, {types}"))
        strangers = [p for p in self.plugins if canonical(p.requirement.partition("==")[0]) != BUILT_IN]
        rows += [("plugin", _plugin_row(plugin)) for plugin in strangers]
        how = Counter(self.checked.values())
        said = ", ".join(f"{count} as saved, by their {what}" for what, count in sorted(how.items()))
        rows.append(("files", f"{len(self.files)}, {in_units(sum(self.files.values()))}; {said or 'none checked'}"))
        width = max([len(name) for name in self.files], default=0)
        rows += [("", f"{name:<{width}}  {in_units(size):>9}") for name, size in self.files.items()]
        rows += [("note", note) for note in self.notes]
        rows += [("problem", problem) for problem in self.problems]
        return "\n".join(printable(f"{name:<10}  {text}").rstrip() for name, text in rows)


def inspect_folder(folder: Path, *, verify: bool = False) -> Inspection:
    """What is in a folder, without building it.

    Args:
        folder: of a model in any format, or of a part as transformers keeps it.
        verify: compare sha256 with the manifest and with the hub's, and not only sizes; reads all files.

    Raises:
        CheckpointNotFoundError: no such folder, or no config.json in it.
        ConfigError: a config.json that is no JSON object.
    """
    return read_folder(folder, lambda snapshot: _Inspector(snapshot).run(verify))


class _Inspector:
    """One look into an opened folder."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        if not snapshot.has(CONFIG):
            raise CheckpointNotFoundError(f"no {CONFIG} in this folder", path=snapshot.path, hint=snapshot.listing())
        self.config = self._json(CONFIG)
        self.model_type = self.config.get("model_type")
        self.found = Inspection(str(snapshot.path), "")
        self.weight_files: Mapping[str, WeightFile] = {}

    def run(self, verify: bool) -> Inspection:
        """Look at everything; warnings become notes."""
        found = self.found
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found.format = self._format()
            {"native": self._native, "transformers": self._whole, PART: self._part}.get(found.format, self._nothing)()
            with self._told():
                found.weights = self._weights()
            found.files = dict(self._files())
            with self._told():
                self._integrity(verify)
        found.notes += [str(warning.message) for warning in caught]
        return found

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """An error becomes a line of the inspection, unless the folder was exchanged meanwhile and is read again."""
        try:
            yield
        except VedcoreError as error:
            if isinstance(error, CheckpointError) and self.snapshot.replaced():
                raise
            self.found.problems.append(str(error))

    def _json(self, name: str) -> dict[str, Any]:
        return read_json(self.snapshot, name)

    def _format(self) -> str:
        if "model_type" not in self.config:
            return "native"
        for entry in registry().entries("format"):
            if canonical(entry.owner.distribution) != BUILT_IN:
                name = registry().shown_name("format", entry)
                with self._told():
                    if load_component("format", name)[0]().recognises(self.snapshot.path):
                        return name
        return "transformers" if self.model_type == WHOLE else PART

    def _nothing(self) -> None:
        self.found.notes.append(f"only the plugin of format {self.found.format!r} knows what the settings mean")

    def _native(self) -> None:
        path, found = self.snapshot.path, self.found
        with self._told():
            ModelConfig.parse(self.config, path=path / CONFIG)
        recorded = _mapping(self.config.get("plugins"))
        needed: dict[str, list[str]] = {}
        for kind in KINDS:
            section = self.config.get(kind)
            section = {"name": section} if isinstance(section, str) else _mapping(section)
            fields = {name: value for name, value in section.items() if value is not None}
            name, variant = fields.pop("name", None), fields.pop("variant", None)
            found.parts[kind] = FoundPart(_text(name), None, _text(variant), fields)
            if (owner := _text(recorded.get(kind)) or self._owner(kind, name)) is not None:
                needed.setdefault(owner, []).append(kind)
        self._need(needed)
        with self._told():
            found.token_ids = TokenIds.parse(_mapping(self.config.get("token_ids"))).model_dump(mode="json")
        with self._told():
            found.generation = _changed(
                GenerationConfig.parse(self._json(GENERATION_CONFIG), path=path / GENERATION_CONFIG)
            )
        self._images(None)
        name = self.config.get("tokenizer")
        self._tokenizer(None, None if name is None else str(name))

    def _whole(self) -> None:
        found = self.found
        needed: dict[str, list[str]] = {}
        for kind in ("encoder", "decoder"):
            self._section(kind, _mapping(self.config.get(kind)), needed)
        self._need(needed)
        with self._told():
            generation = self._json(GENERATION_CONFIG) if self.snapshot.has(GENERATION_CONFIG) else None
            decoder = _mapping(self.config.get("decoder"))
            ids, options = read_generation(generation, self.config, decoder, path=self.snapshot.path)
            found.token_ids, found.generation = ids.model_dump(mode="json"), _changed(options)
        self._images(str(_mapping(self.config.get("encoder")).get("model_type")))
        self._tokenizer(_text(_mapping(self.config.get("decoder")).get("model_type")))

    def _part(self) -> None:
        needed: dict[str, list[str]] = {}
        kinds = [kind for kind in ("encoder", "decoder") if self._opens(kind, self.model_type)]
        for kind in kinds or [PART]:
            self._section(kind, self.config, needed)
        self._need(needed)
        if "decoder" not in kinds:
            self._images(str(self.model_type))
        self._tokenizer(_text(self.model_type))

    def _section(self, kind: str, section: Mapping[str, Any], needed: dict[str, list[str]]) -> None:
        """A section of transformers' settings, and who opens it."""
        model_type = section.get("model_type")
        opened = self._opens(kind, model_type)
        fields = {name: v for name, v in section.items() if v is not None and name not in COMMON_FIELDS}
        self.found.parts[kind] = FoundPart(opened and opened[0], _text(model_type), None, fields)
        if opened:
            needed.setdefault(opened[1], []).append(kind)
        else:
            what = "encoder or decoder" if kind == PART else kind
            self.found.notes.append(f"no {what} that is installed opens model_type {short(model_type)}")

    def _opens(self, kind: str, model_type: object) -> tuple[str, str] | None:
        """The family that opens a ``model_type``, and its distribution."""
        if kind in ("encoder", "decoder") and isinstance(model_type, str):
            with contextlib.suppress(UnknownComponentError):
                entry = registry().find_model_type(kind, model_type)  # type: ignore[arg-type]
                return registry().shown_name(kind, entry), str(entry.owner)  # type: ignore[arg-type]
        return None

    def _owner(self, kind: Kind, name: object) -> str | None:
        """Who brings a part of a folder of ours that does not say it."""
        with contextlib.suppress(UnknownComponentError, PluginConflictError):
            return str(registry().find(kind, str(name)).entry.owner)
        return None

    def _need(self, needed: Mapping[str, list[str]]) -> None:
        for requirement, kinds in needed.items():
            self.found.plugins.append(NeededPlugin(requirement, kinds, _status(requirement)))

    def _images(self, model_type: str | None) -> None:
        with self._told():
            preprocessing = read_preprocessing(self.snapshot, model_type)
            if preprocessing is not None:
                self.found.preprocessing = preprocessing.model_dump(mode="json")

    def _tokenizer(self, model_type: str | None, name: str | None = None) -> None:
        with self._told():
            tokenizer = read_tokenizer_of(self.snapshot, model_type)
            if tokenizer is not None:
                kind, tokens = type(tokenizer.model).__name__, vocab_size_of(tokenizer)
                self.found.tokenizer = {"name": name or TOKENIZER, "kind": kind, "tokens": tokens}
            elif name is not None:
                listing = self.snapshot.listing()
                raise TokenizerError("no such file", path=self.snapshot.path / TOKENIZER, hint=listing)

    def _weights(self) -> dict[str, Any]:
        """What the headers of the tensor files say."""
        weights = Weights(self.snapshot, pickles=self.found.format != "native")
        self.weight_files = weights.files
        if self.found.format == "transformers":
            linear = any(name.startswith(f"{PROJECTOR_ROW.theirs}.") for name in weights.stored)
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

    def _files(self) -> Iterator[tuple[str, int]]:
        for name in self.snapshot.names():
            with contextlib.suppress(OSError):  # gone meanwhile, or a link that leads nowhere
                path = self.snapshot.path / name
                if path.is_file():
                    yield name, path.stat().st_size

    def _integrity(self, verify: bool) -> None:
        """Compare the files with what the manifest says of them, or the hub where they are of its cache."""
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
            elif not verify or not (wrong := self._changed(name, record)):
                whole = not record.header or bool(record.tensors)
                self.found.checked[name] = "sha256" if verify and whole else "size"
                if not whole:
                    self.found.notes.append(f"{name} was saved without hashes: a changed number would not be seen")
                continue
            if _WEIGHTS.fullmatch(name):
                error = CheckpointCorruptError(wrong, path=self.snapshot.path / name, hint="get it again")
                self.found.problems.append(str(error))
            else:  # settings may be edited by hand
                self.found.notes.append(f"{name} {wrong}")

    def _changed(self, name: str, record: FileRecord) -> str:
        """What is wrong with the bytes of a file, if anything is."""
        opened = self.weight_files.get(name)
        try:
            return record.difference(self.snapshot.open(name), opened if isinstance(opened, TensorFile) else None)
        except OSError as error:
            return f"cannot be read: {(error.strerror or str(error)).lower()}"


def _mapping(value: object) -> Mapping[str, Any]:
    """What is no object has no settings; that it should be one is told by the schema."""
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _changed(config: GenerationConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude_defaults=True, exclude_none=True)


def _status(requirement: str) -> str:
    """What is with a distribution: is it here, and does it work?"""
    distribution, _, version = requirement.partition("==")
    here = [plugin for plugin in list_plugins() if canonical(plugin.distribution) == canonical(distribution)]
    loaded = next((plugin for plugin in here if plugin.status == "loaded"), None)
    if loaded is not None:
        return "installed" if loaded.version == version or not version else f"installed, version {loaded.version}"
    if here:
        return here[0].status if here[0].status == "blocked" else f"failed: {here[0].reason}"
    return "not installed"


def _part_row(part: FoundPart) -> str:
    name = part.name or f"model_type {short(part.model_type)}"
    name += f" ({part.variant})" if part.variant else ""
    main = {
        key: value
        for key, value in part.fields.items()
        if _MAIN.intersection(key.split("_"))
        and not isinstance(value, bool)
        and (isinstance(value, int) or (isinstance(value, list) and all(type(number) is int for number in value)))
    }
    return f"{name}: {_listed(main)}" if main else name


def _plugin_row(plugin: NeededPlugin) -> str:
    absent = plugin.status == "not installed" and _REQUIREMENT.fullmatch(plugin.requirement)
    return f"{plugin.requirement} ({', '.join(plugin.kinds)}): {plugin.status}" + (
        f"; pip install {plugin.requirement}" if absent else ""
    )


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {short(value)}" for name, value in settings.items())
