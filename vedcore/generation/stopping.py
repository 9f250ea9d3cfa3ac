"""Why a row ends: an end id, a stop string, a repetition, the caller's own criteria, the clock, or its greatest length.

Shape letters: B rows of text, L tokens so far, M new tokens, V vocabulary size.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from torch import Tensor

from vedcore.errors import UsageError
from vedcore.generation.request import Request, Scores
from vedcore.generation.streaming import shared_length

__all__ = ["FINISH_REASONS", "Stopping"]

FINISH_REASONS = ("length", "eos", "stop_string", "repetition", "criteria", "time")
"""Names of why a row ended, by index; 0 is a row that goes on, or was cut at its greatest length."""


class Stopping:
    """Tells which rows end; the clock of ``max_time`` runs from here.

    Args:
        request: of the call.

    Raises:
        UsageError: stop strings where ids cannot be made text.
    """

    def __init__(self, request: Request) -> None:
        options = request.options
        self.eos = torch.tensor(request.end_ids, dtype=torch.long, device=request.device)
        self.strings, self.text_of = options.stop_strings, request.text_of
        self.times, self.prompt_length = options.repetition_stop, request.prompt_length
        self.criteria = request.stopping_criteria
        self.deadline = None if options.max_time is None else time.monotonic() + options.max_time
        if self.strings and self.text_of is None:
            raise UsageError(
                "the model has no tokenizer, which they need",
                field="stop_strings",
                hint="pass tokenizer= to generate, or leave them out",
            )

    def is_end(self, tokens: Tensor) -> Tensor:
        """Which of ``tokens``, of any shape, are end ids; bool of the same shape."""
        return tokens == self.eos if len(self.eos) == 1 else torch.isin(tokens, self.eos)

    @property
    def only_eos(self) -> bool:
        """Whether nothing but an end id, or the greatest length, ends a row, so that the rows so far are not read."""
        return not (self.strings or self.times or self.criteria or self.deadline)

    def reasons(self, tokens: Tensor, input_ids: Tensor, scores: Scores = None) -> Tensor:
        """(B,) why each row ends, as an index of `FINISH_REASONS`, the first that holds; 0 where it goes on.

        Under beams the rows are candidates, as many as there are.

        Args:
            tokens: (B,) the last one of each row.
            input_ids: (B, L) rows so far, the last token included.
            scores: of the steps so far.

        Raises:
            UsageError: a stopping criterion that gives something else than one bool a row, or one for all.
        """
        why = self.is_end(tokens).long()
        for word, done in self._others(input_ids, scores):
            why = torch.where(done & (why == 0), FINISH_REASONS.index(word), why)
        return why

    def words(self, reasons: Tensor) -> tuple[str, ...]:
        """The names of the (B,) reasons."""
        return tuple(FINISH_REASONS[i] for i in reasons.tolist())

    def _others(self, input_ids: Tensor, scores: Scores) -> Iterator[tuple[str, Tensor]]:
        if self.strings:
            hits = [self._ends_in_a_string(row) for row in input_ids[:, -self._tail :].tolist()]
            yield "stop_string", torch.tensor(hits, device=input_ids.device)
        if self.times:
            yield "repetition", _repeats(input_ids[:, self.prompt_length :], self.times)
        for criterion in self.criteria:
            yield "criteria", _verdict(criterion(input_ids, scores), input_ids)
        if self.deadline is not None:
            late = time.monotonic() > self.deadline
            yield "time", torch.full_like(input_ids[:, 0], late, dtype=torch.bool)

    @property
    def _tail(self) -> int:
        """Tokens to decode for a stop string: a character has at most four, and four more may be cut."""
        return 4 * max(map(len, self.strings)) + 4

    def _ends_in_a_string(self, ids: list[int]) -> bool:
        """Whether a stop string ends inside what the last token adds to the text."""
        assert self.text_of is not None
        text = self.text_of(ids)
        known = shared_length(text, self.text_of(ids[:-1]))  # shorter where a character was cut
        return any(text.find(string, max(0, known - len(string) + 1)) >= 0 for string in self.strings)


def _repeats(ids: Tensor, times: int) -> Tensor:
    """(B,) whether the (B, M) rows end in ``times`` repetitions of one run of tokens."""
    longest = ids.shape[1] // times  # run
    if not longest:
        return torch.zeros_like(ids[:, 0], dtype=torch.bool) if ids.shape[1] else ids.new_zeros(len(ids)).bool()
    back = ids.flip(1)[:, : longest * times]
    reach = longest * (times - 1)
    shifted = back[:, 1:].unfold(1, reach, 1)  # (B, longest, reach): row p - 1 holds the tokens p earlier
    lengths = torch.arange(1, longest + 1, device=ids.device)[:, None]
    beyond = torch.arange(reach, device=ids.device) >= lengths * (times - 1)
    same: Tensor = (back[:, None, :reach] == shifted) | beyond
    return same.all(2).any(1)


def _verdict(verdict: object, input_ids: Tensor) -> Tensor:
    """(B,) bool of a criterion's answer."""
    if isinstance(verdict, Tensor) and verdict.shape == input_ids.shape[:1]:
        return verdict.to(input_ids.device, torch.bool)
    if isinstance(verdict, bool) or (isinstance(verdict, Tensor) and verdict.ndim == 0):
        return torch.full_like(input_ids[:, 0], bool(verdict), dtype=torch.bool)
    shown = f"shape {tuple(verdict.shape)}" if isinstance(verdict, Tensor) else f"type {type(verdict).__name__}"
    raise UsageError(
        f"a criterion gave something of {shown} for {len(input_ids)} rows",
        field="stopping_criteria",
        hint="give a bool, or a tensor of one for each row",
    )
