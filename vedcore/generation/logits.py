"""What changes the scores of the next token, in transformers' order, each built only when its option is set.

A processor takes the rows so far and the scores, and returns scores without changing those given. Sampling and greedy
search hand it logits, beam search log-probabilities, as transformers does.

Shape letters: B rows of text, L tokens so far, V vocabulary size, G n-gram size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral

import torch
from torch import Tensor

from vedcore.config import TokenIds, token_id_tuple
from vedcore.errors import GenerationError, UsageError
from vedcore.generation.config import GenerationConfig, Limits
from vedcore.generation.warpers import make_warpers

__all__ = [
    "Custom",
    "DecayLength",
    "Forced",
    "MinLength",
    "NoRepeatNgrams",
    "PrefixAllowed",
    "PrefixFunction",
    "Processor",
    "RemoveInvalid",
    "Renormalize",
    "RepetitionPenalty",
    "SequenceBias",
    "Suppressed",
    "make_processors",
]

Processor = Callable[[Tensor, Tensor], Tensor]
"""``(input_ids (B, L), scores (B, V)) -> scores (B, V)``."""
PrefixFunction = Callable[[int, Tensor], Sequence[int]]
"""``(number of the image, ids (L,) of a row so far) -> tokens that may follow``."""
GREATEST = 1e30
"""More than any sum of log-probabilities, and finite times any of them."""


@dataclass(frozen=True)
class RepetitionPenalty:
    """Makes tokens that a row holds less probable (Keskar et al. 2019, https://arxiv.org/abs/1909.05858)."""

    penalty: float
    skip: Tensor | None = None
    """(B,) tokens of padding at the left of each row, which do not count as held."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        vocab_size = scores.shape[1]
        if self.skip is not None:  # padding writes to a column past the vocabulary
            columns = torch.arange(input_ids.shape[1], device=input_ids.device)
            input_ids = input_ids.masked_fill(columns < self.skip[:, None], vocab_size)
            scores = torch.nn.functional.pad(scores, (0, 1))
        held = scores.gather(1, input_ids)  # (B, L)
        held = torch.where(held < 0, held * self.penalty, held / self.penalty)
        return scores.scatter(1, input_ids, held)[:, :vocab_size]


@dataclass(frozen=True)
class NoRepeatNgrams:
    """Forbids the token that would complete an n-gram that the row already holds."""

    size: int

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        length = input_ids.shape[1]
        if length < self.size:
            return scores
        windows = input_ids.unfold(1, self.size, 1)  # (B, L - G + 1, G)
        ending = input_ids[:, length - self.size + 1 :]  # (B, G - 1)
        repeats = (windows[:, :, :-1] == ending[:, None]).all(2)  # (B, L - G + 1)
        spare = scores.shape[1]  # windows that do not match mark a column past the vocabulary
        marks = torch.zeros(scores.shape[0], spare + 1, dtype=torch.bool, device=scores.device)
        marks.scatter_(1, torch.where(repeats, windows[:, :, -1], spare), True)
        return scores.masked_fill(marks[:, :spare], -math.inf)


@dataclass(frozen=True)
class SequenceBias:
    """Adds to the score of the token that would complete a run of tokens; minus infinity forbids it."""

    biases: tuple[tuple[tuple[int, ...], float], ...]
    """Runs and what to add; of equal runs the last counts."""
    device: torch.device

    @cached_property
    def _by_length(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Runs of K equal lengths P + 1 at once: (K, P) what stands before the last token, (K,) that, (K,) the bias.

        Single tokens first, then as given: sums of floats depend on the order.
        """
        groups: dict[int, list[tuple[tuple[int, ...], float]]] = {1: []}
        for run, bias in dict(self.biases).items():
            groups.setdefault(len(run), []).append((run, bias))
        built = []
        for group in filter(None, groups.values()):
            runs = torch.tensor([run for run, _ in group], device=self.device)
            built.append((runs[:, :-1], runs[:, -1], torch.tensor([bias for _, bias in group], device=self.device)))
        return built

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        length = input_ids.shape[1]
        total = torch.zeros_like(scores)
        for before, last, bias in self._by_length:
            if before.shape[1] <= length:
                found = (input_ids[:, None, length - before.shape[1] :] == before).all(2)  # (B, K)
                total.index_add_(1, last, torch.where(found, bias, 0.0).to(scores.dtype))
        return scores + total


@dataclass(frozen=True)
class MinLength:
    """Forbids the end ids until a row, prompt included, is long enough."""

    length: int
    eos: Tensor
    """(number of end ids,) long."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores.index_fill(1, self.eos, -math.inf) if input_ids.shape[1] < self.length else scores


@dataclass(frozen=True)
class Forced:
    """Leaves rows of some length, prompt included, one of some tokens to go on with, all equally probable."""

    length: int
    tokens: Tensor
    """(number of tokens,) long."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if input_ids.shape[1] != self.length:
            return scores
        return torch.full_like(scores, -math.inf).index_fill(1, self.tokens, 0.0)


@dataclass(frozen=True)
class Suppressed:
    """Forbids some tokens, in rows of some length, prompt included, or in all."""

    tokens: Tensor
    """(number of tokens,) long."""
    length: int | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        here = self.length is None or input_ids.shape[1] == self.length
        return scores.index_fill(1, self.tokens, -math.inf) if here else scores


@dataclass(frozen=True)
class PrefixAllowed:
    """Forbids what a function of the caller's does not allow after a row.

    Where all that it allows is forbidden already in all of a prompt's beams, it is allowed again, as in transformers.

    Raises:
        GenerationError: the function allows nothing, or an id that the vocabulary does not have.
    """

    function: PrefixFunction
    rows: int
    """Rows of each prompt, which get its number."""
    beams: int
    """How many rows side by side are beams of one text."""
    first: int = 0
    """Number of the first prompt."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        allowed = [self._allowed(self.first + i // self.rows, row, scores.shape[1]) for i, row in enumerate(input_ids)]
        places = [(i, token) for i, tokens in enumerate(allowed) for token in tokens]
        row, token = torch.tensor(places, device=scores.device).T
        mask = torch.full_like(scores, -math.inf).index_put((row, token), scores.new_zeros(()))
        kept = scores + mask
        stuck = kept.amax(1).isneginf().view(-1, self.beams).all(1).repeat_interleave(self.beams)  # (B,)
        return torch.where(stuck[:, None], mask, kept)

    def _allowed(self, prompt: int, row: Tensor, vocab_size: int) -> list[int]:
        answer = self.function(prompt, row)
        listed = answer.tolist() if isinstance(answer, Tensor) else answer
        tokens = list(listed) if isinstance(listed, Iterable) else []
        if not tokens or not all(isinstance(token, Integral) and 0 <= token < vocab_size for token in tokens):
            message = f"for image {prompt} after {len(row)} tokens it returned {repr(answer)[:60]}"
            hint = f"return a list of ids below {vocab_size}, an end id at least"
            raise GenerationError(message, field="prefix_allowed_tokens_fn", hint=hint)
        return tokens


@dataclass(frozen=True)
class RemoveInvalid:
    """Puts 0 for NaN, and the greatest finite numbers for infinite ones."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores.nan_to_num(0.0)


@dataclass(frozen=True)
class DecayLength:
    """Raises the scores of the end ids, by more with each token past a length, prompt included."""

    start: int
    factor: float
    eos: Tensor
    """(number of end ids,) long."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        past = input_ids.shape[1] - self.start
        if past <= 0:
            return scores
        growth = self.factor**past if past * math.log(self.factor) < math.log(GREATEST) else GREATEST
        ending = scores.index_select(1, self.eos)
        gain = (ending.abs() * (growth - 1)).masked_fill(~ending.isfinite(), 0.0)
        return scores.index_copy(1, self.eos, ending + gain)


@dataclass(frozen=True)
class Renormalize:
    """Makes log-probabilities of the scores."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores.log_softmax(-1)


@dataclass(frozen=True)
class Custom:
    """A processor of the caller's, on scores of its own to change.

    Raises:
        UsageError: it does not return scores of the same shape.
    """

    function: Processor

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        changed = self.function(input_ids, scores.clone())
        if not isinstance(changed, Tensor) or changed.shape != scores.shape:
            got = f"shape {tuple(changed.shape)}" if isinstance(changed, Tensor) else type(changed).__name__
            name = getattr(self.function, "__name__", type(self.function).__name__)
            message = f"{name} returned {got}, scores of shape {tuple(scores.shape)} expected"
            raise UsageError(message, field="logits_processor", hint="return the scores")
        return changed


def make_processors(
    options: GenerationConfig,
    token_ids: TokenIds,
    limits: Limits,
    prompt_length: int,
    device: torch.device,
    attention_mask: Tensor | None = None,
    *,
    extra: Sequence[Processor] = (),
    prefix_allowed_tokens_fn: PrefixFunction | None = None,
    constraint: Processor | None = None,
    rows: int | None = None,
    first: int = 0,
) -> list[Processor]:
    """The processors that ``options`` ask for, and the caller's.

    Args:
        options: of the call.
        token_ids: those in force; only the end ids matter here.
        limits: how long rows must and may get, prompt included.
        prompt_length: tokens of the prompt.
        device: of the scores.
        attention_mask: (B, T) of the prompt, where it is padded at the left.
        extra: the caller's own, which come after all but what narrows the distribution and renormalizes.
        prefix_allowed_tokens_fn: ``(image, ids (L,)) -> ids that may follow``.
        constraint: what ``allowed_chars``, ``pattern`` and ``lexicon`` allow.
        rows: rows of each image; ``num_beams / num_beam_groups`` or ``num_return_sequences`` where it is not given.
        first: number of the first image.
    """
    beams = options.num_beams // options.num_beam_groups
    if rows is None:
        rows = beams if options.num_beams > 1 else options.num_return_sequences

    def tensor(ids: tuple[int, ...]) -> Tensor:
        return torch.tensor(ids, dtype=torch.long, device=device)

    eos = tensor(token_ids.eos)
    processors: list[Processor] = []
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
