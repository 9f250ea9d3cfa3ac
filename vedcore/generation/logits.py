"""What changes the scores of the next token, in transformers' order, each built only when its option is set.

A processor takes the rows so far and the scores, and returns scores without changing those given. Sampling and greedy
search hand it logits, beam search log-probabilities, as transformers does.

Shape letters: B rows of text, L tokens so far, V vocabulary size, G n-gram size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import torch
from torch import Tensor

from vedcore.config import TokenIds, token_id_tuple
from vedcore.generation.config import GenerationConfig, Limits

__all__ = [
    "BadWords", "Forced", "MinLength", "NoRepeatNgrams", "Processor", "RepetitionPenalty", "Suppressed", "Temperature",
    "TopK", "TopP", "make_processors",
]  # fmt: skip

Processor = Callable[[Tensor, Tensor], Tensor]
"""``(input_ids (B, L), scores (B, V)) -> scores (B, V)``."""


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
class BadWords:
    """Forbids the token that would complete one of some runs of tokens."""

    words: tuple[tuple[int, ...], ...]
    device: torch.device

    @cached_property
    def _by_length(self) -> list[tuple[Tensor, Tensor]]:
        """Runs of K equal lengths P + 1 at once: (K, P) what stands before the last token, (K,) the last token."""
        runs = [
            torch.tensor(list(group), device=self.device) for _, group in groupby(sorted(self.words, key=len), key=len)
        ]
        return [(run[:, :-1], run[:, -1]) for run in runs]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        length = input_ids.shape[1]
        marks = torch.zeros_like(scores)
        for before, last in self._by_length:
            if before.shape[1] <= length:
                found = (input_ids[:, None, length - before.shape[1] :] == before).all(2)  # (B, K)
                marks.index_add_(1, last, found.to(marks.dtype))
        return scores.masked_fill(marks > 0, -math.inf)


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
class Temperature:
    """Divides the scores."""

    temperature: float

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores / self.temperature


@dataclass(frozen=True)
class TopK:
    """Keeps the best ``k`` tokens, and those that tie with the last of them."""

    k: int

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        last = scores.topk(min(self.k, scores.shape[1])).values[:, -1:]  # (B, 1)
        return scores.masked_fill(scores < last, -math.inf)


@dataclass(frozen=True)
class TopP:
    """Keeps the most probable tokens that together reach ``p`` (Holtzman et al., https://arxiv.org/abs/1904.09751)."""

    p: float
    at_least: int = 1

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        ascending, order = scores.sort()
        drop = ascending.softmax(-1).cumsum(-1) <= 1 - self.p
        drop[:, -self.at_least :] = False
        return scores.masked_fill(torch.zeros_like(drop).scatter(1, order, drop), -math.inf)


def make_processors(
    options: GenerationConfig, token_ids: TokenIds, limits: Limits, prompt_length: int, device: torch.device,
    attention_mask: Tensor | None = None,
) -> list[Processor]:  # fmt: skip
    """The processors that ``options`` ask for.

    Args:
        options: of the call.
        token_ids: those in force; only the end ids matter here.
        limits: how long rows must and may get, prompt included.
        prompt_length: tokens of the prompt.
        device: of the scores.
        attention_mask: (B, T) of the prompt, where it is padded at the left.
    """

    def tensor(ids: tuple[int, ...]) -> Tensor:
        return torch.tensor(ids, dtype=torch.long, device=device)

    processors: list[Processor] = []
    if options.repetition_penalty != 1.0:
        skip = None if attention_mask is None else (attention_mask != 0).int().argmax(1)
        processors.append(RepetitionPenalty(options.repetition_penalty, skip))
    if options.no_repeat_ngram_size:
        processors.append(NoRepeatNgrams(options.no_repeat_ngram_size))
    if words := tuple(word for word in options.bad_words_ids if len(word) > 1 or word[0] not in token_ids.eos):
        processors.append(BadWords(words, device))
    if limits.min_length and token_ids.eos:
        processors.append(MinLength(limits.min_length, tensor(token_ids.eos)))
    if options.forced_bos_token_id is not None:
        processors.append(Forced(1, tensor((options.forced_bos_token_id,))))
    if forced_eos := token_id_tuple(options.forced_eos_token_id):
        processors.append(Forced(limits.max_length - 1, tensor(forced_eos)))
    if options.suppress_tokens:
        processors.append(Suppressed(tensor(options.suppress_tokens)))
    if options.begin_suppress_tokens:
        forced_bos = options.forced_bos_token_id is not None and prompt_length == 1
        processors.append(Suppressed(tensor(options.begin_suppress_tokens), prompt_length + forced_bos))
    if options.do_sample:
        # beams need one token that does not end them
        at_least = max(2, len(token_ids.eos) + 1) if options.num_beams > 1 else 1
        if options.temperature != 1.0:
            processors.append(Temperature(options.temperature))
        if options.top_k:
            processors.append(TopK(max(options.top_k, at_least)))
        if options.top_p < 1.0:
            processors.append(TopP(options.top_p, at_least))
    return processors
