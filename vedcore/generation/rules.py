"""Which options of ``generate`` others leave no use for, over plain mappings of those that are set.

Needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

__all__ = ["EITHER", "OFF", "RULES", "Rule", "without_idle"]

OFF: dict[str, Any] = {
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "repetition_stop": 0,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "penalty_alpha": 0.0,
    "max_matching_ngram_size": 2,
    "remove_invalid_values": False,
    "renormalize_logits": False,
    "bad_words_ids": (),
    "sequence_bias": (),
    "suppress_tokens": (),
    "begin_suppress_tokens": (),
    "force_words_ids": (),
    "stop_strings": (),
    "lexicon": (),
    "compile": False,
    "output_scores": False,
    "output_logits": False,
    "output_attentions": False,
    "output_hidden_states": False,
}
"""Values at which an option changes nothing; None means the same."""
EITHER = (("max_new_tokens", "max_length"), ("min_new_tokens", "min_length"))
"""Two words for one thing, of which a call may use one."""

SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "seed")
GROUPS = ("num_beam_groups", "diversity_penalty")
BEAMS = ("early_stopping", "length_penalty", *GROUPS, "force_words_ids")


class Rule(NamedTuple):
    """Some options that may not be set where others have some values."""

    names: tuple[str, ...]
    because: str
    """What the message says after the options."""
    hint: str
    holds: Callable[[Mapping[str, Any]], Any]


RULES = (
    Rule(
        ("penalty_alpha", *GROUPS, "force_words_ids"),
        "contradicts do_sample=True",
        "pass do_sample=False, or leave it out",
        lambda o: o.get("do_sample"),
    ),
    Rule(
        ("penalty_alpha", "prompt_lookup_num_tokens"),
        "contradicts num_beams, which must be 1 with it",
        "pass num_beams=1, or leave it out",
        lambda o: o.get("num_beams", 1) != 1,
    ),
    Rule(
        ("prompt_lookup_num_tokens",),
        "contradicts penalty_alpha",
        "leave out one of them",
        lambda o: o.get("penalty_alpha"),
    ),
    Rule(
        ("penalty_alpha",),
        "contradicts prompt_lookup_num_tokens",
        "leave out one of them",
        lambda o: o.get("prompt_lookup_num_tokens"),
    ),
    Rule(
        SAMPLING,
        "would do nothing with do_sample=False",
        "pass do_sample=True, or leave them out",
        lambda o: not o.get("do_sample") and not o.get("penalty_alpha"),
    ),
    Rule(
        tuple(name for name in SAMPLING if name != "top_k"),
        "would do nothing with penalty_alpha",
        "leave them out",
        lambda o: o.get("penalty_alpha"),
    ),
    Rule(
        BEAMS,
        "would do nothing with num_beams=1",
        "pass num_beams=2 or more, or leave them out",
        lambda o: o.get("num_beams", 1) == 1,
    ),
    Rule(
        ("force_words_ids",),
        "contradicts num_beam_groups",
        "leave out one of them",
        lambda o: o.get("num_beam_groups", 1) not in (1, None),
    ),
    Rule(GROUPS, "contradicts force_words_ids", "leave out one of them", lambda o: o.get("force_words_ids")),
    Rule(
        ("diversity_penalty",),
        "would do nothing with num_beam_groups=1",
        "pass num_beam_groups=2 or more",
        lambda o: o.get("num_beam_groups", 1) in (1, None),
    ),
    Rule(
        ("max_matching_ngram_size",),
        "would do nothing without prompt_lookup_num_tokens",
        "pass prompt_lookup_num_tokens=10 or so",
        lambda o: not o.get("prompt_lookup_num_tokens"),
    ),
)
"""In the order in which what one takes away leaves the next without a reason."""


def without_idle(kept: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """``kept`` less what itself and ``given`` leave no use for; what is ``given`` stays for the check to refuse."""
    left = {name: value for name, value in kept.items() if name not in given}
    for rule in RULES:
        if rule.holds({**left, **given}):
            left = {name: value for name, value in left.items() if name not in rule.names}
    return left
