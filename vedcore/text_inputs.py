"""The first half of `TextDecoder.forward`: whether a call fits the decoder, and what it means.

Shape letters: N images, B rows of text (a multiple of N), S encoder tokens, T new text tokens, L text tokens so far,
D width, E width of the encoder states that cross-attention takes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vedcore.config import MAX_VOCAB_SIZE
from vedcore.errors import IncompatibleError, UsageError
from vedcore.layers.cache import DecoderCache
from vedcore.layers.tracing import holds, is_traced

__all__ = ["check_embeddings", "check_encoder_states", "check_ids", "check_room", "count_positions", "full_mask"]


def check_ids(input_ids: Tensor, vocab_size: int) -> None:
    """Refuse ids that are not (B, T) integers, or that the vocabulary does not have.

    Their values are read on a CPU alone: elsewhere that would wait for the device.
    """
    if input_ids.ndim != 2 or input_ids.dtype not in (torch.long, torch.int):
        raise UsageError(
            f"ids of shape {tuple(input_ids.shape)} and type {input_ids.dtype}",
            field="decoder_input_ids",
            hint="give (B, T) of torch.long",
        )
    if is_traced() or not input_ids.is_cpu or not input_ids.numel():
        return
    low, high = (int(end) for end in input_ids.aminmax())
    if low >= 0 and high < vocab_size:
        return
    hint = "use the model's own tokenizer"
    if low < 0:
        hint = "give ids from 0 on; -100 is for labels alone"
    elif high < MAX_VOCAB_SIZE:
        hint = f"leave such tokens out, or first call model.resize_vocabulary({high + 1})"
    raise UsageError(
        f"token ids run from {low} to {high}, but the vocabulary has {vocab_size}",
        field="decoder_input_ids",
        hint=hint,
    )


def check_embeddings(inputs_embeds: Tensor, width: int) -> None:
    """Refuse embeddings that are not (B, T, D)."""
    if inputs_embeds.ndim != 3 or inputs_embeds.shape[-1] != width:
        raise UsageError(
            f"embeddings of shape {tuple(inputs_embeds.shape)}",
            field="decoder_inputs_embeds",
            hint=f"give (B, T, {width})",
        )


def check_encoder_states(states: Tensor, rows: int, width: int) -> None:
    """Refuse encoder states that are not (N, S, E), N dividing the rows."""
    if states.shape[-1] != width:
        raise IncompatibleError(
            f"encoder states of width {states.shape[-1]}, but cross-attention takes {width}",
            field="decoder.cross_attention_hidden_size",
            hint="give what model.project made of what model.encode gave",
        )
    images = states.shape[0]
    if not rows or not images or rows % images:
        raise UsageError(f"{rows} rows of text for {images} images", hint="give every image as many rows")


def check_room(past: int, queries: int, max_positions: int | None) -> None:
    """Refuse more tokens than there are positions."""
    if max_positions is not None and holds(past + queries > max_positions):
        raise IncompatibleError(
            f"a text of {past + queries} tokens, but the decoder has {max_positions} positions",
            field="decoder_input_ids",
            hint=f"cut the text to {max_positions - past} tokens"
            if past < max_positions
            else "begin a new text, without past_key_values",
        )


def count_positions(
    takes_position: Callable[[Tensor | None, Tensor | None], Tensor | None],
    input_ids: Tensor | None,
    padding: Tensor | None,
    cache: DecoderCache | None,
    past: int,
    queries: int,
    device: torch.device,
    prompt_length: int | None,
) -> tuple[Tensor, Tensor | None]:
    """Positions (1 or B, T) of the new tokens, and those taken so far (B, 1), which the cache is to remember."""
    real = None if padding is None else padding[:, past:]  # (B, T)
    begun = None if padding is None else (padding.cumsum(1) > 0)[:, past:]  # (B, T) all but padding at the left
    taken = takes_position(input_ids, begun)
    before = cache.positions if cache is not None else None
    if taken is None and before is None:
        return torch.arange(past, past + queries, device=device)[None], None  # (1, T)
    start = torch.full((1, 1), past, device=device) if before is None else before  # (1 or B, 1)
    every = torch.ones(start.shape[0], queries, dtype=torch.bool, device=device) if begun is None else begun
    after = start + every.long().cumsum(1)  # (B, T)
    last = after[:, -1:] if begun is not None or before is not None else None
    if taken is None:
        return after - 1, last
    counted = start + taken.long().cumsum(1)
    if prompt_length is not None:
        indices = torch.arange(past, past + queries, device=device)
        counted = torch.where(indices < prompt_length, counted, after)
    return torch.where(taken if real is None else taken & real, counted - 1, -1), last


def full_mask(mask: Tensor | None, cache: DecoderCache | None, rows: int, past: int, queries: int) -> Tensor | None:
    """The padding mask (B, L) of all tokens so far, from a mask of the new ones or of all."""
    before = cache.attention_mask if cache is not None else None
    if mask is None and before is None:
        return None
    if mask is not None and (mask.ndim != 2 or mask.shape[0] != rows or mask.shape[1] not in (queries, past + queries)):
        raise UsageError(
            f"a mask of shape {tuple(mask.shape)} for {rows} rows of {queries} tokens",
            field="decoder_attention_mask",
            hint=f"give ({rows}, {past + queries})",
        )
    if mask is None:
        assert before is not None
        mask = before.new_ones(rows, queries)
    full = mask.bool()
    if full.shape[1] != past + queries:
        full = torch.cat([full.new_ones(rows, past) if before is None else before, full], 1)
    return full
