"""Positions that attention sees: rotary ones, and relative ones as a bias of its scores.

Shape letters: B rows of text, T new tokens, L tokens so far, H heads, K head size, R numbers of a head that turn.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["RelativePositionBias", "alibi", "rotary_angles", "rotate_halves", "rotate_pairs"]


def rotary_angles(positions: Tensor, inv_freq: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary positions (Su et al. 2021, "RoFormer"), for `rotate_halves` and `rotate_pairs`.

    Args:
        positions: (1 or B, T).
        inv_freq: (R/2,) radians a position, such as ``theta ** -(torch.arange(0, R, 2) / R)``; in float32.
        scale: factor of both, as some ways of stretching positions have it.

    Returns:
        (1 or B, 1, T, R/2) float32 each.
    """
    angles = (positions[..., None].float() * inv_freq.float())[:, None]  # (1 or B, 1, T, R/2)
    return angles.cos() * scale, angles.sin() * scale


def rotate_halves(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(B, H, T, K) with its first R numbers turned, number i with number i + R/2, as Llama has them."""
    half = cos.shape[-1]
    first, second = states[..., :half], states[..., half : 2 * half]
    parts = [torch.addcmul(first * cos, second, sin, value=-1), torch.addcmul(second * cos, first, sin)]
    if states.shape[-1] > 2 * half:
        parts.append(states[..., 2 * half :])
    return torch.cat(parts, -1)


def rotate_pairs(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(B, H, T, K) with its first R numbers turned, number 2 i with number 2 i + 1, as RoFormer and GPT-J have them."""
    size = 2 * cos.shape[-1]
    first, second = states[..., :size:2], states[..., 1:size:2]
    turned = torch.stack([first * cos - second * sin, second * cos + first * sin], -1).flatten(-2)
    return torch.cat([turned, states[..., size:]], -1) if states.shape[-1] > size else turned


def alibi(positions: Tensor, key_positions: Tensor, num_heads: int) -> Tensor:
    """A bias that falls with the distance (Press et al. 2021, "Train Short, Test Long").

    Args:
        positions: (1 or B, T) of the queries.
        key_positions: (1 or B, L).
        num_heads: H.

    Returns:
        (1 or B, H, T, L) float32.
    """
    whole = 2 ** math.floor(math.log2(num_heads))
    steps = [(i + 1) * 8 / whole for i in range(whole)]
    steps += [(i + 0.5) * 8 / whole for i in range(num_heads - whole)]  # the odd ones of twice as many heads
    slopes = 2.0 ** -torch.tensor(steps, device=positions.device)  # (H,)
    distance = (key_positions[:, None] - positions[..., None]).float()  # (1 or B, T, L)
    return slopes[:, None, None] * distance[:, None]


class RelativePositionBias(nn.Module):
    """A learned bias for each head and distance, far ones together (Raffel et al. 2020, T5), for causal attention.

    Args:
        num_heads: H.
        num_buckets: distances that are told apart: half of them one by one, the others by their logarithm.
        max_distance: from which on all distances are one.
    """

    def __init__(self, num_heads: int, num_buckets: int = 32, max_distance: int = 128) -> None:
        super().__init__()
        self.num_buckets, self.max_distance = num_buckets, max_distance
        self.embedding = nn.Embedding(num_buckets, num_heads)

    def forward(self, positions: Tensor, key_positions: Tensor) -> Tensor:
        """(1 or B, T) and (1 or B, L) to (1 or B, H, T, L)."""
        distance = (positions[..., None] - key_positions[:, None]).clamp(min=0)  # (1 or B, T, L)
        exact = self.num_buckets // 2
        far = (distance.clamp(min=1).float() / exact).log() / math.log(self.max_distance / exact)
        bucket = (exact + far * (self.num_buckets - exact)).long().clamp(max=self.num_buckets - 1)
        out: Tensor = self.embedding(torch.where(distance < exact, distance, bucket))  # (1 or B, T, L, H)
        return out.permute(0, 3, 1, 2)
