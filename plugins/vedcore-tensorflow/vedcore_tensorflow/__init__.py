"""Models of vedcore in TensorFlow: a `keras.Model`, a SavedModel, and a file for TensorFlow Lite.

Nothing is imported before it is used: TensorFlow takes seconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["VisionEncoderDecoder", "load", "write_saved_model", "write_tflite"]

vedcore_api = 1

_HOMES = {
    "VisionEncoderDecoder": "model",
    "load": "loading",
    "write_saved_model": "saving",
    "write_tflite": "saving",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
