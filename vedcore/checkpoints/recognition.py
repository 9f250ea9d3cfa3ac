"""The format of a folder: vedcore's own layouts are known by their settings, and plugins are asked about the others."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vedcore.composer.snapshot_files import read_json
from vedcore.errors import ConfigError, PluginConflictError, VedcoreError, warn_caller
from vedcore.hf.sections import WHOLE
from vedcore.model_files import CONFIG
from vedcore.plugins import make_format, registry
from vedcore.plugins.guarded import GuardedFormat
from vedcore.weights.snapshot import Snapshot, read_folder

__all__ = ["find_format"]

_NOBODYS = Path(__file__).parent, Path(__file__).parent / "nobodys_model"
"""Folders of no format: one without a model, and one with the files that many formats have."""


def find_format(folder: Path) -> GuardedFormat | None:
    """The format of a folder; None where no installed one recognises it.

    The layouts of vedcore and of transformers belong to the built-in formats, whatever a plugin says. A plugin that
    fails is warned of where another recognises the folder.

    Raises:
        CheckpointError: no such folder, or a config.json that is not a plain file.
        PluginConflictError: the formats of two plugins recognise the folder.
        PluginError: no format recognises it, and one of a plugin fails when it is asked.
    """
    settings = read_folder(folder, _settings)
    built_in = None
    if settings is not None:
        built_in = "transformers" if settings.get("model_type") == WHOLE else None
        built_in = "native" if "model_type" not in settings else built_in
    if settings is not None and (built_in == "transformers" or (built_in and {"encoder", "decoder"} & settings.keys())):
        return make_format(built_in)
    claimants, failures = _ask_plugins(folder)
    if len(claimants) > 1:
        first, second = (claimant.entry for claimant in claimants[:2])
        raise PluginConflictError(
            f"both format {first.name!r} of {first.owner} and {second.name!r} of {second.owner} recognise this folder",
            path=folder,
            plugin=second.owner.distribution,
            hint=f"block one, as with VEDCORE_DISABLE_PLUGINS={second.owner.distribution}",
        )
    if not claimants and failures and built_in is None:
        raise failures[0]
    for failure in failures:
        warn_caller(f"a format that cannot be asked is left out: {failure}")
    if claimants:
        return claimants[0]
    return None if built_in is None else make_format(built_in)  # damaged settings: its errors say how


def _settings(snapshot: Snapshot) -> Mapping[str, Any] | None:
    """The content of config.json: empty where it is damaged, None where there is none."""
    if not snapshot.has(CONFIG):
        return None
    with contextlib.suppress(ConfigError):
        return read_json(snapshot, CONFIG)
    return {}


def _ask_plugins(folder: Path) -> tuple[list[GuardedFormat], list[VedcoreError]]:
    """The formats of plugins that recognise the folder, and the errors of those that fail."""
    claimants, failures = [], []
    for entry in registry().entries("format"):
        try:
            format = make_format(registry().shown_name("format", entry))
            if format.is_built_in or not format.recognises(folder):
                continue
            if any(format.recognises(nobodys) for nobodys in _NOBODYS):
                warn_caller(
                    f"format {entry.name!r} of {entry.owner} is left out: it recognises any folder, not only its own"
                )
                continue
            claimants.append(format)
        except VedcoreError as error:
            failures.append(error)
    return claimants, failures
