"""Plugins: discovered at the first look-up, and loaded one by one, so that a broken plugin does not affect the others.

vedcore's own parts are always loaded, and a third party's plugin is unless it is blocked. These environment variables
choose plugins by distribution or entry point; so does `configure`:

- ``VEDCORE_DISABLE_PLUGINS=a,b`` blocks these;
- ``VEDCORE_PLUGINS=a,b`` loads these and no others;
- ``VEDCORE_DISABLE_PLUGIN_AUTOLOAD=1`` loads only those that ``VEDCORE_PLUGINS`` or `configure` names.
"""

from __future__ import annotations

import fnmatch
import logging
import re
import sys
import threading
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from vedcore.errors import PluginContractError, PluginMissingError, UnknownComponentError, VedcoreError
from vedcore.plugins.discovery import DiscoveryResult, PluginFilter, discover
from vedcore.plugins.guarded import GuardedFormat
from vedcore.plugins.loading import protected_process
from vedcore.plugins.records import ListedPart, PluginInfo
from vedcore.registry import BUILT_IN, Entry, Kind, Registry, ResolvedEntry, canonical

__all__ = [
    "ListedPart",
    "PluginInfo",
    "check_command",
    "check_exporter",
    "check_targets",
    "configure",
    "list_decoders",
    "list_encoders",
    "list_models",
    "list_parts",
    "list_plugins",
    "list_projectors",
    "load_component",
    "make_format",
    "registry",
    "reset",
    "resolve",
]

_log = logging.getLogger("vedcore.plugins")
_REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,99})==([A-Za-z0-9][A-Za-z0-9.+!_-]{0,49})")

_lock = threading.RLock()
_configured = PluginFilter()
_discovery: DiscoveryResult | None = None
_discovering = False


def registry() -> Registry:
    """All registered parts; the first call discovers the plugins.

    Raises:
        UsageError: an allow-list names a plugin that is not installed, or vedcore itself is blocked.
    """
    return _discovered().registry


def list_plugins() -> list[PluginInfo]:
    """A record of each entry point of group ``vedcore``: loaded, failed or blocked."""
    return list(_discovered().plugins)


def check_targets() -> list[PluginInfo]:
    """As `list_plugins`, with every target imported and checked: a plugin with a broken one is failed.

    Formats are constructed too. This loads torch, and whatever the parts of plugins need.
    """
    return [_checked(plugin) for plugin in list_plugins()]


def configure(allow: Iterable[str] = (), block: Iterable[str] = ()) -> None:
    """Choose among third parties' plugins, in addition to the environment variables; the next look-up discovers again.

    Args:
        allow: distributions or entry points to load, and no others; empty means all.
        block: distributions or entry points not to load.
    """
    global _configured
    with _lock:
        _configured = PluginFilter(frozenset(allow), frozenset(block))
        reset()


def reset() -> None:
    """Make the next look-up discover the plugins again."""
    global _discovery
    with _lock:
        _discovery = None


def list_parts(kind: Kind, pattern: str | None = None) -> list[ListedPart]:
    """The registered parts of a kind, sorted by name; ``pattern`` is a glob for their names and variants."""
    found = registry()
    parts = [ListedPart(found.shown_name(kind, entry), entry) for entry in found.entries(kind)]
    return [p for p in parts if pattern is None or any(fnmatch.fnmatch(n, pattern) for n in (p, *p.entry.names))]


def list_encoders(pattern: str | None = None) -> list[ListedPart]:
    """The families of vision encoders, sorted by name; ``pattern`` is a glob."""
    return list_parts("encoder", pattern)


def list_decoders(pattern: str | None = None) -> list[ListedPart]:
    """The families of text decoders, sorted by name; ``pattern`` is a glob."""
    return list_parts("decoder", pattern)


def list_projectors(pattern: str | None = None) -> list[ListedPart]:
    """The projectors, sorted by name; ``pattern`` is a glob."""
    return list_parts("projector", pattern)


def list_models(pattern: str | None = None) -> list[ListedPart]:
    """The trained models of plugins, sorted by name; ``pattern`` is a glob."""
    return list_parts("model", pattern)


def resolve(kind: Kind, name: str) -> ResolvedEntry:
    """The entry and variant that ``name`` means; its target is not imported.

    Raises:
        UnknownComponentError: unknown.
        PluginConflictError: two distributions own the name.
    """
    return registry().find(kind, name)


