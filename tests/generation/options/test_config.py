"""Options of generate: every one is checked before work begins, and the call wins over what it leaves no use for."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch

from vedcore.config import DecoderConfig, TokenIds
from vedcore.errors import ConfigError, ConfigLimitError, ConfigSchemaError, GenerationError, UsageError, VedcoreError
from vedcore.generation.options.config import GenerationConfig


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"num_beam": 4}, UsageError, ["num_beam", "'num_beams'"]),
        ({"zzz": 4}, UsageError, ["zzz"]),
        ({"num_beams": "4"}, ConfigSchemaError, ["num_beams", "'4'"]),
        ({"num_beams": True}, ConfigSchemaError, ["num_beams"]),
        ({"num_beams": 0}, ConfigSchemaError, ["num_beams", "0"]),
        ({"max_new_tokens": 0}, ConfigSchemaError, ["max_new_tokens"]),
        ({"max_new_tokens": -3}, ConfigSchemaError, ["max_new_tokens", "-3"]),
        ({"do_sample": True, "temperature": 0.0}, ConfigSchemaError, ["temperature"]),
        ({"do_sample": True, "temperature": float("nan")}, ConfigSchemaError, ["temperature"]),
        ({"do_sample": True, "temperature": float("inf")}, ConfigSchemaError, ["temperature"]),
        ({"do_sample": True, "top_p": 1.5}, ConfigSchemaError, ["top_p"]),
        ({"do_sample": True, "top_k": -1}, ConfigSchemaError, ["top_k"]),
        ({"repetition_penalty": 0.0}, ConfigSchemaError, ["repetition_penalty"]),
        ({"num_beams": 2, "length_penalty": 1e9}, ConfigSchemaError, ["length_penalty"]),
        ({"num_beams": 2, "early_stopping": "soon"}, ConfigSchemaError, ["early_stopping", "soon"]),
        ({"eos_token_id": -1}, ConfigSchemaError, ["eos_token_id"]),
        ({"bad_words_ids": [[]]}, ConfigSchemaError, ["bad_words_ids"]),
        ({"bad_words_ids": [3]}, ConfigSchemaError, ["bad_words_ids"]),
        ({"bad_words_ids": [[3, "x"]]}, ConfigSchemaError, ["bad_words_ids", "'x'"]),
        ({"suppress_tokens": [-1]}, ConfigSchemaError, ["suppress_tokens", "-1"]),
        ({"begin_suppress_tokens": "3"}, ConfigSchemaError, ["begin_suppress_tokens"]),
        ({"forced_bos_token_id": [1]}, ConfigSchemaError, ["forced_bos_token_id"]),
        ({"forced_eos_token_id": [1.5]}, ConfigSchemaError, ["forced_eos_token_id"]),
        ({"seed": -1, "do_sample": True}, ConfigSchemaError, ["seed"]),
        ({"num_beams": 100_000}, ConfigLimitError, ["num_beams", "100,000", "1,024"]),
        ({"do_sample": True, "num_return_sequences": 5000}, ConfigLimitError, ["num_return_sequences", "5,000"]),
        ({"max_length": 10**12}, ConfigLimitError, ["max_length", "1,000,000"]),
        ({"max_new_tokens": 10**7}, ConfigLimitError, ["max_new_tokens"]),
        ({"min_new_tokens": 5, "max_new_tokens": 4}, UsageError, ["min_new_tokens", "max_new_tokens=4"]),
        ({"min_length": 5, "max_length": 4}, UsageError, ["min_length", "max_length=4"]),
        ({"forced_bos_token_id": 5, "suppress_tokens": [4, 5]}, UsageError, ["forced_bos_token_id", "suppress_tokens"]),
        ({"forced_eos_token_id": [5, 4], "suppress_tokens": [4, 5]}, UsageError, ["forced_eos_token_id"]),
        ({"num_return_sequences": 2}, UsageError, ["num_return_sequences", "num_beams=1", "do_sample=True"]),
        ({"num_return_sequences": 3, "num_beams": 2}, UsageError, ["num_return_sequences", "num_beams=2"]),
        ({"num_return_sequences": 3, "num_beams": 2, "do_sample": True}, UsageError, ["num_beams=2"]),
        ({"max_time": 0}, ConfigSchemaError, ["max_time"]),
        ({"max_time": float("inf")}, ConfigSchemaError, ["max_time"]),
        ({"do_sample": True, "min_p": 1.1}, ConfigSchemaError, ["min_p", "1.1"]),
        ({"do_sample": True, "typical_p": 0.0}, ConfigSchemaError, ["typical_p"]),
        ({"do_sample": True, "epsilon_cutoff": 1.0}, ConfigSchemaError, ["epsilon_cutoff"]),
        ({"do_sample": True, "eta_cutoff": -0.1}, ConfigSchemaError, ["eta_cutoff"]),
        ({"do_sample": True, "eta_cutoff": float("nan")}, ConfigSchemaError, ["eta_cutoff"]),
        ({"sequence_bias": [[[1, 2], "x"]]}, ConfigSchemaError, ["sequence_bias"]),
        ({"sequence_bias": [[[], 1.0]]}, ConfigSchemaError, ["sequence_bias"]),
        ({"sequence_bias": {(1, -2): 1.0}}, ConfigSchemaError, ["sequence_bias", "-2"]),
        ({"sequence_bias": {(1,): float("nan")}}, ConfigSchemaError, ["sequence_bias"]),
        ({"sequence_bias": {3: 1.0}}, ConfigSchemaError, ["sequence_bias"]),
        ({"exponential_decay_length_penalty": (1,)}, ConfigSchemaError, ["exponential_decay_length_penalty"]),
        ({"exponential_decay_length_penalty": (1, 0.0)}, ConfigSchemaError, ["exponential_decay_length_penalty"]),
        ({"exponential_decay_length_penalty": (-1, 1.1)}, ConfigSchemaError, ["exponential_decay_length_penalty"]),
        ({"remove_invalid_values": 1}, ConfigSchemaError, ["remove_invalid_values"]),
        ({"num_beam_groups": 0}, ConfigSchemaError, ["num_beam_groups"]),
        (
            {"num_beams": 4, "num_beam_groups": 3, "diversity_penalty": 1.0},
            UsageError,
            ["num_beam_groups", "num_beams=4"],
        ),
        ({"num_beams": 4, "num_beam_groups": 2}, UsageError, ["num_beam_groups", "diversity_penalty"]),
        ({"num_beams": 4, "diversity_penalty": 1.0}, UsageError, ["diversity_penalty=1.0", "num_beam_groups=1"]),
        (
            {"num_beam_groups": 2, "diversity_penalty": 1.0},
            UsageError,
            ["num_beam_groups=2", "diversity_penalty=1.0", "num_beams=1"],
        ),
        (
            {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0, "do_sample": True},
            UsageError,
            ["num_beam_groups=2", "do_sample=True"],
        ),
        ({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": -1.0}, ConfigSchemaError, ["diversity_penalty"]),
        ({"force_words_ids": [[1]]}, UsageError, ["force_words_ids", "num_beams=1"]),
        (
            {"force_words_ids": [[1]], "num_beams": 2, "do_sample": True},
            UsageError,
            ["force_words_ids", "do_sample=True"],
        ),
        (
            {"force_words_ids": [[1]], "num_beams": 2, "num_beam_groups": 2, "diversity_penalty": 1.0},
            UsageError,
            ["force_words_ids", "num_beam_groups"],
        ),
        ({"force_words_ids": [[]], "num_beams": 2}, ConfigSchemaError, ["force_words_ids"]),
        ({"force_words_ids": [[[1], []]], "num_beams": 2}, ConfigSchemaError, ["force_words_ids"]),
        ({"force_words_ids": [[1, [2]]], "num_beams": 2}, ConfigSchemaError, ["force_words_ids"]),
        ({"force_words_ids": [1], "num_beams": 2}, ConfigSchemaError, ["force_words_ids"]),
        ({"penalty_alpha": 0.6, "top_k": 1}, UsageError, ["penalty_alpha", "top_k=1"]),
        ({"penalty_alpha": 0.6, "num_beams": 2}, UsageError, ["penalty_alpha", "num_beams"]),
        ({"penalty_alpha": 0.6, "do_sample": True}, UsageError, ["penalty_alpha", "do_sample=True"]),
        (
            {"penalty_alpha": 0.6, "prompt_lookup_num_tokens": 5},
            UsageError,
            ["penalty_alpha", "prompt_lookup_num_tokens"],
        ),
        ({"penalty_alpha": 1.2, "top_k": 4}, ConfigSchemaError, ["penalty_alpha"]),
        ({"prompt_lookup_num_tokens": 3, "num_beams": 2}, UsageError, ["prompt_lookup_num_tokens", "num_beams"]),
        ({"prompt_lookup_num_tokens": 0}, ConfigSchemaError, ["prompt_lookup_num_tokens"]),
        ({"prompt_lookup_num_tokens": 10**9}, ConfigLimitError, ["prompt_lookup_num_tokens"]),
        ({"num_assistant_tokens": 0}, ConfigSchemaError, ["num_assistant_tokens"]),
        ({"num_assistant_tokens_schedule": "fast"}, ConfigSchemaError, ["num_assistant_tokens_schedule", "fast"]),
        ({"assistant_confidence_threshold": 2.0}, ConfigSchemaError, ["assistant_confidence_threshold"]),
        ({"stop_strings": ""}, ConfigSchemaError, ["stop_strings"]),
        ({"stop_strings": ["a", ""]}, ConfigSchemaError, ["stop_strings"]),
        ({"stop_strings": ["a", 3]}, ConfigSchemaError, ["stop_strings", "3"]),
        ({"output_scores": "yes"}, ConfigSchemaError, ["output_scores"]),
        ({"decoder_start_token_id": []}, ConfigSchemaError, ["decoder_start_token_id"]),
        ({"decoder_start_token_id": [1, -1]}, ConfigSchemaError, ["decoder_start_token_id", "-1"]),
        ({"repetition_stop": 1}, UsageError, ["repetition_stop", "1"]),
        ({"repetition_stop": -1}, ConfigSchemaError, ["repetition_stop"]),
        ({"allowed_chars": ""}, ConfigSchemaError, ["allowed_chars"]),
        ({"pattern": "a" * 100_000}, ConfigSchemaError, ["pattern"]),
        ({"lexicon": "ab"}, ConfigSchemaError, ["lexicon"]),
        ({"lexicon": ["a", ""]}, ConfigSchemaError, ["lexicon"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("way", ["call", "constructor", "file"])
def test_refused(options: dict[str, Any], kind: type[ConfigError], words: list[str], way: str) -> None:
    make = {
        "call": lambda: GenerationConfig().with_options(**options),
        "constructor": lambda: GenerationConfig(**options),
        "file": lambda: GenerationConfig.parse(options, path="generation_config.json"),
    }[way]
    with pytest.raises(ConfigError) as caught:
        make()
    if not (way == "file" and "unknown" in str(caught.value)):  # a key of a file is a matter of its schema
        assert type(caught.value) is kind
    message = str(caught.value)
    assert len(message) <= 300
    assert "\n" not in message
    for word in words:
        assert word in message
    if way == "file":
        assert message.startswith("generation_config.json: ")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_new_tokens": 5, "max_length": 6}, ["max_length=6", "max_new_tokens"]),
        ({"min_new_tokens": 5, "min_length": 6}, ["min_length=6", "min_new_tokens"]),
        ({"min_new_tokens": 0, "min_length": 6}, ["min_length=6", "min_new_tokens"]),
        ({"max_new_tokens": 5, "max_length": 3, "min_length": 4}, ["max_length=3"]),
        ({"num_beams": 1, "early_stopping": True}, ["early_stopping=True", "num_beams=1"]),
        ({"early_stopping": True, "length_penalty": 2.0}, ["early_stopping=True", "length_penalty=2.0", "num_beams"]),
        ({"temperature": 0.5, "top_p": 0.9}, ["temperature=0.5", "top_p=0.9", "do_sample=True"]),
        ({"top_k": 3, "seed": 0}, ["top_k=3", "seed=0", "do_sample=True"]),
        (
            {"min_p": 0.1, "typical_p": 0.5, "epsilon_cutoff": 0.1, "eta_cutoff": 0.2},
            ["min_p=0.1", "typical_p=0.5", "epsilon_cutoff=0.1", "eta_cutoff=0.2", "do_sample=True"],
        ),
        ({"penalty_alpha": 0.6, "temperature": 0.5}, ["temperature=0.5", "penalty_alpha"]),
        ({"max_matching_ngram_size": 3}, ["max_matching_ngram_size=3", "prompt_lookup_num_tokens"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("way", ["call", "constructor", "file"])
def test_idle_options_are_a_warning(options: dict[str, Any], words: list[str], way: str) -> None:
    """As in transformers, whose tutorials write them; once, and not again in calls that keep them."""
    make = {
        "call": lambda: GenerationConfig().with_options(**options),
        "constructor": lambda: GenerationConfig(**options),
        "file": lambda: GenerationConfig.parse(options, path="generation_config.json"),
    }[way]
    with pytest.warns(UserWarning, match="would do nothing") as caught:
        config = make()
    assert len(caught) == 1
    assert caught[0].filename == __file__
    for word in words:
        assert word in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config.with_options(repetition_penalty=1.5)


def test_max_new_tokens_wins_over_max_length() -> None:
    with pytest.warns(UserWarning, match="max_length=30"):
        config = GenerationConfig(max_new_tokens=5, max_length=30, min_new_tokens=2, min_length=20)
    assert config.limits(3, 64)[:2] == (5, 8)
    assert config.with_options(max_length=30).limits(3, 64)[:2] == (5, 30)


@pytest.mark.parametrize(
    "given", [torch.tensor([5, 17]), np.array([5, 17]), [np.int64(5), torch.tensor(17)], (5, 17)], ids=repr
)
def test_ids_of_tensors_and_arrays(given: Any) -> None:
    assert GenerationConfig(eos_token_id=given).eos_token_id == (5, 17)
    assert GenerationConfig(suppress_tokens=given).suppress_tokens == (5, 17)
    assert GenerationConfig(bad_words_ids=[given, given[:1]]).bad_words_ids == ((5, 17), (5,))
    assert GenerationConfig(num_beams=2, force_words_ids=[[given]]).forced_words == (((5, 17),),)
    assert TokenIds(eos=given).eos == TokenIds.parse({"eos": given}).eos == (5, 17)
    assert DecoderConfig(vocab_size=20, eos_token_id=given).eos_token_id == (5, 17)


@pytest.mark.parametrize("given", [torch.tensor(5), np.int32(5), 5], ids=repr)
def test_a_single_id(given: Any) -> None:
    config = GenerationConfig(
        eos_token_id=given, pad_token_id=given, suppress_tokens=given, begin_suppress_tokens=given, max_length=given
    )
    assert (config.eos_token_id, config.pad_token_id, config.max_length) == (5, 5, 5)
    assert config.suppress_tokens == config.begin_suppress_tokens == (5,)
    ids = TokenIds(start=given, eos=given, pad=given)
    assert ids == TokenIds.parse({"start": 5, "eos": 5, "pad": 5}) == TokenIds(start=5, eos=(5,), pad=5)
    for wrong in (True, "5", 5.0, torch.tensor(5.0), torch.tensor(True)):
        with pytest.raises(ConfigSchemaError):
            GenerationConfig(suppress_tokens=wrong)
        with pytest.raises(ConfigSchemaError):
            TokenIds.parse({"eos": wrong})


def test_options_do_not_change_in_place() -> None:
    config = GenerationConfig()
    with pytest.raises(UsageError, match=r"num_beams: .*with_options\(num_beams=4\)") as caught:
        config.num_beams = 4  # type: ignore[misc]
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="num_beam: .*did you mean 'num_beams'"):
        config.num_beam = 4  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.0, "top_k": 50, "top_p": 1.0},
        {"temperature": None, "top_k": None, "top_p": None, "seed": None},
        {"top_k": 0, "early_stopping": False, "length_penalty": 1.0},
        {"max_new_tokens": 5, "max_length": None},
        {"min_length": 0, "min_new_tokens": 4},
        {"min_length": 4, "min_new_tokens": None},
        {"min_length": 0, "min_new_tokens": 0},
        {"num_beams": 4, "num_return_sequences": 4, "early_stopping": "never"},
        {"do_sample": True, "num_return_sequences": 40},
        {"repetition_penalty": 2, "num_beams": 2, "length_penalty": 0},
        {
            "bad_words_ids": [[1, 2], [3]],
            "suppress_tokens": [1],
            "forced_eos_token_id": [0, 1],
            "forced_bos_token_id": 0,
        },
        {"bad_words_ids": [], "suppress_tokens": [], "begin_suppress_tokens": None, "forced_eos_token_id": []},
        {"eos_token_id": [1, 2]},
        {"min_p": 0.0, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": None, "sequence_bias": None},
        {"do_sample": True, "min_p": 1, "typical_p": 0.2, "epsilon_cutoff": 0.1, "eta_cutoff": 0.1, "num_beams": 2},
        {
            "num_beam_groups": 1,
            "diversity_penalty": 0.0,
            "force_words_ids": None,
            "penalty_alpha": None,
            "lexicon": None,
        },
        {"num_beams": 6, "num_beam_groups": 3, "diversity_penalty": 0.5, "num_return_sequences": 4},
        {"num_beams": 2, "force_words_ids": [[1, 2], [[3], [4, 5]]]},
        {"penalty_alpha": 0.6},
        {"penalty_alpha": 0.6, "top_k": 4},
        {"penalty_alpha": 0.0, "num_beams": 3},
        {"prompt_lookup_num_tokens": 10, "max_matching_ngram_size": 3},
        {"max_matching_ngram_size": None},
        {"exponential_decay_length_penalty": [3, 1.5], "remove_invalid_values": True, "renormalize_logits": None},
        {"max_time": 2, "stop_strings": "end", "repetition_stop": 4, "compile": True, "output_scores": True},
        {"allowed_chars": "0123456789", "pattern": r"\d+", "lexicon": ["12", "13"]},
    ],
    ids=str,
)
def test_accepted(options: dict[str, Any]) -> None:
    GenerationConfig().with_options(**options)
    GenerationConfig(**options)


def test_the_call_wins_over_what_it_leaves_no_use_for() -> None:
    kept = GenerationConfig(max_length=30, min_length=3, num_beams=4, early_stopping=True, do_sample=True, top_p=0.9)
    assert kept.with_options() == kept
    assert kept.with_options(max_new_tokens=5).max_length is None
    assert kept.with_options(min_new_tokens=5).min_length is None
    assert kept.with_options(min_new_tokens=0).min_length is None
    assert kept.with_options(do_sample=False).top_p == 1.0
    assert kept.with_options(num_beams=1).early_stopping is False
    assert kept.with_options(num_beams=1).top_p == 0.9
    with pytest.warns(UserWarning, match=r"top_p=0\.5"):
        kept.with_options(do_sample=False, top_p=0.5)


def test_the_call_wins_over_a_kept_way_of_searching() -> None:
    groups = GenerationConfig(num_beams=4, num_beam_groups=2, diversity_penalty=1.0)
    assert groups.with_options(do_sample=True).num_beam_groups == 1
    assert groups.with_options(num_beams=1) == GenerationConfig(num_beams=1)
    assert groups.with_options(num_beam_groups=1).diversity_penalty == 0.0
    assert groups.with_options(force_words_ids=[[1]]).num_beam_groups == 1
    words = GenerationConfig(num_beams=4, force_words_ids=[[1]])
    assert words.with_options(num_beam_groups=2, diversity_penalty=1.0).force_words_ids == ()
    contrastive = GenerationConfig(penalty_alpha=0.6, top_k=4)
    assert contrastive.with_options(num_beams=2) == GenerationConfig(num_beams=2)
    assert contrastive.with_options(penalty_alpha=None).top_k == 50
    assert contrastive.with_options(do_sample=True) == GenerationConfig(do_sample=True, top_k=4)
    assert contrastive.with_options(prompt_lookup_num_tokens=5) == GenerationConfig(prompt_lookup_num_tokens=5)
    lookup = GenerationConfig(prompt_lookup_num_tokens=5, max_matching_ngram_size=3)
    assert lookup.with_options(num_beams=2) == GenerationConfig(num_beams=2)
    with pytest.raises(UsageError, match="penalty_alpha=0.6 contradicts do_sample=True"):
        GenerationConfig(do_sample=True).with_options(penalty_alpha=0.6)


def test_one_form_for_each_option() -> None:
    mapping = GenerationConfig(sequence_bias={(1, 2): -3.0, (4,): 1}, stop_strings="end")
    listed = GenerationConfig(sequence_bias=[[[1, 2], -3.0], [[4], 1.0]], stop_strings=["end"])
    assert mapping == listed
    assert mapping.sequence_bias == (((1, 2), -3.0), ((4,), 1.0))
    words = GenerationConfig(num_beams=2, force_words_ids=[[1, 2], [[3], [4, 5]]])
    assert words.forced_words == (((1, 2),), ((3,), (4, 5)))


def test_start_ids() -> None:
    assert GenerationConfig().start_ids(3, 2) == (3, 3)
    each = GenerationConfig(decoder_start_token_id=[4, 5])
    assert each.token_ids(TokenIds(start=1), 9).start == 4
    assert each.start_ids(4, 2) == (4, 5)
    for images in (1, 3):
        with pytest.raises(UsageError, match=f"decoder_start_token_id: 2 ids for {images} images"):
            each.start_ids(4, images)


def test_decay_needs_an_end_id() -> None:
    options = GenerationConfig(exponential_decay_length_penalty=(1, 1.5))
    options.token_ids(TokenIds(eos=(1,)), 9)
    with pytest.raises(UsageError, match="exponential_decay_length_penalty: needs an end id"):
        options.token_ids(TokenIds(), 9)


def test_kept_and_given_options_may_contradict() -> None:
    with pytest.raises(UsageError, match=r"num_return_sequences.*num_beams=2"):
        GenerationConfig(num_beams=4, num_return_sequences=3).with_options(num_beams=2)


def test_round_trip() -> None:
    kept = GenerationConfig(
        num_beams=3,
        eos_token_id=[4, 5],
        length_penalty=0.5,
        bad_words_ids=[[1, 2], [3]],
        sequence_bias={(1, 2): 3.0},
        force_words_ids=[[1], [[2], [3, 4]]],
        stop_strings=["a", "b"],
        exponential_decay_length_penalty=(2, 1.5),
        decoder_start_token_id=[1, 2],
        lexicon=["c"],
    )
    assert GenerationConfig.parse(json.loads(json.dumps(kept.model_dump(mode="json")))) == kept
    assert GenerationConfig.parse(kept.model_dump(exclude_unset=True)) == kept


def test_token_ids() -> None:
    base = TokenIds(start=1, eos=(2, 3), pad=None)
    assert GenerationConfig().token_ids(base, 10) == TokenIds(start=1, eos=(2, 3), pad=2)
    changed = GenerationConfig(eos_token_id=7, decoder_start_token_id=0, pad_token_id=0)
    assert changed.token_ids(base, 10) == TokenIds(start=0, eos=(7,), pad=0)
    assert GenerationConfig().with_options(eos_token_id=None).token_ids(base, 10).eos == ()
    with pytest.raises(ConfigSchemaError, match=r"token_ids\.eos.*7.*vocab_size 7"):
        changed.token_ids(base, 7)


@pytest.mark.parametrize(
    "options",
    [
        {"bad_words_ids": [[1], [2, 10]]},
        {"suppress_tokens": [10]},
        {"begin_suppress_tokens": [3, 10]},
        {"sequence_bias": [[[1, 10], 1.0]]},
        {"decoder_start_token_id": [1, 10]},
        {"force_words_ids": [[1], [10]], "num_beams": 2},
        {"force_words_ids": [[[1], [10]]], "num_beams": 2},
        {"forced_bos_token_id": 10},
        {"forced_eos_token_id": 10},
        {"forced_eos_token_id": [1, 10]},
    ],
    ids=str,
)
def test_ids_beyond_the_vocabulary(options: dict[str, Any]) -> None:
    GenerationConfig(**options).token_ids(TokenIds(), 11)
    with pytest.raises(ConfigSchemaError, match=rf"{next(iter(options))}: id 10 .*vocab_size 10"):
        GenerationConfig(**options).token_ids(TokenIds(), 10)


@pytest.mark.parametrize(
    ("options", "prompt", "positions", "expected"),
    [
        ({}, 1, 64, (0, 64)),
        ({}, 5, None, (0, 1029)),
        ({}, 64, 64, (0, 65)),
        ({"max_new_tokens": 6}, 3, 64, (0, 9)),
        ({"max_new_tokens": 6, "min_new_tokens": 2}, 3, 8, (5, 9)),
        ({"max_length": 6, "min_length": 4}, 3, 64, (4, 6)),
        ({"max_length": 65}, 3, 64, (0, 65)),
    ],
)
def test_limits(options: dict[str, Any], prompt: int, positions: int | None, expected: tuple[int, int]) -> None:
    assert GenerationConfig(**options).limits(prompt, positions)[:2] == expected


@pytest.mark.parametrize(
    ("options", "prompt", "positions", "kind", "words"),
    [
        ({}, 65, 64, GenerationError, ["65", "64", "cut the prompt"]),
        ({"max_length": 66}, 3, 64, UsageError, ["max_length=66", "64", "max_new_tokens=62"]),
        ({"max_new_tokens": 63}, 3, 64, UsageError, ["max_new_tokens=63", "64"]),
        ({"max_length": 3}, 3, 64, UsageError, ["max_length=3", "prompt of 3"]),
        ({"min_new_tokens": 9, "max_length": 5}, 1, 64, UsageError, ["min_new_tokens=9", "max_length=5"]),
        ({"min_length": 9, "max_new_tokens": 5}, 1, 64, UsageError, ["min_length=9", "max_new_tokens=5"]),
        ({"min_length": 90}, 1, 64, UsageError, ["min_length=90", "default"]),
    ],
)
def test_limits_refused(
    options: dict[str, Any], prompt: int, positions: int, kind: type[VedcoreError], words: list[str]
) -> None:
    with pytest.raises(kind) as caught:
        GenerationConfig(**options).limits(prompt, positions)
    for word in words:
        assert word in str(caught.value)


def test_needs_no_torch() -> None:
    code = (
        "import sys; from vedcore.generation.options.config import GenerationConfig; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["num_beams", "do_sample", "early_stopping", "length_penalty", "use_cache"])
def test_none_leaves_a_number_or_a_switch_as_it_is(name: str) -> None:
    """Scripts hand on command-line arguments that nobody gave."""
    kept = GenerationConfig(num_beams=3, early_stopping=True, length_penalty=0.5)
    assert kept.with_options(**{name: None}) == kept
    assert kept.with_options(**{name: None}, max_length=7).max_length == 7


def test_none_takes_back_an_option_that_may_be_none() -> None:
    kept = GenerationConfig(max_new_tokens=6, forced_eos_token_id=2)
    assert kept.with_options(max_new_tokens=None).max_new_tokens is None
    assert kept.with_options(forced_eos_token_id=None).forced_eos_token_id is None
