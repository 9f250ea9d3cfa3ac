"""The ways of searching for a text, as a table: how each is asked for, what it needs, and what it refuses.

A new one is a file in `vedcore.generation.search` and a row here. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from vedcore.errors import UsageError
from vedcore.generation.options.neutral import NEUTRAL_VALUES, is_on

__all__ = ["STRATEGIES", "Ability", "Strategy", "check_assisted", "strategy_for"]

Ability = Literal["parts", "hidden_states", "uneven_rows"]
"""Extras of a `vedcore.generation.state.State`: a fresh state over some of its prompts (``parts``), the decoder's last
hidden states, rows that grow by different numbers of tokens."""


class Strategy(NamedTuple):
    """One way of searching."""

    name: str
    steps: str
    """``module:function`` below ``vedcore.generation.search``: takes a fresh state and the request, gives `Steps`."""
    options: tuple[str, ...] = ()
    """The option that asks for it, then others that only it reads."""
    refuses: tuple[str, ...] = ()
    """Options that contradict it."""
    width: str = "num_return_sequences"
    """Option that says how many rows the decoder computes for each prompt."""
    needs: frozenset[Ability] = frozenset()
    in_step: bool = True
    """Whether each step writes one token in every text, so that several texts can be streamed."""
    reads_last_token: bool = False
    """Whether the decoder reads the last token too, which then needs a position."""
    takes_cache: bool = True
    """Whether it can go on with a cache of the caller's, and leaves one that the caller can go on with."""


STRATEGIES = (
    Strategy(
        "assisted decoding",
        "assisted.assisted_decoding:assisted_steps",
        options=("prompt_lookup_num_tokens",),
        refuses=("num_beams", "penalty_alpha"),
        needs=frozenset({"uneven_rows"}),
        in_step=False,
        takes_cache=False,
    ),
    Strategy(
        "drafting",
        "assisted.self_drafting:draft_steps",
        options=("draft",),
        refuses=("num_beams", "penalty_alpha", "prompt_lookup_num_tokens"),
        needs=frozenset({"uneven_rows"}),
    ),
    Strategy(
        "contrastive search",
        "contrastive:contrastive_steps",
        options=("penalty_alpha",),
        refuses=("do_sample", "num_beams", "prompt_lookup_num_tokens"),
        width="top_k",
        needs=frozenset({"hidden_states"}),
        reads_last_token=True,
        takes_cache=False,
    ),
    Strategy(
        "diverse beam search",
        "beams.beam_search:diverse_steps",
        options=("num_beam_groups", "diversity_penalty"),
        refuses=("do_sample", "force_words_ids"),
        width="num_beams",
        in_step=False,
    ),
    Strategy(
        "constrained beam search",
        "beams.beam_search:forced_words_steps",
        options=("force_words_ids",),
        refuses=("do_sample", "num_beam_groups"),
        width="num_beams",
        in_step=False,
    ),
    Strategy("beam search", "beams.beam_search:beam_steps", options=("num_beams",), width="num_beams", in_step=False),
    Strategy("greedy search or sampling", "greedy:sample_steps"),
)
"""In order: the first whose option is on is the one; the last is asked for by none."""


def strategy_for(options: Mapping[str, Any], assisted: bool = False) -> Strategy:
    """The strategy that ``options`` ask for; ``assisted`` where a draft model guesses."""
    if assisted:
        return STRATEGIES[0]
    return next(row for row in STRATEGIES if not row.options or is_on(options, row.options[0]))


def check_assisted(options: Mapping[str, Any], asked_by: str) -> None:
    """Refuse what does not go with guessed tokens, before work begins.

    Args:
        options: of the call.
        asked_by: ``"assistant_model"`` or ``"prompt_lookup_num_tokens"``.

    Raises:
        UsageError: beams, contrastive search.
    """
    for name in STRATEGIES[0].refuses:
        if is_on(options, name):
            off = {"num_beams": 1, **NEUTRAL_VALUES}[name]  # it may be the model's, which cannot be left out
            message = f"{name}={options[name]} contradicts {asked_by}"
            raise UsageError(message, field=name, hint=f"pass {name}={off}, or leave out {asked_by}")
