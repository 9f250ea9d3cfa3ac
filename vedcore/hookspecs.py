"""The hooks that a plugin may implement. Each returns entries, and must not import torch."""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from vedcore.registry import Entry

API_VERSION = 1
"""Major version of these hooks. A plugin module may declare ``vedcore_api = 1``, and is refused where it differs."""

hookspec = pluggy.HookspecMarker("vedcore")
hookimpl = pluggy.HookimplMarker("vedcore")


@hookspec
def register_encoders() -> Iterable[Entry]:  # type: ignore[empty-body]
    """Vision encoders: entries whose target is a `vedcore.VisionEncoder` class, for `compose` and `plan`."""


@hookspec
def register_decoders() -> Iterable[Entry]:  # type: ignore[empty-body]
    """Text decoders: entries whose target is a `vedcore.TextDecoder` class, for `compose` and `plan`."""


@hookspec
def register_projectors() -> Iterable[Entry]:  # type: ignore[empty-body]
    """Projectors: entries whose target is a `vedcore.Projector` class, for the ``projector`` of a model."""


@hookspec
def register_formats() -> Iterable[Entry]:  # type: ignore[empty-body]
    """Checkpoint formats: entries whose target is a `vedcore.formats.Format` class."""


@hookspec
def register_models() -> Iterable[Entry]:  # type: ignore[empty-body]
    """Trained models: entries whose target is a function that returns the model's folder, for `vedcore.load`."""


@hookspec
def register_exporters() -> Iterable[Entry]:  # type: ignore[empty-body]
    """Targets of ``vedcore export``: entries whose target is a `vedcore.export.Exporter` class."""


@hookspec
def register_commands() -> Iterable[Entry]:  # type: ignore[empty-body]
    """CLI commands: entries whose target is a ``click.Command``, run as ``vedcore <name>``."""
