"""The ledger of a search: tokens, log-probabilities, scores, logits and finish reasons of its steps, and its errors.

Shape letters: N prompts, B rows of text (N times the rows of each), L tokens so far, V vocabulary size.
"""

from __future__ import annotations

import math
from typing import NoReturn

import torch
from torch import Tensor

from vedcore.errors import GenerationError, NonFiniteError
from vedcore.generation.request import Request, Scores
from vedcore.generation.stopping import FINISH_REASONS, Stopping
from vedcore.outputs import GenerateOutput

__all__ = ["Ledger", "TextLedger", "UnevenLedger", "look"]


def look(going: Tensor, **problems: Tensor) -> tuple[set[str], list[bool]]:
    """One look at the device for all that a step must know.

    Args:
        going: (rows,) bool.
        problems: bool of any shape, by name.

    Returns:
        The names of the problems that hold somewhere, and ``going`` as a list.
    """
    flags = torch.cat([torch.stack([problem.any() for problem in problems.values()]), going]).tolist()
    return {name for name, flag in zip(problems, flags, strict=False) if flag}, flags[len(problems) :]


class Ledger:
    """The scores and logits of each step, where the options ask for them, and the errors of a step.

    Args:
        request: of the call.
        rows_per_prompt: rows of each prompt, side by side.
    """

    def __init__(self, request: Request, rows_per_prompt: int) -> None:
        self.request, self.rows_per_prompt = request, rows_per_prompt
        self.output_scores, self.output_logits = request.options.output_scores, request.options.output_logits
        self.scores: list[Tensor] = []
        """(B, V) what the tokens of each step were chosen by."""
        self.logits: list[Tensor] = []

    def add_scores(self, scores: Tensor) -> None:
        """Keep the (B, V) scores of a step, if they are asked for."""
        if self.output_scores:
            self.scores.append(scores)

    def add_logits(self, logits: Tensor) -> None:
        """Keep the (B, V) logits of a step, if they are asked for."""
        if self.output_logits:
            self.logits.append(logits)

    @property
    def scores_so_far(self) -> Scores:
        """The scores that stopping criteria get, and `GenerateOutput` returns."""
        return tuple(self.scores) or None

    @property
    def logits_so_far(self) -> tuple[Tensor, ...] | None:
        """The logits that `GenerateOutput` returns."""
        return tuple(self.logits) or None

    def raise_non_finite(self, logits: Tensor, unusable: Tensor, step: int) -> NoReturn:
        """Say which prompts got useless logits (B, V), at the rows ``unusable`` (B,); step 0 is the prefill."""
        bad = logits[unusable]
        found = "NaN" if bad.isnan().any() else "+Inf" if (bad == math.inf).any() else "nothing but -Inf"
        raise NonFiniteError(
            f"the logits of {self._named(unusable)} hold {found} at {_where(step)}",
            hint="check the weights and the images for NaN, or run in float32",
        )

    def raise_barred(self, chosen: Tensor, barred: Tensor, step: int) -> NoReturn:
        """Say which prompts have no token left: ``barred`` (B,), by the scores (B, ...) of what was chosen."""
        if chosen[barred].isnan().any():
            raise NonFiniteError(
                f"the scores of {self._named(barred)} hold NaN after the processors at {_where(step)}",
                hint="check logits_processor, or relax what bars tokens",
            )
        raise GenerationError(
            f"the options leave {self._named(barred)} no token to go on with at {_where(step)}",
            hint="relax what bars tokens, as no_repeat_ngram_size or suppress_tokens, or pass a smaller max_new_tokens",
        )

    def _named(self, flags: Tensor) -> str:
        """The prompts of the rows with a flag, of (B,) or fewer rows for each prompt."""
        each = len(flags) // self.request.prompts
        rows = sorted({self.request.first + row // each for row in flags.nonzero()[:, 0].tolist()})
        shown = ", ".join(map(str, rows[:8])) + (", …" if len(rows) > 8 else "")
        return f"row {shown}" if len(rows) == 1 else f"rows {shown}"


class TextLedger(Ledger):
    """The ledger of a search whose rows are the texts, which grow token by token and end one by one.

    Args:
        request: of the call; the clock of ``max_time`` runs from here.
        rows_per_prompt: rows of each prompt, side by side.
    """

    def __init__(self, request: Request, rows_per_prompt: int) -> None:
        super().__init__(request, rows_per_prompt)
        self.stopping = Stopping(request)
        self.ids = request.buffer(rows_per_prompt)
        """(B, max_length), of which `length` are written."""
        self.length = request.prompt_length
        """Tokens of the longest row so far, prompt included."""
        new = self.ids.shape[1] - self.length
        self.log_probs = torch.zeros(len(self.ids), new, device=request.device)
        """(B, max_length - T) what the model gave each new token, before any processor; 0 past a row's end."""
        self.unfinished = torch.ones(len(self.ids), dtype=torch.bool, device=request.device)
        self.reasons = torch.zeros(len(self.ids), dtype=torch.long, device=request.device)
        """(B,) indices of `FINISH_REASONS`."""
        self.new_tokens = torch.zeros_like(self.reasons)
        """(B,) of each row up to its end."""

    @property
    def rows(self) -> Tensor:
        """(B, L) ids so far."""
        return self.ids[:, : self.length]

    @property
    def full(self) -> bool:
        """Whether rows have their greatest length."""
        return self.length >= self.request.limits.max_length

    @property
    def step(self) -> int:
        """The number of the last step; 0 is the one after the prefill."""
        return self.length - self.request.prompt_length - 1

    @property
    def shows_ended(self) -> bool:
        """Whether the caller sees what ended rows go on with, so that they must be computed."""
        kept = self.output_scores or self.output_logits or self.request.keeps_cache
        return kept or not self.request.pads_ended

    def add_step(self, tokens: Tensor, log_probs: Tensor, scores: Tensor, logits: Tensor) -> Tensor:
        """Write one token in each row, and end the rows that it ends.

        Args:
            tokens: (B,) as chosen.
            log_probs: (B,) of the tokens.
            scores: (B, V) that they were chosen by.
            logits: (B, V).

        Returns:
            (B,) the tokens as written: the pad id in rows that ended before.
        """
        self.log_probs[:, self.step + 1] = torch.where(self.unfinished, log_probs, 0.0)
        self.add_scores(scores)
        self.add_logits(logits)
        if self.request.pads_ended and (pad := self.request.token_ids.pad) is not None:
            tokens = torch.where(self.unfinished, tokens, pad)
        self.ids[:, self.length] = tokens
        self.length += 1
        self.new_tokens += self.unfinished
        why = self.stopping.reasons(tokens, self.rows, self.scores_so_far)  # (B,)
        self.reasons = torch.where(self.unfinished, why, self.reasons)
        self.unfinished = self.unfinished & (why == 0)
        return tokens

    def output(self) -> GenerateOutput:
        """The whole, up to the longest text."""
        steps = int(self.new_tokens.max())
        return GenerateOutput(
            sequences=self.ids[:, : self.request.prompt_length + steps].clone(),
            token_logprobs=self.log_probs[:, :steps].clone(),
            finish_reasons=self.stopping.words(self.reasons),
            lengths=tuple(self.new_tokens.tolist()),
            scores=tuple(self.scores[:steps]) or None,
            logits=tuple(self.logits[:steps]) or None,
        )


class UnevenLedger(TextLedger):
    """The ledger of a search whose texts grow by different numbers of tokens.

    Args:
        request: of the call.
        rows_per_prompt: rows of each prompt, side by side.
    """

    def __init__(self, request: Request, rows_per_prompt: int) -> None:
        super().__init__(request, rows_per_prompt)
        self.lengths = [request.prompt_length] * len(self.ids)
        """Tokens of each row, prompt included; a row without a pad id is written on past its end."""
        self.ends: list[int | None] = [None] * len(self.ids)
        """The length at which a row ended."""

    def add_token(self, row: int, token: int, log_prob: float, scores: Tensor | None, logits: Tensor) -> None:
        """Write one token in one row, and end the row if it ends it.

        Args:
            row: 0 to B - 1.
            token: as chosen.
            log_prob: of the token.
            scores: (V,) that it was chosen by; None where nobody asks for them.
            logits: (V,).
        """
        step = self.lengths[row] - self.request.prompt_length
        self.ids[row, self.lengths[row]] = token
        self.lengths[row] += 1
        if self.output_scores and scores is not None:
            self._put(self.scores, step, row, scores)
        if self.output_logits:
            self._put(self.logits, step, row, logits)
        if self.ends[row] is not None:
            return
        self.log_probs[row, step] = log_prob
        why = self._why(row, token)
        if why or self.lengths[row] == self.request.limits.max_length:
            self.ends[row] = self.lengths[row]
            self.reasons[row], self.new_tokens[row] = why, step + 1
            self.ids[row, self.lengths[row] :] = (self.request.token_ids.pad or 0) if self.request.pads_ended else 0

    def _why(self, row: int, token: int) -> int:
        if self.stopping.only_eos:
            return FINISH_REASONS.index("eos") if token in self.request.end_ids else 0
        scores = tuple(step[row : row + 1] for step in self.scores[: self.lengths[row] - self.request.prompt_length])
        last = self.request.input_ids.new_tensor([token])
        return int(self.stopping.reasons(last, self.row(row), scores or None))

    def row(self, row: int) -> Tensor:
        """(1, L) ids of one row so far."""
        return self.ids[row : row + 1, : self.lengths[row]]

    def _put(self, steps: list[Tensor], step: int, row: int, values: Tensor) -> None:
        """Set one row of a step; rows that never get there stay zeros."""
        if step == len(steps):
            steps.append(values.new_zeros(len(self.ids), *values.shape))
        steps[step][row] = values


def _where(step: int) -> str:
    return f"step {step}" if step else "prefill"
