"""Checkpoints as sources of parts: ``compose("hub:google/vit-base-patch16-224-in21k", "hub:openai-community/gpt2")``.

A checkpoint is named by a folder, or by ``hub:`` and a repository (``hub:org/name@revision``). It may hold the part
alone or a larger model that contains it: a language model with its head, a sequence-to-sequence model, a classifier, a
whole VisionEncoderDecoder. Only the tensors of the part are taken. Both parts of one whole checkpoint bring its
projector too, and a decoder brings the token ids and the generation options of the whole.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vedcore.components import fit_to
from vedcore.composer.snapshot_files import manifest_of, read_json
from vedcore.config import ComponentConfig
from vedcore.errors import CheckpointCorruptError, CheckpointError, NonFiniteError
from vedcore.hf.sections import WHOLE, read_section
from vedcore.hub import from_hub, is_hub_name
from vedcore.model_files import CONFIG, MANIFEST
from vedcore.registry import Kind
from vedcore.weights.keymap import Row
from vedcore.weights.loading import LoadReport, Select, Weights
from vedcore.weights.snapshot import Snapshot

__all__ = [
    "PROJECTOR",
    "CheckpointSource",
    "OpenFolders",
    "find_checkpoint",
    "has_trained_projector",
    "is_native_whole",
    "open_projector",
    "open_source",
    "without_base",
]

PROJECTOR = "enc_to_dec_proj"
"""The projector's module in transformers, which has one only where the widths differ."""


class OpenFolders(contextlib.ExitStack):
    """The folders of all checkpoints of a request: each is opened once; the context closes them together."""

    def __init__(self) -> None:
        super().__init__()
        self._opened: dict[str, Snapshot] = {}

    def open(self, path: Path) -> Snapshot:
        """The opened folder; parts that name the same folder, by whatever path, share it.

        Raises:
            CheckpointNotFoundError: the path is missing or is not a folder.
        """
        real = os.path.realpath(path)
        if real not in self._opened:
            self._opened[real] = self.enter_context(Snapshot(path))
        return self._opened[real]

    def replaced(self) -> bool:
        """True where a save has replaced one of the folders since it was opened."""
        return any(snapshot.replaced() for snapshot in self._opened.values())


@dataclass(frozen=True)
class CheckpointSource:
    """A checkpoint that one part is read from."""

    kind: Kind
    snapshot: Snapshot
    """The opened folder."""
    name: str
    """Name of the part's family."""
    fields: Mapping[str, Any]
    """Settings of the part."""
    model_type: str | None = None
    """The part's name in transformers; None in a vedcore folder."""
    rows: tuple[Row, ...] | None = None
    """The key map; None in a vedcore folder, which needs none."""
    select: Select | None = None
    """Selects the part's tensors by name; None takes all."""

    def load_into(self, part: Any) -> LoadReport:
        """Load the weights into the part; fresh parameters that the checkpoint does not have stay as they are.

        Raises:
            CheckpointError: weights are missing, damaged, or of another architecture.
        """
        weights = self._weights()
        fresh = part.fresh_parameters() if self.kind == "decoder" else ()
        settings = {field: value for field, value in part.settings().items() if type(value) is int}
        fit = fit_to(part, self.fields.get("image_size")) if self.kind == "encoder" else None
        try:
            manifest = manifest_of(self.snapshot, weights)
            return weights.load_into(part, fresh=fresh, manifest=manifest, settings=settings, fit=fit)
        except (CheckpointCorruptError, NonFiniteError) as error:  # compose does not have the arguments of load
            hint = error.hint
            if self.snapshot.has(MANIFEST):
                hint = hint.replace("load with verify=False", f"delete {MANIFEST}")
            raise error.with_hint(hint.partition(", or load with")[0]) from None

    def fresh_parameters(self, decoder: Any) -> Collection[str]:
        """Names of the parameters of a decoder, on the meta device, that start at random.

        Nothing is read but the names in the files. Where they do not tell, these are all of cross-attention.
        """
        fresh: Collection[str] = decoder.fresh_parameters()
        try:
            return self._weights().check(decoder, fresh=fresh).fresh
        except CheckpointError:  # compose says so
            if self.snapshot.replaced():
                raise
            return fresh

    def _weights(self) -> Weights:
        return Weights(self.snapshot, self.rows, select=self.select, pickles=self.rows is not None)


