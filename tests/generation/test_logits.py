"""Each processor does what transformers' processor of that option does, on random rows and scores."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vedcore.config import TokenIds
from vedcore.generation.config import GenerationConfig
from vedcore.generation.logits import (
    MinLength,
    NoRepeatNgrams,
    RepetitionPenalty,
    Temperature,
    TopK,
    TopP,
    make_processors,
)


@st.composite
def rows_and_scores(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    rows, length, vocab = draw(st.integers(1, 4)), draw(st.integers(1, 9)), draw(st.integers(4, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    ids = torch.randint(0, vocab, (rows, length), generator=generator)
    scores = torch.randn(rows, vocab, generator=generator) * 3
    if draw(st.booleans()):
        scores[:, 0] = -math.inf
    return ids, scores


@settings(max_examples=60, deadline=None)
@given(rows_and_scores(), st.integers(1, 5), st.floats(0.1, 3.0), st.floats(0.0, 1.0), st.integers(1, 12))
def test_same_as_transformers(case: tuple[Tensor, Tensor], size: int, number: float, share: float, length: int) -> None:
    from transformers.generation import logits_process as theirs

    ids, scores = case
    skip = torch.arange(len(ids)) % ids.shape[1]
    eos = torch.tensor([1, 3])
    pairs: list[tuple[Any, Any]] = [
        (RepetitionPenalty(number), theirs.RepetitionPenaltyLogitsProcessor(number)),
        (RepetitionPenalty(number, skip), theirs.RepetitionPenaltyLogitsProcessor(number, skip)),
        (NoRepeatNgrams(size), theirs.NoRepeatNGramLogitsProcessor(size)),
        (MinLength(length, eos), theirs.MinLengthLogitsProcessor(length, eos)),
        (Temperature(number), theirs.TemperatureLogitsWarper(number)),
        (TopK(size), theirs.TopKLogitsWarper(size)),
        (TopP(share), theirs.TopPLogitsWarper(share)),
        (TopP(share, 3), theirs.TopPLogitsWarper(share, min_tokens_to_keep=3)),
    ]
    before = ids.clone(), scores.clone()
    for ours, reference in pairs:
        assert torch.equal(ours(ids, scores), reference(ids, scores.clone())), ours
        assert torch.equal(ids, before[0])
        assert torch.equal(scores, before[1])


@pytest.mark.parametrize(("options", "expected"), [
    ({}, []),
    ({"do_sample": True}, [TopK(50)]),
    ({"do_sample": True, "top_k": 0}, []),
    ({"do_sample": True, "top_k": 1, "top_p": 0.5, "num_beams": 2}, [TopK(3), TopP(0.5, 3)]),
    ({"do_sample": True, "temperature": 2.0, "no_repeat_ngram_size": 2, "repetition_penalty": 1.5},
     [RepetitionPenalty(1.5), NoRepeatNgrams(2), Temperature(2.0), TopK(50)]),
])  # fmt: skip
def test_built_only_when_set_and_in_order(options: dict[str, Any], expected: list[Any]) -> None:
    made = make_processors(GenerationConfig(**options), TokenIds(eos=(2, 3)), 0, torch.device("cpu"))
    assert made == expected


def test_min_length_needs_an_end_id() -> None:
    device = torch.device("cpu")
    assert make_processors(GenerationConfig(), TokenIds(), 5, device) == []
    assert [type(p) for p in make_processors(GenerationConfig(), TokenIds(eos=(2,)), 5, device)] == [MinLength]
