"""Warpers: logits processors that narrow the distribution tokens are drawn from, with transformers' arithmetic.

None of them reads the rows so far.

Shape letters: B rows of text, L tokens so far, V vocabulary size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vedcore.generation.options.config import GenerationConfig

__all__ = ["Epsilon", "Eta", "MinP", "Temperature", "TopK", "TopP", "Typical", "Warper", "make_warpers"]


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
        return scores.masked_fill(scores < _kth(scores, self.k), -math.inf)


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


@dataclass(frozen=True)
class MinP:
    """Keeps tokens of at least the share ``p`` of the best one's probability."""

    p: float
    at_least: int = 1

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        probabilities = scores.softmax(-1)
        drop = probabilities < self.p * probabilities.amax(-1, keepdim=True)
        best = probabilities.topk(min(self.at_least, scores.shape[1])).indices
        return scores.masked_fill(drop.scatter(1, best, False), -math.inf)


@dataclass(frozen=True)
class Typical:
    """Keeps the tokens whose surprise is nearest to the entropy and that together reach ``p``.

    Meister et al., https://arxiv.org/abs/2202.00666.
    """

    p: float
    at_least: int = 1

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        log_probs = scores.log_softmax(-1)
        entropy = -(log_probs * log_probs.exp()).nansum(-1, keepdim=True)
        distance, order = (-log_probs - entropy).abs().sort()  # nearest first
        reached = scores.gather(1, order).softmax(-1).cumsum(-1)
        last = (reached < self.p).sum(1, keepdim=True).clamp(max=scores.shape[1] - 1)
        drop = distance > distance.gather(1, last)
        drop[:, : self.at_least] = False
        return scores.masked_fill(torch.zeros_like(drop).scatter(1, order, drop), -math.inf)


@dataclass(frozen=True)
class Epsilon:
    """Keeps tokens of at least some probability, and the best ones (Hewitt et al., https://arxiv.org/abs/2210.15191)."""

    epsilon: float
    at_least: int = 1

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        drop = scores.softmax(-1) < self.epsilon
        return scores.masked_fill(drop & (scores < _kth(scores, self.at_least)), -math.inf)


@dataclass(frozen=True)
class Eta:
    """Like ``Epsilon``, with a bound that sinks as the entropy rises."""

    epsilon: float
    at_least: int = 1

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        log_probs = scores - scores.logsumexp(-1, keepdim=True)
        finite = log_probs.clamp(min=torch.finfo(scores.dtype).min)  # no 0 times infinity
        entropy = -(finite * log_probs.softmax(-1)).sum(-1, keepdim=True)  # (B, 1)
        epsilon = torch.full((), self.epsilon, device=scores.device)
        drop = scores.softmax(-1) < torch.minimum(epsilon, epsilon.sqrt() * torch.exp(-entropy))
        return scores.masked_fill(drop & (scores < _kth(scores, self.at_least)), -math.inf)


Warper = Temperature | TopK | TopP | MinP | Typical | Epsilon | Eta


def make_warpers(options: GenerationConfig, end_ids: int) -> list[Warper]:
    """Those that ``options`` ask for, in transformers' order; none where tokens are not drawn.

    Args:
        options: of the call.
        end_ids: how many ids end a text: under beams one token more than these is kept, so that no beam must end.
    """
    if not options.do_sample:
        return []
    at_least = max(2, end_ids + 1) if options.num_beams > 1 else 1
    wanted: list[tuple[bool, Warper]] = [
        (options.temperature != 1.0, Temperature(options.temperature)),
        (options.top_k > 0, TopK(max(options.top_k, at_least))),
        (options.top_p < 1.0, TopP(options.top_p, at_least)),
        (options.min_p > 0.0, MinP(options.min_p, at_least)),
        (options.typical_p < 1.0, Typical(options.typical_p, at_least)),
        (options.epsilon_cutoff > 0.0, Epsilon(options.epsilon_cutoff, at_least)),
        (options.eta_cutoff > 0.0, Eta(options.eta_cutoff, at_least)),
    ]
    return [warper for asked, warper in wanted if asked]


def _kth(scores: Tensor, k: int) -> Tensor:
    """(B, 1) the ``k``-th best score of each row."""
    return scores.topk(min(k, scores.shape[1])).values[:, -1:]
