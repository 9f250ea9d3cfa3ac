"""Loading of one plugin: from its entry point to the entries that it registers."""

from __future__ import annotations

import contextlib
import importlib
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pluggy

from vedcore import hookspecs
from vedcore.errors import PluginApiError, PluginContractError, PluginError, PluginLoadError, described, did_you_mean
from vedcore.plugins.process_state import ProcessState
from vedcore.plugins.scan import GROUP, EntryPoint
from vedcore.registry import KINDS, Entry, Kind

__all__ = ["collect_entries", "import_plugin", "protected_process"]

_HOOKS = {f"register_{kind}s": kind for kind in KINDS}
_REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*(:[^\W\d]\w*(\.[^\W\d]\w*)*)?")


def import_plugin(point: EntryPoint) -> Any:
    """The module or object that ``point`` names.

    Raises:
        PluginLoadError: it does not import.
        PluginApiError: it declares another major version of the hooks.
    """
    if not _REFERENCE.fullmatch(point.value):
        raise _load_error(point, f"{point.value!r} is not of the form module or module:object")
    module_name, _, attributes = point.value.partition(":")
    try:
        plugin = module = importlib.import_module(module_name)
        for attribute in filter(None, attributes.split(".")):
            plugin = getattr(plugin, attribute)
        version = str(getattr(plugin, "vedcore_api", getattr(module, "vedcore_api", hookspecs.API_VERSION)))
    except (KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:
        raise _load_error(point, described(error)) from error
    if version.partition(".")[0] != str(hookspecs.API_VERSION):
        raise PluginApiError(
            f"{point} was written for plugin API {version[:20]}, and this vedcore has {hookspecs.API_VERSION}",
            plugin=point.owner.distribution,
            hint=f"install another version of {point.owner.distribution}",
        )
    return plugin


def collect_entries(plugin: Any, point: EntryPoint) -> list[tuple[Kind, Entry]]:
    """The entries that ``plugin`` registers; `Registry.add` checks them.

    Raises:
        PluginContractError: no hook, a misspelt hook, a hook with arguments, or one that does not return a list.
        PluginLoadError: a hook raises.
    """
    try:
        manager = pluggy.PluginManager(GROUP)
        manager.add_hookspecs(hookspecs)
        _check_names(manager, plugin, point)
        manager.register(plugin, str(point))
        found: list[tuple[Kind, Entry]] = []
        for hook, kind in _HOOKS.items():
            for entries in getattr(manager.hook, hook)():
                if isinstance(entries, str | bytes) or not hasattr(entries, "__iter__"):
                    message = f"{hook} gave {type(entries).__name__}, not a list of entries"
                    raise _contract_error(point, message, "return a list of vedcore.Entry(name, target)")
                found += [(kind, entry) for entry in entries]
        return found
    except (KeyboardInterrupt, MemoryError, PluginError):
        raise
    except pluggy.PluginValidationError as error:
        raise _contract_error(point, str(error).splitlines()[-1], "hooks take no arguments") from error
    except BaseException as error:
        raise _load_error(point, f"registering raises {described(error)}") from error


@contextlib.contextmanager
def protected_process(plugin: str, problems: list[str]) -> Iterator[None]:
    """A context in which a plugin's code runs, and which undoes the changes that it makes to the process.

    Its output goes to stderr. What `ProcessState` holds is put back: the working directory, logging, random
    generators, torch's modes and more; so are warning filters and environment variables, and the last are reported.

    Args:
        plugin: the name of the plugin in reports.
        problems: a line is appended for each report.
    """
    state = ProcessState()
    try:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            yield
    finally:
        changed = state.put_back()
        if changed:
            problems.append(f"{plugin} changes environment variables, which are put back: {', '.join(changed[:5])}")


def _check_names(manager: pluggy.PluginManager, plugin: Any, point: EntryPoint) -> None:
    """Refuse hooks with unknown names, and functions named like hooks that are not marked as such."""
    implemented = set()
    for name in dir(plugin):
        options = manager.parse_hookimpl_opts(plugin, name)
        if options is not None:
            hook = options.get("specname") or name
            if hook not in _HOOKS:
                hint = did_you_mean(hook, _HOOKS) or f"there are {', '.join(_HOOKS)}"
                raise _contract_error(point, f"no hook is named {hook!r}", hint)
            implemented.add(hook)
        elif name in _HOOKS:
            raise _contract_error(point, f"{name} is not marked as a hook", "put @vedcore.hookimpl before it")
    if not implemented:
        hint = f"mark a function with @vedcore.hookimpl: {', '.join(_HOOKS)}"
        raise _contract_error(point, "it implements no hook", hint)


def _load_error(point: EntryPoint, message: str) -> PluginLoadError:
    distribution = point.owner.distribution
    hint = f"repair or uninstall {distribution}, or block it with VEDCORE_DISABLE_PLUGINS={distribution}"
    return PluginLoadError(f"{point} does not load: {message}", plugin=distribution, hint=hint)


def _contract_error(point: EntryPoint, message: str, hint: str) -> PluginContractError:
    return PluginContractError(f"{point}: {message}", plugin=point.owner.distribution, hint=hint)
