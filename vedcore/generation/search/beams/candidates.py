"""The continuations of beams: the best, or drawn ones, of each search, and which of them end or go on.

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

from vedcore.generation.processors.chain import apply_processors
from vedcore.generation.processors.logits import LogitsProcessor
from vedcore.generation.request import Request
from vedcore.generation.search.ledger import Ledger
from vedcore.generation.search.scoring import draw
from vedcore.generation.stopping import Stopping

__all__ = [
    "LOSING_SCORE",
    "BeamChoice",
    "BeamStep",
    "Beams",
    "Candidates",
    "Chooser",
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

LOSING_SCORE = -1.0e9
"""Score of candidates that must lose; transformers' number, and finite, so that sums with it stay ordered."""
TOKENS_PER_CHUNK = 64
"""`top` compares chunks of that many tokens by their maxima first."""


class Candidates(NamedTuple):
    """Continuations of each search's beams; each field (S, K)."""

    score: Tensor
    """Sum of log-probabilities of the new tokens, as the processors leave them."""
    cell: Tensor
    """``beam * V + token``: the beam of the search, 0 to W - 1, that is continued, and what with."""
    log_prob: Tensor
    """Log-probability by the model, before any processor."""

    def take(self, index: Tensor) -> Candidates:
        """Those at ``index`` (S, W)."""
        return Candidates(*(field.gather(1, index) for field in self))


class BeamStep(NamedTuple):
    """The logits and scores of a step, to choose by."""

    logits: Tensor
    """(B, V) float32."""
    usable: Tensor
    """(B, V) the same, with numbers where ``remove_invalid_values`` finds none."""
    total: Tensor
    """(B, 1) log-sum-exp of the usable ones."""
    running: Tensor
    """(S, W) scores of the beams."""
    going: Tensor
    """(S, 1) bool, searches that are not over."""
    ids: Tensor | None
    """(B, L) rows so far; None where the chooser does not read them."""
    left: int
    """Tokens that may follow the one chosen now; at 0 all texts are cut."""


class BeamChoice(NamedTuple):
    """The candidates of a step, and the beams that go on."""

    found: Candidates
    """(S, K)."""
    complete: Tensor
    """(S, K) bool: the ended texts that compete to be hypotheses."""
    why: Tensor
    """(S, K) why each ends, as an index of ``FINISH_REASONS`` of ``vedcore.generation.stopping``."""
    running: Tensor
    """(S, W) scores of the beams that go on."""
    live: Candidates
    """(S, W) the beams that go on."""
    over: Tensor
    """() bool: every candidate has ended."""
    barred: Tensor
    """(S,) bool: the options leave no candidate at all."""


class Chooser(Protocol):
    """Picks the continuations of the beams."""

    stopping: Stopping
    reads_ids: bool
    """Whether a step needs the rows so far."""

    def __call__(self, step: BeamStep) -> BeamChoice: ...


@dataclass
class Beams:
    """Plain beams: the best of all continuations; only the best W of them may end."""

    request: Request
    ledger: Ledger

    def __post_init__(self) -> None:
        options = self.request.options
        self.stopping, self.processors = Stopping(self.request), self.request.processors(options.num_beams)
        self.reads_ids = bool(self.processors) or not self.stopping.only_eos
        self.generator, self.count = self.request.generator(), candidates_for(self.request) * options.num_beams
        self.tied = tied(self.request, self.stopping)

    def __call__(self, step: BeamStep) -> BeamChoice:
        options = self.request.options
        if self.processors or options.do_sample or options.output_scores:
            scores = processed(self.processors, step)
            self.ledger.add_scores(scores)
            if options.do_sample:
                score, cell = _drawn(scores, step.running, self.count, self.generator)
            else:
                score, cell = best(scores, None, step.running, self.count, self.tied)
        else:  # the order within a row is that of the logits, so only the winners are normalised
            score, cell = best(step.usable, step.total, step.running, self.count, self.tied)
        found = Candidates(score, cell, log_probs(step, cell))
        return go_on(found, step, why_ended(self.stopping, found, step, self.ledger))


def go_on(found: Candidates, step: BeamStep, why: Tensor) -> BeamChoice:
    """Let the best that have not ended go on; ``why`` (S, K)."""
    beams = step.running.shape[1]
    ended = why != 0
    running, index = torch.where(ended, losing(found.score), found.score).topk(beams)
    if not step.left:
        ended = torch.ones_like(ended)
    complete = ended & (torch.arange(ended.shape[1], device=ended.device) < beams)
    barred = found.score.amax(1) == -math.inf
    return BeamChoice(found, complete, why, running, found.take(index), ended.all(), barred)


