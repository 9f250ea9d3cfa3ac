"""Calls into the code of plugins: what they raise becomes an error that names the plugin."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vedcore.errors import PluginContractError, VedcoreError, described
from vedcore.registry import BUILT_IN, Entry, Kind, canonical

__all__ = ["GuardedFormat", "attributed", "contract_error"]

_METHODS = ("recognises", "load", "save")


def contract_error(kind: Kind, entry: Entry, message: str, hint: str, path: object = None) -> PluginContractError:
    """The error for a part that breaks its contract; it names the part and its distribution."""
    owner = entry.owner
    return PluginContractError(
        f"{kind} {entry.name!r} of {owner}: {message}", path=path, plugin=owner.distribution, hint=hint
    )


@contextlib.contextmanager
def attributed(kind: Kind, entry: Entry, call: str, path: object = None) -> Iterator[None]:
    """A context in which the code of a part runs; the output of a third party's goes to stderr.

    Args:
        kind: the kind of part.
        entry: the part.
        call: the name of its function, for messages.
        path: the folder that it works on, for messages.

    Raises:
        PluginContractError: the code of a third party raises anything but a `VedcoreError`, which passes with its
            plugin filled in.
    """
    distribution = entry.owner.distribution
    if canonical(distribution) == BUILT_IN:
        yield
        return
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except (KeyboardInterrupt, MemoryError):
        raise
    except VedcoreError as error:
        error.plugin = error.plugin or distribution
        raise
    except BaseException as error:  # sys.exit too
        hint = f"tell its authors, or block it with VEDCORE_DISABLE_PLUGINS={distribution}"
        raise contract_error(kind, entry, f"{call} fails: {described(error)}", hint, path) from error


class GuardedFormat:
    """A checkpoint format whose calls are guarded, and whose results are checked.

    Args:
        entry: the registered format.
        target: its class.

    Raises:
        PluginContractError: it cannot be constructed, or lacks a method.
    """

    def __init__(self, entry: Entry, target: Any) -> None:
        self.entry = entry
        with attributed("format", entry, "its constructor"):
            self.format = target()
        missing = [name for name in _METHODS if not callable(getattr(self.format, name, None))]
        if missing:
            raise self.broken_contract(f"it lacks {', '.join(missing)}", "subclass vedcore.formats.Format")

    @property
    def is_built_in(self) -> bool:
        """True where vedcore itself brings the format."""
        return canonical(self.entry.owner.distribution) == BUILT_IN

    def broken_contract(self, message: str, hint: str, path: object = None) -> PluginContractError:
        """The error for a format that breaks its contract."""
        return contract_error("format", self.entry, message, hint, path)

    def recognises(self, folder: Path) -> bool:
        """Whether the folder has this format."""
        with attributed("format", self.entry, "recognises", folder):
            answer = self.format.recognises(folder)
        if type(answer) is not bool:
            message = f"recognises gives {type(answer).__name__}, not a bool"
            raise self.broken_contract(message, "return True or False from it", folder)
        return answer

    def load(self, folder: Path, options: Any) -> Any:
        """The model in the folder; the caller checks it."""
        with attributed("format", self.entry, "load", folder):
            return self.format.load(folder, options)

    def save(self, model: Any, folder: str | os.PathLike[str], **options: Any) -> None:
        """Write a model to a folder."""
        with attributed("format", self.entry, "save", folder):
            self.format.save(model, folder, **options)
        if not self.is_built_in and not os.path.exists(folder):
            raise self.broken_contract(
                "save writes nothing there", "write the model to the folder that it is given", folder
            )
