"""What lists show: one record an entry point, one a part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from vedcore.registry import Entry

__all__ = ["ListedPart", "PluginInfo"]


@dataclass(frozen=True)
class PluginInfo:
    """What became of one entry point."""

    distribution: str
    version: str
    entry_point: str
    target: str
    status: Literal["loaded", "failed", "blocked"]
    reason: str = ""
    """Why it failed or is blocked."""
    registered: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Kinds to the names that find its parts."""
    problems: tuple[str, ...] = ()
    """Names it does not own alone, and what it does at import that it should not."""

    def __str__(self) -> str:
        mark = {"loaded": "✓", "failed": "✗", "blocked": "-"}[self.status]
        parts = "; ".join(f"{kind}s {', '.join(names)}" for kind, names in self.registered.items())
        where = f"{self.distribution}=={self.version} ({self.entry_point} = {self.target})"
        reason = self.reason.removeprefix(where).removeprefix(": ")
        return f"{mark} {where}: {reason or parts or 'nothing'}"


class ListedPart(str):
    """A registered part in a list: a string, the name to type, that also knows the rest."""

    entry: Entry

    def __new__(cls, name: str, entry: Entry) -> ListedPart:
        part = super().__new__(cls, name)
        part.entry = entry
        return part

    @property
    def name(self) -> str:
        """The name to type."""
        return str(self)

    @property
    def summary(self) -> str:
        """One line."""
        return self.entry.summary

    @property
    def default_variant(self) -> str | None:
        """What the bare name means."""
        return self.entry.default_variant

    @property
    def variants(self) -> tuple[str, ...]:
        """Names, or patterns of names, that mean this family too."""
        return self.entry.variants

    @property
    def owner(self) -> str:
        """Distribution and version that brought it."""
        return str(self.entry.owner)
