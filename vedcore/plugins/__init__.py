"""Plugins: found at the first look-up, each on its own, so that a broken one stops nobody but itself.

vedcore's own parts are always there. A third party's plugin is loaded unless it is blocked; each variable below, and
each argument of `configure`, names distributions or entry points, separated by commas:

- ``VEDCORE_DISABLE_PLUGINS=a,b`` blocks these;
- ``VEDCORE_PLUGINS=a,b`` loads these and no others;
- ``VEDCORE_DISABLE_PLUGIN_AUTOLOAD=1`` loads none but those that the allow-list or `configure` names.
"""

from __future__ import annotations

import fnmatch
import logging
import re
import threading
from collections.abc import Iterable
from typing import Any

from vedcore.errors import PluginContractError, PluginMissingError, UnknownComponentError
from vedcore.plugins.discovery import Choice, Found, discover
from vedcore.plugins.loading import undisturbed
from vedcore.plugins.records import ListedPart, PluginInfo
from vedcore.registry import BUILT_IN, Entry, Kind, Registry, Resolved, canonical

__all__ = [
    "ListedPart",
    "PluginInfo",
    "configure",
    "list_decoders",
    "list_encoders",
    "list_models",
    "list_parts",
    "list_plugins",
    "list_projectors",
    "load_component",
    "registry",
    "reset",
    "resolve",
]

_log = logging.getLogger("vedcore.plugins")
_REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,99})==([A-Za-z0-9][A-Za-z0-9.+!_-]{0,49})")

_lock = threading.RLock()
_asked = Choice()
_found: Found | None = None
_finding = False


def registry() -> Registry:
    """All parts; plugins are looked for once, at the first call.

    Raises:
        UsageError: an allow-list names a plugin that is not installed, or vedcore itself is blocked.
    """
    return _discovered().registry


def list_plugins() -> list[PluginInfo]:
    """Every entry point of group ``vedcore``, and what became of it."""
    return list(_discovered().plugins)


def configure(allow: Iterable[str] = (), block: Iterable[str] = ()) -> None:
    """Choose among third parties' plugins, on top of what the environment says; plugins are looked for again.

    Args:
        allow: distributions or entry points to load, and no others; none named means all.
        block: distributions or entry points not to load.
    """
    global _asked
    with _lock:
        _asked = Choice(frozenset(allow), frozenset(block))
        reset()


def reset() -> None:
    """Forget what was found, so that the next look-up looks again."""
    global _found
    with _lock:
        _found = None


def list_parts(kind: Kind, pattern: str | None = None) -> list[ListedPart]:
    """The registered parts of a kind, by name; with ``pattern``, those whose name or a variant matches the glob."""
    found = registry()
    parts = [ListedPart(found.shown_name(kind, entry), entry) for entry in found.entries(kind)]
    return [p for p in parts if pattern is None or any(fnmatch.fnmatch(n, pattern) for n in (p, *p.entry.names))]


def list_encoders(pattern: str | None = None) -> list[ListedPart]:
    """The families of vision encoders, by name; ``pattern`` is a glob."""
    return list_parts("encoder", pattern)


def list_decoders(pattern: str | None = None) -> list[ListedPart]:
    """The families of text decoders, by name; ``pattern`` is a glob."""
    return list_parts("decoder", pattern)


def list_projectors(pattern: str | None = None) -> list[ListedPart]:
    """The projectors, by name; ``pattern`` is a glob."""
    return list_parts("projector", pattern)


def list_models(pattern: str | None = None) -> list[ListedPart]:
    """The trained models that plugins bring, by name; ``pattern`` is a glob."""
    return list_parts("model", pattern)


def resolve(kind: Kind, name: str) -> Resolved:
    """What ``name`` means, with nothing imported for it.

    Raises:
        UnknownComponentError: nothing of that name.
        PluginConflictError: two distributions own it.
    """
    return registry().find(kind, name)


def load_component(kind: Kind, name: str, recorded: str | None = None) -> tuple[Any, Resolved]:
    """The class, or function, that ``name`` means, imported and checked.

    Args:
        kind: what it shall be.
        name: its name.
        recorded: for a part of a saved model, the ``distribution==version`` that it was saved with: that
            distribution's part is taken, and another version of it is warned of.

    Raises:
        UnknownComponentError: nothing of that name.
        PluginConflictError: two distributions own it.
        PluginMissingError: ``recorded`` is not installed.
        PluginLoadError: it does not import.
        PluginContractError: it is not what its kind asks for.
    """
    found = resolve(kind, name) if recorded is None else _resolve_recorded(kind, name, recorded)
    if kind in ("encoder", "decoder", "projector"):
        from vedcore.plugins.contracts import check_part  # loads torch

        target = _load(found.entry)
        check_part(kind, found.entry, target)
    elif not callable(target := _load(found.entry)):
        raise PluginContractError(
            f"{kind} {found.entry.name!r} of {found.entry.owner}: {found.entry.target} cannot be called",
            plugin=found.entry.owner.distribution,
            hint="see docs/writing-a-plugin.md",
        )
    return target, found


def _load(entry: Entry) -> Any:
    """The entry's target; a third party's code is kept from changing the process.

    One at a time: threads that import packages of many modules, each another one first, block each other.
    """
    with _lock:
        if canonical(entry.owner.distribution) == BUILT_IN:
            return entry.load()
        with undisturbed(str(entry.owner), []):
            return entry.load()


def _resolve_recorded(kind: Kind, name: str, recorded: str) -> Resolved:
    """The part of a saved model that the recorded distribution brings."""
    requirement = _REQUIREMENT.fullmatch(recorded)
    if requirement is None:  # not written by us, and nothing to give to pip
        return resolve(kind, name)
    distribution, version = requirement.groups()
    here = {canonical(p.distribution): p.version for p in list_plugins() if p.status != "blocked"}
    installed = here.get(canonical(distribution))
    if installed is None:
        raise PluginMissingError(
            f"the model needs {kind} {name!r} of {recorded}, which is not installed or is blocked",
            field=kind,
            plugin=distribution,
            hint=f"pip install {recorded}",
        )
    if installed != version and canonical(distribution) != BUILT_IN:
        _log.warning("the model was saved with %s, and version %s is installed", recorded, installed)
    try:
        return resolve(kind, name if ":" in name else f"{distribution}:{name}")
    except UnknownComponentError:  # the user has named another part since
        return resolve(kind, name)


def _discovered() -> Found:
    global _found, _finding
    if (ready := _found) is not None:
        return ready
    with _lock:
        if _found is None:
            if _finding:  # the same thread: a plugin's module asks while it is imported
                raise PluginContractError(
                    "a plugin looks up parts while it is imported", hint="look up inside functions"
                )
            _finding = True
            try:
                _found = discover(_asked.with_environment())
            finally:
                _finding = False
        return _found
