"""The projector `pixel-shuffle`, for vedcore."""

from __future__ import annotations

from vedcore import Entry, hookimpl

__all__ = ["register_projectors"]

vedcore_api = 1


@hookimpl
def register_projectors() -> list[Entry]:
    """The projector."""
    return [
        Entry(
            "pixel-shuffle",
            "vedcore_pixel_shuffle.projector:PixelShuffleProjector",
            "joins neighbouring tokens of the image, as Idefics3 and SmolVLM do",
        )
    ]
