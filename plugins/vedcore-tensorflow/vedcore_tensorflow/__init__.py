"""Models of vedcore in TensorFlow: a `keras.Model`, a SavedModel, and a file for TensorFlow Lite.

Nothing is imported before it is used: TensorFlow takes seconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from vedcore import Entry, hookimpl

__all__ = ["VisionEncoderDecoder", "load", "register_exporters", "write_saved_model", "write_tflite"]

vedcore_api = 1

_HOMES = {
    "VisionEncoderDecoder": "model",
    "load": "loading",
    "write_saved_model": "saving",
    "write_tflite": "saving",
}


@hookimpl
def register_exporters() -> list[Entry]:
    """The targets ``savedmodel`` and ``tflite``."""
    home = "vedcore_tensorflow.exporter"
    return [
        Entry("savedmodel", f"{home}:SavedModelExporter", "a SavedModel, and a folder that Keras trains"),
        Entry("tflite", f"{home}:TFLiteExporter", "one file for TensorFlow Lite, with the whole greedy loop"),
    ]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
