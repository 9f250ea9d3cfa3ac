"""The checkpoint format `npz`, for vedcore."""

from __future__ import annotations

from vedcore import Entry, hookimpl

__all__ = ["register_formats"]

vedcore_api = 1


@hookimpl
def register_formats() -> list[Entry]:
    """The format."""
    return [Entry("npz", "vedcore_npz.format:NpzFormat", "a model as numpy arrays, for JAX and numpy")]
