"""Hypotheses, the ended texts of a beam search, and how texts are read back from the steps that wrote them.

Beams are not copied: each step keeps its tokens and the rows that they follow, and a text is read backwards from its
last token.

Shape letters: N prompts, S searches, W beams of each search, B = S W rows, K candidates for each search, L new tokens,
R texts returned for each prompt.
"""

from __future__ import annotations

import math
from itertools import takewhile
from typing import NamedTuple

import torch
from torch import Tensor

from vedcore.generation.search.beams.candidates import LOSING_SCORE, BeamChoice, losing

__all__ = ["BestTexts", "CommonPrefix", "Hypotheses", "WrittenStep"]


class WrittenStep(NamedTuple):
    """The tokens of one step; each field (S, W)."""

    row: Tensor
    """The row, 0 to B - 1, that each token continues."""
    token: Tensor
    log_prob: Tensor


class BestTexts(NamedTuple):
    """The best hypotheses, read back."""

    score: Tensor
    """(N R,)."""
    tokens: Tensor
    """(N R, L)."""
    log_probs: Tensor
    """(N R, L), 0 past the end."""
    rows: Tensor
    """(N R, L) the row that each token was chosen from, -1 past the end."""
    why: Tensor
    """(N R,)."""
    length: Tensor
    """(N R,), 0 where the options left fewer texts than were asked for."""


class Hypotheses:
    """The best ended texts of each search, best first, each stored as its last token; all fields (S, W)."""

    def __init__(self, searches: int, beams: int, device: torch.device) -> None:
        self.score = torch.full((searches, beams), LOSING_SCORE, device=device)
        self.length = torch.zeros(searches, beams, dtype=torch.long, device=device)
        """New tokens; 0 where there is no text yet."""
        self.cell, self.why, self.log_prob = self.length, self.length, self.score

    @property
    def ended(self) -> Tensor:
        """(S, W) whether there is a text."""
        return self.length > 0

    def add(self, choice: BeamChoice, going: Tensor, length: int, length_penalty: float) -> None:
        """Let the complete candidates of the searches that are ``going``, (S, 1), compete with the hypotheses.

        The others compete too, with a losing score, so that ties are broken as in transformers.
        """
        found, complete = choice.found, choice.complete & going
        score = found.score / length**length_penalty
        score = torch.where(complete, score, losing(score)).nan_to_num(-math.inf, math.inf, -math.inf)
        self.score, index = torch.cat([self.score, score], 1).topk(self.score.shape[1])
        self.length = torch.cat([self.length, complete * length], 1).gather(1, index)
        self.cell = torch.cat([self.cell, found.cell], 1).gather(1, index)
        self.why = torch.cat([self.why, choice.why], 1).gather(1, index)
        self.log_prob = torch.cat([self.log_prob, found.log_prob], 1).gather(1, index)

    def read_back(self, steps: list[WrittenStep], prompts: int, count: int, vocab_size: int, fill: int) -> BestTexts:
        """The best ``count`` texts of each prompt, padded with ``fill``."""
        (searches, beams), device = self.score.shape, self.score.device
        first_row = torch.arange(searches)[:, None] * beams
        cell = self.cell.cpu()
        entries = [
            self.score.cpu(),
            self.length.cpu(),
            first_row + cell // vocab_size,
            cell % vocab_size,
            self.why.cpu(),
            self.log_prob.cpu(),
        ]
        if searches > prompts:  # the groups of a prompt compete
            order = entries[0].reshape(prompts, -1).topk(count).indices
            entries = [entry.reshape(prompts, -1).gather(1, order) for entry in entries]
        score, length, row, token, why, log_prob = (entry[:, :count].flatten() for entry in entries)  # (N R,)
        before = WrittenStep(
            *(torch.stack(field).flatten(1).cpu() for field in zip(*steps, strict=True))
        )  # (L, B) each
        longest = int(length.max())
        tokens = torch.full((longest, len(score)), fill)
        rows = torch.full_like(tokens, -1)
        log_probs = torch.zeros(longest, len(score))
        log_probs[:, length == 0] = -math.inf
        for i in reversed(range(longest)):
            here, last = length > i, length == i + 1
            tokens[i] = torch.where(here, torch.where(last, token, before.token[i, row]), tokens[i])
            log_probs[i] = torch.where(here, torch.where(last, log_prob, before.log_prob[i, row]), log_probs[i])
            row = torch.where(here & ~last, before.row[i, row], row)
            rows[i] = torch.where(here, row, -1)
        tokens, log_probs, rows = (field.T.contiguous().to(device) for field in (tokens, log_probs, rows))
        return BestTexts(score.to(device), tokens, log_probs, rows, why, length)


class CommonPrefix:
    """The longest common prefix of the texts of one prompt that may still come out best; kept on the CPU."""

    def __init__(self, searches: int, beams: int) -> None:
        self.texts: list[list[int]] = [[] for _ in range(searches * beams)]
        self.best: dict[int, list[int]] = {}
        """The best ended text of each search that has one."""
        self.beams = beams
        self.given = 0
        """Number of tokens handed out."""

    def update(
        self, written: WrittenStep, hypotheses: Hypotheses, going: list[bool], step: int, vocab_size: int
    ) -> list[int]:
        """The tokens that have become certain; ``going`` says which searches go on."""
        before = self.texts
        row, token = torch.stack([written.row, written.token]).flatten(1).tolist()
        self.texts = [[*before[r], t] for r, t in zip(row, token, strict=True)]
        first = torch.stack([hypotheses.length[:, 0], hypotheses.cell[:, 0]], 1).tolist()
        for search, (length, cell) in enumerate(first):
            if length == step:  # it has just ended
                self.best[search] = [*before[search * self.beams + cell // vocab_size], cell % vocab_size]
        open_texts = [text for i, text in enumerate(self.texts) if going[i // self.beams]]
        together = zip(*open_texts, *self.best.values(), strict=False)
        return self.hand_out([tokens[0] for tokens in takewhile(lambda tokens: len(set(tokens)) == 1, together)])

    def hand_out(self, certain: list[int]) -> list[int]:
        """Those of the ``certain`` tokens that were not handed out before."""
        new = certain[self.given :]
        self.given += len(new)
        return new
