"""The whole of greedy search as one StableHLO blob, which runs wherever JAX does, without our code.

It is a function ``(tensors, pixel_values (N, C, H, W) float32) -> ids (N, L)``, for any N: ``tensors`` is a dict of all
of model.safetensors and constants.safetensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
from jax import Array

from vedcore import GenerationConfig, UsageError
from vedcore_jax.generation.options import search_of
from vedcore_jax.model import JaxModel

__all__ = ["BLOB", "PLATFORMS", "write_blob"]

BLOB = "generate.stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")


def write_blob(
    model: JaxModel, path: Path, max_new_tokens: int | None = None, platforms: tuple[str, ...] = PLATFORMS
) -> None:
    """Write the blob of a model.

    Args:
        model: of the functions; its parameters are inputs of the blob.
        path: of the new file.
        max_new_tokens: of its texts; as the folder's generation_config.json says by default, or else as many as the
            decoder has positions.
        platforms: where it may run.

    Raises:
        UsageError: an image size that varies, or a length that the decoder does not have.
    """
    stored = model.writer.stored
    kept = {name: getattr(stored, name) for name in ("max_new_tokens", "max_length") if getattr(stored, name)}
    given = {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}
    search, _ = search_of(GenerationConfig(**kept), given, model.graphs, 1)
    if None in model.graphs.image:
        raise UsageError(
            "the images of this model have no one size", field="image_size", hint="call vedcore_jax.load, and generate"
        )

    def generate(tensors: Mapping[str, Array], pixel_values: Array) -> Array:
        prompt = jnp.full((pixel_values.shape[0], 1), search.start)
        mask = jnp.ones(prompt.shape, bool)
        return model.writer.search(search, tensors, pixel_values, prompt, mask, jax.random.key(0)).sequences

    shaped: Any = jax.ShapeDtypeStruct
    tensors = {name: shaped(each.shape, each.dtype) for name, each in (model.params | model.others).items()}
    (images,) = jax.export.symbolic_shape("images")
    pixels = shaped((images, *model.graphs.image), jnp.float32)
    exported = jax.export.export(jax.jit(generate), platforms=platforms)(tensors, pixels)
    path.write_bytes(exported.serialize())
