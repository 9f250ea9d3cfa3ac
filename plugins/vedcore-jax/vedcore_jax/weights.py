"""The tensors of an export, from its safetensors files to arrays of JAX, and the types of parameters."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from safetensors import SafetensorError
from safetensors.flax import load_file, save_file

from vedcore import CheckpointCorruptError, CheckpointMismatchError, CheckpointNotFoundError, CheckpointWriteError
from vedcore.export import CONSTANTS, Graphs
from vedcore.model_files import MANIFEST, WEIGHTS

__all__ = ["cast", "read_tensors", "save_params"]

AGAIN = "export the model anew: vedcore export MODEL FOLDER"


def read_tensors(folder: Path, graphs: Graphs) -> tuple[dict[str, Array], dict[str, Array]]:
    """The parameters of an export, and its other tensors.

    Raises:
        CheckpointNotFoundError: a file is missing.
        CheckpointCorruptError: a file is damaged.
        CheckpointMismatchError: a tensor that the graphs read is missing, or of another shape.
    """
    found = _read(folder / WEIGHTS) | _read(folder / CONSTANTS)
    for graph in graphs.graphs.values():
        for port in graph.tensors:
            shape = found[port.name].shape if port.name in found else None
            if shape is None or shape != port.shape:
                problem = "is missing" if shape is None else f"has shape {shape}, and {port.shape} is expected"
                raise CheckpointMismatchError(f"{port.name} {problem}", path=folder / WEIGHTS, hint=AGAIN)
    trained = {graphs.ties.get(name, name) for name in graphs.trained}
    params = {name: found.pop(name) for name in list(found) if name in trained}
    return params, found


def _read(path: Path) -> dict[str, Array]:
    try:
        return dict(load_file(path))
    except (FileNotFoundError, IsADirectoryError):
        raise CheckpointNotFoundError("no such file", path=path, hint=AGAIN) from None
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointCorruptError(str(error), path=path, hint=AGAIN) from None


def save_params(params: Mapping[str, Array], graphs: Graphs, source: Path, folder: Path) -> None:
    """Write an export with other parameters, in the types of those stored.

    Args:
        params: by name.
        graphs: of the export.
        source: the export.
        folder: created, or ``source`` itself; ``vedcore.load`` opens it too.

    Raises:
        CheckpointWriteError: it cannot be written, or has files already.
    """
    try:
        if folder.resolve() != source.resolve():
            if folder.exists() and any(folder.iterdir()):
                hint = "name a new folder, or that of the export"
                raise CheckpointWriteError("has files already", path=folder, hint=hint)
            shutil.copytree(source, folder, dirs_exist_ok=True)
        stored = _read(folder / WEIGHTS)
        changed = {name: params[name].astype(each.dtype) if name in params else each for name, each in stored.items()}
        save_file(changed, folder / f"{WEIGHTS}.new", metadata=dict(graphs.ties))
        manifest = json.loads((folder / MANIFEST).read_bytes())
        manifest["files"][WEIGHTS] = _record(folder / f"{WEIGHTS}.new")
        (folder / f"{WEIGHTS}.new").replace(folder / WEIGHTS)
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        if isinstance(error, CheckpointWriteError):
            raise
        hint = "check the path, its permissions and the disk"
        raise CheckpointWriteError(str(error.strerror or error), path=folder, hint=hint) from error


def _record(path: Path) -> dict[str, Any]:
    """The entry of a tensor file in a manifest, as `vedcore.weights.manifest` has it."""
    with open(path, "rb") as file:
        length = file.read(8)
        header = file.read(int.from_bytes(length, "little"))
        spans = {name: each["data_offsets"] for name, each in json.loads(header).items() if name != "__metadata__"}
        hashes = {}
        for name, (start, stop) in sorted(spans.items(), key=lambda each: each[1]):
            file.seek(8 + len(header) + start)
            hashes[name] = hashlib.sha256(file.read(stop - start)).hexdigest()
    header_hash = hashlib.sha256(length + header).hexdigest()
    return {"size": path.stat().st_size, "header": header_hash, "tensors": hashes}


def cast(params: Any, dtype: Any, mask: Any = None) -> Any:
    """A pytree of parameters with floats of another type; where ``mask``, a pytree of bools, is False as they are."""

    def one(each: Any, chosen: bool = True) -> Any:
        return each.astype(dtype) if chosen and jnp.issubdtype(each.dtype, jnp.floating) else each

    return jax.tree.map(one, params) if mask is None else jax.tree.map(one, params, mask)
