"""Rules between options of ``generate``: which of them others contradict, or leave without effect.

They work on plain mappings of the options that are set. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from vedcore.generation.options.neutral import is_on
from vedcore.generation.options.strategies import STRATEGIES

__all__ = ["RULES", "SYNONYMS", "Rule", "without_idle"]

SYNONYMS = (("max_new_tokens", "max_length"), ("min_new_tokens", "min_length"))
"""Two names for one limit; of two in one place the first counts, as in transformers."""

SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "seed")
GROUPS = ("num_beam_groups", "diversity_penalty")


class Rule(NamedTuple):
    """Options that may not be set, or do nothing, where a condition on the others holds."""

    names: tuple[str, ...]
    because: str
    """Continues the message after the options."""
    hint: str
    holds: Callable[[Mapping[str, Any]], Any]
    idle: bool = False
    """Whether the options do nothing, which is worth a warning, and are not refused."""


_CONTRADICTED = {
    "do_sample": ("do_sample=True", "do_sample=False"),
    "num_beams": ("num_beams, which must be 1 with it", "num_beams=1"),
}
"""How a refused option is named and what turns it off, where its name alone would not say it."""


def _is_given(options: Mapping[str, Any], name: str) -> bool:
    return options.get(name) is not None


def _contradictions() -> tuple[Rule, ...]:
    """A rule for each option that some strategies refuse, naming the options of those strategies."""
    refused = dict.fromkeys(name for strategy in STRATEGIES for name in strategy.refuses)
    rules = []
    for name in sorted(refused, key=lambda name: name not in _CONTRADICTED):
        names = tuple(option for strategy in STRATEGIES if name in strategy.refuses for option in strategy.options)
        shown, off = _CONTRADICTED.get(name, (name, ""))
        hint = f"pass {off}, or leave it out" if off else "leave out one of them"
        rules.append(Rule(names, f"contradicts {shown}", hint=hint, holds=partial(is_on, name=name)))
    return tuple(rules)


RULES = (
    *_contradictions(),
    Rule(
        SAMPLING,
        "would do nothing with do_sample=False",
        hint="pass do_sample=True, or leave them out",
        holds=lambda o: not o.get("do_sample") and not o.get("penalty_alpha"),
        idle=True,
    ),
    Rule(
        tuple(name for name in SAMPLING if name != "top_k"),
        "would do nothing with penalty_alpha",
        hint="leave them out",
        holds=lambda o: o.get("penalty_alpha"),
        idle=True,
    ),
    Rule(
        ("early_stopping", "length_penalty"),
        "would do nothing with num_beams=1",
        hint="pass num_beams=2 or more, or leave them out",
        holds=lambda o: o.get("num_beams", 1) == 1,
        idle=True,
    ),
    Rule(
        GROUPS,
        "would do nothing with num_beams=1",
        hint="pass num_beams=4, num_beam_groups=2 and diversity_penalty=1.0 or so, or leave them out",
        holds=lambda o: o.get("num_beams", 1) == 1,
    ),
    Rule(
        ("force_words_ids",),
        "would do nothing with num_beams=1",
        hint="pass num_beams=2 or more, or leave it out",
        holds=lambda o: o.get("num_beams", 1) == 1,
    ),
    Rule(
        ("diversity_penalty",),
        "would do nothing with num_beam_groups=1",
        hint="pass a num_beam_groups of 2 or more that divides num_beams",
        holds=lambda o: not is_on(o, "num_beam_groups"),
    ),
    Rule(
        ("draft",),
        "contradicts use_cache=False",
        hint="pass use_cache=True, or leave it out",
        holds=lambda o: o.get("use_cache") is False,
    ),
    Rule(
        ("max_matching_ngram_size",),
        "would do nothing without prompt_lookup_num_tokens",
        hint="pass prompt_lookup_num_tokens=10 or so",
        holds=lambda o: not o.get("prompt_lookup_num_tokens"),
        idle=True,
    ),
    *(
        Rule(
            (whole,),
            f"would do nothing beside {new}",
            hint="leave it out",
            holds=partial(_is_given, name=new),
            idle=True,
        )
        for new, whole in SYNONYMS
    ),
)
"""In an order in which options that one rule takes away leave the next without a reason."""


def without_idle(kept: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """``kept`` less the options that the rules forbid beside it and ``given``; those ``given`` stay, to be refused."""
    left = {name: value for name, value in kept.items() if name not in given}
    for rule in RULES:
        if rule.holds({**left, **given}):
            left = {name: value for name, value in left.items() if name not in rule.names}
    return left
