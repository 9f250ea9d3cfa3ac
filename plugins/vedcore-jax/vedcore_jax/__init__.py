"""Models of vedcore in JAX and Flax: `load` opens what ``vedcore export`` wrote. Needs no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vedcore import Entry, hookimpl
from vedcore_jax.packages import need

if TYPE_CHECKING:
    from vedcore_jax.model import JaxModel

__all__ = ["linen_module", "load", "nnx_module", "read_flax", "register_exporters", "write_flax"]

vedcore_api = 1


def load(folder: str | os.PathLike[str], dtype: Any = None) -> JaxModel:
    """A model in JAX, from the folder of an export.

    Args:
        folder: that ``vedcore export`` or ``model.export`` wrote.
        dtype: to compute with, such as ``jnp.bfloat16``; the parameters keep theirs.

    Raises:
        CheckpointError: not an export, one of another version, or a damaged one.
        MissingExtraError: JAX or Flax is not installed.
    """
    need("jax", "flax")
    from vedcore_jax import model

    return model.load(folder, dtype)


def linen_module(folder: str | os.PathLike[str], dtype: Any = None) -> Any:
    """A `flax.linen.Module` of the model; its ``init`` gives the export's parameters. Arguments as of `load`."""
    need("jax", "flax")
    from vedcore_jax.modules import linen_module

    return linen_module(load(folder, dtype))


def nnx_module(folder: str | os.PathLike[str], dtype: Any = None) -> Any:
    """A `flax.nnx.Module` of the model, with the export's parameters. Arguments as of `load`."""
    need("jax", "flax")
    from vedcore_jax.modules import nnx_module

    return nnx_module(load(folder, dtype))


def read_flax(model: JaxModel, folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Parameters for a model from a folder with ``flax_model.msgpack`` in transformers' names; torch reads it.

    Raises:
        CheckpointError: the folder cannot be read, or its model has other parameters.
    """
    from vedcore_jax import flax_files

    return flax_files.read_flax(model, folder)


def write_flax(model: JaxModel, folder: str | os.PathLike[str], params: Mapping[str, Any] | None = None) -> None:
    """Write a folder with ``flax_model.msgpack``, which ``FlaxVisionEncoderDecoderModel`` opens; torch writes it.

    Args:
        model: of the parameters.
        folder: created.
        params: in place of the model's.

    Raises:
        CheckpointError: the folder cannot be written, or transformers has no such model.
        MissingExtraError: msgpack is not installed.
    """
    from vedcore_jax import flax_files

    flax_files.write_flax(model, folder, params)


@hookimpl
def register_exporters() -> list[Entry]:
    """The target."""
    return [Entry("jax", "vedcore_jax.exporter:JaxExporter", "JAX and Flax, and greedy search as a StableHLO blob")]
