"""The records in lists: one per entry point, one per part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from vedcore.registry import Entry, Kind, Owner

__all__ = ["ListedPart", "PluginInfo"]


@dataclass(frozen=True)
class PluginInfo:
    """The outcome of loading one entry point."""

    distribution: str
    version: str
    entry_point: str
    target: str
    status: Literal["loaded", "failed", "blocked"]
    reason: str = ""
    """Why the plugin failed or is blocked."""
    registered: Mapping[Kind, tuple[str, ...]] = field(default_factory=dict)
    """Kinds of parts to the names that find them."""
    problems: tuple[str, ...] = ()
    """Conflicts between names, and side effects of the import."""
    import_seconds: float = 0.0
    """Time that importing and registering took."""

    @property
    def owner(self) -> str:
        """The distribution and its version, as `ListedPart.owner` has them."""
        return str(Owner(self.distribution, self.version))

    def __str__(self) -> str:
        mark = {"loaded": "✓", "failed": "✗", "blocked": "-"}[self.status]
        parts = "; ".join(f"{kind}s {', '.join(names)}" for kind, names in self.registered.items())
        where = f"{self.distribution}=={self.version} ({self.entry_point} = {self.target})"
        reason = self.reason.removeprefix(where).removeprefix(": ")
        return f"{mark} {where}: {reason or parts or 'nothing'}"


class ListedPart(str):
    """A registered part in a list: its name as a string, with further attributes."""

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
        """One line of description."""
        return self.entry.summary

    @property
    def default_variant(self) -> str | None:
        """The variant that the bare name means."""
        return self.entry.default_variant

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of variants, or glob patterns for them."""
        return self.entry.variants

    @property
    def owner(self) -> str:
        """The distribution and version that registered the part."""
        return str(self.entry.owner)
