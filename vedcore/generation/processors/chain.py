"""The chain of logits processors of a call, in transformers' order, each built only when its option is set.

Shape letters: B rows of text, L tokens so far, T prompt tokens, V vocabulary size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vedcore.config import TokenIds, token_id_tuple
from vedcore.generation.options.config import GenerationConfig, Limits
from vedcore.generation.processors.logits import (
    Custom,
    DecayLength,
    Forced,
    LogitsProcessor,
    MinLength,
    NoRepeatNgrams,
    PrefixAllowed,
    PrefixFunction,
    RemoveInvalid,
    Renormalize,
    RepetitionPenalty,
    SequenceBias,
    Suppressed,
)
from vedcore.generation.processors.warpers import make_warpers

__all__ = ["apply_processors", "make_processors"]


def apply_processors(processors: Sequence[LogitsProcessor], input_ids: Tensor, scores: Tensor) -> Tensor:
    """(B, V) scores after all processors, for rows (B, L)."""
    for processor in processors:
        scores = processor(input_ids, scores)
    return scores


def make_processors(
    options: GenerationConfig,
    token_ids: TokenIds,
    limits: Limits,
    prompt_length: int,
    device: torch.device,
    attention_mask: Tensor | None = None,
    *,
    extra: Sequence[LogitsProcessor] = (),
    prefix_allowed_tokens_fn: PrefixFunction | None = None,
    constraint: LogitsProcessor | None = None,
    rows: int | None = None,
    first: int = 0,
) -> list[LogitsProcessor]:
    """The processors that ``options`` ask for, and the caller's own.

    Args:
        options: of the call.
        token_ids: those in force.
        limits: least and greatest length of a row, prompt included.
        prompt_length: tokens of the prompt.
        device: of the scores.
        attention_mask: (B, T) of the prompt, where it is padded at the left.
        extra: the caller's own, which come after all others but the warpers and `Renormalize`.
        prefix_allowed_tokens_fn: ``(image, ids (L,)) -> ids that may follow``.
        constraint: the processor of ``allowed_chars``, ``pattern`` and ``lexicon``.
        rows: rows of each image; ``num_beams / num_beam_groups`` or ``num_return_sequences`` where it is not given.
        first: number of the first image.
    """
    beams = options.num_beams // options.num_beam_groups
    if rows is None:
        rows = beams if options.num_beams > 1 else options.num_return_sequences

    def tensor(ids: tuple[int, ...]) -> Tensor:
        return torch.tensor(ids, dtype=torch.long, device=device)

    eos = tensor(token_ids.eos)
    processors: list[LogitsProcessor] = []
    if options.sequence_bias:
        processors.append(SequenceBias(options.sequence_bias, device))
    if options.repetition_penalty != 1.0:
        skip = None if attention_mask is None else (attention_mask != 0).int().argmax(1)
        processors.append(RepetitionPenalty(options.repetition_penalty, skip))
    if options.no_repeat_ngram_size:
        processors.append(NoRepeatNgrams(options.no_repeat_ngram_size))
    if words := [word for word in options.bad_words_ids if len(word) > 1 or word[0] not in token_ids.eos]:
        processors.append(SequenceBias(tuple((word, -math.inf) for word in words), device))
    if limits.min_length and token_ids.eos:
        processors.append(MinLength(limits.min_length, eos))
    if prefix_allowed_tokens_fn is not None:
        processors.append(PrefixAllowed(prefix_allowed_tokens_fn, rows, rows if options.num_beams > 1 else 1, first))
    if constraint is not None:
        processors.append(constraint)
    if options.forced_bos_token_id is not None:
        processors.append(Forced(1, tensor((options.forced_bos_token_id,))))
    if forced_eos := token_id_tuple(options.forced_eos_token_id):
        processors.append(Forced(limits.max_length - 1, tensor(forced_eos)))
    if options.remove_invalid_values:
        processors.append(RemoveInvalid())
    if options.exponential_decay_length_penalty is not None:
        start, factor = options.exponential_decay_length_penalty
        processors.append(DecayLength(prompt_length + start, factor, eos))
    if options.suppress_tokens:
        processors.append(Suppressed(tensor(options.suppress_tokens)))
    if options.begin_suppress_tokens:
        forced_bos = options.forced_bos_token_id is not None and prompt_length == 1
        processors.append(Suppressed(tensor(options.begin_suppress_tokens), prompt_length + forced_bos))
    processors += map(Custom, extra)
    processors += make_warpers(options, len(token_ids.eos))
    if options.renormalize_logits:
        processors.append(Renormalize())
    return processors
