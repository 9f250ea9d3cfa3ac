"""Diverse beam search (Vijayakumar et al. 2016, https://arxiv.org/abs/1610.02424): groups that avoid each other.

Shape letters: N prompts, G groups of each, S = N G searches, W beams of each group, B = S W rows, V vocabulary size, K
candidates for each search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vedcore.generation.request import Request
from vedcore.generation.search.beams.candidates import (
    BeamChoice,
    BeamStep,
    Candidates,
    best,
    candidates_for,
    go_on,
    log_probs,
    processed,
    tied,
    why_ended,
)
from vedcore.generation.search.ledger import Ledger
from vedcore.generation.stopping import Stopping

__all__ = ["Groups"]


@dataclass
class Groups:
    """Each group is a beam search of its own. At each step they choose in turn, and a token loses
    ``diversity_penalty`` for each beam of an earlier group that has just gone on with it."""

    request: Request
    ledger: Ledger

    def __post_init__(self) -> None:
        options = self.request.options
        self.beams = options.num_beams // options.num_beam_groups
        self.stopping, self.processors = Stopping(self.request), self.request.processors(self.beams)
        self.reads_ids = bool(self.processors) or not self.stopping.only_eos
        self.count = candidates_for(self.request) * self.beams
        self.tied = tied(self.request, self.stopping)

    def __call__(self, step: BeamStep) -> BeamChoice:
        options = self.request.options
        groups = [_part(step, i, options.num_beam_groups) for i in range(options.num_beam_groups)]
        written = torch.zeros(self.request.prompts, step.logits.shape[1], device=step.logits.device)  # (N, V) how often
        choices: list[BeamChoice] = []
        scores: list[Tensor] = []
        for part in groups:
            less = options.diversity_penalty * written.repeat_interleave(self.beams, 0)  # (N W, V)
            if self.processors or options.output_scores:
                scores.append(processed(self.processors, part, less))
                score, cell = best(scores[-1], None, part.running, self.count, self.tied)
            else:
                score, cell = best(part.usable - less, part.total, part.running, self.count)
            found = Candidates(score, cell, log_probs(part, cell))
            choice = go_on(found, part, why_ended(self.stopping, found, part, self.ledger))
            tokens = choice.live.cell % step.logits.shape[1]  # (N, W)
            written.scatter_add_(1, tokens, part.going.expand_as(tokens).float())
            choices.append(choice)
        if options.output_scores:
            self.ledger.add_scores(_rows_together(scores, len(step.going) // len(groups)))
        return _join(choices)


def _part(step: BeamStep, group: int, groups: int) -> BeamStep:
    """The step of one group of each prompt."""

    prompts = len(step.going) // groups

    def pick(field: Tensor) -> Tensor:
        return field.reshape(prompts, groups, -1, field.shape[-1])[:, group].flatten(0, 1)

    return BeamStep(
        pick(step.logits),
        pick(step.usable),
        pick(step.total),
        pick(step.running),
        pick(step.going),
        None if step.ids is None else pick(step.ids),
        step.left,
    )


def _rows_together(parts: Sequence[Tensor], prompts: int) -> Tensor:
    """The rows of all groups, side by side for each prompt."""
    return torch.stack([part.reshape(prompts, -1, *part.shape[1:]) for part in parts], 1).flatten(0, 2)


def _join(choices: list[BeamChoice]) -> BeamChoice:
    def join(parts: Sequence[Tensor]) -> Tensor:
        return _rows_together(parts, len(parts[0]))

    found, complete, why, running, live, over, barred = zip(*choices, strict=True)
    return BeamChoice(
        Candidates(*map(join, zip(*found, strict=True))),
        join(complete),
        join(why),
        join(running),
        Candidates(*map(join, zip(*live, strict=True))),
        torch.stack(over).all(),
        join(barred),
    )
