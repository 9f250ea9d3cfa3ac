"""The programs of a model, as modules of tensors alone, each with the inputs that it is recorded with.

Shape letters: N images, B rows of text (a multiple of N), C channels, H x W pixels, S encoder tokens, E width of the
encoder states that cross-attention takes, T new tokens, P tokens in the cache, V vocabulary size, G heads of keys and
values, K head size.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vedcore.components import parameters_of
from vedcore.errors import IncompatibleError
from vedcore.layers.norm_statistics import batch_norms
from vedcore.loss import cross_entropy
from vedcore.model import VisionEncoderDecoder
from vedcore.text_decoder import TextDecoder
from vedcore.text_inputs import count_positions

__all__ = ["Program", "programs", "shared_copy"]

Tensors = dict[str, Tensor]

IMAGES, ROWS, TOKENS, PAST, SOURCE = 3, 6, 5, 4, 7
"""Sizes with which programs are recorded: all differ, and none is 1, which torch would fix."""


@dataclass(frozen=True)
class Program:
    """A module to record."""

    name: str
    module: nn.Module
    """Called with a dict of tensors, it gives one; its own tensors are in ``model``."""
    inputs: Tensors
    sizes: Mapping[str, Mapping[int, str]]
    """The axes of each input that vary, with a name for each; one that ends with ``?`` may be fixed."""


class _Part(nn.Module):
    """A module whose tensors have the model's names."""

    def __init__(self, model: VisionEncoderDecoder) -> None:
        super().__init__()
        self.model = model


class _Encode(_Part):
    """Images (N, C, H, W) to encoder states as cross-attention takes them, (N, S, E)."""

    def forward(self, inputs: Tensors) -> Tensors:
        encoded = self.model.encoder(inputs["pixel_values"].to(self.model.dtype))
        if encoded.attention_mask is not None:
            raise IncompatibleError(
                "an encoder that masks its tokens cannot be exported",
                field="encoder",
                hint="export a model whose images have one size",
            )
        return {"encoder_hidden_states": self.model.project(encoded)[0]}


class _Cross(_Part):
    """Encoder states (N, S, E) to the keys and values (N, G, S, K) of each layer that sees images."""

    def forward(self, inputs: Tensors) -> Tensors:
        return _named("cross", self.model.decoder.cross(inputs["encoder_hidden_states"]))


class _Positions(_Part):
    """Ids (B, T) and their mask (B, T), True where a token counts, to positions (B, T)."""

    def forward(self, inputs: Tensors) -> Tensors:
        ids, mask, takes = inputs["input_ids"], inputs["attention_mask"], self.model.decoder.takes_position
        positions, _ = count_positions(takes, ids, mask, None, 0, ids.shape[1], ids.device, None)
        return {"positions": positions.expand(ids.shape)}


class _Step(_Part):
    """New tokens behind a cache: their logits, last hidden states, and keys and values. With no past, the prefill."""

    def forward(self, inputs: Tensors) -> Tensors:
        decoder = self.model.decoder
        cache = decoder.make_cache()
        for i, layer in enumerate(cache.layers):
            if f"past_keys.{i}" in inputs:
                layer.keys, layer.values = inputs[f"past_keys.{i}"], inputs[f"past_values.{i}"]
                layer.length = layer.keys.shape[2]
            if f"cross_keys.{i}" in inputs:
                layer.cross = inputs[f"cross_keys.{i}"], inputs[f"cross_values.{i}"]
        out = decoder.run(inputs["input_ids"], inputs["positions"], inputs["mask"], cache=cache)
        return {"logits": out.logits, "last_hidden_state": out.last_hidden_state, **_named("new", out.new or ())}


class _Shift(_Part):
    """Labels (B, T) to the decoder's input (B, T)."""

    def forward(self, inputs: Tensors) -> Tensors:
        return {"input_ids": self.model.prepare_decoder_input_ids_from_labels(inputs["labels"])}


class _Loss(_Part):
    """Logits (B, T, V) and labels (B, T) to the mean loss of the labels that count."""

    def forward(self, inputs: Tensors) -> Tensors:
        return {"loss": cross_entropy(inputs["logits"], inputs["labels"])}


