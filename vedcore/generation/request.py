"""One call of ``generate`` as every search sees it.

Shape letters: N prompts, B rows of text (N times the rows of each), T prompt tokens, L tokens so far, V vocabulary
size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from vedcore.config import TokenIds
from vedcore.errors import UsageError
from vedcore.generation.constraints.processor import ConstraintProcessor
from vedcore.generation.constraints.token_automaton import TokenAutomaton
from vedcore.generation.options.config import GenerationConfig, Limits
from vedcore.generation.options.strategies import Strategy
from vedcore.generation.processors.chain import make_processors
from vedcore.generation.processors.logits import LogitsProcessor, PrefixFunction

__all__ = ["Drafter", "Request", "Scores", "StoppingCriterion"]

Scores = tuple[Tensor, ...] | None
"""(B, V) scores of each step so far where ``output_scores`` keeps them, else None: transformers' criteria get these."""
StoppingCriterion = Callable[[Tensor, Scores], Tensor | bool]
"""``(input_ids (B, L), scores) -> (B,) bool``, True where a row is done, or one bool for all."""


class Drafter(Protocol):
    """Guesses how texts go on, for assisted decoding."""

    def guess(self, texts: Sequence[Sequence[int]], room: int) -> list[list[int]]:
        """Up to ``room`` tokens, or none, after each of B texts; none after an empty one."""

    def learn(self, guessed: Sequence[int], accepted: Sequence[int]) -> None:
        """Take in how many tokens were guessed for each row, and how many of them the model chose too."""


@dataclass(frozen=True)
class Request:
    """Prompts, and how to continue them.

    Raises:
        UsageError: a ``prefix_allowed_tokens_fn`` that cannot be called.
    """

    input_ids: Tensor
    """(N, T) prompts, long, start ids included."""
    options: GenerationConfig
    token_ids: TokenIds
    """Those in force: ``options.token_ids(...)``."""
    limits: Limits
    """``options.limits(...)``."""
    attention_mask: Tensor | None = None
    """(N, T), 0 where a prompt is padded at the left; the state has it too."""
    logits_processor: Sequence[LogitsProcessor] = ()
    """The caller's own, run after those of the options and before those that sample."""
    stopping_criteria: Sequence[StoppingCriterion] = ()
    prefix_allowed_tokens_fn: PrefixFunction | None = None
    text_of: Callable[[Sequence[int]], str] | None = field(default=None, repr=False)
    """Ids to text, special tokens too; needed for ``stop_strings``."""
    constraint: TokenAutomaton | None = field(default=None, repr=False)
    """``allowed_chars``, ``pattern`` and ``lexicon`` over the model's tokenizer."""
    first: int = 0
    """Index of the first prompt among those of the whole call."""
    drafter: Drafter | None = field(default=None, repr=False)
    """Guesses tokens, in place of the prompt look-up that the options may ask for."""
    streaming: bool = False
    """Whether the caller takes tokens as they come."""
    keeps_cache: bool = False
    """Whether the caller has the cache afterwards, so that rows that have ended stay in it."""
    stop_ids: tuple[int, ...] | None = None
    """Ids at which a row ends, where a criterion of the caller's says them; None is those of ``token_ids``."""
    forced_length: int | None = None
    """The length for ``forced_eos_token_id``, where the greatest length is that of a criterion of the caller's."""

    def __post_init__(self) -> None:
        if self.prefix_allowed_tokens_fn is not None and not callable(self.prefix_allowed_tokens_fn):
            raise UsageError(
                f"{type(self.prefix_allowed_tokens_fn).__name__} cannot be called",
                field="prefix_allowed_tokens_fn",
                hint="give a function of (image, ids)",
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
    def strategy(self) -> Strategy:
        """The way of searching."""
        return self.options.strategy(assisted=self.drafter is not None)

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Ids at which a row ends."""
        return self.token_ids.eos if self.stop_ids is None else self.stop_ids

    @property
    def pads_ended(self) -> bool:
        """Whether a row that has ended goes on with the pad id; as in transformers, only where there are end ids."""
        return bool(self.end_ids) and self.token_ids.pad is not None

    @property
    def padding(self) -> int:
        """Fills the rows behind their ends.

        transformers pads ended beams with the first end id where the pad id is 0, and so do we, to give the same ids.
        """
        ends = self.token_ids.eos if self.options.num_beams > 1 else ()
        return self.token_ids.pad or (ends[0] if ends else 0)

    def part(self, first: int, last: int) -> Request:
        """The same request for prompts ``first`` to ``last - 1`` alone."""
        mask = None if self.attention_mask is None else self.attention_mask[first:last]
        return replace(self, input_ids=self.input_ids[first:last], attention_mask=mask, first=self.first + first)

    def rows(self, rows_per_prompt: int) -> Tensor:
        """(B,) the prompt of each row, the rows of a prompt side by side."""
        return torch.arange(self.prompts, device=self.device).repeat_interleave(rows_per_prompt)

    def buffer(self, rows_per_prompt: int) -> Tensor:
        """(B, max_length) ids that start with the prompts; untouched memory costs nothing."""
        ids = self.input_ids.new_empty(self.prompts * rows_per_prompt, self.limits.max_length)
        ids[:, : self.prompt_length] = self.input_ids.repeat_interleave(rows_per_prompt, 0)
        return ids

    def processors(self, rows_per_prompt: int) -> list[LogitsProcessor]:
        """The logits processors of ``rows_per_prompt`` rows for each prompt, in order."""
        mask = None if self.attention_mask is None else self.attention_mask.repeat_interleave(rows_per_prompt, 0)
        constraint = None
        if self.constraint is not None:
            forced = self.options.forced_bos_token_id is not None and self.prompt_length == 1
            limits = self.limits
            constraint = ConstraintProcessor(
                self.constraint, self.prompt_length + forced, limits.max_length, limits.most
            )
        return make_processors(
            self.options,
            self.token_ids,
            self.limits,
            self.prompt_length,
            self.device,
            mask,
            rows=rows_per_prompt,
            extra=self.logits_processor,
            prefix_allowed_tokens_fn=self.prefix_allowed_tokens_fn,
            first=self.first,
            constraint=constraint,
            forced_length=self.forced_length,
        )

    def generator(self) -> torch.Generator | None:
        """The source of the draws; None is torch's global one."""
        seed = self.options.seed
        return None if seed is None else torch.Generator(self.device).manual_seed(seed)
