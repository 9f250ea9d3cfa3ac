"""Drafts of the model by itself: the same ids, draws included, in fewer calls, and no drafts where they do not pay."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.generation.tiny import FAMILIES, VOCABULARY, decoder, state_and_request, write
from vedcore.errors import UsageError
from vedcore.generation.options.config import GenerationConfig
from vedcore.generation.search import search, stream
from vedcore.generation.search.assisted import self_drafting
from vedcore.generation.search.assisted.self_drafting import MAX_RUN, Account, SelfDrafter, draft_steps
from vedcore.layers.int8 import int8_product

pytestmark = pytest.mark.skipif(int8_product() is None, reason="no product in int8 is faster here")

EOS = list(range(4, VOCABULARY, 5))
PROMPT = torch.tensor([[1, 1, 3], [5, 6, 5], [1, 9, 7], [8, 8, 8]])
MASK = torch.tensor([[0, 0, 1], [1, 1, 1], [0, 1, 1], [1, 1, 1]])


FAMILIES_AT = list(FAMILIES)


def allowed(image: int, ids: Tensor) -> list[int]:
    return list(range(3 + image, VOCABULARY, 2 + (int(ids[-1]) + len(ids)) % 3))


OPTIONS: list[dict[str, Any]] = [
    {},
    {"eos_token_id": EOS, "pad_token_id": 2, "min_new_tokens": 2},
    {"eos_token_id": EOS, "pad_token_id": 2, "do_sample": True},
    {"do_sample": True, "top_k": 5, "temperature": 0.7, "num_return_sequences": 2},
    {"prompt": PROMPT, "mask": MASK, "repetition_penalty": 1.7},
    {"prompt": PROMPT, "mask": MASK, "do_sample": True, "top_p": 0.9},
    {"no_repeat_ngram_size": 2, "fields": {"prefix_allowed_tokens_fn": allowed}},
    {"fields": {"stopping_criteria": [lambda ids, scores: ids.sum(1) > 200]}},
    {"suppress_tokens": [7, 9], "forced_eos_token_id": 4, "max_new_tokens": 9, "pad_token_id": 2},
    {"output_scores": True, "output_logits": True, "output_attentions": True, "output_hidden_states": True},
]


class Runs:
    """Runs of random lengths, whatever they cost; counts the guesses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> None:
        self.draw, self.guesses, self.right = random.Random(seed), 0, 0
        learn = SelfDrafter.learn
        monkeypatch.setattr(Account, "run_length", lambda _, room: min(room, self.draw.randint(0, 6)))
        monkeypatch.setattr(SelfDrafter, "learn", lambda *a: (self.count(*a[1:]), learn(*a))[1])

    def count(self, guessed: list[int], right: list[int]) -> None:
        self.guesses, self.right = self.guesses + sum(guessed), self.right + sum(right)


def assert_same(family: str, count: int, made_seed: int = 1, **options: Any) -> None:
    made = decoder(family, made_seed)
    outs = []
    for draft in (None, "int8"):
        torch.manual_seed(count)
        outs.append(write(made, count, draft=draft, **options))
    plain, ours = outs
    assert ours.sequences.tolist() == plain.sequences.tolist()
    assert ours.lengths == plain.lengths
    assert ours.finish_reasons == plain.finish_reasons
    assert torch.allclose(ours.token_logprobs, plain.token_logprobs, atol=2e-3)
    for name in ("scores", "logits"):
        assert len(getattr(ours, name) or ()) == len(getattr(plain, name) or ())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("count", [1, 4])
