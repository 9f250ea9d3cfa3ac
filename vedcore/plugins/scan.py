"""The entry points of installed plugins, read without importing anything.

Most distributions have nothing to do with vedcore. So the text of their entry points is only searched for the group's
name, and metadata is parsed where it is found.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator
from dataclasses import dataclass

from vedcore.registry import BUILT_IN, Owner, canonical

__all__ = ["GROUP", "EntryPoint", "scan"]

GROUP = "vedcore"
_HEADER = re.compile(r"^(Name|Version):[ \t]*(\S+)[ \t\r]*$", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True)
class EntryPoint:
    """One line of a distribution's entry points."""

    owner: Owner
    name: str
    value: str
    """``package.module`` or ``package.module:object``."""

    @property
    def built_in(self) -> bool:
        """Whether the entry point is one of vedcore itself."""
        return canonical(self.owner.distribution) == BUILT_IN

    def __str__(self) -> str:
        return f"{self.owner} ({self.name} = {self.value})"


def scan() -> list[EntryPoint]:
    """The entry points of group ``vedcore``, built-in ones first, then sorted by distribution and name.

    Where a distribution is on the path more than once, the copy counts that Python would import.
    """
    found: dict[str, list[EntryPoint]] = {}
    for distribution in importlib.metadata.distributions():
        text = _entry_points_text(distribution)
        if GROUP not in text:
            continue
        lines = list(_group_lines(text))
        owner = _owner(distribution) if lines else None
        if owner is None or canonical(owner.distribution) in found or _shadowed(owner.distribution, text):
            continue
        found[canonical(owner.distribution)] = [EntryPoint(owner, *line) for line in lines]
    points = [point for points in found.values() for point in points]
    return sorted(points, key=lambda point: (not point.built_in, canonical(point.owner.distribution), point.name))


def _entry_points_text(distribution: importlib.metadata.Distribution) -> str:
    try:
        return distribution.read_text("entry_points.txt") or ""
    except (OSError, ValueError):  # damaged: pip does not read it either
        return ""


def _owner(distribution: importlib.metadata.Distribution) -> Owner | None:
    """The distribution's name and version; None where its metadata is unreadable, which pip does not list either."""
    try:
        text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    except (OSError, ValueError):
        return None
    head = re.split(r"\n\r?\n", text, maxsplit=1)[0]  # a parser of mail takes half a millisecond for each
    fields = {key.lower(): value for key, value in reversed(_HEADER.findall(head))}
    return Owner(fields["name"], fields["version"]) if {"name", "version"} <= {*fields} else None


def _shadowed(name: str, text: str) -> bool:
    """Whether Python imports an earlier copy of the distribution, with other entry points."""
    try:
        return _entry_points_text(importlib.metadata.distribution(name)) != text
    except importlib.metadata.PackageNotFoundError:  # its folder has another name: there is no second copy
        return False


def _group_lines(text: str) -> Iterator[tuple[str, str]]:
    """Name and value of each line in the group's section."""
    section = ""
    for raw in text.splitlines():
        line = raw.strip()
        if line.startswith("["):
            section = line.strip("[] \t")
        elif section == GROUP and "=" in line and not line.startswith(("#", ";")):
            name, _, value = line.partition("=")
            yield (
                name.strip(),
                re.sub(r"\s*(\[.*\])?\s*$", "", value).strip(),
            )  # extras are dropped
