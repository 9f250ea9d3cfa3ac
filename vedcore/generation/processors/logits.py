"""Logits processors: they change the scores of the next token, with transformers' arithmetic.

A processor takes the rows so far and the scores, and returns scores without changing those given. Greedy search and
sampling hand it logits, beam search log-probabilities, as transformers does.

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

from vedcore.errors import GenerationError, UsageError

__all__ = [
    "Custom",
    "DecayLength",
    "Forced",
    "MinLength",
    "NoRepeatNgrams",
    "PrefixAllowed",
    "PrefixFunction",
    "RemoveInvalid",
    "Renormalize",
    "RepetitionPenalty",
    "SequenceBias",
    "Suppressed",
]

LogitsProcessor = Callable[[Tensor, Tensor], Tensor]
"""``(input_ids (B, L), scores (B, V)) -> scores (B, V)``."""
PrefixFunction = Callable[[int, Tensor], Sequence[int]]
"""``(number of the image, ids (L,) of a row so far) -> tokens that may follow``."""
MAX_GROWTH = 1e30
"""Factor of ``DecayLength``: more than any sum of log-probabilities, and finite times any of them."""


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
    """Leaves rows of one length, prompt included, only some tokens to choose from, all equally probable."""

    length: int
    tokens: Tensor
    """(number of tokens,) long."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if input_ids.shape[1] != self.length:
            return scores
        return torch.full_like(scores, -math.inf).index_fill(1, self.tokens, 0.0)


@dataclass(frozen=True)
class Suppressed:
    """Forbids some tokens, in rows of one length, prompt included, or in all rows."""

    tokens: Tensor
    """(number of tokens,) long."""
    length: int | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        here = self.length is None or input_ids.shape[1] == self.length
        return scores.index_fill(1, self.tokens, -math.inf) if here else scores


@dataclass(frozen=True)
class PrefixAllowed:
    """Forbids the tokens that the caller's function does not allow after a row.

    If other processors forbid all allowed tokens in all beams of a prompt, the tokens are allowed again, as in
    transformers.

    Raises:
        GenerationError: the function allows nothing, or an id that the vocabulary does not have.
    """

    function: PrefixFunction
    rows: int
    """Rows of each prompt, which get its number."""
    beams: int
    """Rows side by side that are beams of one text."""
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
        growth = self.factor**past if past * math.log(self.factor) < math.log(MAX_GROWTH) else MAX_GROWTH
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
    """A processor of the caller's, on a copy of the scores.

    Raises:
        UsageError: it does not return scores of the same shape.
    """

    function: LogitsProcessor

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        changed = self.function(input_ids, scores.clone())
        if not isinstance(changed, Tensor) or changed.shape != scores.shape:
            got = f"shape {tuple(changed.shape)}" if isinstance(changed, Tensor) else type(changed).__name__
            name = getattr(self.function, "__name__", type(self.function).__name__)
            message = f"{name} returned {got}, scores of shape {tuple(scores.shape)} expected"
            raise UsageError(message, field="logits_processor", hint="return the scores")
        return changed