def losing(score: Tensor) -> Tensor:
    """Scores that lose to all others, in their own order; processors may have made them infinite."""
    return (score + LOSING_SCORE).masked_fill(score == math.inf, LOSING_SCORE)


def why_ended(stopping: Stopping, found: Candidates, step: BeamStep, ledger: Ledger) -> Tensor:
    """(S, K) why each candidate ends, 0 where it does not."""
    vocab_size = step.logits.shape[1]
    token = found.cell % vocab_size
    if stopping.only_eos:
        return stopping.is_end(token).long()
    assert step.ids is not None
    searches, beams = step.running.shape
    first_row = torch.arange(searches, device=token.device)[:, None] * beams
    rows = step.ids[(first_row + found.cell // vocab_size).flatten()]  # (S K, L)
    texts = torch.cat([rows, token.reshape(-1, 1)], 1)
    return stopping.reasons(token.flatten(), texts, ledger.scores_so_far).reshape(token.shape)


def candidates_for(request: Request) -> int:
    """Candidates for each beam: as many as there are end ids, and one more, so that all beams can go on."""
    return max(2, 1 + len(request.token_ids.eos))


def tied(request: Request, stopping: Stopping) -> bool:
    """Whether continuations may tie: forced and barred tokens do, and losing scores round to one number."""
    options = request.options
    return bool(
        options.forced_bos_token_id is not None
        or options.forced_eos_token_id is not None
        or options.remove_invalid_values
        or stopping.strings
        or stopping.times
        or stopping.criteria
    )


def processed(processors: Sequence[LogitsProcessor], step: BeamStep, less: Tensor | None = None) -> Tensor:
    """(B, V) log-probabilities, minus ``less``, after all processors."""
    scores = step.logits.log_softmax(1)
    scores = scores if less is None else scores - less
    return scores if step.ids is None else apply_processors(processors, step.ids, scores)


def log_probs(step: BeamStep, cell: Tensor) -> Tensor:
    """(S, K) log-probabilities, by the model, of the tokens of ``cell``."""
    searches = len(cell)
    beam = cell // step.logits.shape[1]
    return step.usable.reshape(searches, -1).gather(1, cell) - step.total.reshape(searches, -1).gather(1, beam)


def best(
    scores: Tensor, total: Tensor | None, running: Tensor, count: int, tied: bool = False
) -> tuple[Tensor, Tensor]:
    """Scores and cells (S, count) of the best continuations: the best of the best of each beam.

    Args:
        scores: (B, V) log-probabilities, or logits with their ``total``.
        total: (B, 1) to subtract from logits; None for log-probabilities.
        running: (S, W) scores of the beams.
        count: of each search.
        tied: compare all beams at once, which is slower and breaks ties as transformers does.
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
    """The ``count`` greatest of each row and their indices, as ``topk`` gives them, several times faster.

    The greatest lie in the ``count`` chunks with the greatest maxima, or in the rest behind the last chunk.
    """
    rows, size = scores.shape
    chunks = size // TOKENS_PER_CHUNK
    if chunks < 4 * count:
        value, index = scores.topk(count)
        return value, index
    rest = chunks * TOKENS_PER_CHUNK
    chunk = scores[:, :rest].view(rows, chunks, TOKENS_PER_CHUNK).amax(2).topk(count).indices  # (B, count)
    token = (chunk[:, :, None] * TOKENS_PER_CHUNK + torch.arange(TOKENS_PER_CHUNK, device=scores.device)).flatten(1)
    token = torch.cat([token, torch.arange(rest, size, device=scores.device).expand(rows, -1)], 1)
    value, index = scores.gather(1, token).topk(count)
    return value, token.gather(1, index)


def _drawn(scores: Tensor, running: Tensor, count: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Scores and cells of ``count`` different continuations, drawn by the probability of the whole text."""
    scores = (scores.reshape(*running.shape, -1) + running[:, :, None]).flatten(1)  # (S, W V)
    cell = draw(scores.softmax(1), count, generator)
    spoilt = scores.amax(1, keepdim=True).isnan()  # one NaN spoils all that is drawn from
    return scores.gather(1, cell).masked_fill(spoilt, math.nan), cell