def test_the_ids_are_the_same(family: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs(monkeypatch, count)
    some = 1 + min(count, 2)  # each family has some of them
    for options in OPTIONS[FAMILIES_AT.index(family) % some :: some]:
        if family == "whole" and "mask" in options:
            continue
        cut = {name: value[:count] for name, value in options.items() if isinstance(value, Tensor)}
        assert_same(family, count, **{**options, **cut})
    assert 0 < runs.right < runs.guesses


@pytest.mark.parametrize("seed", range(int(os.environ.get("VEDCORE_RANDOM_REQUESTS", "24")) // 4))
def test_random_requests(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four in each; the variable of the environment asks for more."""
    draw = random.Random(seed)
    Runs(monkeypatch, seed)
    for _ in range(4):
        options = {
            "do_sample": draw.random() < 0.5,
            "repetition_penalty": draw.choice([1.0, 1.3]),
            "no_repeat_ngram_size": draw.choice([0, 0, 3]),
            "max_new_tokens": draw.randint(1, 40),
            "eos_token_id": draw.sample(EOS, draw.randint(1, len(EOS))),
            "pad_token_id": draw.choice([2, 5]),
        }
        assert_same(draw.choice(list(FAMILIES)), draw.randint(1, 4), draw.randint(0, 3), **options)


def test_a_run_spares_calls() -> None:
    made, calls = decoder("gpt2", 1), list[int]()
    state, request = state_and_request(made, max_new_tokens=33, draft="int8")
    call = state.call
    state.call = lambda *a, **k: (calls.append(a[0].shape[1]), call(*a, **k))[1]  # type: ignore[method-assign]
    account = ready(made, guess=0.01)
    out = search(state, request)
    assert out.sequences.tolist() == write(made, max_new_tokens=33).sequences.tolist()
    assert len(calls) < 20
    assert max(calls) <= MAX_RUN + 1
    assert account.right > 5


def ready(made: Any, guess: float, rows: int = 1, right: float = 1.9) -> Account:
    """Put an account in place in which steps take a second, and guesses ``guess``."""
    copy = self_drafting.int8_copy(made)
    assert copy is not None
    account = Account(steps=3, step=1.0, guess=guess, check={4: 1.01}, right=right)
    account.add_step = lambda _=None, steps=1: Account.add_step(account, steps=steps)  # type: ignore[method-assign]
    account.add_round = lambda *a: Account.add_round(account, a[0], guess, 1.01, *a[3:])  # type: ignore[method-assign]
    self_drafting._ACCOUNTS.setdefault(copy, {})[rows, False] = account
    return account


def test_it_stops_where_guesses_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong guesses cost two steps at first, and then no more than a fiftieth of all."""
    made = decoder("gpt2", 1)
    account, wrong = ready(made, guess=0.4), SelfDrafter._run
    monkeypatch.setattr(SelfDrafter, "_run", lambda *a: [[(t + 1) % VOCABULARY for t in guess] for guess in wrong(*a)])
    lost, steps = 0.0, 0
    charge = account.add_round
    rounds: list[float] = []
    account.add_round = lambda *a: (rounds.append(account.cost(a[0]) - a[4] - 1), charge(*a))[1]  # type: ignore
    for _ in range(20):
        out = write(made, max_new_tokens=40, draft="int8")
        steps += out.sequences.shape[1] - 1
    lost = sum(rounds)
    assert rounds
    assert lost < self_drafting.MAX_LOSS + 1 + self_drafting.REPAID * steps
    assert account.acceptance < 0.5


def test_when_guesses_pay() -> None:
    account = Account()
    assert account.run_length(9) == 0  # the time of a step is not known yet
    for _ in range(3):
        account.add_step(1.0)
    assert account.run_length(9) > 1
    assert account.run_length(0) == 0
    good, dear = replace(account, guess=0.2, right=1.98), replace(account, guess=0.9, check={4: 3.0})
    assert good.run_length(99) > good.run_length(3) == 3
    assert dear.run_length(9) == 1  # a trial
    for _ in range(3):
        dear.add_round(1, 0.9, 1.5, 1, 0)
    assert dear.run_length(9) == 0
    dear.add_step(steps=100)
    assert dear.run_length(9) == 1
    for _ in range(9):
        good.add_round(4, 0.2, 1.2, 1, 0)
    assert good.run_length(9) == 0


def test_a_bad_run_after_good_ones_does_not_stop_drafts() -> None:
    account = Account(steps=3, step=1.0, guess=0.4, check={15: 1.5}, right=1.9)
    for _ in range(3):
        account.add_round(15, 0.4, 1.5, 15, 15)
    account.add_round(15, 0.4, 1.5, 1, 0)
    assert account.run_length(15) > 1
    for _ in range(2):
        account.add_round(15, 0.4, 1.5, 1, 0)
    assert account.run_length(15) == 0


def test_many_rows_and_other_types_are_written_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_drafting, "guessed_steps", lambda *_: pytest.fail("guesses"))
    assert len(write(decoder("gpt2", 1), 9, draft="int8", max_new_tokens=3).sequences) == 9
    monkeypatch.setattr(self_drafting, "int8_copy", lambda _: None)
    monkeypatch.setattr(self_drafting, "_warned", False)
    with pytest.warns(UserWarning, match="draft='int8' does nothing here"):
        write(decoder("gpt2", 1), draft="int8", max_new_tokens=3)
    write(decoder("gpt2", 1), draft="int8", max_new_tokens=3)


@pytest.mark.parametrize("count", [1, 3])
def test_it_is_streamed(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several texts without guesses, as these do not grow in step."""
    Runs(monkeypatch)
    made = decoder("gpt2", 1)
    tokens = stream(*state_and_request(made, count, draft="int8"))
    seen = [token.tolist() for token in tokens]
    assert torch.tensor(seen).T.tolist() == write(made, count).sequences[:, 1:].tolist()


def test_the_cache_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    Runs(monkeypatch)
    made = decoder("gpt2", 1)
    state, request = state_and_request(made, draft="int8", max_new_tokens=12)
    out = search(state, replace(request, keeps_cache=True))
    assert state.cache is not None
    assert state.cache.length == out.sequences.shape[1] - 1
    plain, request = state_and_request(made, max_new_tokens=12)
    search(plain, replace(request, keeps_cache=True))
    for mine, other in zip(state.cache.since(0), plain.cache.since(0), strict=True):  # type: ignore[union-attr]
        assert torch.allclose(mine[0], other[0], atol=1e-4)  # type: ignore[index]


@pytest.mark.parametrize(
    "options",
    [{"num_beams": 2}, {"penalty_alpha": 0.6}, {"prompt_lookup_num_tokens": 3}, {"use_cache": False}],
    ids=str,
)
def test_a_default_gives_way_and_a_wish_does_not(options: dict[str, Any]) -> None:
    kept = GenerationConfig(draft="int8")
    assert kept.with_options(**options).draft is None
    with pytest.raises(UsageError, match="draft='int8' contradicts"):
        GenerationConfig().with_options(draft="int8", **options)


def test_steps_are_named() -> None:
    assert GenerationConfig(draft="int8").strategy().steps.endswith(draft_steps.__name__)
