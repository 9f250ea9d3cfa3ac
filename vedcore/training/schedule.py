"""The learning rate of each step, as a factor of the largest rate; the arithmetic of transformers' schedules."""

from __future__ import annotations

import math

from vedcore.training.config import TrainingConfig

__all__ = ["rate_factor", "warmup_steps"]

POLYNOMIAL_END = 1e-7
"""Rate in which transformers' polynomial schedule ends."""


def warmup_steps(config: TrainingConfig, total: int) -> int:
    """Steps in which the rate rises, of ``total`` ones."""
    return config.warmup_steps or math.ceil(config.warmup_ratio * total)


def rate_factor(config: TrainingConfig, step: int, total: int) -> float:
    """Factor of the rate in an optimizer step.

    Args:
        config: names the schedule and the warmup.
        step: number of the step, from 0.
        total: steps of the run.
    """
    warmup, kind = warmup_steps(config, total), config.lr_scheduler_type
    if step < warmup and kind != "constant":
        return step / max(1, warmup)
    done = (step - warmup) / max(1, total - warmup)
    if kind == "linear":
        return max(0.0, 1 - done)
    if kind == "cosine":
        return max(0.0, 0.5 * (1 + math.cos(math.pi * done)))
    if kind == "polynomial":
        end = POLYNOMIAL_END / config.learning_rate
        return end if step > total else (1 - end) * (1 - done) + end
    if kind == "inverse_sqrt":
        scale = warmup or 10_000
        return 1 / math.sqrt((step + scale - warmup) / scale)
    return 1.0
