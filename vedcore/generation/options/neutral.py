"""Values at which an option of ``generate`` changes nothing. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["NEUTRAL_VALUES", "is_on"]

NEUTRAL_VALUES: dict[str, Any] = {
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
"""By option; None means the same."""


def is_on(options: Mapping[str, Any], name: str) -> bool:
    """Whether an option that asks for something is set so that it does."""
    value = options.get(name)
    return bool(value) and value != (1 if name == "num_beams" else NEUTRAL_VALUES.get(name))
