"""Searches over tables without a model: the best text is found, and what cannot go on says where."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vedcore.config import TokenIds
from vedcore.errors import GenerationError, NonFiniteError, UsageError
from vedcore.generation.options.config import GenerationConfig
from vedcore.generation.request import Request
from vedcore.generation.search import search
from vedcore.generation.search.scoring import draw

MODES: list[dict[str, Any]] = [
    {},
    {"do_sample": True, "seed": 0},
    {"num_beams": 3},
    {"num_beams": 3, "do_sample": True, "seed": 0},
]


def _table(seed: int, vocab: int, scale: float = 2.0) -> Tensor:
    return torch.randn(vocab, vocab, generator=torch.Generator().manual_seed(seed)) * scale


def _score(table: Tensor, row: tuple[int, ...], start: int) -> float:
    log_probs = table.double().log_softmax(1)
    return sum(float(log_probs[a, b]) for a, b in zip((start, *row), row, strict=False))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3), st.sampled_from([0.0, 0.7, 1.0, 2.0]), st.booleans())
def test_beams_wide_enough_find_the_best_text(
    table_state: Any, seed: int, length: int, penalty: float, ends: bool
) -> None:
    table, vocab, eos = _table(seed, 3), 3, 2
    texts = {
        row[: row.index(eos) + 1] if ends and eos in row else row
        for row in itertools.product(range(vocab), repeat=length)
    }
    best = max(_score(table, row, 0) / len(row) ** penalty for row in texts)
    config = GenerationConfig(num_beams=32, early_stopping="never", length_penalty=penalty, max_new_tokens=length)
    ids = TokenIds(eos=(eos,) if ends else (), pad=0)
    out = search(table_state(table), Request(torch.tensor([[0]]), config, ids, config.limits(1, None)))
    assert out.sequences_scores is not None
    assert out.token_logprobs is not None
    found = tuple(out.sequences[0, 1:].tolist())
    if ends and eos in found:
        found = found[: found.index(eos) + 1]
    assert _score(table, found, 0) / len(found) ** penalty == pytest.approx(best, abs=1e-4)  # texts of a chain may tie
    assert float(out.sequences_scores[0]) == pytest.approx(best, abs=1e-4)
    assert float(out.token_logprobs[0].sum()) == pytest.approx(_score(table, found, 0), abs=1e-4)


def test_greedy_follows_the_table(table_state: Any, run: Any) -> None:
    table = _table(1, 9)
    out = run(table_state(table), torch.tensor([[3], [4]]), vocab=9, max_new_tokens=6)
    for row in out.sequences.tolist():
        assert row[1:] == [int(table[token].argmax()) for token in row[:-1]]
    assert out.finish_reasons == ("length", "length")
    assert out.sequences_scores is None


def test_stops_once_all_rows_are_done(table_state: Any, run: Any) -> None:
    table = torch.full((5, 5), -3.0)
    for a, b in ((0, 1), (1, 2), (2, 3), (3, 3), (4, 3)):
        table[a, b] = 3.0
    state = table_state(table)
    out = run(state, torch.tensor([[1], [4]]), vocab=5, max_new_tokens=50, eos_token_id=3, pad_token_id=0)
    assert out.sequences.tolist() == [[1, 2, 3], [4, 3, 0]]
    assert out.token_logprobs[1, 1] == 0
    assert out.finish_reasons == ("eos", "eos")
    assert state.calls == 2


def test_one_token_needs_one_call(table_state: Any, run: Any) -> None:
    for mode in MODES:
        state = table_state(_table(2, 9))
        assert run(state, torch.tensor([[3], [4]]), vocab=9, max_new_tokens=1, **mode).sequences.shape == (2, 2)
        assert state.calls == 1


def test_returned_sequences_of_an_image_stand_together(table_state: Any, run: Any) -> None:
    prompt = torch.tensor([[3], [4]])
    out = run(table_state(_table(2, 9)), prompt, vocab=9, max_new_tokens=4, num_beams=4, num_return_sequences=3)
    assert out.sequences[:, 0].tolist() == [3, 3, 3, 4, 4, 4]
    scores = out.sequences_scores.view(2, 3)
    assert torch.equal(scores, scores.sort(1, descending=True).values)
    out = run(table_state(_table(2, 9)), prompt, vocab=9, max_new_tokens=4, do_sample=True, num_return_sequences=2)
    assert out.sequences[:, 0].tolist() == [3, 3, 4, 4]


def test_fewer_texts_than_asked_for(table_state: Any, run: Any) -> None:
    """Missing rows are padding; transformers fills them with the id -1, which no tokenizer has."""
    out = run(
        table_state(_table(2, 9)),
        torch.tensor([[3]]),
        vocab=9,
        max_new_tokens=1,
        num_beams=4,
        num_return_sequences=4,
        do_sample=True,
        top_k=1,
        pad_token_id=6,
    )
    assert out.sequences[2:].tolist() == [[3, 6], [3, 6]]
    assert out.sequences_scores[2:].tolist() == [-1e9, -1e9]
    assert out.token_logprobs.isfinite().flatten().tolist() == [True, True, False, False]


def test_seed_decides_and_leaves_the_global_generator_alone(table_state: Any, run: Any) -> None:
    prompt, options = torch.tensor([[3]]), {"vocab": 9, "max_new_tokens": 20, "do_sample": True}
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (run(table_state(_table(2, 9, 0.3)), prompt, seed=s, **options).sequences for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("count", [1, 5])
def test_draws_are_those_of_multinomial(count: int) -> None:
    probabilities = torch.rand(6, 50, generator=torch.Generator().manual_seed(0))
    for seed in range(20):
        torch.manual_seed(seed)
        expected = torch.multinomial(probabilities, count)
        assert torch.equal(draw(probabilities, count, torch.Generator().manual_seed(seed)), expected)


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("step", [0, 1, 4])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_unusable_logits_say_where(table_state: Any, run: Any, mode: dict[str, Any], step: int, value: float) -> None:
    copies = mode.get("num_beams", 1) if step else 1
    state = table_state(_table(3, 9), {(step, 1 * copies): value})
    with pytest.raises(NonFiniteError) as caught:
        run(state, torch.tensor([[3], [4], [5]]), vocab=9, max_new_tokens=30, **mode)
    where = f"step {step}" if step else "prefill"
    assert f"row 1 hold {'NaN' if value != value else '+Inf'} at {where};" in str(caught.value)
    assert state.calls == step + 1


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_rows_of_minus_infinity_are_unusable(table_state: Any, run: Any, mode: dict[str, Any]) -> None:
    table = torch.full((9, 9), -float("inf"))
    with pytest.raises(NonFiniteError, match="rows 0, 1 hold nothing but -Inf at prefill"):
        run(table_state(table), torch.tensor([[3], [4]]), vocab=9, max_new_tokens=30, **mode)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_single_tokens_of_minus_infinity_are_fine(table_state: Any, run: Any, mode: dict[str, Any]) -> None:
    table = _table(4, 9)
    table[:, 5] = -float("inf")
    out = run(table_state(table), torch.tensor([[3], [4]]), vocab=9, max_new_tokens=20, **mode)
    assert 5 not in out.sequences[:, 1:]


def test_what_a_finished_row_gives_does_not_matter(table_state: Any, run: Any) -> None:
    table = _table(3, 9)
    eos = int(table[3].argmax())
    state = table_state(table, {(2, 0): float("nan")})
    out = run(state, torch.tensor([[3], [4]]), vocab=9, max_new_tokens=5, eos_token_id=eos, min_length=1)
    assert out.finish_reasons[0] == "eos"


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_options_that_leave_no_token_say_where(table_state: Any, run: Any, mode: dict[str, Any]) -> None:
    with pytest.raises(GenerationError, match=r"leave row.* 0.* no token to go on with at step 5;") as caught:
        run(table_state(_table(5, 6)), torch.tensor([[3]]), vocab=6, max_new_tokens=9, no_repeat_ngram_size=1, **mode)
    assert type(caught.value) is GenerationError


def test_vocabularies_that_do_not_fit(table_state: Any, run: Any) -> None:
    with pytest.raises(UsageError, match="needs 4 tokens to choose from, the vocabulary has 3"):
        run(table_state(_table(0, 3)), torch.tensor([[1]]), vocab=3, eos_token_id=(0, 1, 2), num_beams=2)


def test_finish_reasons(table_state: Any, run: Any) -> None:
    table = torch.zeros(6, 6)
    for token, following in ((0, 1), (1, 2), (2, 2), (3, 4), (4, 4), (5, 3)):
        table[token, following] = 9.0
    cases = (((2, 3), ("eos", "length", "eos")), ((2,), ("eos", "length", "length")), ((), ("length",) * 3))
    for eos, expected in cases:
        for beams in (1, 2):
            prompt = torch.tensor([[0], [3], [5]])
            out = run(table_state(table), prompt, vocab=6, max_new_tokens=3, num_beams=beams, eos_token_id=eos)
            assert out.finish_reasons == expected
