"""The name of a new distribution, and the names that follow from it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import keyword
import re
import sys
from dataclasses import dataclass

from vedcore.config_files.plain import short
from vedcore.errors import PluginConflictError, UnknownComponentError, UsageError
from vedcore.plugins import registry
from vedcore.registry import Kind, canonical

__all__ = ["DistributionName", "check_free", "is_installed", "parse_name"]

_PREFIX = re.compile(r"^vedcore[-_.]+", re.IGNORECASE)
MAX_CLASS_NAME = 24
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")
"""The names that PEP 508 allows, of at most 100 characters."""


@dataclass(frozen=True)
class DistributionName:
    """A distribution, its package and its part."""

    distribution: str
    """As it was given."""
    package: str
    """The name to import."""
    component: str
    """The name of the part: that of the distribution without ``vedcore-``."""

    @property
    def class_name(self) -> str:
        """The name of the part in front of ``Encoder`` and the like, cut where it is long."""
        words = "".join(word.capitalize() for word in re.split(r"[-_.]+", self.component))
        return (words if words.isidentifier() else f"The{words}")[:MAX_CLASS_NAME]


def parse_name(distribution: str) -> DistributionName:
    """The names that follow from that of a distribution.

    Raises:
        UsageError: a name that is not one of PEP 508, or whose package Python could not import.
    """
    if not _NAME.fullmatch(distribution):
        hint = "use letters, digits, - _ . such as vedcore-mine"
        raise UsageError(f"{short(distribution)} is not the name of a distribution", field="NAME", hint=hint)
    package = canonical(distribution).replace("-", "_")
    if not package.isidentifier() or keyword.iskeyword(package) or package in sys.stdlib_module_names:
        hint = f"call it vedcore-{canonical(distribution)}"
        raise UsageError(f"{package!r} cannot be the name of a package", field="NAME", hint=hint)
    return DistributionName(distribution, package, _PREFIX.sub("", distribution))


def is_installed(distribution: str) -> bool:
    """Whether a distribution of that name is installed."""
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def check_free(name: DistributionName, kind: Kind) -> None:
    """Refuse a name that would hide something that is installed, but for an earlier version of the same distribution.

    Raises:
        UsageError: the package or the part has the name of another's.
    """
    hint = "choose another name"
    if canonical(name.distribution) == "vedcore" or (not is_installed(name.distribution) and _exists(name.package)):
        raise UsageError(f"a package {name.package!r} is installed already", field="NAME", hint=hint)
    try:
        owner = str(registry().find(kind, name.component).entry.owner)
    except UnknownComponentError:
        return
    except PluginConflictError as conflict:
        raise UsageError(conflict.message, field="NAME", hint=hint) from None
    if canonical(owner.partition("==")[0]) != canonical(name.distribution):
        message = f"{kind} {name.component!r} is a name of {owner}"
        raise UsageError(message, field="NAME", hint=hint)


def _exists(package: str) -> bool:
    """Whether Python would import a package of that name; a folder of that name alone is none."""
    found = importlib.util.find_spec(package)
    return found is not None and found.origin is not None
