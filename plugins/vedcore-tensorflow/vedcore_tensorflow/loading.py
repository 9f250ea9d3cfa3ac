"""Models from folders: exports, and checkpoints of PyTorch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from vedcore import CheckpointError, IncompatibleError
from vedcore.errors import printable
from vedcore.export import GRAPH, read_graphs
from vedcore.model_files import GENERATION_CONFIG, PREPROCESSOR_CONFIG
from vedcore_tensorflow.model import VisionEncoderDecoder
from vedcore_tensorflow.programs import read_arrays

__all__ = ["load"]

RECORD = """
import sys
from pathlib import Path
from typing import Any
import vedcore
from vedcore.export.recording import record
try:
    record(vedcore.load(sys.argv[1]), Path(sys.argv[2]))
except vedcore.VedcoreError as error:
    sys.exit(str(error))
"""
"""In a process of its own: torch's triton cannot be imported after TensorFlow."""


def load(folder: str | os.PathLike[str]) -> VisionEncoderDecoder:
    """A `keras.Model` with the weights of a model.

    Args:
        folder: of an export, which needs no torch; or any model that `vedcore.load` opens, such as a folder of
            transformers' ``VisionEncoderDecoderModel``, which is first recorded with torch.

    Raises:
        CheckpointError: the folder is damaged, or no model.
        IncompatibleError: a model that cannot be recorded, or that does not fit its graphs.
    """
    if not Path(folder, GRAPH).is_file():
        with tempfile.TemporaryDirectory() as parent:
            recorded = Path(parent, "model")
            done = subprocess.run(
                [sys.executable, "-c", RECORD, os.fspath(folder), recorded], capture_output=True, text=True, check=False
            )
            if done.returncode:
                said = printable(done.stderr.strip().rpartition("\n")[2])
                hint = "run vedcore export there by hand to see all of it"
                raise IncompatibleError(f"{os.fspath(folder)} cannot be recorded: {said}", hint=hint)
            return load(recorded)
    folder = Path(folder)
    read_graphs(folder)  # for its errors, with the path
    options, size = _settings(folder / GENERATION_CONFIG), _settings(folder / PREPROCESSOR_CONFIG).get("image_size")
    model = VisionEncoderDecoder((folder / GRAPH).read_text(encoding="utf-8"), options, size)
    model.set_arrays(read_arrays(folder))
    return model


def _settings(path: Path) -> dict[str, Any]:
    """A file of JSON; nothing where it is not there."""
    try:
        found: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
    except ValueError:
        raise CheckpointError("not JSON", path=path, hint="export the model anew") from None
    return found
