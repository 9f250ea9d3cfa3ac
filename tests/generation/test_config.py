"""Options of generate: every one is checked before work begins, and the call wins over what it leaves no use for."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from vedcore.config import TokenIds
from vedcore.errors import ConfigError, ConfigLimitError, ConfigSchemaError, GenerationError, UsageError, VedcoreError
from vedcore.generation.config import GenerationConfig


@pytest.mark.parametrize(("options", "kind", "words"), [
    ({"num_beam": 4}, UsageError, ["num_beam", "'num_beams'"]),
    ({"zzz": 4}, UsageError, ["zzz", "max_new_tokens"]),
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
    ({"begin_suppress_tokens": 3}, ConfigSchemaError, ["begin_suppress_tokens"]),
    ({"forced_bos_token_id": [1]}, ConfigSchemaError, ["forced_bos_token_id"]),
    ({"forced_eos_token_id": [1.5]}, ConfigSchemaError, ["forced_eos_token_id"]),
    ({"seed": -1, "do_sample": True}, ConfigSchemaError, ["seed"]),
    ({"num_beams": 100_000}, ConfigLimitError, ["num_beams", "100,000", "1,024"]),
    ({"do_sample": True, "num_return_sequences": 5000}, ConfigLimitError, ["num_return_sequences", "5,000"]),
    ({"max_length": 10**12}, ConfigLimitError, ["max_length", "1,000,000"]),
    ({"max_new_tokens": 10**7}, ConfigLimitError, ["max_new_tokens"]),
    ({"max_new_tokens": 5, "max_length": 6}, UsageError, ["max_new_tokens", "max_length=6"]),
    ({"min_new_tokens": 5, "min_length": 6}, UsageError, ["min_new_tokens", "min_length=6"]),
    ({"min_new_tokens": 5, "max_new_tokens": 4}, UsageError, ["min_new_tokens", "max_new_tokens=4"]),
    ({"min_length": 5, "max_length": 4}, UsageError, ["min_length", "max_length=4"]),
    ({"forced_bos_token_id": 5, "suppress_tokens": [4, 5]}, UsageError, ["forced_bos_token_id", "suppress_tokens"]),
    ({"forced_eos_token_id": [5, 4], "suppress_tokens": [4, 5]}, UsageError, ["forced_eos_token_id"]),
    ({"num_return_sequences": 2}, UsageError, ["num_return_sequences", "num_beams=1", "do_sample=True"]),
    ({"num_return_sequences": 3, "num_beams": 2}, UsageError, ["num_return_sequences", "num_beams=2"]),
    ({"num_return_sequences": 3, "num_beams": 2, "do_sample": True}, UsageError, ["num_beams=2"]),
    ({"temperature": 0.5, "top_p": 0.9}, UsageError, ["temperature=0.5", "top_p=0.9", "do_sample=True"]),
    ({"top_k": 3, "seed": 4}, UsageError, ["top_k=3", "seed=4", "do_sample=True"]),
    ({"early_stopping": True, "length_penalty": 2.0}, UsageError,
     ["early_stopping=True", "length_penalty=2.0", "num_beams"]),
], ids=str)  # fmt: skip
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


@pytest.mark.parametrize("options", [
    {"temperature": 1.0, "top_k": 50, "top_p": 1.0},
    {"temperature": None, "top_k": None, "top_p": None, "seed": None},
    {"top_k": 0, "early_stopping": False, "length_penalty": 1.0},
    {"max_new_tokens": 5, "max_length": None},
    {"min_length": 0, "min_new_tokens": 4},
    {"num_beams": 4, "num_return_sequences": 4, "early_stopping": "never"},
    {"do_sample": True, "num_return_sequences": 40},
    {"repetition_penalty": 2, "num_beams": 2, "length_penalty": 0},
    {"bad_words_ids": [[1, 2], [3]], "suppress_tokens": [1], "forced_eos_token_id": [0, 1], "forced_bos_token_id": 0},
    {"bad_words_ids": [], "suppress_tokens": [], "begin_suppress_tokens": None, "forced_eos_token_id": []},
    {"eos_token_id": [1, 2]},
], ids=str)  # fmt: skip
def test_accepted(options: dict[str, Any]) -> None:
    GenerationConfig().with_options(**options)
    GenerationConfig(**options)


def test_the_call_wins_over_what_it_leaves_no_use_for() -> None:
    kept = GenerationConfig(max_length=30, min_length=3, num_beams=4, early_stopping=True, do_sample=True, top_p=0.9)
    assert kept.with_options() == kept
    assert kept.with_options(max_new_tokens=5).max_length is None
    assert kept.with_options(min_new_tokens=5).min_length is None
    assert kept.with_options(do_sample=False).top_p == 1.0
    assert kept.with_options(num_beams=1).early_stopping is False
    assert kept.with_options(num_beams=1).top_p == 0.9
    with pytest.raises(UsageError, match=r"top_p=0\.5"):
        kept.with_options(do_sample=False, top_p=0.5)


def test_kept_and_given_options_may_contradict() -> None:
    with pytest.raises(UsageError, match=r"num_return_sequences.*num_beams=2"):
        GenerationConfig(num_beams=4, num_return_sequences=3).with_options(num_beams=2)


def test_round_trip() -> None:
    kept = GenerationConfig(num_beams=3, eos_token_id=[4, 5], length_penalty=0.5, bad_words_ids=[[1, 2], [3]])
    assert GenerationConfig.parse(kept.model_dump(mode="json")) == kept
    assert GenerationConfig.parse(kept.model_dump(exclude_unset=True)) == kept


def test_token_ids() -> None:
    base = TokenIds(start=1, eos=(2, 3), pad=None)
    assert GenerationConfig().token_ids(base, 10) == TokenIds(start=1, eos=(2, 3), pad=2)
    changed = GenerationConfig(eos_token_id=7, decoder_start_token_id=0, pad_token_id=0)
    assert changed.token_ids(base, 10) == TokenIds(start=0, eos=(7,), pad=0)
    assert GenerationConfig().with_options(eos_token_id=None).token_ids(base, 10).eos == ()
    with pytest.raises(ConfigSchemaError, match=r"token_ids\.eos.*7.*vocab_size 7"):
        changed.token_ids(base, 7)


@pytest.mark.parametrize("options", [
    {"bad_words_ids": [[1], [2, 10]]}, {"suppress_tokens": [10]}, {"begin_suppress_tokens": [3, 10]},
    {"forced_bos_token_id": 10}, {"forced_eos_token_id": 10}, {"forced_eos_token_id": [1, 10]},
], ids=str)  # fmt: skip
def test_ids_beyond_the_vocabulary(options: dict[str, Any]) -> None:
    GenerationConfig(**options).token_ids(TokenIds(), 11)
    with pytest.raises(ConfigSchemaError, match=rf"{next(iter(options))}: id 10 .*vocab_size 10"):
        GenerationConfig(**options).token_ids(TokenIds(), 10)


@pytest.mark.parametrize(("options", "prompt", "positions", "expected"), [
    ({}, 1, 64, (0, 64)),
    ({}, 5, None, (0, 1029)),
    ({}, 64, 64, (0, 65)),
    ({"max_new_tokens": 6}, 3, 64, (0, 9)),
    ({"max_new_tokens": 6, "min_new_tokens": 2}, 3, 8, (5, 9)),
    ({"max_length": 6, "min_length": 4}, 3, 64, (4, 6)),
    ({"max_length": 65}, 3, 64, (0, 65)),
])  # fmt: skip
def test_limits(options: dict[str, Any], prompt: int, positions: int | None, expected: tuple[int, int]) -> None:
    assert GenerationConfig(**options).limits(prompt, positions) == expected


@pytest.mark.parametrize(("options", "prompt", "positions", "kind", "words"), [
    ({}, 65, 64, GenerationError, ["65", "64", "cut the prompt"]),
    ({"max_length": 66}, 3, 64, UsageError, ["max_length=66", "64", "max_new_tokens=62"]),
    ({"max_new_tokens": 63}, 3, 64, UsageError, ["max_new_tokens=63", "64"]),
    ({"max_length": 3}, 3, 64, UsageError, ["max_length=3", "prompt of 3"]),
    ({"min_new_tokens": 9, "max_length": 5}, 1, 64, UsageError, ["min_new_tokens=9", "max_length=5"]),
    ({"min_length": 9, "max_new_tokens": 5}, 1, 64, UsageError, ["min_length=9", "max_new_tokens=5"]),
    ({"min_length": 90}, 1, 64, UsageError, ["min_length=90", "default"]),
])  # fmt: skip
def test_limits_refused(
    options: dict[str, Any], prompt: int, positions: int, kind: type[VedcoreError], words: list[str]
) -> None:
    with pytest.raises(kind) as caught:
        GenerationConfig(**options).limits(prompt, positions)
    for word in words:
        assert word in str(caught.value)


def test_needs_no_torch() -> None:
    code = "import sys; from vedcore.generation.config import GenerationConfig; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
