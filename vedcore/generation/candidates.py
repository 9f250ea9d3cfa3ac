"""How beams are continued: the best, or drawn, continuations of each search, and which of them end or go on.

Shape letters: N prompts, S searches (one for each prompt, or one for each group of beams of a prompt), W beams of each
search, B = S W rows, L tokens so far, V vocabulary size, K candidates for each search.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from vedcore.generation.greedy import draw
from vedcore.generation.logits import Processor
from vedcore.generation.request import Request, apply
from vedcore.generation.stopping import Stopping

__all__ = [
    "FAR",
    "Beams",
    "Candidates",
    "Choice",
    "Chooser",
    "Step",
    "best",
    "candidates_for",
    "go_on",
    "log_probs",
    "losing",
    "processed",
    "tied",
    "top",
    "why_ended",
]

FAR = -1.0e9
"""Score of what must lose; transformers' number, and finite, so that sums with it stay ordered."""
CHUNK = 64
"""Tokens whose greatest logit stands for them while the best are looked for."""


class Candidates(NamedTuple):
    """Continuations of each search's beams; each field (S, K)."""

    score: Tensor
    """Sum of log-probabilities of the new tokens, as the processors leave them."""
    cell: Tensor
    """``beam * V + token``: the beam of the search, 0 to W - 1, that is continued, and what with."""
    log_prob: Tensor
    """What the model gave the token, before any processor."""

    def take(self, index: Tensor) -> Candidates:
        """Those at ``index`` (S, W)."""
        return Candidates(*(field.gather(1, index) for field in self))


class Step(NamedTuple):
    """What there is to choose by."""

    logits: Tensor
    """(B, V) float32."""
    usable: Tensor
    """(B, V) the same, but numbers where ``remove_invalid_values`` finds none."""
    total: Tensor
    """(B, 1) log-sum-exp of the usable ones."""
    running: Tensor
    """(S, W) scores of the beams."""
    going: Tensor
    """(S, 1) bool: what the other searches choose does not matter."""
    ids: Tensor | None
    """(B, L) rows so far, where the chooser reads them."""
    left: int
    """Tokens that may follow the one that is chosen now; at 0 all texts are cut."""


class Choice(NamedTuple):
    """What a step brings."""

    found: Candidates
    """(S, K)."""
    complete: Tensor
    """(S, K) bool: the texts that compete for a place in the pool."""
    why: Tensor
    """(S, K) why each ends, as a place in ``WORDS`` of ``vedcore.generation.stopping``."""
    running: Tensor
    """(S, W) scores of the beams that go on."""
    live: Candidates
    """(S, W) the beams that go on."""
    over: Tensor
    """() bool: every candidate has ended, so that nothing can go on."""
    barred: Tensor
    """(S,) bool: the options leave no candidate at all."""


class Chooser(Protocol):
    """Picks what beams go on with."""

    stopping: Stopping
    reads_ids: bool
    scores: list[Tensor]
    """(B, V) what each step's tokens were chosen by, kept for ``output_scores``."""

    def __call__(self, step: Step) -> Choice: ...


@dataclass
class Beams:
    """Plain beams: the best of all continuations; only the best W of them may end."""

    request: Request

    def __post_init__(self) -> None:
        options = self.request.options
        self.stopping, self.processors = Stopping(self.request), self.request.processors(options.num_beams)
        self.reads_ids = bool(self.processors) or not self.stopping.only_eos
        self.scores: list[Tensor] = []
        self.generator, self.count = self.request.generator(), candidates_for(self.request) * options.num_beams
        self.tied = tied(self.request, self.stopping)

    def __call__(self, step: Step) -> Choice:
        options = self.request.options
        if self.processors or options.do_sample or options.output_scores:
            scores = processed(self.processors, step)
            if options.output_scores:
                self.scores.append(scores)
            if options.do_sample:
                score, cell = _drawn(scores, step.running, self.count, self.generator)
            else:
                score, cell = best(scores, None, step.running, self.count, self.tied)
        else:  # the order within a row is that of the logits, so only the winners are normalised
            score, cell = best(step.usable, step.total, step.running, self.count, self.tied)
        found = Candidates(score, cell, log_probs(step, cell))
        return go_on(found, step, why_ended(self.stopping, found, step, self.scores))


def go_on(found: Candidates, step: Step, why: Tensor) -> Choice:
    """Let the best that have not ended go on; ``why`` (S, K)."""
    beams = step.running.shape[1]
    ended = why != 0
    running, index = torch.where(ended, losing(found.score), found.score).topk(beams)
    if not step.left:
        ended = torch.ones_like(ended)
    complete = ended & (torch.arange(ended.shape[1], device=ended.device) < beams)
    barred = found.score.amax(1) == -math.inf
    return Choice(found, complete, why, running, found.take(index), ended.all(), barred)


