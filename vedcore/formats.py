"""Tools for checkpoint formats; docs/stability.md lists them.

A folder is opened by `read_folder`, so that all files are of one save; `load_model` builds the model of a config and
fills it with `Weights`; `save_folder` writes the files as a whole or not at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vedcore.checkpoints.formats import Format, LoadOptions, json_bytes
from vedcore.checkpoints.model_loading import load_model
from vedcore.composer.snapshot_files import read_json
from vedcore.deprecated_names import getattr_for
from vedcore.model_files import MODEL_FILES
from vedcore.processing.tokenizers import parse_tokenizer
from vedcore.weights.folder import FileWriter, save_folder
from vedcore.weights.in_memory import TensorsInMemory
from vedcore.weights.loading import Weights
from vedcore.weights.manifest import FileRecord
from vedcore.weights.opening import open_tensors
from vedcore.weights.saving import weight_files
from vedcore.weights.snapshot import Snapshot, read_folder

__all__ = [
    "MODEL_FILES",
    "FileRecord",
    "FileWriter",
    "Format",
    "LoadOptions",
    "Snapshot",
    "TensorsInMemory",
    "Weights",
    "json_bytes",
    "load_model",
    "open_tensors",
    "parse_tokenizer",
    "read_folder",
    "read_json",
    "save_folder",
    "weight_files",
]

if not TYPE_CHECKING:  # a type checker would take any name for one of this module
    __getattr__ = getattr_for(__name__)
