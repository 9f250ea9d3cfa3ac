"""Parts from checkpoints: ``compose("hub:google/vit-base-patch16-224-in21k", "hub:openai-community/gpt2")``.

A part is named by a folder, or by ``hub:`` and a repository (``hub:org/name@revision``). It may hold the part alone,
or a larger model that has it as a half: a language model with its head, a sequence-to-sequence model, a classifier, a
whole VisionEncoderDecoder. What the part needs is taken; what else is there is left behind.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vedcore.composer.folder_files import manifest_of, read_json
from vedcore.errors import CheckpointError
from vedcore.hf.sections import WHOLE, read_section
from vedcore.hub import from_hub, is_hub_name
from vedcore.model_files import CONFIG
from vedcore.registry import Kind
from vedcore.weights.keymap import Row
from vedcore.weights.loading import LoadReport, Select, Weights
from vedcore.weights.snapshot import Snapshot

__all__ = ["Folders", "PartCheckpoint", "find_part", "open_part"]


class Folders(contextlib.ExitStack):
    """The folders that parts come from: each is opened once, and closed when all parts are filled."""

    def __init__(self) -> None:
        super().__init__()
        self._opened: dict[Path, Snapshot] = {}

    def open(self, path: Path) -> Snapshot:
        """The folder, the same for every part that names it.

        Raises:
            CheckpointNotFoundError: no such folder, or not one.
        """
        if path not in self._opened:
            self._opened[path] = self.enter_context(Snapshot(path))
        return self._opened[path]

    def replaced(self) -> bool:
        """True where another save stands in the place of one of them by now."""
        return any(snapshot.replaced() for snapshot in self._opened.values())


@dataclass(frozen=True)
class PartCheckpoint:
    """A checkpoint that a part is taken from."""

    kind: Kind
    snapshot: Snapshot
    """The opened folder."""
    name: str
    """The family."""
    fields: Mapping[str, Any]
    """Its settings."""
    model_type: str | None = None
    """Its name in transformers; None where the folder is one of ours."""
    rows: tuple[Row, ...] | None = None
    """The key map; None where the names are ours."""
    select: Select | None = None
    """The tensors that are the part's; None takes all."""

    def load_into(self, part: Any) -> LoadReport:
        """Fill the part; what it declares as fresh stays as it is where the checkpoint has none of it.

        Raises:
            CheckpointError: weights that are missing, damaged or not those of the part.
        """
        weights = Weights(self.snapshot, self.rows, select=self.select, pickles=self.rows is not None)
        fresh = part.fresh_parameters() if self.kind == "decoder" else ()
        settings = {field: value for field, value in part.settings().items() if type(value) is int}
        return weights.load_into(part, fresh=fresh, manifest=manifest_of(self.snapshot, weights), settings=settings)


def find_part(name: str) -> Path | None:
    """The folder that ``name`` means, if it means one: a repository, or the path of a folder with a config.json.

    Raises:
        HubError: the hub does not give it.
    """
    if is_hub_name(name):
        return from_hub(name)
    return Path(name) if "/" in name.replace(os.sep, "/") and os.path.isfile(os.path.join(name, CONFIG)) else None


def open_part(kind: Kind, snapshot: Snapshot) -> PartCheckpoint:
    """The part of that kind in a folder; its weights are not looked at.

    Raises:
        CheckpointError: no config.json, or a model that has no such part.
        ConfigError: settings that cannot be honoured.
    """
    data, path = read_json(snapshot, CONFIG), snapshot.path / CONFIG
    if "model_type" not in data:
        ours = data.get(kind)
        if not isinstance(ours, Mapping) or not isinstance(ours.get("name"), str):
            raise CheckpointError(f"no {kind} in it", path=path, hint="name a checkpoint of one, or of a whole model")
        fields = {key: value for key, value in ours.items() if key != "name"}
        return PartCheckpoint(kind, snapshot, ours["name"], fields, select=_below(f"{kind}."))
    whole = data["model_type"] == WHOLE
    section = read_section(kind, data.get(kind) if whole else data, path=path, whole=whole)
    theirs, base = section.transformers_class, section.transformers_class.base_prefix
    select = _below(f"{kind}.") if whole else _below(f"{base}.", or_all=True) if base else None
    return PartCheckpoint(kind, snapshot, section.name, section.fields, theirs.model_type, theirs.key_map, select)


def _below(prefix: str, *, or_all: bool = False) -> Select:
    """The names below ``prefix``, without it; where there are none of them and ``or_all``, all names."""

    def select(names: Sequence[str]) -> dict[str, str]:
        found = {name: name.removeprefix(prefix) for name in names if name.startswith(prefix)}
        return found if found or not or_all else {name: name for name in names}

    return select
