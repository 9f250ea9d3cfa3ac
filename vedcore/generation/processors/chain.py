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

__all__ = ["apply_processors", "make_processors", "replaced_options"]

OPTION_OF_CLASS = {
    "SequenceBiasLogitsProcessor": "sequence_bias",
    "RepetitionPenaltyLogitsProcessor": "repetition_penalty",
    "NoRepeatNGramLogitsProcessor": "no_repeat_ngram_size",
    "NoBadWordsLogitsProcessor": "bad_words_ids",
    "MinLengthLogitsProcessor": "min_length",
    "MinNewTokensLengthLogitsProcessor": "min_new_tokens",
    "PrefixConstrainedLogitsProcessor": "prefix_allowed_tokens_fn",
    "ForcedBOSTokenLogitsProcessor": "forced_bos_token_id",
    "ForcedEOSTokenLogitsProcessor": "forced_eos_token_id",
    "InfNanRemoveLogitsProcessor": "remove_invalid_values",
    "ExponentialDecayLengthPenalty": "exponential_decay_length_penalty",
    "SuppressTokensLogitsProcessor": "suppress_tokens",
    "SuppressTokensAtBeginLogitsProcessor": "begin_suppress_tokens",
}
"""Names of transformers' processors, and the options that make them too. Those that sample are not among them: in
transformers the caller's and the option's both run."""


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
    forced_length: int | None = None,
) -> list[LogitsProcessor]:
    """The processors that ``options`` ask for, and the caller's own.

    Args:
        options: of the call.
        token_ids: those in force.
        limits: least and greatest length of a row, prompt included.
        prompt_length: tokens of the prompt.
        device: of the scores.
        attention_mask: (B, T) of the prompt, where it is padded at the left.
        extra: the caller's own, which come after all others but the warpers and `Renormalize`. One of a class of
            transformers' that an option makes too, by `OPTION_OF_CLASS`, takes the place of the option's.
        prefix_allowed_tokens_fn: ``(image, ids (L,)) -> ids that may follow``.
        constraint: the processor of ``allowed_chars``, ``pattern`` and ``lexicon``.
        rows: rows of each image; ``num_beams / num_beam_groups`` or ``num_return_sequences`` where it is not given.
        first: number of the first image.
        forced_length: the length for ``forced_eos_token_id``; ``limits.max_length`` where it is not given.
    """
    beams = options.num_beams // options.num_beam_groups
    if rows is None:
        rows = beams if options.num_beams > 1 else options.num_return_sequences

    def tensor(ids: tuple[int, ...]) -> Tensor:
        return torch.tensor(ids, dtype=torch.long, device=device)

    eos = tensor(token_ids.eos)
    made: list[tuple[str, LogitsProcessor]] = []
    if options.sequence_bias:
        made.append(("sequence_bias", SequenceBias(options.sequence_bias, device)))
    if options.repetition_penalty != 1.0:
        skip = None if attention_mask is None else (attention_mask != 0).int().argmax(1)
        made.append(("repetition_penalty", RepetitionPenalty(options.repetition_penalty, skip)))
    if options.no_repeat_ngram_size:
        made.append(("no_repeat_ngram_size", NoRepeatNgrams(options.no_repeat_ngram_size)))
    if words := [word for word in options.bad_words_ids if len(word) > 1 or word[0] not in token_ids.eos]:
        made.append(("bad_words_ids", SequenceBias(tuple((word, -math.inf) for word in words), device)))
    if limits.min_length and token_ids.eos:
        made.append(("min_length", MinLength(limits.min_length, eos)))
        if extra and options.min_new_tokens:  # transformers has both then, and the caller's takes the place of one
            made.append(("min_new_tokens", MinLength(limits.min_length, eos)))
    if prefix_allowed_tokens_fn is not None:
        width = rows if options.num_beams > 1 else 1
        made.append(("prefix_allowed_tokens_fn", PrefixAllowed(prefix_allowed_tokens_fn, rows, width, first)))
    if constraint is not None:
        made.append(("constraint", constraint))
    if options.forced_bos_token_id is not None:
        made.append(("forced_bos_token_id", Forced(1, tensor((options.forced_bos_token_id,)))))
    if forced_eos := token_id_tuple(options.forced_eos_token_id):
        made.append(("forced_eos_token_id", Forced((forced_length or limits.max_length) - 1, tensor(forced_eos))))
    if options.remove_invalid_values:
        made.append(("remove_invalid_values", RemoveInvalid()))
    if options.exponential_decay_length_penalty is not None:
        start, factor = options.exponential_decay_length_penalty
        made.append(("exponential_decay_length_penalty", DecayLength(prompt_length + start, factor, eos)))
    if options.suppress_tokens:
        made.append(("suppress_tokens", Suppressed(tensor(options.suppress_tokens))))
    if options.begin_suppress_tokens:
        forced_bos = options.forced_bos_token_id is not None and prompt_length == 1
        begin = prompt_length + forced_bos
        made.append(("begin_suppress_tokens", Suppressed(tensor(options.begin_suppress_tokens), begin)))
    processors = _merged(made, extra)
    processors += make_warpers(options, len(token_ids.eos))
    if options.renormalize_logits:
        processors.append(Renormalize())
    return processors


def replaced_options(extra: Sequence[LogitsProcessor]) -> dict[str, LogitsProcessor]:
    """The options whose processors the caller's own ones would replace, each with the first that does."""
    found: dict[str, LogitsProcessor] = {}
    for processor in extra:
        if (option := OPTION_OF_CLASS.get(type(processor).__name__)) is not None:
            found.setdefault(option, processor)
    return found


def _merged(made: Sequence[tuple[str, LogitsProcessor]], extra: Sequence[LogitsProcessor]) -> list[LogitsProcessor]:
    """Those of the options, or the caller's in their places, then the rest of the caller's."""
    replaced = replaced_options(extra)
    own = {option: replaced[option] for option, _ in made if option in replaced}
    rest = [processor for processor in extra if not any(processor is one for one in own.values())]
    merged: list[LogitsProcessor] = [Custom(own[option]) if option in own else processor for option, processor in made]
    return merged + [Custom(processor) for processor in rest]
