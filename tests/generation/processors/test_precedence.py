"""Processors and criteria of the caller's take the places of those of the same class that options make."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor

EOS = [*range(4, 98, 7)]
ENDS: dict[str, Any] = {"eos_token_id": EOS, "pad_token_id": 2, "max_new_tokens": 9}


class Bias:
    """A processor of no class of transformers', whose place matters."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores.clamp(max=1.0) - input_ids[:, -1:] % 3


EOS_IDS = torch.tensor(EOS)
PROCESSORS: list[tuple[dict[str, Any], list[Any]]] = [
    ({"repetition_penalty": 1.7}, [hf.RepetitionPenaltyLogitsProcessor(0.6)]),
    ({"repetition_penalty": 1.7}, [Bias(), hf.RepetitionPenaltyLogitsProcessor(0.6), Bias()]),
    ({"repetition_penalty": 1.7}, [hf.RepetitionPenaltyLogitsProcessor(2.6), hf.RepetitionPenaltyLogitsProcessor(0.5)]),
    ({}, [hf.RepetitionPenaltyLogitsProcessor(2.6)]),
    ({"no_repeat_ngram_size": 1}, [hf.NoRepeatNGramLogitsProcessor(3)]),
    ({"min_length": 8}, [hf.MinLengthLogitsProcessor(4, EOS)]),
    ({"min_new_tokens": 4}, [hf.MinLengthLogitsProcessor(8, EOS)]),
    ({"min_new_tokens": 8}, [hf.MinNewTokensLengthLogitsProcessor(1, 2, EOS)]),
    ({"min_new_tokens": 3}, [hf.MinNewTokensLengthLogitsProcessor(1, 7, EOS)]),
    ({"bad_words_ids": [[5], [6, 7]]}, [hf.NoBadWordsLogitsProcessor([[9], [10]], EOS_IDS)]),
    ({"sequence_bias": [[[30], 9.0]]}, [hf.SequenceBiasLogitsProcessor({(31,): 9.0})]),
    ({"suppress_tokens": [*range(60)]}, [hf.SuppressTokensLogitsProcessor([*range(50, 98)])]),
    ({"begin_suppress_tokens": [*range(60)]}, [hf.SuppressTokensAtBeginLogitsProcessor([*range(50, 98)], 2)]),
    ({"forced_bos_token_id": 8}, [hf.ForcedBOSTokenLogitsProcessor(9)]),
    ({"forced_eos_token_id": 4}, [hf.ForcedEOSTokenLogitsProcessor(6, 11)]),
    ({"exponential_decay_length_penalty": (1, 1.9)}, [hf.ExponentialDecayLengthPenalty((3, 1.2), EOS, 1)]),
    ({"remove_invalid_values": True}, [hf.InfNanRemoveLogitsProcessor()]),
]
CRITERIA: list[tuple[dict[str, Any], list[Any]]] = [
    ({"max_new_tokens": None, "max_length": 9}, [hf.MaxLengthCriteria(5)]),
    ({"max_new_tokens": 8}, [hf.MaxLengthCriteria(4)]),
    ({"max_new_tokens": 8, "min_length": 7}, [hf.MaxLengthCriteria(4)]),
    ({"max_new_tokens": 8, "forced_eos_token_id": 11}, [hf.MaxLengthCriteria(4)]),
    ({}, [hf.EosTokenCriteria([50, 51, 52, 53, *range(60, 80)])]),
    ({"max_time": 1e-9}, [hf.MaxTimeCriteria(60.0)]),
    ({"max_time": 60.0}, [hf.MaxTimeCriteria(1e-9)]),
]
LONGER: list[tuple[dict[str, Any], list[Any]]] = [  # for which beams of transformers have no room
    ({"max_new_tokens": None, "max_length": 5}, [hf.MaxLengthCriteria(9)]),
    ({"max_new_tokens": 4, "forced_eos_token_id": 11, "eos_token_id": None}, [hf.MaxLengthCriteria(9)]),
    ({"eos_token_id": None}, [hf.EosTokenCriteria([50, 51, 52, 53, *range(60, 80)])]),
]