def losing(score: Tensor) -> Tensor:
    """The scores of what must lose, in their order; processors may have made them infinite."""
    return (score + FAR).masked_fill(score == math.inf, FAR)


def why_ended(stopping: Stopping, found: Candidates, step: Step, scores: list[Tensor]) -> Tensor:
    """(S, K) why each candidate ends, 0 where it does not: the rules see whole texts only where they read them."""
    vocab_size = step.logits.shape[1]
    token = found.cell % vocab_size
    if stopping.only_eos:
        return stopping.is_end(token).long()
    assert step.ids is not None
    searches, beams = step.running.shape
    first_row = torch.arange(searches, device=token.device)[:, None] * beams
    rows = step.ids[(first_row + found.cell // vocab_size).flatten()]  # (S K, L)
    texts = torch.cat([rows, token.reshape(-1, 1)], 1)
    return stopping.reasons(token.flatten(), texts, tuple(scores) or None).reshape(token.shape)


def candidates_for(request: Request) -> int:
    """Candidates for each beam: as many as there are end ids, and one more, so that all beams can go on."""
    return max(2, 1 + len(request.token_ids.eos))


def tied(request: Request, stopping: Stopping) -> bool:
    """Whether continuations may tie: forced and barred tokens do, and what must lose rounds to one score."""
    options = request.options
    return bool(
        options.forced_bos_token_id is not None
        or options.forced_eos_token_id is not None
        or options.remove_invalid_values
        or stopping.strings
        or stopping.times
        or stopping.criteria
    )


def processed(processors: Sequence[Processor], step: Step, less: Tensor | None = None) -> Tensor:
    """(B, V) log-probabilities, ``less`` something, after all processors."""
    scores = step.logits.log_softmax(1)
    scores = scores if less is None else scores - less
    return scores if step.ids is None else apply(processors, step.ids, scores)


def log_probs(step: Step, cell: Tensor) -> Tensor:
    """(S, K) what the model gave the tokens of ``cell``."""
    searches = len(cell)
    beam = cell // step.logits.shape[1]
    return step.usable.reshape(searches, -1).gather(1, cell) - step.total.reshape(searches, -1).gather(1, beam)


def best(
    scores: Tensor, total: Tensor | None, running: Tensor, count: int, tied: bool = False
) -> tuple[Tensor, Tensor]:
    """Scores and cells (S, count) of the best continuations: the best of the best of each beam.

    Args:
        scores: (B, V) log-probabilities, or logits with their ``total``.
        total: (B, 1) what is to be subtracted; None for nothing.
        running: (S, W) scores of the beams.
        count: of each search.
        tied: all beams are looked at together, slower: transformers breaks ties like this.
    """
    (searches, beams), vocab_size = running.shape, scores.shape[1]
    if tied:
        scores = scores if total is None else scores - total
        score, cell = (scores.reshape(searches, beams, -1) + running[:, :, None]).flatten(1).topk(count)
        return score, cell
    each = min(count, vocab_size)
    value, token = top(scores, each)
    if total is not None:
        value = value - total
    score = (value.reshape(searches, beams, each) + running[:, :, None]).flatten(1)  # (S, W each)
    score, index = score.topk(count)
    return score, index // each * vocab_size + token.reshape(searches, -1).gather(1, index)


def top(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` greatest of each row and where they are, as ``topk`` gives them, several times faster.

    The greatest lie in the ``count`` chunks with the greatest maxima, or in what is left over behind the last chunk.
    """
    rows, size = scores.shape
    chunks = size // CHUNK
    if chunks < 4 * count:
        value, index = scores.topk(count)
        return value, index
    rest = chunks * CHUNK
    chunk = scores[:, :rest].view(rows, chunks, CHUNK).amax(2).topk(count).indices  # (B, count)
    there = (chunk[:, :, None] * CHUNK + torch.arange(CHUNK, device=scores.device)).flatten(1)
    there = torch.cat([there, torch.arange(rest, size, device=scores.device).expand(rows, -1)], 1)
    value, index = scores.gather(1, there).topk(count)
    return value, there.gather(1, index)


def _drawn(scores: Tensor, running: Tensor, count: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Scores and cells of ``count`` different continuations, drawn by the probability of the whole text."""
    scores = (scores.reshape(*running.shape, -1) + running[:, :, None]).flatten(1)  # (S, W V)
    cell = draw(scores.softmax(1), count, generator)
    spoilt = scores.amax(1, keepdim=True).isnan()  # one NaN spoils all that is drawn from
    return scores.gather(1, cell).masked_fill(spoilt, math.nan), cell
