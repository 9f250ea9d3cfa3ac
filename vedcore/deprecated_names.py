"""Public names that are going: each works for two minor releases with a warning, and is then removed."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vedcore.errors import warn_caller

__all__ = ["DEPRECATED", "Deprecated", "getattr_for"]

MINOR_RELEASES = 2
"""Minor releases that have the old name and the warning."""


@dataclass(frozen=True)
class Deprecated:
    """The replacement of a name.

    Args:
        replacement: the dotted name to write instead, ``"vedcore.nn.MLP"``.
        since: the first release that warns, ``"0.3"``.
    """

    replacement: str
    since: str

    @property
    def removed_in(self) -> str:
        """The first release without the name."""
        major, minor = self.since.split(".")[:2]
        return f"{major}.{int(minor) + MINOR_RELEASES}"


DEPRECATED: dict[str, Deprecated] = {}
"""Dotted names, ``"vedcore.nn.FeedForward"``, to what replaces them."""


def getattr_for(module: str, names: Mapping[str, Deprecated] = DEPRECATED) -> Callable[[str], Any]:
    """The ``__getattr__`` of a public module: the replacement of a deprecated name, with a warning.

    Args:
        module: its dotted name.
        names: the deprecated names.
    """

    def get(name: str) -> Any:
        found = names.get(f"{module}.{name}")
        if found is None:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warn_caller(
            f"{module}.{name} is deprecated, and vedcore {found.removed_in} removes it: write {found.replacement}",
            FutureWarning,  # which Python shows by default
        )
        owner, _, attribute = found.replacement.rpartition(".")
        return getattr(importlib.import_module(owner), attribute)

    return get