def both(pair: Any, options: dict[str, Any], **functions: Any) -> tuple[Any, Any]:
    lists = {"logits_processor": hf.LogitsProcessorList, "stopping_criteria": hf.StoppingCriteriaList}
    given = {name: lists[name](value) for name, value in functions.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours, theirs = pair.generate({**ENDS, **options, **given})
    return ours.sequences.tolist(), theirs.sequences.tolist()


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("index", range(len(PROCESSORS)))
def test_processors(pair: Any, beams: int, index: int) -> None:
    options, given = PROCESSORS[index]
    for family in ("bert", "bart"):
        ours, theirs = both(pair(family), {"num_beams": beams, **options}, logits_processor=given)
        assert ours == theirs


def test_prefix_functions(pair: Any) -> None:
    given = [hf.PrefixConstrainedLogitsProcessor(lambda row, ids: [*range(40, 50)], 1)]
    options = {"prefix_allowed_tokens_fn": lambda row, ids: [7, 8, 9]}
    ours, theirs = both(pair("bert"), options, logits_processor=given)
    assert ours == theirs


def test_warpers_run_beside_those_of_the_options(pair: Any) -> None:
    """As in transformers, which takes a caller's warper for one more processor."""
    model = pair("gpt2")
    options = {**ENDS, "do_sample": True, "top_k": 20, "temperature": 0.8}
    for given in (hf.TopKLogitsWarper(3), hf.TemperatureLogitsWarper(4.0)):
        torch.manual_seed(3)
        with torch.no_grad():
            told = model.theirs.generate(model.pixels, **options, logits_processor=hf.LogitsProcessorList([given]))
        got = model.ours.generate(model.pixels, **options, logits_processor=[given], seed=3)
        assert got.tolist() == told.tolist()


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("index", range(len(CRITERIA)))
def test_criteria(pair: Any, beams: int, index: int) -> None:
    options, given = CRITERIA[index]
    ours, theirs = both(pair("bert"), {"num_beams": beams, **options}, stopping_criteria=given)
    assert ours == theirs


@pytest.mark.parametrize("index", range(len(LONGER)))
def test_criteria_that_let_texts_grow(pair: Any, index: int) -> None:
    options, given = LONGER[index]
    for family in ("gpt2", "mbart"):
        ours, theirs = both(pair(family), options, stopping_criteria=given)
        assert ours == theirs


def test_a_criterion_of_strings(pair: Any) -> None:
    model = pair("gpt2")
    plain = model.ours.generate(model.pixels, max_new_tokens=9)
    first, second = (model.ours.processor.decode(plain[0].tolist())[at] for at in (1, 4))
    given = [hf.StopStringCriteria(model.tokenizer, second)]
    ours, theirs = both(model, {"eos_token_id": None, "stop_strings": [first]}, stopping_criteria=given)
    assert ours == theirs


def test_longer_beams(pair: Any) -> None:
    model = pair("bert")
    with pytest.warns(UserWarning, match="the given MaxLengthCriteria takes the place of max_length"):
        got = model.ours.generate(model.pixels, max_length=5, num_beams=3, stopping_criteria=hf.MaxLengthCriteria(9))
    assert got.tolist() == model.ours.generate(model.pixels, max_length=9, num_beams=3).tolist()


def test_the_reasons_stay(pair: Any) -> None:
    model, asked = pair("bert").ours, {**ENDS, "return_dict_in_generate": True}
    with pytest.warns(UserWarning, match="takes the place"):
        out = model.generate(
            pair("bert").pixels,
            stopping_criteria=[hf.MaxLengthCriteria(4), hf.EosTokenCriteria([*range(50, 98)])],
            **asked,
        )
    assert set(out.finish_reasons) <= {"eos", "length"}


def test_one_warning_for_each(pair: Any) -> None:
    model, pixels = pair("bert").ours, pair("bert").pixels
    given = {
        "logits_processor": [hf.RepetitionPenaltyLogitsProcessor(1.5), hf.NoRepeatNGramLogitsProcessor(2)],
        "stopping_criteria": [hf.MaxTimeCriteria(60.0)],
    }
    with pytest.warns(UserWarning) as caught:  # noqa: PT030
        model.generate(pixels, repetition_penalty=1.3, max_time=60.0, max_new_tokens=4, **given)
    assert sorted(str(warning.message).split(";")[0] for warning in caught) == [
        "the given MaxTimeCriteria takes the place of max_time",
        "the given RepetitionPenaltyLogitsProcessor takes the place of repetition_penalty",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.generate(pixels, max_new_tokens=4, **given)


def test_guesses_know_the_callers_ends(pair: Any) -> None:
    model, pixels = pair("gpt2").ours, pair("gpt2").pixels
    given = [hf.EosTokenCriteria([*range(50, 70)]), hf.MaxLengthCriteria(7)]
    with pytest.warns(UserWarning, match="takes the place"):
        plain = model.generate(pixels, **ENDS, stopping_criteria=given)
    with pytest.warns(UserWarning, match="takes the place"):
        guessed = model.generate(pixels, **ENDS, stopping_criteria=given, prompt_lookup_num_tokens=3)
    assert plain.tolist() == guessed.tolist()
