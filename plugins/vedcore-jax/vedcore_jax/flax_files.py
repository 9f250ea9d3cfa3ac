"""Parameters from and to ``flax_model.msgpack`` in transformers' names. The core reads and writes it, with torch."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax import Array

from vedcore import CheckpointMismatchError
from vedcore_jax.model import JaxModel

__all__ = ["read_flax", "write_flax"]


def read_flax(model: JaxModel, folder: str | os.PathLike[str]) -> dict[str, Array]:
    """Parameters for a model from a folder with ``flax_model.msgpack``, or with any weights that `vedcore.load` reads.

    Raises:
        CheckpointError: as `vedcore.load`.
        CheckpointMismatchError: the folder's model has other parameters.
    """
    import vedcore

    state: Mapping[str, Any] = vedcore.load(folder).state_dict()
    for name, each in model.params.items():
        if name not in state or tuple(state[name].shape) != each.shape:
            message = f"{name} of shape {each.shape} is not there"
            raise CheckpointMismatchError(message, path=folder, hint="export the model of this folder, and load that")
    return {name: jnp.asarray(state[name].float().numpy()).astype(each.dtype) for name, each in model.params.items()}


def write_flax(model: JaxModel, folder: str | os.PathLike[str], params: Mapping[str, Array] | None = None) -> None:
    """Write a folder with ``flax_model.msgpack`` that transformers 4's ``FlaxVisionEncoderDecoderModel`` opens.

    Args:
        model: of the parameters.
        folder: created.
        params: in place of the model's.

    Raises:
        CheckpointError: the folder cannot be written, or transformers has no such model.
        MissingExtraError: msgpack is not installed.
    """
    import vedcore

    with tempfile.TemporaryDirectory() as place:
        model.save_pretrained(Path(place, "model"), params)
        vedcore.load(Path(place, "model")).save_pretrained(folder, format="flax")