def load_component(kind: Kind, name: str, recorded: str | None = None) -> tuple[Any, ResolvedEntry]:
    """The class or function that ``name`` means, imported and checked.

    Args:
        kind: the kind of part.
        name: a name as `Registry.find` takes it.
        recorded: for a part of a saved model, the ``distribution==version`` that it was saved with. The part of that
            distribution is taken; another version of it logs a warning.

    Raises:
        UnknownComponentError: unknown.
        PluginConflictError: two distributions own the name.
        PluginMissingError: ``recorded`` is not installed.
        PluginLoadError: the target does not import.
        PluginContractError: the target breaks the contract of its kind.
    """
    found = resolve(kind, name) if recorded is None else _resolve_recorded(kind, name, recorded)
    if kind in ("encoder", "decoder", "projector"):
        from vedcore.plugins.contracts import check_part  # loads torch, before the plugin may change its settings

        target = _load(found.entry)
        check_part(kind, found.entry, target)
    elif not callable(target := _load(found.entry)):
        raise PluginContractError(
            f"{kind} {found.entry.name!r} of {found.entry.owner}: {found.entry.target} cannot be called",
            plugin=found.entry.owner.distribution,
            hint="let the target be a class or a function",
        )
    return target, found


def make_format(name: str) -> GuardedFormat:
    """The checkpoint format of that name, ready to be asked.

    Raises:
        UnknownComponentError, PluginConflictError, PluginLoadError: as `load_component`.
        PluginContractError: it cannot be constructed, or lacks a method.
    """
    target, found = load_component("format", name)
    return GuardedFormat(found.entry, target)


def _checked(plugin: PluginInfo) -> PluginInfo:
    """The record of a plugin after its targets were imported."""
    broken = []
    for kind, names in plugin.registered.items():
        for name in names:
            try:
                target, found = load_component(kind, name)
                if kind == "format":
                    GuardedFormat(found.entry, target)
                elif kind == "command":
                    check_command(found.entry, target)
                elif kind == "exporter":
                    check_exporter(found.entry, target)
            except VedcoreError as error:
                broken.append(str(error))
    if not broken:
        return plugin
    return replace(plugin, status="failed", reason=broken[0], problems=(*plugin.problems, *broken[1:]))


def check_exporter(entry: Entry, target: Any) -> None:
    """Refuse the target of an exporter that `vedcore.export` cannot use.

    Raises:
        PluginContractError: it is not a class with ``write`` and ``runtime``.
    """
    if not isinstance(target, type) or not callable(getattr(target, "write", None)) or not hasattr(target, "runtime"):
        raise PluginContractError(
            f"exporter {entry.name!r} of {entry.owner}: {entry.target} is not an Exporter class",
            plugin=entry.owner.distribution,
            hint="derive it from vedcore.export.Exporter, with write and runtime",
        )


def check_command(entry: Entry, target: Any) -> None:
    """Refuse the target of a command that click cannot run.

    Raises:
        PluginContractError: it is not a ``click.Command``.
    """
    import click

    if not isinstance(target, click.Command):
        raise PluginContractError(
            f"command {entry.name!r} of {entry.owner}: {entry.target} is not a click.Command",
            plugin=entry.owner.distribution,
            hint="decorate it with @click.command()",
        )


def _load(entry: Entry) -> Any:
    """The entry's target; the process is protected from a third party's code, which runs at the first import.

    Under a lock: threads that import the same packages in different orders block each other.
    """
    with _lock:
        if canonical(entry.owner.distribution) == BUILT_IN or entry.target.partition(":")[0] in sys.modules:
            return entry.load()
        with protected_process(str(entry.owner), []):
            return entry.load()


def _resolve_recorded(kind: Kind, name: str, recorded: str) -> ResolvedEntry:
    """The part of a saved model, from the distribution that it was saved with."""
    requirement = _REQUIREMENT.fullmatch(recorded)
    if requirement is None:  # not a text that vedcore writes, so never offer it to pip
        return resolve(kind, name)
    distribution, version = requirement.groups()
    here = {canonical(p.distribution): p.version for p in list_plugins() if p.status != "blocked"}
    installed = here.get(canonical(distribution))
    if installed is None:
        blocked = [p.reason for p in list_plugins() if canonical(p.distribution) == canonical(distribution)]
        raise PluginMissingError(
            f"the model needs {kind} {name!r} of {recorded}, which is {blocked[0] if blocked else 'not installed'}",
            field=kind,
            plugin=distribution,
            hint="unblock it: see -p, VEDCORE_PLUGINS and VEDCORE_DISABLE_PLUGINS"
            if blocked
            else f"pip install {recorded}",
        )
    if installed != version and canonical(distribution) != BUILT_IN:
        _log.warning("the model was saved with %s, and version %s is installed", recorded, installed)
    try:
        return resolve(kind, name if ":" in name else f"{distribution}:{name}")
    except UnknownComponentError:  # the user has put another part into the config
        return resolve(kind, name)


def _discovered() -> DiscoveryResult:
    global _discovery, _discovering
    if (ready := _discovery) is not None:
        return ready
    with _lock:
        if _discovery is None:
            if _discovering:  # in this very thread, which is importing a plugin
                raise PluginContractError(
                    "a plugin looks up parts while it is imported", hint="look up inside functions"
                )
            _discovering = True
            try:
                _discovery = discover(_configured.with_environment())
            finally:
                _discovering = False
        return _discovery
