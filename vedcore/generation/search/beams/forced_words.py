"""Forced words: constrained beam search with dynamic beam allocation (Post & Vilar 2018).

Beside the best continuations, each step offers those that bring a beam nearer to its words. Beams are allocated in turn
to banks of texts with equal progress, the furthest bank first (https://arxiv.org/abs/1804.06609). A text in which the
words no longer fit into the length is dropped, so all returned texts hold them.

Shape letters: S prompts, each a search, W beams of each, B = S W rows, V vocabulary size, K candidates for each prompt.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from vedcore.errors import UsageError
from vedcore.generation.request import Request
from vedcore.generation.search.beams.candidates import (
    BeamChoice,
    BeamStep,
    Candidates,
    best,
    candidates_for,
    log_probs,
    processed,
    tied,
    why_ended,
)
from vedcore.generation.search.ledger import Ledger
from vedcore.generation.stopping import FINISH_REASONS, Stopping

__all__ = ["ForcedWords", "Progress"]

Word = tuple[tuple[int, ...], ...]
"""Runs of tokens of which a text must hold one."""
UNCONDITIONAL_REASONS = {FINISH_REASONS.index("criteria"), FINISH_REASONS.index("time")}
"""Reasons that end a text even before it holds its words."""


class Progress(NamedTuple):
    """Progress of a text with its words."""

    waiting: tuple[Word, ...]
    """Words that are not begun."""
    begun: Word | None = None
    """The word that the text is in the middle of."""
    written: tuple[int, ...] = ()
    """Its tokens so far."""

    @property
    def missing(self) -> int:
        """Fewest tokens that are still missing; 0 once the text holds all words."""
        rest = 0 if self.begun is None else min(len(run) - done for run, done in self._runs)
        return rest + sum(min(map(len, word)) for word in self.waiting)

    @property
    def _runs(self) -> list[tuple[tuple[int, ...], int]]:
        """The runs of the begun word, and how many of their tokens the text ends with."""
        return [(run, _overlap(self.written, run)) for run in self.begun or ()]

    def next_tokens(self) -> list[int]:
        """Tokens that bring the text nearer to its words; those of another run only where that run is nearer."""
        if self.begun is not None:
            every = self._runs
            nearest = min(len(run) - done for run, done in every if done == len(self.written))
            runs = [(run, done) for run, done in every if done == len(self.written) or len(run) - done < nearest]
        else:
            runs = [(run, 0) for word in self.waiting for run in word]
        return list(dict.fromkeys(run[done] for run, done in runs))

    def after(self, tokens: Iterable[int]) -> Progress:
        """Progress after ``tokens``. A token that breaks a word off puts it back, and may begin another."""
        now = self
        for token in tokens:
            now = now._after(token)
        return now

    def _after(self, token: int) -> Progress:
        waiting, written = self.waiting, (*self.written, token)
        if self.begun is not None:
            if any(written[-len(run) :] == run for run in self.begun):
                return Progress(waiting)
            kept = max(_overlap(written, run) for run in self.begun)
            if kept:
                return Progress(waiting, self.begun, written[-kept:])
            waiting = (*waiting, self.begun)
        for i, word in enumerate(waiting):
            if any(run[0] == token for run in word):
                rest = waiting[:i] + waiting[i + 1 :]
                return Progress(rest) if (token,) in word else Progress(rest, word, (token,))
        return Progress(waiting)

    def bank(self, words: int, longest: int) -> int:
        """Bank of the text: progress with its ``words``, of runs of at most ``longest`` tokens."""
        if self.begun is None:
            return (words - len(self.waiting)) * longest
        rest = max(map(len, self.begun)) - len(self.written)
        return (words - len(self.waiting)) * longest - rest


def _overlap(written: tuple[int, ...], run: tuple[int, ...]) -> int:
    """Tokens at the end of ``written`` that begin ``run``; fewer than all of it."""
    return next(n for n in range(min(len(written), len(run) - 1), -1, -1) if written[len(written) - n :] == run[:n])


class _Open(NamedTuple):
    """A candidate that can go on."""

    number: int
    """Among the candidates."""
    score: float
    progress: Progress


@dataclass
class ForcedWords:
    """Chooses beams that come to hold ``force_words_ids``; tokens of the prompt count.

    Raises:
        UsageError: words that do not fit into the length, or that hold an end id.
    """

    request: Request
    ledger: Ledger

    def __post_init__(self) -> None:
        request, options = self.request, self.request.options
        self.stopping, self.processors = Stopping(request), request.processors(options.num_beams)
        self.reads_ids = bool(self.processors) or not self.stopping.only_eos
        self.width, self.words = options.num_beams, options.forced_words
        self.longest = max(len(run) for word in self.words for run in word)
        self.count = candidates_for(request) * self.width
        self.tied = tied(request, self.stopping)
        self.reserved = int(options.forced_eos_token_id is not None)
        """Tokens at the end that are forced."""
        if ends := {i for word in self.words for run in word for i in run} & set(request.token_ids.eos):
            raise UsageError(
                f"holds end id {min(ends)}, at which the text is over",
                field="force_words_ids",
                hint="leave it out, or pass eos_token_id",
            )
        rows = request.input_ids.tolist()
        masks = [[1] * len(row) for row in rows] if request.attention_mask is None else request.attention_mask.tolist()
        starts = [
            Progress(self.words).after(token for token, counts in zip(row, mask, strict=True) if counts)
            for row, mask in zip(rows, masks, strict=True)
        ]
        first = (
            () if options.forced_bos_token_id is None or request.prompt_length > 1 else (options.forced_bos_token_id,)
        )
        room = request.limits.max_length - request.prompt_length - self.reserved - len(first)
        if (need := max(start.after(first).missing for start in starts)) > room:
            raise UsageError(
                f"the words need {need} tokens, and the length leaves {room}",
                field="force_words_ids",
                hint="raise max_new_tokens, or leave words out",
            )
        self.progress: list[Progress | None] = [p for start in starts for p in (start, *[None] * (self.width - 1))]
        """Of each row; None where there is no text, as before the first step in all but the first row of a prompt."""

    def __call__(self, step: BeamStep) -> BeamChoice:
        vocab_size, device = step.logits.shape[1], step.logits.device
        scores: Tensor = step.usable
        total: Tensor | None = step.total
        if self.processors or self.request.options.output_scores:
            scores, total = processed(self.processors, step), None
            self.ledger.add_scores(scores)
        score, cell = best(scores, total, step.running, self.count, self.tied)
        found = self._with_next_words(Candidates(score, cell, log_probs(step, cell)), step, scores, total)
        why = why_ended(self.stopping, found, step, self.ledger)

        texts = found.score.tolist(), found.cell.tolist(), why.tolist()
        chosen: list[list[int]] = []  # (S, W) indices of candidates, -1 for none
        complete: list[list[bool]] = []  # (S, K)
        after: list[Progress | None] = []
        for i, (score_row, cell_row, why_row) in enumerate(zip(*texts, strict=True)):
            before = self.progress[i * self.width : (i + 1) * self.width]
            beams, ends = self._choose(before, score_row, cell_row, why_row, vocab_size, step.left)
            none = self.width - len(beams)
            chosen.append([one.number for one in beams] + [-1] * none)
            complete.append(ends)
            after += [*(one.progress for one in beams), *[None] * none]
        self.progress = after
        indices = torch.tensor(chosen, device=device)
        live, ended = found.take(indices.clamp(min=0)), torch.tensor(complete, device=device)
        running = torch.where(indices >= 0, live.score, -math.inf)
        barred = (indices < 0).all(1) & ~ended.any(1)
        return BeamChoice(found, ended, why, running, live, torch.tensor(not step.left, device=device), barred)

    def _with_next_words(self, found: Candidates, step: BeamStep, scores: Tensor, total: Tensor | None) -> Candidates:
        """``found`` and the continuations that bring each beam nearer to its words, once each."""
        vocab_size, searches = step.logits.shape[1], len(step.running)
        more = [
            [
                row % self.width * vocab_size + token
                for row in range(i * self.width, (i + 1) * self.width)
                if (progress := self.progress[row]) is not None
                for token in progress.next_tokens()
            ]
            for i in range(searches)
        ]
        most = max(map(len, more))
        if not most:
            return found
        cell = torch.tensor([row + [0] * (most - len(row)) for row in more], device=step.logits.device)
        real = torch.tensor([[j < len(row) for j in range(most)] for row in more], device=cell.device)
        beam, log_prob = cell // vocab_size, log_probs(step, cell)
        score = log_prob if total is not None else scores.reshape(searches, -1).gather(1, cell)
        score = torch.where(real, score + step.running.gather(1, beam), -math.inf)
        added = Candidates(score, cell, log_prob)
        return Candidates(*(torch.cat(pair, 1) for pair in zip(found, added, strict=True)))

    def _choose(
        self,
        befores: list[Progress | None],
        scores: list[float],
        cells: list[int],
        reasons: list[int],
        vocab_size: int,
        left: int,
    ) -> tuple[list[_Open], list[bool]]:
        """The beams of a prompt that go on, at most W, and which candidates are ended texts."""
        usual: list[_Open] = []
        towards: list[_Open] = []
        ends = [False] * len(scores)
        seen: set[int] = set()
        for index, (score, cell, why) in enumerate(zip(scores, cells, reasons, strict=True)):
            before = befores[cell // vocab_size]
            if before is None or score == -math.inf or cell in seen:
                continue
            seen.add(cell)
            now = before.after([cell % vocab_size])
            if why:
                ends[index] = index < self.width and (not now.missing or why in UNCONDITIONAL_REASONS)
            elif now.missing <= max(left - self.reserved, 0):
                (usual if index < self.count else towards).append(_Open(index, score, now))
        beams = self._in_turn(usual[: self.width] + towards)[: self.width]
        if left:
            return beams, ends
        for one in beams:
            ends[one.number] = True
        return [], ends

    def _in_turn(self, texts: list[_Open]) -> list[_Open]:
        """The best text of each bank, furthest bank first, then the second best of each, and so on."""
        ranked = [(one.progress.bank(len(self.words), self.longest), one) for one in texts]
        ranked.sort(key=lambda pair: (-pair[0], -pair[1].score))
        turns: Counter[int] = Counter()
        turn: list[tuple[int, _Open]] = []
        for bank, one in ranked:
            turn.append((turns[bank], one))
            turns[bank] += 1
        return [one for _, one in sorted(turn, key=lambda pair: pair[0])]
