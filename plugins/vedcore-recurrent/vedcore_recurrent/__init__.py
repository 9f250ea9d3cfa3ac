"""The decoder `lstm`, for vedcore."""

from __future__ import annotations

from vedcore import Entry, hookimpl

__all__ = ["register_decoders"]

vedcore_api = 1


@hookimpl
def register_decoders() -> list[Entry]:
    """The decoder."""
    return [Entry("lstm", "vedcore_recurrent.decoder:LSTMDecoder", "a recurrent network that attends to the image")]
