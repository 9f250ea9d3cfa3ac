"""Tiny decoders of every family with a search over them, and no image encoder."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vedcore.config import TokenIds
from vedcore.generation.options.config import GenerationConfig
from vedcore.generation.request import Request
from vedcore.generation.search import search
from vedcore.generation.state import DecodingState
from vedcore.outputs import DecoderOutput, GenerateOutput
from vedcore.text_decoder import TextDecoder
from vedcore_decoders import register_decoders
from vedcore_decoders.gpt2 import GPT2Decoder

VOCABULARY, POSITIONS, WIDTH = 40, 48, 24
_BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": POSITIONS,
}
_BART = {
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "decoder_layers": 2,
    "decoder_attention_heads": 3,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": POSITIONS,
}
_GPT2 = {"vocab_size": VOCABULARY, "n_embd": WIDTH, "n_layer": 2, "n_head": 3, "n_positions": POSITIONS}
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": _BERT,
    "roberta": {**_BERT, "max_position_embeddings": POSITIONS + 2},
    "distilbert": {
        "vocab_size": VOCABULARY,
        "dim": WIDTH,
        "n_layers": 2,
        "n_heads": 3,
        "hidden_dim": 40,
        "max_position_embeddings": POSITIONS,
    },
    "gpt2": {**_GPT2, "bos_token_id": 1, "eos_token_id": 2},
    "bart": _BART,
    "mbart": _BART,
    "trocr": {**_BART, "use_learned_position_embeddings": False},
    "whole": {**_GPT2, "bos_token_id": 1, "eos_token_id": 2},
}
"""Settings by family; ``whole`` overrides `TextDecoder.forward` and knows one length for all rows."""


class Whole(GPT2Decoder):
    """Takes the number of tokens in the cache as the position of the next, in every row."""

    def forward(self, *args: Any, **kwargs: Any) -> DecoderOutput:
        cache = kwargs.get("past_key_values")
        assert cache is None or cache.attention_mask is None
        return super().forward(*args, **kwargs)


@functools.cache
def decoder(family: str, seed: int = 0, scale: float = 0.4) -> TextDecoder:
    """A decoder of a family, with weights spread so widely that no argmax depends on rounding."""
    entries = {entry.name: entry for entry in register_decoders()}
    cls: Any = Whole if family == "whole" else entries[family].load()
    made: TextDecoder = cls(cls.make_config(None, {**FAMILIES[family], "tie_word_embeddings": False})).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            spread = scale if parameter.ndim > 1 else scale / 10  # a bias would write the same whatever the image
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
            if name.endswith("weight") and "norm" in name:
                parameter.add_(1.0)
    return made


def images(count: int, seed: int = 0) -> Tensor:
    """(N, 5, D) encoder states."""
    return torch.randn(count, 5, WIDTH, generator=torch.Generator().manual_seed(seed)) * 3


def image_mask(count: int) -> Tensor:
    """(N, 5) a mask with another padding for each image."""
    return torch.arange(5) < 5 - torch.arange(count)[:, None] % 3


def state_and_request(
    made: TextDecoder,
    count: int = 1,
    *,
    at: int | None = None,
    seed: int = 0,
    prompt: Tensor | None = None,
    mask: Tensor | None = None,
    use_cache: bool = True,
    fields: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[DecodingState, Request]:
    """A fresh state over ``count`` images, or over image ``at`` alone, and the request."""
    states, shown = images(count, seed), image_mask(count)
    prompt = torch.full((count, 1), 3) if prompt is None else prompt
    if at is not None:
        states, shown, prompt = states[at : at + 1], shown[at : at + 1], prompt[at : at + 1]
        mask = None if mask is None else mask[at : at + 1]
    config = GenerationConfig().with_options(use_cache=use_cache, **options)
    limits = config.limits(prompt.shape[1], made.max_positions or POSITIONS)
    request = Request(prompt, config, config.token_ids(TokenIds(), VOCABULARY), limits, mask, **(fields or {}))
    inner = {name: getattr(config, name) for name in ("output_attentions", "output_hidden_states")}
    return DecodingState(made, states, shown, mask, limits.max_length, use_cache, **inner), request


def write(made: TextDecoder, count: int = 1, drafter: Any = None, **options: Any) -> GenerateOutput:
    """A search over ``count`` images; see `state_and_request`."""
    state, request = state_and_request(made, count, **options)
    return search(state, replace(request, drafter=drafter))