def find_checkpoint(name: str) -> Path | None:
    """The folder of a checkpoint that ``name`` means; None where it names a family.

    Args:
        name: ``hub:`` and a repository, or a path with a slash in it to a folder that has a config.json.

    Raises:
        HubError: the repository cannot be fetched.
    """
    if is_hub_name(name):
        return from_hub(name)
    return Path(name) if "/" in name.replace(os.sep, "/") and os.path.isfile(os.path.join(name, CONFIG)) else None


def open_source(kind: Kind, snapshot: Snapshot) -> CheckpointSource:
    """The encoder or decoder of an opened folder; reads its settings but not its weights.

    Raises:
        CheckpointError: no config.json, or a model without such a part.
        ConfigError: settings that vedcore cannot honour.
    """
    data, path = read_json(snapshot, CONFIG), snapshot.path / CONFIG
    if "model_type" not in data:
        native = data.get(kind)
        if not isinstance(native, Mapping) or not isinstance(native.get("name"), str):
            hint = f"name a checkpoint of a{'n' if kind == 'encoder' else ''} {kind}, or of a whole model"
            raise CheckpointError(f"no {kind} in it", path=path, hint=hint)
        fields = {key: value for key, value in native.items() if key != "name"}
        return CheckpointSource(kind, snapshot, native["name"], fields, select=_below(f"{kind}."))
    whole = data["model_type"] == WHOLE
    section = read_section(kind, data.get(kind) if whole else data, path=path, whole=whole)
    source, base = section.transformers_class, section.transformers_class.base_prefix
    select = _below(f"{base}.", or_all=True) if base else None
    if whole:
        select = _below(f"{kind}.", first=without_base(f"{kind}.", base))
    return CheckpointSource(kind, snapshot, section.name, section.fields, source.model_type, source.key_map, select)


def open_projector(snapshot: Snapshot) -> CheckpointSource | None:
    """The projector of an opened folder; None where the folder does not hold a whole model.

    Its name is ``auto`` in a transformers folder, where the widths decide whether there is one.

    Raises:
        CheckpointError: no config.json.
        ConfigError: a section that does not name a projector.
    """
    data, path = read_json(snapshot, CONFIG), snapshot.path / CONFIG
    if data.get("model_type") == WHOLE:
        row = Row(PROJECTOR, "proj")
        return CheckpointSource(
            "projector", snapshot, "auto", {}, rows=(row,), select=_below(f"{PROJECTOR}.", cut=False)
        )
    if not is_native_whole(data):
        return None
    section = data.get("projector", "auto")
    found = ComponentConfig.parse(
        {"name": section} if isinstance(section, str) else section, path=path, prefix="projector."
    )
    return CheckpointSource("projector", snapshot, found.name, found.fields, select=_below("projector."))


def has_trained_projector(snapshot: Snapshot) -> bool:
    """Whether an opened folder holds a whole model with a projector that has weights."""
    source = open_projector(snapshot)
    if source is None or source.name != "auto":
        return source is not None and source.name != "identity"
    try:
        weights = Weights(snapshot, pickles=source.rows is not None)
    except CheckpointError:  # the part that is taken from them says so
        return False
    prefix = "projector." if source.rows is None else f"{PROJECTOR}."
    return any(name.startswith(prefix) for name in weights.stored)


def is_native_whole(data: Mapping[str, Any]) -> bool:
    """Whether the contents of a config.json are vedcore's, and those of a whole model."""
    parts = (data.get("encoder"), data.get("decoder"))
    return "model_type" not in data and all(isinstance(part, Mapping) for part in parts)


def without_base(prefix: str, base: str) -> Select:
    """All names; ``encoder.vit.x``, as TensorFlow's files have it, as ``encoder.x``.

    Args:
        prefix: of the part, ends with a dot.
        base: the ``base_prefix`` of its `TransformersClass`.
    """
    long = f"{prefix}{base}."

    def select(names: Sequence[str]) -> dict[str, str]:
        known = set(names)
        short = {name: prefix + name.removeprefix(long) for name in names if base and name.startswith(long)}
        return {name: name if short.get(name, name) in known else short[name] for name in names}

    return select


def _below(prefix: str, *, or_all: bool = False, cut: bool = True, first: Select | None = None) -> Select:
    """A selection of the names that start with ``prefix``, which it cuts off.

    Args:
        prefix: ends with a dot.
        or_all: select all names, as they are, where none starts with the prefix.
        cut: False leaves the prefix.
        first: a selection that comes before it.
    """

    def select(names: Sequence[str]) -> dict[str, str]:
        every = {name: name for name in names} if first is None else first(names)
        found = {
            name: new.removeprefix(prefix) if cut else new for name, new in every.items() if new.startswith(prefix)
        }
        return found if found or not or_all else dict(every)

    return select
