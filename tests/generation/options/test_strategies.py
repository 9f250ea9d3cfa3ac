"""The table of strategies: each row leads to a search, and refuses and needs what it says."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
import torch

from vedcore.config import TokenIds
from vedcore.errors import UsageError
from vedcore.generation.options.config import GenerationConfig
from vedcore.generation.options.strategies import STRATEGIES, Strategy
from vedcore.generation.request import Request
from vedcore.generation.search import search

ON: dict[str, dict[str, Any]] = {
    "assisted decoding": {"prompt_lookup_num_tokens": 3},
    "drafting": {"draft": "int8"},
    "contrastive search": {"penalty_alpha": 0.5, "top_k": 3},
    "diverse beam search": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    "constrained beam search": {"num_beams": 2, "force_words_ids": [[1]]},
    "beam search": {"num_beams": 2},
    "greedy search or sampling": {},
}
"""Options that ask for each."""
REFUSED: dict[str, Any] = {
    "do_sample": True,
    "num_beams": 3,
    "penalty_alpha": 0.5,
    "prompt_lookup_num_tokens": 2,
    "num_beam_groups": 2,
    "force_words_ids": [[2]],
}
"""Values at which refused options are on."""


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: strategy.name)
def test_its_options_lead_to_it(strategy: Strategy) -> None:
    assert GenerationConfig(**ON[strategy.name]).strategy() is strategy
    module, _, function = strategy.steps.partition(":")
    assert callable(getattr(import_module(f"vedcore.generation.search.{module}"), function))


@pytest.mark.parametrize(("strategy", "name"), [(s, name) for s in STRATEGIES for name in s.refuses])
def test_it_refuses_what_it_says(strategy: Strategy, name: str) -> None:
    with pytest.raises(UsageError, match="contradicts"):
        GenerationConfig(**{**ON[strategy.name], name: REFUSED[name]})


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: strategy.name)
def test_a_state_without_the_abilities_is_refused(strategy: Strategy, table_state: Any) -> None:
    options = GenerationConfig(**ON[strategy.name], max_new_tokens=2)
    token_ids = options.token_ids(TokenIds(), 5)
    request = Request(torch.tensor([[0]]), options, token_ids, options.limits(1, None))
    state = table_state(torch.randn(5, 5, generator=torch.Generator().manual_seed(0)))
    if not strategy.needs:
        assert search(state, request).sequences.shape == (1, 3)
        return
    with pytest.raises(AssertionError, match=f"{strategy.name} needs another state"):
        search(state, request)
