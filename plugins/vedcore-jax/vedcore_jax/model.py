"""A model in JAX: parameters apart from the functions of them, by the names that transformers' Flax classes have.

Shape letters: N images, B rows of text (a multiple of N), C channels, H x W pixels, S encoder tokens, E width of the
encoder states, T text tokens, D width of the decoder, V vocabulary size.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from vedcore import UsageError
from vedcore.export import Graphs, read_graphs
from vedcore_jax.generation.generate import Generated, Writer
from vedcore_jax.programs import Cache, Programs
from vedcore_jax.weights import cast, read_tensors, save_params

__all__ = ["DecoderOutput", "EncoderOutput", "JaxModel", "Output", "load"]


@struct.dataclass
class Output:
    """Of a forward pass."""

    logits: Array
    """(B, T, V)."""
    loss: Array | None = None
    """() the mean loss of the labels, where they are given."""
    encoder_last_hidden_state: Array | None = None
    """(N, S, E) as cross-attention takes it."""
    decoder_last_hidden_state: Array | None = None
    """(B, T, D)."""


@struct.dataclass
class EncoderOutput:
    """Of `JaxModel.encode`."""

    last_hidden_state: Array
    """(N, S, E) as cross-attention takes it."""


@struct.dataclass
class DecoderOutput:
    """Of `JaxModel.decode`."""

    logits: Array
    """(B, T, V)."""
    last_hidden_state: Array
    """(B, T, D)."""
    past_key_values: Cache | None = None


class JaxModel:
    """A model from an export.

    ``params`` is a flat dict of its parameters by the names of its weights. All methods take others in their place,
    as ``params=``; `apply` is a pure function of them, for `jax.jit` and `jax.grad`.

    Args:
        folder: of an export.
        dtype: to compute with, such as ``jnp.bfloat16``; the parameters keep theirs.

    Raises:
        CheckpointError: not an export, one of another version, or a damaged one.
        IncompatibleError: a dtype that is not one of floats.
    """

    params: dict[str, Array]

    def __init__(self, folder: str | os.PathLike[str], dtype: Any = None) -> None:
        if dtype is not None and not jnp.issubdtype(jnp.dtype(dtype), jnp.floating):
            hint = "give jnp.float32, jnp.bfloat16, jnp.float16 or jnp.float64"
            raise UsageError(f"{jnp.dtype(dtype).name} cannot be computed with", field="dtype", hint=hint)
        self.folder = Path(folder)
        self.graphs: Graphs = read_graphs(self.folder)
        self.programs = Programs(self.graphs, dtype)
        self.params, self.others = read_tensors(self.folder, self.graphs)
        self.writer = Writer(self.programs, self.folder)
        self._forward: Callable[..., Output] = jax.jit(self.apply, static_argnames="train")

    @property
    def dtype(self) -> Any:
        """The type that it computes with."""
        return self.programs.dtype

    def apply(
        self,
        params: Mapping[str, Array],
        pixel_values: Array,
        decoder_input_ids: Array | None = None,
        decoder_attention_mask: Array | None = None,
        decoder_position_ids: Array | None = None,
        labels: Array | None = None,
        train: bool = False,
        dropout_rng: Array | None = None,
    ) -> Output:
        """A forward pass, as a pure function.

        Args:
            params: as ``self.params``.
            pixel_values: (N, C, H, W).
            decoder_input_ids: (B, T); made of the labels where they are not given.
            decoder_attention_mask: (B, T) 0 or False where no token attends.
            decoder_position_ids: (B, T) in place of those that the decoder counts.
            labels: (B, T), -100 where they do not count.
            train: drop at random.
            dropout_rng: the key for it.

        Raises:
            UsageError: neither ids nor labels, or ``train`` without a key.
        """
        key = _key(train, dropout_rng)
        tensors = {**self.others, **params}
        if decoder_input_ids is None:
            if labels is None:
                raise UsageError("there is no text", field="decoder_input_ids", hint="give decoder_input_ids or labels")
            decoder_input_ids = self.programs.shift(labels)
        states = self.programs.encode(tensors, pixel_values, key)
        ids = jnp.asarray(decoder_input_ids)
        out = self.programs.whole(tensors, states, ids, decoder_attention_mask, decoder_position_ids, key)
        loss = None if labels is None else self.programs.loss(out["logits"], labels)
        return Output(out["logits"], loss, states, out["last_hidden_state"])

    def __call__(
        self,
        pixel_values: Array,
        decoder_input_ids: Array | None = None,
        decoder_attention_mask: Array | None = None,
        decoder_position_ids: Array | None = None,
        *,
        labels: Array | None = None,
        train: bool = False,
        params: Mapping[str, Array] | None = None,
        dropout_rng: Array | None = None,
    ) -> Output:
        """A forward pass in one `jax.jit`: `apply` with the model's parameters, or with ``params``."""
        return self._forward(
            self._params(params),
            jnp.asarray(pixel_values),
            decoder_input_ids,
            decoder_attention_mask,
            decoder_position_ids,
            labels,
            train=train,
            dropout_rng=dropout_rng,
        )

    def encode(
        self,
        pixel_values: Array,
        *,
        train: bool = False,
        params: Mapping[str, Array] | None = None,
        dropout_rng: Array | None = None,
    ) -> EncoderOutput:
        """Images (N, C, H, W) to encoder states (N, S, E)."""
        tensors = {**self.others, **self._params(params)}
        return EncoderOutput(self.programs.encode(tensors, pixel_values, _key(train, dropout_rng)))

    def init_cache(
        self,
        batch_size: int,
        max_length: int,
        encoder_outputs: Any,
        *,
        params: Mapping[str, Array] | None = None,
    ) -> Cache:
        """An empty cache.

        Args:
            batch_size: B, a multiple of the images.
            max_length: tokens that it has room for.
            encoder_outputs: of `encode`, or its encoder states; keys and values are computed once an image.
            params: in place of the model's.
        """
        tensors = {**self.others, **self._params(params)}
        return self.programs.cache(tensors, _states(encoder_outputs), batch_size, max_length)

    def decode(
        self,
        decoder_input_ids: Array,
        encoder_outputs: Any = None,
        decoder_attention_mask: Array | None = None,
        decoder_position_ids: Array | None = None,
        past_key_values: Cache | None = None,
        *,
        train: bool = False,
        params: Mapping[str, Array] | None = None,
        dropout_rng: Array | None = None,
    ) -> DecoderOutput:
        """Logits of text tokens.

        Args:
            decoder_input_ids: (B, T) whole texts, or with a cache their next tokens.
            encoder_outputs: of `encode`, or its encoder states; not with a cache, which has the images.
            decoder_attention_mask: (B, T) of these tokens.
            decoder_position_ids: (B, T) of these tokens.
            past_key_values: of `init_cache`, or of an earlier call. It is not changed; the output has the next one.
            train: drop at random; not with a cache.
            params: in place of the model's.
            dropout_rng: the key for it.

        Raises:
            UsageError: neither encoder states nor a cache, or a cache while training.
        """
        tensors, ids = {**self.others, **self._params(params)}, jnp.asarray(decoder_input_ids)
        key = _key(train, dropout_rng)
        if past_key_values is not None:
            if train:
                raise UsageError("a cache is not for training", field="past_key_values", hint="leave it out")
            out, cache = self.programs.step(
                tensors, ids, past_key_values, decoder_attention_mask, decoder_position_ids, prompt=True
            )
            return DecoderOutput(out["logits"], out["last_hidden_state"], cache)
        if encoder_outputs is None:
            raise UsageError("there is no image", field="encoder_outputs", hint="give what encode gave, or a cache")
        states = _states(encoder_outputs)
        out = self.programs.whole(tensors, states, ids, decoder_attention_mask, decoder_position_ids, key)
        return DecoderOutput(out["logits"], out["last_hidden_state"])

    def generate(
        self,
        pixel_values: Array,
        decoder_input_ids: Array | None = None,
        decoder_attention_mask: Array | None = None,
        *,
        prng_key: Array | None = None,
        params: Mapping[str, Array] | None = None,
        **options: Any,
    ) -> Generated:
        """Texts of images, in one `jax.jit`: greedy search, sampling or beams.

        Args:
            pixel_values: (N, C, H, W).
            decoder_input_ids: (N, T) the start of each text; the start id by default.
            decoder_attention_mask: (N, T) 0 or False for padding at the left.
            prng_key: for sampling; `jax.random.key` of the option ``seed``, or of 0, by default.
            params: in place of the model's.
            options: of `vedcore_jax.generation.options.SUPPORTED`, in place of the folder's generation_config.json.

        Returns:
            ``sequences`` (N * num_return_sequences, L), the start id first, padded behind their ends, and their
            ``scores``. L is the longest of them, or within another `jax.jit` the greatest length.

        Raises:
            UsageError: an unknown option, one that is not here, or options that contradict each other.
        """
        tensors = {**self.others, **self._params(params)}
        return self.writer.write(tensors, pixel_values, decoder_input_ids, decoder_attention_mask, prng_key, options)

    def save_pretrained(self, folder: str | os.PathLike[str], params: Mapping[str, Array] | None = None) -> None:
        """Write the export with the model's parameters, or with ``params``, for `load` and for `vedcore.load`.

        Args:
            folder: created, or that of the export itself.
            params: in place of the model's.

        Raises:
            CheckpointWriteError: it cannot be written, or has files already.
        """
        save_params(self._params(params), self.graphs, self.folder, Path(folder))

    def to_bf16(self, params: Any, mask: Any = None) -> Any:
        """Parameters as bfloat16; where ``mask``, a pytree of bools, is False as they are."""
        return cast(params, jnp.bfloat16, mask)

    def to_fp16(self, params: Any, mask: Any = None) -> Any:
        """Parameters as float16; ``mask`` as in `to_bf16`."""
        return cast(params, jnp.float16, mask)

    def to_fp32(self, params: Any, mask: Any = None) -> Any:
        """Parameters as float32; ``mask`` as in `to_bf16`."""
        return cast(params, jnp.float32, mask)

    def _params(self, params: Mapping[str, Array] | None) -> Mapping[str, Array]:
        return self.params if params is None else params


def _key(train: bool, dropout_rng: Array | None) -> Array | None:
    """The key to drop with, None where nothing is dropped."""
    if train and dropout_rng is None:
        raise UsageError("train=True drops at random", field="dropout_rng", hint="give dropout_rng=jax.random.key(0)")
    return dropout_rng if train else None


def _states(encoder_outputs: Any) -> Array:
    """(N, S, E) of what `encode` gave, a tuple or an array."""
    if isinstance(encoder_outputs, EncoderOutput):
        return encoder_outputs.last_hidden_state
    return jnp.asarray(encoder_outputs[0] if isinstance(encoder_outputs, (tuple, list)) else encoder_outputs)


def load(folder: str | os.PathLike[str], dtype: Any = None) -> JaxModel:
    """A model from an export: `JaxModel`."""
    return JaxModel(folder, dtype)
