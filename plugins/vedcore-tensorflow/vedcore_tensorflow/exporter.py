"""The targets ``savedmodel`` and ``tflite`` of ``vedcore export``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vedcore.export import OPERATIONS, Exporter, Graphs

__all__ = ["SAVED_MODEL", "TFLITE", "SavedModelExporter", "TFLiteExporter"]

SAVED_MODEL = "saved_model"
"""Folder of the SavedModel, within that of the export."""
TFLITE = "model.tflite"
HERE = frozenset(OPERATIONS)


class SavedModelExporter(Exporter):
    """A SavedModel; the folder can be loaded by `vedcore_tensorflow.load` too, to be trained."""

    needs = ("tensorflow", "h5py")
    install = "pip install vedcore-tensorflow"
    operations = HERE
    runtime = "vedcore_tensorflow.runtimes:SavedModelRuntime"

    def write(self, folder: Path, graphs: Graphs, **options: Any) -> None:
        """Add ``saved_model/`` to the folder; the options are those of `vedcore_tensorflow.write_saved_model`."""
        from vedcore_tensorflow import load, write_saved_model

        write_saved_model(load(folder), folder / SAVED_MODEL, **options)


class TFLiteExporter(Exporter):
    """A file for TensorFlow Lite."""

    needs = ("tensorflow", "h5py")
    install = "pip install vedcore-tensorflow"
    operations = HERE
    runtime = "vedcore_tensorflow.runtimes:TFLiteRuntime"

    def write(self, folder: Path, graphs: Graphs, **options: Any) -> None:
        """Add ``model.tflite`` to the folder; the options are those of `vedcore_tensorflow.write_tflite`."""
        from vedcore_tensorflow import load, write_tflite

        write_tflite(load(folder), folder / TFLITE, **options)
