"""The logits processor that keeps a text to its constraint.

Shape letters: B rows of text, L tokens so far, V vocabulary size.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vedcore.errors import GenerationError
from vedcore.generation.constraints.token_automaton import TokenAutomaton

__all__ = ["ConstraintProcessor"]

Ints = NDArray[np.int64]


class ConstraintProcessor:
    """Bars the tokens after which a row's text would break the constraint.

    States are looked up by the ids of a row after the prompt, so rows may be reordered between steps, as beams are.

    Args:
        automaton: the constraint.
        prompt_length: tokens at the start of each row that are not part of the text, forced first tokens too.
        max_length: tokens at which a row is cut, prompt included; None cuts none.
        most: ``max_length`` that the decoder's positions allow; None for any.

    Raises:
        GenerationError: the shortest text is longer than ``max_length`` leaves room for.
    """

    def __init__(
        self, automaton: TokenAutomaton, prompt_length: int, max_length: int | None = None, most: int | None = None
    ) -> None:
        self.automaton, self.prompt_length, self.max_length = automaton, prompt_length, max_length
        self._known = {b"": automaton.start}
        if max_length is not None and automaton.shortest > max_length - prompt_length:
            raise GenerationError(
                f"the shortest text takes {automaton.shortest} tokens, and there is room for "
                f"{max(0, max_length - prompt_length)}",
                field=automaton.name,
                hint="allow shorter texts"
                if most is not None and prompt_length + automaton.shortest + 1 > most
                else f"pass max_new_tokens={automaton.shortest + 1} or more",
            )

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        rows = input_ids[:, self.prompt_length :].cpu().numpy()
        if rows.shape[1]:
            before = np.array([self._state(row[:-1]) for row in rows])
            states = self.automaton.advance(before, rows[:, -1])
        else:
            states = np.full(len(rows), self.automaton.start)
        self._known = {row.tobytes(): state for row, state in zip(rows, states.tolist(), strict=True)}
        remaining = None if self.max_length is None else self.max_length - input_ids.shape[1]
        allowed = self.automaton.mask(torch.from_numpy(states), remaining)
        return scores.masked_fill(~allowed.to(scores.device), -math.inf)

    def _state(self, row: Ints) -> int:
        known = self._known.get(row.tobytes())
        if known is None:
            states = np.array([self.automaton.start])
            for token in row:
                states = self.automaton.advance(states, token[None])
            known = int(states[0])
        return known
