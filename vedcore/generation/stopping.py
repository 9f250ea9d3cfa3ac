"""When a row ends: at an end id, or at its greatest length.

Shape letters: B rows of text, L new tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Stopping"]


class Stopping:
    """The rules of one call.

    Args:
        eos: the end ids, none or several.
        max_length: tokens of a row at which it is cut, prompt included.
        device: of the rows.
    """

    def __init__(self, eos: tuple[int, ...], max_length: int, device: torch.device) -> None:
        self.eos = torch.tensor(eos, dtype=torch.long, device=device)
        self.max_length = max_length

    def is_end(self, tokens: Tensor) -> Tensor:
        """Which of ``tokens``, of any shape, are end ids; bool of the same shape."""
        return tokens == self.eos if len(self.eos) == 1 else torch.isin(tokens, self.eos)

    def is_full(self, length: int) -> bool:
        """Whether rows of ``length`` tokens, prompt included, have no room for another."""
        return length >= self.max_length

    def finish_reasons(self, new_tokens: Tensor) -> tuple[str, ...]:
        """``"eos"`` or ``"length"`` for each row of (B, L) tokens without the prompt."""
        return tuple("eos" if ended else "length" for ended in self.is_end(new_tokens).any(1).tolist())
