"""One call of ``generate`` as every search sees it, and what the searches say when it cannot go on.

Shape letters: N prompts, B rows of text (N times the copies or beams of each), T prompt tokens, L tokens so far, V
vocabulary size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn

import torch
from torch import Tensor

from vedcore.config import TokenIds
from vedcore.errors import GenerationError, NonFiniteError, UsageError
from vedcore.generation.config import GenerationConfig, Limits
from vedcore.generation.constraints import Constrained, TokenAutomaton
from vedcore.generation.logits import PrefixFunction, Processor, make_processors

__all__ = ["Request", "Scores", "StoppingCriterion", "apply", "barring"]

Scores = tuple[Tensor, ...] | None
"""(B, V) scores of each step so far where ``output_scores`` keeps them, else None: what transformers' criteria get."""
StoppingCriterion = Callable[[Tensor, Scores], Tensor | bool]
"""``(input_ids (B, L), scores) -> (B,) bool``, True where a row is done, or one bool for all."""


@dataclass(frozen=True)
class Request:
    """What to write after, and how.

    Raises:
        UsageError: prompts of a wrong shape or type.
    """

    input_ids: Tensor
    """(N, T) prompts, long, start ids included."""
    options: GenerationConfig
    token_ids: TokenIds
    """Those in force: ``options.token_ids(...)``."""
    limits: Limits
    """``options.limits(...)``."""
    attention_mask: Tensor | None = None
    """(N, T), 0 where a prompt is padded at the left; the state knows of it too."""
    logits_processor: Sequence[Processor] = ()
    """The caller's own, run after ours and before those that sample."""
    stopping_criteria: Sequence[StoppingCriterion] = ()
    prefix_allowed_tokens_fn: PrefixFunction | None = None
    text_of: Callable[[Sequence[int]], str] | None = field(default=None, repr=False)
    """Ids to text, special tokens too; needed for ``stop_strings``."""
    constraint: TokenAutomaton | None = field(default=None, repr=False)
    """What ``allowed_chars``, ``pattern`` and ``lexicon`` mean over the model's tokenizer."""
    first: int = 0
    """Number of the first prompt, among those of the call that this is a part of."""

    def __post_init__(self) -> None:
        ids, mask = self.input_ids, self.attention_mask
        if ids.ndim != 2 or 0 in ids.shape or ids.dtype != torch.long:
            raise UsageError(
                f"prompts of shape {tuple(ids.shape)} and type {ids.dtype}",
                field="decoder_input_ids",
                hint="give long ids of shape (prompts, tokens), at least one of each",
            )
        if self.prefix_allowed_tokens_fn is not None and not callable(self.prefix_allowed_tokens_fn):
            raise UsageError(
                f"{type(self.prefix_allowed_tokens_fn).__name__} cannot be called",
                field="prefix_allowed_tokens_fn",
                hint="give a function of (image, ids)",
            )
        if mask is not None and mask.shape != ids.shape:
            raise UsageError(
                f"a mask of shape {tuple(mask.shape)} for prompts of shape {tuple(ids.shape)}",
                field="decoder_attention_mask",
                hint="give one number a token",
            )

    @property
    def prompts(self) -> int:
        """N."""
        return self.input_ids.shape[0]

    @property
    def prompt_length(self) -> int:
        """T."""
        return self.input_ids.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the search works."""
        return self.input_ids.device

    @property
    def padding(self) -> int:
        """What stands behind a text that has ended.

        transformers pads ended beams with the first end id where the pad id is 0, and so do we, to give the same ids.
        """
        ends = self.token_ids.eos if self.options.num_beams > 1 else ()
        return self.token_ids.pad or (ends[0] if ends else 0)

    def part(self, first: int, last: int) -> Request:
        """What is asked of prompts ``first`` to ``last - 1`` of these."""
        mask = None if self.attention_mask is None else self.attention_mask[first:last]
        return replace(self, input_ids=self.input_ids[first:last], attention_mask=mask, first=self.first + first)

    def rows(self, copies: int) -> Tensor:
        """(B,) the prompt of each row, ``copies`` rows side by side for each."""
        return torch.arange(self.prompts, device=self.device).repeat_interleave(copies)

    def buffer(self, copies: int) -> Tensor:
        """(B, max_length) ids that start with the prompts; untouched memory costs nothing."""
        ids = self.input_ids.new_empty(self.prompts * copies, self.limits.max_length)
        ids[:, : self.prompt_length] = self.input_ids.repeat_interleave(copies, 0)
        return ids

    def processors(self, copies: int) -> list[Processor]:
        """What changes the scores of ``copies`` rows for each prompt, in order."""
        mask = None if self.attention_mask is None else self.attention_mask.repeat_interleave(copies, 0)
        constraint = None
        if self.constraint is not None:
            forced = self.options.forced_bos_token_id is not None and self.prompt_length == 1
            constraint = Constrained(self.constraint, self.prompt_length + forced, self.limits.max_length)
        return make_processors(
            self.options,
            self.token_ids,
            self.limits,
            self.prompt_length,
            self.device,
            mask,
            rows=copies,
            extra=self.logits_processor,
            prefix_allowed_tokens_fn=self.prefix_allowed_tokens_fn,
            first=self.first,
            constraint=constraint,
        )

    def generator(self) -> torch.Generator | None:
        """The source of the draws; None is torch's global one."""
        seed = self.options.seed
        return None if seed is None else torch.Generator(self.device).manual_seed(seed)

    def raise_non_finite(self, logits: Tensor, unusable: Tensor, copies: int, step: int) -> NoReturn:
        """Say which prompts got useless logits: ``unusable`` (B,) of ``copies`` rows a prompt."""
        bad = logits[unusable]
        what = "NaN" if bad.isnan().any() else "+Inf" if (bad == math.inf).any() else "nothing but -Inf"
        raise NonFiniteError(
            f"the logits of {self._named(unusable, copies)} hold {what} at {_where(step)}",
            hint="check the weights and the images for NaN, or run in float32",
        )

    def raise_barred(self, chosen: Tensor, barred: Tensor, copies: int, step: int) -> NoReturn:
        """Say which prompts have no token left: ``barred`` (B,) of ``copies`` rows a prompt, by scores (B, ...)."""
        if chosen[barred].isnan().any():
            raise NonFiniteError(
                f"the scores of {self._named(barred, copies)} hold NaN after the processors at {_where(step)}",
                hint="check logits_processor, or relax what bars tokens",
            )
        raise GenerationError(
            f"the options leave {self._named(barred, copies)} no token to go on with at {_where(step)}",
            hint="relax what bars tokens, as no_repeat_ngram_size or suppress_tokens, or pass a smaller max_new_tokens",
        )

    def _named(self, flags: Tensor, copies: int) -> str:
        rows = sorted({self.first + row // copies for row in flags.nonzero()[:, 0].tolist()})
        shown = ", ".join(map(str, rows[:8])) + (", …" if len(rows) > 8 else "")
        return f"row {shown}" if len(rows) == 1 else f"rows {shown}"


def apply(processors: Sequence[Processor], input_ids: Tensor, scores: Tensor) -> Tensor:
    """(B, V) scores after all processors, for rows (B, L)."""
    for processor in processors:
        scores = processor(input_ids, scores)
    return scores


def _where(step: int) -> str:
    return f"step {step}" if step else "prefill"


def barring(chosen: Tensor, options: GenerationConfig) -> Tensor:
    """Which scores of what was chosen, of any shape, say that there was nothing to choose."""
    return chosen == -math.inf if options.remove_invalid_values else ~(chosen > -math.inf)
