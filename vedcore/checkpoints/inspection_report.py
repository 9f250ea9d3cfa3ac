"""The report of `vedcore.checkpoints.inspection` on a folder, as data and as a table."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vedcore.composer.plan import format_bytes
from vedcore.composer.request import PART_KINDS
from vedcore.config import TokenIds
from vedcore.config_files.plain import short
from vedcore.errors import printable
from vedcore.registry import BUILT_IN, canonical

__all__ = ["PART_FORMAT", "FoundPart", "Inspection", "NeededPlugin"]

PART_FORMAT = "part"
"""Format of a folder that holds an encoder or a decoder alone."""

_TABLE_WORDS = frozenset(
    ("depths", "dim", "embd", "embeddings", "ffn", "head", "heads", "layer", "layers", "model", "positions", "size")
)
"""Words in the names of the settings that the table shows."""
_REQUIREMENT = re.compile(r"[A-Za-z0-9][\w.-]*==[A-Za-z0-9][\w.+!-]*")


@dataclass
class FoundPart:
    """An encoder, projector or decoder as config.json describes it."""

    name: str | None
    """Name of the family; None where no installed family opens the ``model_type``."""
    model_type: str | None
    """The part's name in transformers; None in a vedcore folder."""
    variant: str | None
    fields: dict[str, Any]
    """Settings in the file, without nulls and without those that do not affect the arithmetic."""


@dataclass
class NeededPlugin:
    """A distribution that brings parts of the model."""

    requirement: str
    """``distribution==version`` as recorded in the folder, or as installed where the folder records none."""
    kinds: list[str]
    """Kinds of the parts that it brings."""
    status: str
    """``installed``, ``blocked``, ``not installed``, or ``failed`` and the reason."""


@dataclass
class Inspection:
    """The contents of a folder; ``str(inspection)`` is a table."""

    folder: str
    format: str
    """``native``, ``transformers``, the name of a plugin's format, or ``part``."""
    parts: dict[str, FoundPart] = field(default_factory=dict)
    token_ids: dict[str, Any] | None = None
    generation: dict[str, Any] | None = None
    """Options that differ from the defaults of ``generate``."""
    preprocessing: dict[str, Any] | None = None
    tokenizer: dict[str, Any] | None = None
    """``name`` in the settings, ``kind`` of the tokenization model, and ``tokens``, one more than the highest id."""
    weights: dict[str, Any] | None = None
    """``files``, and counts of ``tensors``, ``parameters`` (floating-point elements), ``bytes`` and ``dtypes``."""
    wiring: str | None = None
    """The result of `vedcore.check_wiring` that the folder keeps, in one line."""
    origins: dict[str, list[str]] = field(default_factory=dict)
    """Where the tensors of each part came from, in words."""
    provenance: list[dict[str, Any]] | None = None
    """The rows of ``provenance.json``: names of tensors and their origin."""
    files: dict[str, int] = field(default_factory=dict)
    """File names to sizes in bytes."""
    checked: dict[str, str] = field(default_factory=dict)
    """Files that match their record, and what was compared: ``size`` or ``sha256``."""
    plugins: list[NeededPlugin] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Remarks that do not keep `vedcore.load` from loading the model."""
    problems: list[str] = field(default_factory=list)
    """Damaged or missing files, which `vedcore.load` refuses."""

    def __str__(self) -> str:
        rows = [("folder", f"{self.folder} ({self.format})")]
        rows += [(kind, _part_row(self.parts[kind])) for kind in (*PART_KINDS, PART_FORMAT) if kind in self.parts]
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
            rows.append(("weights", f"{numbers}, {format_bytes(weights['bytes'])}, {types}"))
        rows += [] if self.wiring is None else [("wiring", self.wiring)]
        rows += [("origin", f"{part}: {text}") for part, texts in self.origins.items() for text in texts]
        third_party = [p for p in self.plugins if canonical(p.requirement.partition("==")[0]) != BUILT_IN]
        rows += [("plugin", _plugin_row(plugin)) for plugin in third_party]
        counts = Counter(self.checked.values())
        matches = ", ".join(f"{count} as saved, by their {compared}" for compared, count in sorted(counts.items()))
        size = format_bytes(sum(self.files.values()))
        rows.append(("files", f"{len(self.files)}, {size}; {matches or 'none checked'}"))
        width = max([len(name) for name in self.files], default=0)
        rows += [("", f"{name:<{width}}  {format_bytes(size):>9}") for name, size in self.files.items()]
        rows += [("note", note) for note in self.notes]
        rows += [("problem", problem) for problem in self.problems]
        return "\n".join(printable(f"{name:<10}  {text}").rstrip() for name, text in rows)


def _part_row(part: FoundPart) -> str:
    name = part.name or f"model_type {short(part.model_type)}"
    name += f" ({part.variant})" if part.variant else ""
    shown = {
        key: value
        for key, value in part.fields.items()
        if _TABLE_WORDS.intersection(key.split("_"))
        and not isinstance(value, bool)
        and (isinstance(value, int) or (isinstance(value, list) and all(type(number) is int for number in value)))
    }
    return f"{name}: {_listed(shown)}" if shown else name


def _plugin_row(plugin: NeededPlugin) -> str:
    absent = plugin.status == "not installed" and _REQUIREMENT.fullmatch(plugin.requirement)
    return f"{plugin.requirement} ({', '.join(plugin.kinds)}): {plugin.status}" + (
        f"; pip install {plugin.requirement}" if absent else ""
    )


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {short(value)}" for name, value in settings.items())
