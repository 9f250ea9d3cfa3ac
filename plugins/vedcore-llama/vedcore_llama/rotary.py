"""Rotary positions (Su et al. 2021, "RoFormer"), with the kinds of scaling that transformers has.

Shape letters: B rows of text, H heads, T tokens, K head size.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from vedcore import ConfigSchemaError
from vedcore.config import Config, Size
from vedcore.nn import rotary_angles

__all__ = ["RopeParameters", "RotaryEmbedding"]

Factor = Annotated[float, Field(gt=0.0, le=1e9, allow_inf_nan=False)]
"""A factor of frequencies or of lengths."""

_REQUIRED = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "longrope": ("short_factor", "long_factor"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}
"""Fields that a kind cannot do without."""


class RopeParameters(Config):
    """Settings of rotary positions, by transformers' names."""

    rope_type: Literal["default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional"] = "default"
    """How frequencies are scaled for texts that are longer than those of the first training."""
    rope_theta: Annotated[float, Field(gt=1.0, le=1e12)] = 10000.0
    """Base of the wavelengths."""
    factor: Factor | None = None
    """How many times longer texts become; ``yarn`` and ``longrope`` take it from the two lengths where it is None."""
    original_max_position_embeddings: Size | None = None
    """Tokens of the longest text in the first training, for ``yarn``, ``longrope`` and ``llama3``; None means
    ``max_position_embeddings``."""
    attention_factor: Factor | None = None
    """Factor of the rotated queries and of the keys, for ``yarn`` and ``longrope``; None follows from ``factor``."""
    beta_fast: Factor | None = None
    """Turns from which on ``yarn`` leaves a frequency as it is; None means 32."""
    beta_slow: Factor | None = None
    """Turns up to which ``yarn`` divides a frequency by ``factor``; None means 1."""
    mscale: Factor | None = None
    """With ``mscale_all_dim``, changes the attention factor of ``yarn``."""
    mscale_all_dim: Factor | None = None
    """See ``mscale``."""
    truncate: bool = True
    """Whether ``yarn`` rounds the bounds of its ramp to whole frequencies."""
    short_factor: tuple[Factor, ...] | None = None
    """Divisors of the frequencies for ``longrope``, one for each two numbers of a head, in short texts."""
    long_factor: tuple[Factor, ...] | None = None
    """Likewise, in texts longer than ``original_max_position_embeddings``."""
    low_freq_factor: Factor | None = None
    """Bounds the frequencies that ``llama3`` divides by ``factor``."""
    high_freq_factor: Factor | None = None
    """Bounds the frequencies that ``llama3`` leaves as they are."""
    partial_rotary_factor: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of the frequencies that ``proportional`` has; the others are zero. 1 for all other kinds."""

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        kind = self.rope_type
        for name in _REQUIRED.get(kind, ()):
            if getattr(self, name) is None:
                raise ConfigSchemaError(f"rope_type {kind!r} needs it", field=name, hint="add it")
        if kind != "proportional" and self.partial_rotary_factor != 1.0:
            raise ConfigSchemaError(
                f"{self.partial_rotary_factor} cannot be honoured: rope_type {kind!r} turns whole heads",
                field="partial_rotary_factor",
                hint="leave it out",
            )
        if kind == "llama3" and self.low_freq_factor == self.high_freq_factor:
            raise ConfigSchemaError("low_freq_factor is the same", field="high_freq_factor", hint="make it greater")
        return self

    def check(self, head_dim: int, max_positions: int) -> None:
        """Refuse what does not fit the heads or the length.

        Args:
            head_dim: K.
            max_positions: tokens of the longest text in training.

        Raises:
            ConfigSchemaError: naming the field.
        """
        for name in ("short_factor", "long_factor"):
            given = getattr(self, name)
            if self.rope_type == "longrope" and len(given) != head_dim // 2:
                raise ConfigSchemaError(
                    f"{len(given)} numbers for heads of {head_dim}",
                    field=f"rope_parameters.{name}",
                    hint=f"give {head_dim // 2}",
                )
        if self.rope_type == "dynamic" and head_dim == 2:
            raise ConfigSchemaError(
                "'dynamic' needs heads of 4 or more", field="rope_parameters.rope_type", hint="choose another"
            )
        if self.rope_type == "longrope" and self.attention_factor is None and self.original(max_positions) == 1:
            raise ConfigSchemaError(
                "1 gives no attention factor",
                field="rope_parameters.original_max_position_embeddings",
                hint="set attention_factor",
            )

    def original(self, max_positions: int) -> int:
        """Tokens of the longest text in the first training."""
        return self.original_max_position_embeddings or max_positions

    def scaling(self, max_positions: int) -> float:
        """Factor of the cosines and sines.

        Args:
            max_positions: tokens of the longest text in training.
        """
        if self.rope_type not in ("yarn", "longrope"):
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor
        original = self.original(max_positions)
        factor = max_positions / original if self.factor is None else self.factor
        if factor <= 1:
            return 1.0
        if self.rope_type == "longrope":
            return math.sqrt(1 + math.log(factor) / math.log(original))
        if self.mscale and self.mscale_all_dim:
            return (0.1 * self.mscale * math.log(factor) + 1) / (0.1 * self.mscale_all_dim * math.log(factor) + 1)
        return 0.1 * math.log(factor) + 1

    def frequencies(self, head_dim: int, max_positions: int) -> Tensor:
        """Radians by which each pair of numbers turns from a token to the next, (K/2,) float32.

        Args:
            head_dim: K.
            max_positions: tokens of the longest text in training.
        """
        plain = 1.0 / self.rope_theta ** (torch.arange(0, head_dim, 2).float() / head_dim)  # (K/2,)
        kind, original = self.rope_type, self.original(max_positions)
        if kind == "linear":
            return plain / self._given("factor")
        if kind == "proportional":
            turning = int(self.partial_rotary_factor * head_dim // 2)
            return torch.where(torch.arange(head_dim // 2) < turning, plain, 0.0) / (self.factor or 1.0)
        if kind == "yarn":
            factor = max_positions / original if self.factor is None else self.factor
            kept = 1 - self._ramp(head_dim, original)
            return plain / factor * (1 - kept) + plain * kept
        if kind == "llama3":
            factor, low, high = map(self._given, ("factor", "low_freq_factor", "high_freq_factor"))
            turns = original * plain / (2 * math.pi)
            smooth = (turns - low) / (high - low)
            between = (1 - smooth) * plain / factor + smooth * plain
            return torch.where(turns < low, plain / factor, torch.where(turns > high, plain, between))
        return plain

    def _given(self, name: str) -> float:
        value: float = getattr(self, name)
        return value

    def _ramp(self, head_dim: int, original: int) -> Tensor:
        """From 0, for frequencies that ``yarn`` leaves as they are, to 1, for those that it divides; (K/2,)."""

        def index(turns: float) -> float:
            return head_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(self.rope_theta))

        low, high = index(self.beta_fast or 32), index(self.beta_slow or 1)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        if low == high:
            high += 0.001
        return ((torch.arange(head_dim // 2).float() - low) / (high - low)).clamp(0, 1)


class RotaryEmbedding(nn.Module):
    """Cosines and sines of positions, computed once a call for all layers.

    The frequencies of ``dynamic`` and ``longrope`` follow the longest text of the call, as in transformers: past the
    length that they were trained for, keys in a cache keep the frequencies of the call that made them.

    Args:
        parameters: the kind of scaling and its settings.
        head_dim: K.
        max_positions: tokens of the longest text in training.
    """

    inv_freq: Tensor
    """Radians from a token to the next, (K/2,) float32."""
    long_inv_freq: Tensor | None
    """Those of long texts, for ``longrope``."""

    def __init__(self, parameters: RopeParameters, head_dim: int, max_positions: int) -> None:
        super().__init__()
        self.given, self.max_positions = parameters, max_positions
        self.scaling = parameters.scaling(max_positions)
        inv_freq, long_inv_freq = parameters.frequencies(head_dim, max_positions), None
        if parameters.rope_type == "longrope":
            inv_freq, long_inv_freq = (
                inv_freq / torch.tensor(divisors) for divisors in (parameters.short_factor, parameters.long_factor)
            )
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.register_buffer("long_inv_freq", long_inv_freq, persistent=False)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Positions (1 or B, T) to cosines and sines, (1 or B, 1, T, K/2) float32 each."""
        return rotary_angles(positions, self._frequencies(positions), self.scaling)

    def _frequencies(self, positions: Tensor) -> Tensor:
        given, inv_freq = self.given, self.inv_freq
        if given.rope_type == "dynamic":
            factor, pairs = given.factor or 1.0, inv_freq.shape[0]
            length = (positions.max() + 1).clamp(min=self.max_positions).float()
            stretch = factor * length / self.max_positions - (factor - 1)  # of theta, to the power of K / (K - 2)
            exponents = torch.arange(pairs, device=inv_freq.device) / (pairs - 1)
            return inv_freq * stretch**-exponents
        if self.long_inv_freq is not None:
            return torch.where(positions.max() >= given.original(self.max_positions), self.long_inv_freq, inv_freq)
        return inv_freq
