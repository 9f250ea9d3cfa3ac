"""A trained model as a wheel: its folder in a package that registers it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vedcore
from vedcore.checkpoints.inspection import inspect_folder
from vedcore.checkpoints.inspection_report import Inspection
from vedcore.config_files.plain import short
from vedcore.distributions.names import DistributionName, check_free, parse_name
from vedcore.distributions.plugin import filled
from vedcore.distributions.wheel import Wheel, write_wheel
from vedcore.errors import CheckpointCorruptError, CheckpointError, UsageError, printable
from vedcore.model_files import CARD, MANIFEST, MODEL_FILES
from vedcore.registry import BUILT_IN, canonical
from vedcore.weights.snapshot import Snapshot, read_folder

__all__ = ["PackagedModel", "package_model"]

_VERSION = re.compile(  # the canonical form of PEP 440
    r"([1-9][0-9]*!)?(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*((a|b|rc)(0|[1-9][0-9]*))?"
    r"(\.post(0|[1-9][0-9]*))?(\.dev(0|[1-9][0-9]*))?"
)
_REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9][A-Za-z0-9.!_-]*)(\+[A-Za-z0-9.]+)?")
"""A distribution and its version, without the local part, which may not stand behind ``>=``."""
_MORE_FILES = re.compile(r"(provenance|wiring)\.json|(LICEN[CS]E|NOTICE)(\.(md|txt))?", re.IGNORECASE)
"""Files that belong to a model, beside those that a save writes."""
_FRONT_MATTER = re.compile(r"---\r?\n(.*?)^---\r?\n", re.DOTALL | re.MULTILINE)
_CARD_PATH = "path/to/this/folder"
"""The place of the folder in the card of a save."""
MAX_CARD_BYTES = 1_000_000
MAX_SUMMARY = 200
"""Characters of the line that lists show."""


@dataclass(frozen=True)
class PackagedModel:
    """The wheel of a model."""

    wheel: Path
    name: str
    """The name by which `vedcore.load` finds it."""
    requirements: tuple[str, ...]
    """The distributions that it needs."""
    left_out: tuple[str, ...]
    """Files of the folder that are not the model's."""


def package_model(
    folder: str | os.PathLike[str],
    distribution: str,
    *,
    version: str = "0.1.0",
    output: str | os.PathLike[str] = ".",
) -> PackagedModel:
    """Write a wheel with the model in a folder; the same folder gives the same bytes.

    Args:
        folder: a folder of vedcore, with a manifest.
        distribution: the name of the wheel; the model is called that without ``vedcore-``.
        version: of the wheel.
        output: folder for the wheel, created where it is missing.

    Raises:
        CheckpointError: not a folder of vedcore, or a damaged one.
        UsageError: a bad name or version, or a wheel that exists already.
    """
    name = parse_name(distribution)
    check_free(name, "model")
    if not _VERSION.fullmatch(version):
        raise UsageError(
            f"{short(version)} is not a version", field="--version", hint="write one such as 1.0 or 1.0rc1"
        )
    found = inspect_folder(Path(folder), verify=True)
    if found.format != "native":
        hint = "convert it first: `vedcore convert IN OUT --format native`"
        raise CheckpointError(f"a folder of format {found.format}, not of vedcore", path=folder, hint=hint)
    if found.problems:
        raise CheckpointCorruptError(
            f"damaged: {found.problems[0]}", path=folder, hint="save the model again", details="\n".join(found.problems)
        )
    return read_folder(folder, lambda snapshot: _write(snapshot, found, name, version, Path(output)))


def _write(snapshot: Snapshot, found: Inspection, name: DistributionName, version: str, output: Path) -> PackagedModel:
    card = snapshot.read(CARD, MAX_CARD_BYTES).decode("utf-8", "replace") if snapshot.has(CARD) else ""
    head = _FRONT_MATTER.match(card)
    licence = re.search(r"^license:[ \t]*(\S.*?)[ \t]*\r?$", head[1], re.MULTILINE) if head else None
    body = card[head.end() :].lstrip() if head else card
    body = body.replace(_CARD_PATH, name.component)
    records = snapshot.manifest()
    names = [each for each in snapshot.names() if (snapshot.path / each).is_file()]
    kept = [each for each in names if each in {*records, MANIFEST, CARD} or _belongs(each)]
    summary = _summary(body, found)
    requirements = tuple(_requirements(found))
    wheel = Wheel(
        name.distribution,
        version,
        metadata=_metadata(name, version, summary, licence[1].strip("\"'") if licence else "", requirements, body),
        entry_points=f"[vedcore]\n{name.component} = {name.package}\n",
    )
    files: dict[str, Any] = {
        f"{name.package}/__init__.py": filled("model/init.py.txt", name, "model", summary).encode(),
        **{f"{name.package}/{name.component}/{each}": snapshot.open(each) for each in kept},
    }
    path = write_wheel(wheel, files, output)
    return PackagedModel(path, name.component, requirements, tuple(sorted(set(names) - set(kept))))


def _belongs(file: str) -> bool:
    return bool(MODEL_FILES.fullmatch(file) or _MORE_FILES.fullmatch(file))


def _summary(body: str, found: Inspection) -> str:
    """The heading of the card, else the names of the parts."""
    heading = re.search(r"^#\s+(.*\S)", body, re.MULTILINE)
    parts = " and ".join(str(found.parts[kind].name) for kind in ("encoder", "decoder") if kind in found.parts)
    return printable(heading[1] if heading else parts)[:MAX_SUMMARY]


def _requirements(found: Inspection) -> Iterator[str]:
    """vedcore and the plugins of the parts, at the versions that the model was saved with or newer."""
    yield f"vedcore>={vedcore.__version__}"
    for plugin in found.plugins:
        recorded = _REQUIREMENT.fullmatch(plugin.requirement)
        if recorded and canonical(recorded[1]) != BUILT_IN:  # loading asks for no other text either
            yield f"{recorded[1]}>={recorded[2]}"


def _metadata(
    name: DistributionName,
    version: str,
    summary: str,
    licence: str,
    requirements: tuple[str, ...],
    body: str,
) -> str:
    """The METADATA of the wheel; its licence is that of the card."""
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {name.distribution}",
        f"Version: {version}",
        f"Summary: {summary}",
        *([f"License: {printable(licence)}"] if licence else []),
        "Requires-Python: >=3.11",
        *(f"Requires-Dist: {requirement}" for requirement in requirements),
        "Description-Content-Type: text/markdown",
    ]
    return "\n".join(lines) + "\n\n" + body