def _named(kind: str, pairs: Iterable[tuple[Tensor, Tensor] | None]) -> Tensors:
    """Keys and values of the layers that have them, by name."""
    return {
        f"{kind}_{name}.{i}": each
        for i, pair in enumerate(pairs)
        for name, each in zip(("keys", "values"), pair or (), strict=False)
    }


def programs(model: VisionEncoderDecoder) -> Iterator[Program]:
    """All programs of a model: those of eval mode, and those of training that differ."""
    evaluated, training = shared_copy(model).eval(), shared_copy(model).train()
    for norm in batch_norms(training):  # a graph changes no statistics
        norm.eval()
    yield from _of(evaluated, "")
    ids = _ids(model.decoder)
    text = {0: "rows", 1: "tokens"}
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids, dtype=torch.bool)}
    yield Program("positions", _Positions(evaluated), inputs, dict.fromkeys(inputs, text))
    yield Program("shift", _Shift(evaluated), {"labels": ids}, {"labels": text})
    inputs = {"logits": torch.zeros(ROWS, TOKENS, model.decoder.vocab_size, dtype=model.dtype), "labels": ids}
    yield Program("loss", _Loss(evaluated), inputs, dict.fromkeys(inputs, text))
    yield from _of(training, ".train")


def _of(model: VisionEncoderDecoder, suffix: str) -> Iterator[Program]:
    """Encode, cross and step of a model in its mode."""
    decoder = model.decoder
    if decoder.relative_positions:
        hint = "export a model whose decoder has learned, sinusoidal or rotary positions"
        raise IncompatibleError("relative positions cannot be exported", field="decoder", hint=hint)
    height, width = model.encoder.preprocessing.image_size
    pixels = torch.zeros(IMAGES, model.num_channels, height, width, dtype=model.dtype)
    varies = {0: "images", 2: "height?", 3: "width?"}
    yield Program(f"encode{suffix}", _Encode(model), {"pixel_values": pixels}, {"pixel_values": varies})

    states = torch.zeros(IMAGES, SOURCE, decoder.cross_attention_size, dtype=model.dtype)
    sizes = {"encoder_hidden_states": {0: "images", 1: "source"}}
    yield Program(f"cross{suffix}", _Cross(model), {"encoder_hidden_states": states}, sizes)

    ids, cache = _ids(decoder), decoder.make_cache()
    with torch.no_grad():
        decoder(ids[:, :PAST], encoder_hidden_states=states, past_key_values=cache, use_cache=True)
    past = _named("past", (layer.since(0) for layer in cache.layers))
    cross = _named("cross", (layer.cross for layer in cache.layers))
    text = {
        "input_ids": ids,
        "positions": torch.arange(PAST, PAST + TOKENS).expand(ROWS, TOKENS),
        "mask": torch.ones(ROWS, 1, TOKENS, PAST + TOKENS, dtype=torch.bool),
    }
    sizes = {
        "input_ids": {0: "rows", 1: "tokens"},
        "positions": {0: "rows", 1: "tokens"},
        "mask": {0: "rows", 2: "tokens", 3: "length"},
        **{name: {0: "rows", 2: "past"} for name in past},
        **{name: {0: "images", 2: "source"} for name in cross},
    }
    inputs = {name: each.contiguous() for name, each in {**text, **past, **cross}.items()}
    yield Program(f"step{suffix}", _Step(model), inputs, sizes)


def _ids(decoder: TextDecoder) -> Tensor:
    """(B, T) ids that are all in the vocabulary."""
    return torch.arange(ROWS * TOKENS).view(ROWS, TOKENS) % decoder.vocab_size


def shared_copy(model: VisionEncoderDecoder) -> VisionEncoderDecoder:
    """A copy with the very tensors of the model, which can be put into another mode, and has no packed weights."""
    tensors: list[Any] = [*parameters_of(model), *model.buffers()]
    return copy.deepcopy(model, {id(each): each for each in tensors})
