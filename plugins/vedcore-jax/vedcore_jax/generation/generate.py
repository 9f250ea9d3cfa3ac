"""`generate`: options and prompts to one call of a compiled search, and its texts.

Shape letters: N images, C channels, H x W pixels, T prompt tokens, L tokens of a text.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from vedcore import GenerationConfig, NonFiniteError, UsageError
from vedcore_jax.generation.beams import write_beams
from vedcore_jax.generation.greedy import Texts, write_rows
from vedcore_jax.generation.options import Search, read_options, search_of
from vedcore_jax.programs import Programs, Tensors

__all__ = ["Generated", "Writer"]


@struct.dataclass
class Generated:
    """The result of `generate`."""

    sequences: Array
    """(N * num_return_sequences, L) ids."""
    scores: Array | None = None
    """(N * num_return_sequences,) of beams: log-probability over length to the power of the penalty."""


class Writer:
    """Writes texts with a model's programs.

    Args:
        programs: of the model.
        folder: whose generation_config.json has the defaults.
    """

    def __init__(self, programs: Programs, folder: Path) -> None:
        self.programs, self.folder = programs, folder
        self._search = jax.jit(self.search, static_argnums=0)

    @cached_property
    def stored(self) -> GenerationConfig:
        """The defaults."""
        return read_options(self.folder)

    def search(
        self, search: Search, tensors: Tensors, pixel_values: Array, prompt: Array, mask: Array, key: Array
    ) -> Texts:
        """Texts of images (N, C, H, W) that go on from prompts (N, T), as a pure function."""
        write = write_beams if search.num_beams > 1 else write_rows
        return write(self.programs, search, tensors, pixel_values, prompt, mask, key)

    def write(
        self,
        tensors: Tensors,
        pixel_values: Any,
        prompt: Any,
        mask: Any,
        key: Array | None,
        options: Mapping[str, Any],
    ) -> Generated:
        """As `JaxModel.generate`."""
        pixel_values = jnp.asarray(pixel_values)
        images, graphs = pixel_values.shape[0], self.programs.graphs
        length = 1 if prompt is None else prompt.shape[1]
        search, seed = search_of(self.stored, options, graphs, length)
        if prompt is None and search.start < 0:
            hint = "give decoder_start_token_id, or decoder_input_ids"
            raise UsageError("the model has no start id", field="decoder_start_token_id", hint=hint)
        prompt = jnp.full((images, 1), search.start) if prompt is None else jnp.asarray(prompt, int)
        if prompt.shape[0] != images:
            message = f"{prompt.shape[0]} texts for {images} images"
            raise UsageError(message, field="decoder_input_ids", hint="give one text for each image")
        mask = jnp.ones(prompt.shape, bool) if mask is None else jnp.asarray(mask, bool)
        key = jax.random.key(seed) if key is None else key
        texts = self._search(search, tensors, pixel_values, prompt, mask, key)
        if isinstance(texts.length, jax.core.Tracer):
            return Generated(texts.sequences, texts.scores)
        if texts.spoilt:
            raise NonFiniteError(
                "NaN in the logits", field="logits", hint="check the weights, the images, and the dtype"
            )
        return Generated(texts.sequences[:, : int(texts.length)], texts.scores)
