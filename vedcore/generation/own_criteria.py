"""The caller's stopping criteria in place of the options' own, where both are of one class, as in transformers.

Classes are recognised by transformers' names. The greatest length and the end ids are read from the criteria, because
searches need both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vedcore.config import TokenIds, plain, token_id_tuple
from vedcore.errors import UsageError, warn_caller
from vedcore.generation.options.config import GenerationConfig, Limits
from vedcore.generation.processors.chain import replaced_options
from vedcore.generation.processors.logits import LogitsProcessor
from vedcore.generation.request import StoppingCriterion

__all__ = ["OwnCriteria", "warn_of_replaced"]


@dataclass(frozen=True)
class OwnCriteria:
    """Stopping criteria, the options without what they replace, and what was read out of them."""

    options: GenerationConfig
    criteria: tuple[StoppingCriterion, ...]
    """Those that are called."""
    stop_ids: tuple[int, ...] | None = None
    """End ids; None is the model's or the options'."""
    max_length: int | None = None
    """Greatest length of a row, prompt included; None is that of the options."""
    replaced: Mapping[str, object] = field(default_factory=dict)
    """By option, the criterion that takes its place."""

    @classmethod
    def of(cls, options: GenerationConfig, ids: TokenIds, criteria: Sequence[StoppingCriterion]) -> OwnCriteria:
        """Sort the ``criteria`` of a call with ``options`` and these token ids."""
        stop_ids = max_length = None
        called: list[StoppingCriterion] = []
        changes: dict[str, Any] = {}
        replaced: dict[str, object] = {}
        length = "max_length" if options.max_new_tokens is None else "max_new_tokens"
        for criterion in criteria:
            match type(criterion).__name__:
                case "MaxLengthCriteria" if max_length is None and getattr(options, length) is not None:
                    max_length = plain(getattr(criterion, "max_length", None))
                    if isinstance(max_length, int):
                        replaced[length] = criterion
                        continue
                case "EosTokenCriteria" if stop_ids is None:
                    stop_ids = token_id_tuple(plain(getattr(criterion, "eos_token_id", None)))
                    if stop_ids:
                        replaced |= {"eos_token_id": criterion} if ids.eos else {}
                        continue
                case "MaxTimeCriteria" if options.max_time is not None:
                    changes["max_time"], replaced["max_time"] = None, criterion
                case "StopStringCriteria" if options.stop_strings:
                    changes["stop_strings"], replaced["stop_strings"] = (), criterion
            called.append(criterion)
        return cls(options.model_copy(update=changes), tuple(called), stop_ids, max_length, replaced)

    def limits(self, prompt_length: int, max_positions: int | None) -> tuple[Limits, int | None]:
        """How long the rows may get, and the length for ``forced_eos_token_id`` where it is another one.

        Raises:
            GenerationError, UsageError: as `GenerationConfig.limits`.
        """
        limits = self.options.limits(prompt_length, max_positions)
        if self.max_length is None:
            return limits, None
        longest = max(self.max_length, prompt_length + 1)  # a criterion is asked once a token is written
        no_least = {"min_length": None, "min_new_tokens": None}
        own = self.options.model_copy(update={**no_least, "max_new_tokens": None, "max_length": longest})
        try:
            longest = own.limits(prompt_length, max_positions).max_length
        except UsageError as error:  # whose hint names an option, and the criterion takes the option's place
            raise error.with_hint("lower the max_length of MaxLengthCriteria") from None
        return limits._replace(max_length=longest), limits.max_length


def warn_of_replaced(
    options: GenerationConfig, criteria: OwnCriteria, processors: Sequence[LogitsProcessor], prefix: object
) -> None:
    """Name the options of a call whose place a criterion or processor of the caller's takes, as transformers does.

    Args:
        options: of the call.
        criteria: the caller's.
        processors: the caller's.
        prefix: ``prefix_allowed_tokens_fn``.
    """
    own = {
        option: processor
        for option, processor in replaced_options(processors).items()
        if (prefix is not None if option == "prefix_allowed_tokens_fn" else options.asks_for(option))
    }
    for option, function in (own | dict(criteria.replaced)).items():
        warn_caller(f"the given {type(function).__name__} takes the place of {option}; leave out one of them")
