"""How the tokens that an encoder gives of an image lie on it."""

from __future__ import annotations

import contextlib
import math
from typing import Any, NamedTuple

from vedcore.errors import IncompatibleError, VedcoreError

__all__ = ["TokenGrid", "derived_grid", "kept_grid"]

MAX_PREFIX = 8
"""Tokens before a grid that are tried: class and register tokens."""
GIVE_GRID = "give grid=(rows, columns), --grid in a shell, or give the part a method token_grid"


class TokenGrid(NamedTuple):
    """Tokens in rows from the top of an image, of columns from its left, evenly."""

    rows: int
    columns: int
    prefix: int = 0
    """Tokens before the grid that have no place, such as a class token."""

    @property
    def tokens(self) -> int:
        """All of them."""
        return self.prefix + self.rows * self.columns


def derived_grid(encoder: Any, image_size: tuple[int, int]) -> TokenGrid:
    """The grid that follows from an encoder's ``num_tokens``; see `vedcore.VisionEncoder.token_grid`.

    Raises:
        IncompatibleError: it could be several grids, or none.
    """
    height, width = image_size
    tokens = encoder.num_tokens(image_size)
    prefixes = range(min(MAX_PREFIX + 1, tokens))
    with contextlib.suppress(VedcoreError):  # an encoder of fixed size refuses another one
        higher, wider = encoder.num_tokens((2 * height, width)), encoder.num_tokens((height, 2 * width))
        if higher == tokens < wider:
            return TokenGrid(1, tokens)
        if higher == wider == tokens:
            prefixes = range(0)
    found = []
    for prefix in prefixes:
        side = math.sqrt(height * width / (tokens - prefix))
        if side.is_integer() and height % side == width % side == 0:
            found.append(TokenGrid(int(height / side), int(width / side), prefix))
    if len(found) != 1:
        message = f"{type(encoder).__name__} does not say where the {tokens} tokens of an image lie"
        raise IncompatibleError(message, field="encoder", hint=GIVE_GRID)
    return found[0]


def kept_grid(projector: Any, grid: TokenGrid) -> TokenGrid:
    """The same grid for a projector that keeps the number of tokens.

    Raises:
        IncompatibleError: one that does not.
    """
    if (tokens := projector.num_tokens(grid.tokens)) != grid.tokens:
        message = f"{type(projector).__name__} does not say where its {tokens} tokens lie"
        raise IncompatibleError(message, field="projector", hint=GIVE_GRID)
    return grid
