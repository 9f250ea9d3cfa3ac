"""Pixel shuffle: each square of neighbouring image tokens becomes one wider token, then one linear layer.

As in Idefics3 (https://arxiv.org/abs/2408.12637) and SmolVLM. A scale factor of 2 leaves a quarter of the tokens, so
that the decoder's cross-attention takes a quarter of the memory and time.

Shape letters: N images, S tokens of the encoder, P prefix tokens, Y x X the grid of the others, f scale factor,
S' = Y/f * X/f tokens after the projector, D width of the encoder, E width that cross-attention takes.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from vedcore import IncompatibleError, Projector, ProjectorConfig, TokenGrid
from vedcore.nn import Linear

__all__ = ["PixelShuffleConfig", "PixelShuffleProjector"]

Side = Annotated[int, Field(ge=1, le=1 << 12)]


class PixelShuffleConfig(ProjectorConfig):
    """Settings of `PixelShuffleProjector`."""

    scale_factor: Annotated[int, Field(ge=1, le=16)] = 2
    """f, the side of the squares of tokens that become one token."""
    grid: tuple[Side, Side] | None = None
    """Y and X, rows and columns of the encoder's tokens; None means as many rows as columns."""
    num_prefix_tokens: Annotated[int, Field(ge=0, le=64)] = 0
    """P, the encoder's tokens before the grid, such as a class token; they are left out."""


class PixelShuffleProjector(Projector):
    """(N, S, D) to (N, S', E); padding in the mask counts as zeros.

    Args:
        config: the settings.
        in_features: D.
        out_features: E.
    """

    config_class: ClassVar[type[PixelShuffleConfig]] = PixelShuffleConfig
    config: PixelShuffleConfig

    def __init__(self, config: PixelShuffleConfig, in_features: int, out_features: int) -> None:
        super().__init__()
        self.config, self.in_features, self.out_features = config, in_features, out_features
        self.proj = Linear(in_features * config.scale_factor**2, out_features, bias=False)

    def num_tokens(self, tokens: int) -> int:
        """S' for S.

        Raises:
            IncompatibleError: tokens that are not the grid, or a grid that the scale factor does not divide.
        """
        rows, columns = self._grid(tokens)
        return rows * columns // self.config.scale_factor**2

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(N, S, D) to (N, S', E).

        Args:
            hidden_states: the encoder's.
            attention_mask: (N, S) False for padding, or None.

        Raises:
            IncompatibleError: as `num_tokens`.
        """
        if attention_mask is not None:
            hidden_states = hidden_states.masked_fill(~attention_mask[..., None], 0)
        joined: Tensor = self.proj(self._squares(hidden_states).flatten(2))  # (N, S', f*f*D) -> (N, S', E)
        return joined

    def project_mask(self, attention_mask: Tensor) -> Tensor:
        """(N, S) to (N, S'): True where any token of the square is."""
        return self._squares(attention_mask[..., None]).any(2).squeeze(2)

    def token_grid(self, grid: TokenGrid) -> TokenGrid:
        """The squares lie as their tokens did."""
        rows, columns = self._grid(grid.tokens)
        return TokenGrid(rows // self.config.scale_factor, columns // self.config.scale_factor)

    def _squares(self, x: Tensor) -> Tensor:
        """(N, S, D) to (N, S', f*f, D), row by row both outside and inside of the squares."""
        factor, (rows, columns) = self.config.scale_factor, self._grid(x.shape[1])
        x = x[:, self.config.num_prefix_tokens :]
        x = x.reshape(-1, rows // factor, factor, columns // factor, factor, x.shape[2])  # (N, Y', f, X', f, D)
        return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)

    def _grid(self, tokens: int) -> tuple[int, int]:
        """Rows and columns of the tokens behind the prefix."""
        prefix, factor = self.config.num_prefix_tokens, self.config.scale_factor
        side = math.isqrt(max(0, tokens - prefix))
        rows, columns = self.config.grid or (side, side)
        found = f"{tokens} tokens" if not prefix else f"{tokens} tokens, {prefix} of them prefix,"
        if rows * columns != tokens - prefix or not rows:
            grid = f"a grid of {rows} x {columns}" if self.config.grid else "a square grid"
            raise IncompatibleError(f"{found} are not {grid}", field="projector.grid", hint=self._grid_hint(tokens))
        if rows % factor or columns % factor:
            raise IncompatibleError(
                f"squares of {factor} x {factor} do not divide a grid of {rows} x {columns} tokens",
                field="projector.scale_factor",
                hint=f"choose {' or '.join(_divisors(rows, columns))}, or give images of another size",
            )
        return rows, columns

    def _grid_hint(self, tokens: int) -> str:
        for prefix in range(9):  # most encoders have a class token or up to eight registers
            if prefix < tokens and math.isqrt(tokens - prefix) ** 2 == tokens - prefix and not self.config.grid:
                return f"set projector.num_prefix_tokens to {prefix}, or projector.grid to rows and columns"
        return "set projector.grid to the rows and columns of the encoder's tokens"


def _divisors(*numbers: int) -> list[str]:
    """The common divisors up to 16, the largest factor."""
    common = math.gcd(*numbers)
    return [str(n) for n in range(1, min(common, 16) + 1) if common % n == 0]
