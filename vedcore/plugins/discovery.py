"""Discovery of all plugins: the filter, the outcome of each, and conflicts between names."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from vedcore.errors import PluginError, UsageError, did_you_mean
from vedcore.plugins.loading import collect_entries, import_plugin, protected_process
from vedcore.plugins.records import PluginInfo
from vedcore.plugins.scan import EntryPoint, scan
from vedcore.registry import BUILT_IN, KINDS, Entry, Kind, Registry, canonical

__all__ = ["DiscoveryResult", "PluginFilter", "discover"]

MAX_REGISTRATION_SECONDS = 1.0
"""A plugin that takes longer to import is logged as a problem."""

_log = logging.getLogger("vedcore.plugins")


@dataclass(frozen=True)
class PluginFilter:
    """Which third parties' plugins to load, by distribution or entry point."""

    allow: frozenset[str] = frozenset()
    block: frozenset[str] = frozenset()
    autoload: bool = True
    """Whether plugins are loaded that are not on the allow-list."""

    @property
    def allows_all(self) -> bool:
        """Whether every plugin is loaded that is not blocked."""
        return self.autoload and not self.allow

    def with_environment(self) -> PluginFilter:
        """This filter combined with the environment variables."""
        allow = self.allow | _names(os.environ.get("VEDCORE_PLUGINS", ""))
        block = self.block | _names(os.environ.get("VEDCORE_DISABLE_PLUGINS", ""))
        return PluginFilter(allow, block, os.environ.get("VEDCORE_DISABLE_PLUGIN_AUTOLOAD", "") in ("", "0"))


@dataclass
class DiscoveryResult:
    """The registered parts, and the record of each plugin."""

    registry: Registry
    plugins: tuple[PluginInfo, ...]


def discover(wanted: PluginFilter) -> DiscoveryResult:
    """Find the installed plugins, load those that the filter allows, and record the outcome of each.

    Raises:
        UsageError: an allow-list names a plugin that is not installed, or vedcore itself is blocked.
    """
    points = scan()
    if BUILT_IN in {canonical(name) for name in wanted.block}:
        raise UsageError("vedcore's own parts cannot be blocked", field="-p no:vedcore", hint="name a plugin")
    for name in sorted(wanted.allow):
        if not any(_is_named(point, {name}) for point in points):
            installed = sorted({p.owner.distribution for p in points if not p.built_in})
            hint = did_you_mean(name, installed) or f"installed: {', '.join(installed) or 'none'}"
            raise UsageError(f"no plugin {name!r} is installed", field="-p", hint=hint)
    found = Registry()
    loaded: dict[int, EntryPoint] = {}
    records: list[tuple[EntryPoint, PluginError | str, list[tuple[Kind, Entry]], list[str], float]] = []
    for point in points:
        entries: list[tuple[Kind, Entry]] = []
        problems: list[str] = []
        outcome: PluginError | str = ""
        start = time.perf_counter()
        if not point.built_in and _is_named(point, wanted.block):
            outcome = "blocked by name"
        elif not point.built_in and not wanted.allows_all and not _is_named(point, wanted.allow):
            outcome = "not on the allow-list"
        else:
            try:
                entries = _load(point, found, loaded, problems)
            except PluginError as error:
                outcome = error
                found.failures.setdefault(canonical(point.owner.distribution), error)
                found.notes.append(str(error))
        seconds = time.perf_counter() - start
        if seconds > MAX_REGISTRATION_SECONDS:
            problems.append(f"{point.owner} takes {seconds:.1f} s to import")
            _log.warning(problems[-1])
        records.append((point, outcome, entries, problems, seconds))
    if not any(point.built_in for point in points):  # run from a source folder without installing
        found.notes.insert(0, "vedcore itself is not installed, so it has no parts: pip install vedcore")
    return DiscoveryResult(found, tuple(_info(found, *record) for record in records))


def _load(
    point: EntryPoint, found: Registry, loaded: dict[int, EntryPoint], problems: list[str]
) -> list[tuple[Kind, Entry]]:
    """Import one plugin and add its entries, all or none."""
    had_torch = "torch" in sys.modules
    with protected_process(str(point.owner), problems):
        plugin = import_plugin(point)
        if id(plugin) in loaded:
            problems.append(f"the same object as {loaded[id(plugin)]}")
            return []
        entries = collect_entries(plugin, point)
    found.add(entries, point.owner)
    loaded[id(plugin)] = point
    if not had_torch and "torch" in sys.modules:
        problems.append(f"{point.owner} imports torch to register, which makes every command slow")
    return entries


def _info(
    found: Registry,
    point: EntryPoint,
    outcome: PluginError | str,
    entries: list[tuple[Kind, Entry]],
    problems: list[str],
    seconds: float,
) -> PluginInfo:
    """The record of one entry point; all plugins must be loaded, so that conflicts are known."""
    registered: dict[Kind, tuple[str, ...]] = {}
    for kind in KINDS:
        mine = [
            e for e in found.entries(kind) if e.owner == point.owner and any(e == x for k, x in entries if k == kind)
        ]
        conflicts = [str(problem) for entry in mine for problem in found.conflicts(kind, entry)]
        problems += conflicts
        found.notes += conflicts
        if mine:
            registered[kind] = tuple(found.shown_name(kind, entry) for entry in mine)
    status: Literal["loaded", "failed", "blocked"]
    status = "failed" if isinstance(outcome, PluginError) else "blocked" if outcome else "loaded"
    return PluginInfo(
        point.owner.distribution,
        point.owner.version,
        point.name,
        point.value,
        status,
        str(outcome),
        registered,
        tuple(problems),
        round(seconds, 4),
    )


def _is_named(point: EntryPoint, names: Iterable[str]) -> bool:
    wanted = {canonical(name) for name in names}
    return canonical(point.owner.distribution) in wanted or canonical(point.name) in wanted


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(",") if name.strip())
