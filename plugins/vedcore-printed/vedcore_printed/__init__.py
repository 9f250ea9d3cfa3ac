"""printed-line, a small model that reads printed lines, and its encoder."""

from __future__ import annotations

from pathlib import Path

from vedcore import Entry, hookimpl

__all__ = ["folder", "register_encoders", "register_models"]


def folder() -> Path:
    """The folder of the trained model."""
    return Path(__file__).parent / "printed-line"


@hookimpl
def register_encoders() -> list[Entry]:
    """The encoder of printed lines."""
    return [
        Entry(
            "printed-columns",
            "vedcore_printed.encoder:PrintedColumnsEncoder",
            "a thin ResNet over a line of print: one token for each 4 pixels of its width",
        )
    ]


@hookimpl
def register_models() -> list[Entry]:
    """The trained reader."""
    return [Entry("printed-line", "vedcore_printed:folder", "reads one line of up to 40 printed ASCII characters")]
