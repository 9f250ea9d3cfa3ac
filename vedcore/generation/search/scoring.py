"""Arithmetic on the logits of a step, which every search does in float32.

Shape letters: B rows of text, V vocabulary size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vedcore.generation.options.config import GenerationConfig

__all__ = ["Race", "draw", "log_sum_exp", "nothing_left", "usable_logits"]

ROWS_AT_ONCE = 32
"""Rows of logits of which torch makes a copy at a time."""


def usable_logits(logits: Tensor, options: GenerationConfig) -> Tensor:
    """The logits, with numbers where ``remove_invalid_values`` finds none."""
    return logits.nan_to_num(nan=0.0) if options.remove_invalid_values else logits


def log_sum_exp(logits: Tensor) -> Tensor:
    """(B, V) to (B, 1), a few rows at a time: torch makes a copy of all that it is given.

    NaN or infinite exactly where a row of logits is of no use, so that one reduction serves both purposes.
    """
    return torch.cat([rows.logsumexp(1, keepdim=True) for rows in torch.split(logits, ROWS_AT_ONCE)])


def draw(probabilities: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Indices (rows, count) drawn without replacement: ``torch.multinomial``'s stream, less its check of the numbers.

    An exponential race: the least of the times ``q / p`` wins with probability ``p``. The check would make a GPU wait,
    and fail on what the caller reports better.
    """
    times = torch.empty_like(probabilities).exponential_(generator=generator)
    return (probabilities / times).topk(count).indices if count > 1 else (probabilities / times).argmax(1, keepdim=True)


class Race:
    """The draws of rows that grow by different numbers of tokens: those of `draw` when all grow in step.

    Args:
        rows: B.
        generator: as `draw` takes it.
    """

    def __init__(self, rows: int, generator: torch.Generator | None) -> None:
        self.rows, self.generator = rows, generator
        self.times: list[Tensor | None] = []
        """For each step (B, V), or None where no row is there any more."""

    def winner(self, probabilities: Tensor, step: int, row: int) -> Tensor:
        """(1,) the token that a row draws at a step by its probabilities (1, V), the same whenever it is asked."""
        while len(self.times) <= step:
            new = probabilities.new_empty(self.rows, probabilities.shape[1])
            self.times.append(new.exponential_(generator=self.generator))
        times = self.times[step]
        assert times is not None
        return (probabilities / times[row : row + 1]).argmax(1)

    def forget(self, step: int) -> None:
        """No row is at an earlier step any more."""
        for i in range(min(step, len(self.times)) - 1, -1, -1):
            if self.times[i] is None:
                return
            self.times[i] = None


def nothing_left(chosen: Tensor, options: GenerationConfig) -> Tensor:
    """Which scores of chosen tokens, of any shape, say that there was no token to choose."""
    return chosen == -math.inf if options.remove_invalid_values else ~(chosen > -math.inf)
