"""Each processor does what transformers' processor of that option does, on random rows and scores."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vedcore.config import TokenIds
from vedcore.errors import GenerationError, UsageError
from vedcore.generation.options.config import GenerationConfig, Limits
from vedcore.generation.processors.chain import make_processors
from vedcore.generation.processors.logits import (
    Custom,
    DecayLength,
    Forced,
    MinLength,
    NoRepeatNgrams,
    PrefixAllowed,
    RemoveInvalid,
    Renormalize,
    RepetitionPenalty,
    SequenceBias,
    Suppressed,
)
from vedcore.generation.processors.warpers import Epsilon, Eta, MinP, Temperature, TopK, TopP, Typical

CPU = torch.device("cpu")
VOCAB = 23


@st.composite
def rows_and_scores(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    rows, length, vocab = draw(st.integers(1, 4)), draw(st.integers(1, 9)), draw(st.integers(4, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    ids = torch.randint(0, vocab, (rows, length), generator=generator)
    scores = torch.randn(rows, vocab, generator=generator) * 3
    if draw(st.booleans()):
        scores = scores.round()  # ties
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
    inner = min(max(share, 1e-4), 1 - 1e-4)
    words = ((0,), (2,), (1, 3), *(tuple(ids[0, i : i + n].tolist()) for i in range(ids.shape[1]) for n in (2, 3, 12)))
    banned = tuple((word, -math.inf) for word in words)
    biases = tuple((word, number * (-1) ** i) for i, word in enumerate(words))
    pairs: list[tuple[Any, Any]] = [
        (RepetitionPenalty(number), theirs.RepetitionPenaltyLogitsProcessor(number)),
        (RepetitionPenalty(number, skip), theirs.RepetitionPenaltyLogitsProcessor(number, skip)),
        (NoRepeatNgrams(size), theirs.NoRepeatNGramLogitsProcessor(size)),
        (SequenceBias(banned, scores.device), theirs.NoBadWordsLogitsProcessor([list(word) for word in words])),
        (SequenceBias(biases, scores.device), theirs.SequenceBiasLogitsProcessor([[list(r), b] for r, b in biases])),
        (DecayLength(size + 1, number, eos), theirs.ExponentialDecayLengthPenalty((1, number), eos, size)),
        (RemoveInvalid(), theirs.InfNanRemoveLogitsProcessor()),
        (Renormalize(), theirs.LogitNormalization()),
        (Forced(length, eos), theirs.ForcedEOSTokenLogitsProcessor(length + 1, eos)),
        (Forced(1, eos[:1]), theirs.ForcedBOSTokenLogitsProcessor(1)),
        (Suppressed(eos), theirs.SuppressTokensLogitsProcessor(eos)),
        (Suppressed(eos, length), theirs.SuppressTokensAtBeginLogitsProcessor(eos, length)),
        (MinLength(length, eos), theirs.MinLengthLogitsProcessor(length, eos)),
        (Temperature(number), theirs.TemperatureLogitsWarper(number)),
        (TopK(size), theirs.TopKLogitsWarper(size)),
        (TopP(share), theirs.TopPLogitsWarper(share)),
        (TopP(share, 3), theirs.TopPLogitsWarper(share, min_tokens_to_keep=3)),
        *(
            (ours(inner, n), reference(inner, min_tokens_to_keep=n))
            for n in (1, 2, 20)
            for ours, reference in (
                (MinP, theirs.MinPLogitsWarper),
                (Typical, theirs.TypicalLogitsWarper),
                (Epsilon, theirs.EpsilonLogitsWarper),
                (Eta, theirs.EtaLogitsWarper),
            )
        ),
    ]
    before = ids.clone(), scores.clone()
    for ours, reference in pairs:
        assert torch.equal(ours(ids, scores), reference(ids, scores.clone())), ours
        assert torch.equal(ids, before[0])
        assert torch.equal(scores, before[1])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, []),
        ({"do_sample": True}, [TopK(50)]),
        ({"do_sample": True, "top_k": 0}, []),
        ({"do_sample": True, "top_k": 1, "top_p": 0.5, "num_beams": 2}, [TopK(3), TopP(0.5, 3)]),
        (
            {"do_sample": True, "temperature": 2.0, "no_repeat_ngram_size": 2, "repetition_penalty": 1.5},
            [RepetitionPenalty(1.5), NoRepeatNgrams(2), Temperature(2.0), TopK(50)],
        ),
    ],
)
def test_built_only_when_set_and_in_order(options: dict[str, Any], expected: list[Any]) -> None:
    made = make_processors(GenerationConfig(**options), TokenIds(eos=(2, 3)), Limits(0, 9), 1, CPU)
    assert made == expected


def test_min_length_needs_an_end_id() -> None:
    assert make_processors(GenerationConfig(), TokenIds(), Limits(5, 9), 1, CPU) == []
    assert [type(p) for p in make_processors(GenerationConfig(), TokenIds(eos=(2,)), Limits(5, 9), 1, CPU)] == [
        MinLength
    ]


def test_order_of_what_forbids_and_forces() -> None:
    options = GenerationConfig(
        repetition_penalty=1.5,
        no_repeat_ngram_size=2,
        bad_words_ids=[[1], [2]],
        forced_bos_token_id=0,
        forced_eos_token_id=[3, 4],
        suppress_tokens=[5],
        begin_suppress_tokens=[6],
        do_sample=True,
    )
    made = make_processors(options, TokenIds(eos=(2,)), Limits(5, 9), 1, CPU)
    kinds = [RepetitionPenalty, NoRepeatNgrams, SequenceBias, MinLength, Forced, Forced, Suppressed, Suppressed, TopK]
    assert [type(each) for each in made] == kinds
    assert made[2].biases == (((1,), -math.inf),)  # an end id alone is no bad word
    assert [each.length for each in made[4:8]] == [1, 8, None, 2]


def test_off() -> None:
    names = ["bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "forced_eos_token_id", "forced_bos_token_id"]
    for value in (None, [], ()):
        options = GenerationConfig(**{name: value for name in names if value is None or name != "forced_bos_token_id"})
        assert make_processors(options, TokenIds(eos=(2,)), Limits(0, 9), 1, CPU) == []
    only_end = GenerationConfig(bad_words_ids=[[2]])
    assert make_processors(only_end, TokenIds(eos=(2,)), Limits(0, 9), 1, CPU) == []


def random_options(pick: random.Random) -> dict[str, Any]:
    """Any number of options that go together, over a vocabulary of VOCAB with ids 1, and perhaps 2, that end a text."""

    def runs(count: int) -> list[list[int]]:
        return [[pick.randrange(3, VOCAB) for _ in range(pick.randint(1, 3))] for _ in range(count)]

    every: dict[str, Any] = {
        "sequence_bias": [[run, pick.uniform(-9, 9)] for run in runs(6)],
        "bad_words_ids": [[1], *runs(4)],
        "repetition_penalty": pick.uniform(0.5, 2),
        "no_repeat_ngram_size": pick.randint(1, 3),
        "min_new_tokens": pick.randint(1, 4),
        "forced_bos_token_id": 5,
        "forced_eos_token_id": pick.choice([1, [1, 7]]),
        "remove_invalid_values": True,
        "exponential_decay_length_penalty": (pick.randint(0, 3), pick.uniform(0.9, 2)),
        "suppress_tokens": [pick.randrange(8, VOCAB) for _ in range(3)],
        "begin_suppress_tokens": [3, 9],
        "renormalize_logits": True,
    }
    sampling: dict[str, Any] = {
        "temperature": pick.uniform(0.3, 2),
        "top_k": pick.choice([0, 1, 5, 99]),
        "top_p": pick.random(),
        "min_p": pick.uniform(0, 0.5),
        "typical_p": pick.uniform(0.1, 1),
        "epsilon_cutoff": pick.uniform(1e-3, 0.3),
        "eta_cutoff": pick.uniform(1e-3, 0.3),
    }
    options = {name: value for name, value in every.items() if pick.random() < 0.5}
    if pick.random() < 0.5:
        options |= {"do_sample": True, **{name: value for name, value in sampling.items() if pick.random() < 0.5}}
    return options | {"num_beams": pick.choice([1, 1, 2, 4])}


@pytest.mark.parametrize("seed", range(80))
def test_all_together_in_transformers_order(vit_bert: Any, seed: int) -> None:
    from transformers import GenerationConfig as Theirs
    from transformers import LogitsProcessorList

    pick, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    options, eos = random_options(pick), pick.choice([[1], [1, 2]])
    prompt_length, prompts, new_tokens = pick.choice([1, 1, 3]), 2, 6
    extra = [lambda ids, scores: scores * 0.5 + ids[:, -1:]] if pick.random() < 0.3 else []
    function = (lambda i, row: [1, 5, *range(4 + i, 20, int(row[-1]) % 3 + 1)]) if pick.random() < 0.3 else None
    rows = prompts * options["num_beams"]
    mask = None
    if prompt_length > 1 and pick.random() < 0.5:
        mask = torch.tensor([[0, 1, 1], [1, 1, 1]]).repeat_interleave(options["num_beams"], 0)

    theirs_config = Theirs(**options, max_length=prompt_length + new_tokens)
    theirs_config._eos_token_tensor = torch.tensor(eos)
    theirs = vit_bert._get_logits_processor(
        theirs_config,
        prompt_length,
        prefix_allowed_tokens_fn=function,
        logits_processor=LogitsProcessorList(extra),
        device="cpu",
        model_kwargs={} if mask is None else {"decoder_attention_mask": mask},
    )
    config = GenerationConfig().with_options(**options, max_new_tokens=new_tokens)
    limits, ids_in_force = config.limits(prompt_length, None), TokenIds(eos=tuple(eos))
    ours = make_processors(
        config, ids_in_force, limits, prompt_length, CPU, mask, extra=extra, prefix_allowed_tokens_fn=function
    )
    for length in range(prompt_length, prompt_length + new_tokens):
        ids = torch.randint(1, VOCAB, (rows, length), generator=generator)
        scores = torch.randn(rows, VOCAB, generator=generator) * 4
        if config.remove_invalid_values:
            scores[0, 3], scores[1, 4], scores[-1, 6] = math.nan, math.inf, -math.inf
        expected, got = theirs(ids, scores.clone()), scores
        for each in ours:
            got = each(ids, got)
        assert torch.equal(got.isnan(), expected.isnan())
        assert torch.equal(got.nan_to_num(7.0), expected.nan_to_num(7.0)), options


def test_the_rows_of_a_group_are_one_search() -> None:
    options = GenerationConfig(
        num_beams=4, num_beam_groups=2, diversity_penalty=0.5, repetition_penalty=2.0, sequence_bias={(1,): 1.0}
    )
    made = make_processors(options, TokenIds(), Limits(0, 9), 1, CPU, prefix_allowed_tokens_fn=lambda i, row: [1])
    assert [type(each) for each in made] == [SequenceBias, RepetitionPenalty, PrefixAllowed]
    assert made[-1].rows == made[-1].beams == 2


def test_prefix_function_gets_the_image_of_each_row() -> None:
    from transformers.generation.logits_process import PrefixConstrainedLogitsProcessor

    seen: list[tuple[int, list[int]]] = []

    def function(image: int, row: Tensor) -> list[int]:
        seen.append((image, row.tolist()))
        return [1, 2] if image else [3]

    ids, scores = torch.arange(8).reshape(4, 2), torch.randn(4, 6)
    scores[:2, 3] = -math.inf  # all that the first image may have, so it is had all the same
    scores[2, 1:3] = -math.inf  # here another beam has some left
    got = PrefixAllowed(function, 2, 2)(ids, scores)
    assert seen == [(0, [0, 1]), (0, [2, 3]), (1, [4, 5]), (1, [6, 7])]
    assert torch.equal(got, PrefixConstrainedLogitsProcessor(function, 2)(ids, scores))
    assert got[0, 3] == 0
    assert (got[2] == -math.inf).all()
    apart = PrefixAllowed(function, 2, 1)(ids, scores)  # two texts of an image, not beams of one
    assert apart[2, 1] == 0


@pytest.mark.parametrize("answer", [[], None, 5, [6], [-1], [1.0], ["a"], torch.tensor([]), torch.tensor([9])], ids=str)
def test_what_a_prefix_function_may_not_return(answer: Any) -> None:
    with pytest.raises(GenerationError, match=r"prefix_allowed_tokens_fn: for image 0 after 2 tokens.*below 6"):
        PrefixAllowed(lambda image, row: answer, 1, 1)(torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 6))


@pytest.mark.parametrize("answer", [(1, 2), [1], torch.tensor([1, 2]), {1, 2}, np.array([1])], ids=str)
def test_what_a_prefix_function_may_return(answer: Any) -> None:
    got = PrefixAllowed(lambda image, row: answer, 1, 1)(torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 6))
    assert got[0, 1] == 0
    assert got[0, 3] == -math.inf


def test_a_processor_of_the_caller() -> None:
    def in_place(ids: Tensor, scores: Tensor) -> Tensor:
        scores[:, 0] = 7.0
        return scores

    ids, scores = torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 6)
    assert Custom(in_place)(ids, scores)[0, 0] == 7
    assert scores[0, 0] == 0
    for wrong in (None, torch.zeros(1, 5), 3.0):
        with pytest.raises(UsageError, match="logits_processor: .*returned"):
            Custom(lambda ids, scores, wrong=wrong: wrong)(ids, scores)


def test_decay_does_not_overflow() -> None:
    ids, scores = torch.zeros(1, 5000, dtype=torch.long), torch.tensor([[-1.0, 0.0, 2.0]])
    got = DecayLength(1, 1000.0, torch.tensor([0, 1]))(ids, scores)
    assert got.isfinite().all()
    assert got[0].argmax() == 0


@pytest.mark.parametrize("name", ["allowed_chars", "pattern", "lexicon"])
def test_a_constraint_stands_before_what_is_forced(name: str) -> None:
    marker = Suppressed(torch.tensor([1]))
    options = GenerationConfig(
        forced_bos_token_id=3, repetition_penalty=2.0, **{name: ["a"] if name == "lexicon" else "a"}
    )
    made = make_processors(options, TokenIds(), Limits(0, 9), 1, CPU, constraint=marker)
    assert [type(each) for each in made] == [RepetitionPenalty, Suppressed, Forced]
