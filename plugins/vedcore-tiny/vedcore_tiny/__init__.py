"""The encoder `patches` and the decoder `tiny`, for vedcore."""

from __future__ import annotations

from vedcore import Entry, hookimpl

__all__ = ["register_decoders", "register_encoders"]

vedcore_api = 1


@hookimpl
def register_encoders() -> list[Entry]:
    """The encoder."""
    return [Entry("patches", "vedcore_tiny.encoder:PatchEncoder", "one convolution over patches")]


@hookimpl
def register_decoders() -> list[Entry]:
    """The decoder."""
    return [
        Entry(
            "tiny",
            "vedcore_tiny.decoder:TinyDecoder",
            "a small causal transformer",
            variants=("tiny-2", "tiny-4"),
            default_variant="tiny-2",
        )
    ]
