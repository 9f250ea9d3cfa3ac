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
from vedcore.generation.config import GenerationConfig, Limits
from vedcore.generation.logits import (
    BadWords,
    Forced,
    MinLength,
    NoRepeatNgrams,
    RepetitionPenalty,
    Suppressed,
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
    words = ((0,), (2,), (1, 3), *(tuple(ids[0, i : i + n].tolist()) for i in range(ids.shape[1]) for n in (2, 3, 12)))
    pairs: list[tuple[Any, Any]] = [
        (RepetitionPenalty(number), theirs.RepetitionPenaltyLogitsProcessor(number)),
        (RepetitionPenalty(number, skip), theirs.RepetitionPenaltyLogitsProcessor(number, skip)),
        (NoRepeatNgrams(size), theirs.NoRepeatNGramLogitsProcessor(size)),
        (BadWords(words, scores.device), theirs.NoBadWordsLogitsProcessor([list(word) for word in words])),
        (Forced(length, eos), theirs.ForcedEOSTokenLogitsProcessor(length + 1, eos)),
        (Forced(1, eos[:1]), theirs.ForcedBOSTokenLogitsProcessor(1)),
        (Suppressed(eos), theirs.SuppressTokensLogitsProcessor(eos)),
        (Suppressed(eos, length), theirs.SuppressTokensAtBeginLogitsProcessor(eos, length)),
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
    made = make_processors(GenerationConfig(**options), TokenIds(eos=(2, 3)), Limits(0, 9), 1, torch.device("cpu"))
    assert made == expected


def test_min_length_needs_an_end_id() -> None:
    device = torch.device("cpu")
    assert make_processors(GenerationConfig(), TokenIds(), Limits(5, 9), 1, device) == []
    assert [type(p) for p in make_processors(GenerationConfig(), TokenIds(eos=(2,)), Limits(5, 9), 1, device)] == [
        MinLength
    ]


def test_order_of_what_forbids_and_forces() -> None:
    options = GenerationConfig(
        repetition_penalty=1.5, no_repeat_ngram_size=2, bad_words_ids=[[1], [2]], forced_bos_token_id=0,
        forced_eos_token_id=[3, 4], suppress_tokens=[5], begin_suppress_tokens=[6], do_sample=True,
    )  # fmt: skip
    made = make_processors(options, TokenIds(eos=(2,)), Limits(5, 9), 1, torch.device("cpu"))
    kinds = [RepetitionPenalty, NoRepeatNgrams, BadWords, MinLength, Forced, Forced, Suppressed, Suppressed, TopK]
    assert [type(each) for each in made] == kinds
    assert made[2].words == ((1,),)  # an end id alone is no bad word
    assert [each.length for each in made[4:8]] == [1, 8, None, 2]


def test_off() -> None:
    names = ["bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "forced_eos_token_id", "forced_bos_token_id"]
    for value in (None, [], ()):
        options = GenerationConfig(**{name: value for name in names if value is None or name != "forced_bos_token_id"})
        assert make_processors(options, TokenIds(eos=(2,)), Limits(0, 9), 1, torch.device("cpu")) == []
    only_end = GenerationConfig(bad_words_ids=[[2]])
    assert make_processors(only_end, TokenIds(eos=(2,)), Limits(0, 9), 1, torch.device("cpu")) == []
