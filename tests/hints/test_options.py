"""Hints about the options of generation, each given and followed."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

import vedcore
from tests.hints.templates import HOLE, told
from tests.model.tiny import BERT, EOS, IMAGE, VOCABULARY, ids, spread, tiny

POSITIONS = BERT["max_position_embeddings"]


@pytest.fixture(scope="module")
def model() -> Any:
    made = tiny("bert").eval()
    spread(made, 3)
    return made


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randn(2, 3, *IMAGE, generator=torch.Generator().manual_seed(0))


def warned(template: str, call: Any, *arguments: Any, **keywords: Any) -> Any:
    """The result of a call, which warns with the hint of a template."""
    pattern = "; " + ".*".join(map(re.escape, template.split(HOLE))) + "$"
    with pytest.warns(UserWarning, match=pattern):
        return call(*arguments, **keywords)


# -- names and values -------------------------------------------------------------------------------------------------


def test_unknown_names(model: Any, pixels: Tensor) -> None:
    for call in (model.generate, vedcore.GenerationConfig, vedcore.GenerationConfig().with_options):
        given = (pixels,) if call == model.generate else ()
        error = told("options: {…}", call, *given, xyzzy=1)
        assert set(error.hint.removeprefix("options: ").split(", ")) == set(vedcore.GenerationConfig.model_fields)
        error = told("did you mean {…}?", call, *given, num_beam=2)
        assert "'num_beams'" in error.hint
    assert model.generate(pixels, num_beams=2, max_new_tokens=3).shape[0] == 2


def test_settings_are_not_changed_in_place(model: Any, pixels: Tensor) -> None:
    model = tiny("bert")
    hint = "model.generation_config = model.generation_config.with_options({…})"
    error = told(hint, setattr, model.generation_config, "max_new_tokens", 3)
    exec(error.hint, {"model": model})
    assert model.generate(pixels).shape[1] <= 4
    told("it is not an option of generate", setattr, model.generation_config, "xyzzy", 3)
    error = told("did you mean {…}?", setattr, model.generation_config, "num_beam", 3)
    assert "'num_beams'" in error.hint


@pytest.mark.parametrize(
    ("options", "hint", "mended"),
    [
        (
            {"min_new_tokens": 9, "max_new_tokens": 3},
            "lower the one or raise the other",
            [{"min_new_tokens": 2}, {"max_new_tokens": 9}],
        ),
        (
            {"min_length": 9, "max_length": 3},
            "lower the one or raise the other",
            [{"min_length": 2}, {"max_length": 10}],
        ),
        (
            {"min_length": 9, "max_new_tokens": 3},
            "lower the one or raise the other",
            [{"min_length": 2}, {"max_new_tokens": 9}],
        ),
        (
            {"forced_bos_token_id": 5, "suppress_tokens": [5]},
            "take it out of one of them",
            [{"suppress_tokens": []}, {"forced_bos_token_id": None}],
        ),
        (
            {"forced_eos_token_id": 5, "suppress_tokens": [5, 6]},
            "take it out of one of them",
            [{"suppress_tokens": [6]}, {"forced_eos_token_id": 7}],
        ),
        (
            {"num_beams": 4, "num_beam_groups": 3, "diversity_penalty": 1.0},
            "make num_beams a multiple of it",
            [{"num_beams": 6}],
        ),
        ({"num_beams": 4, "num_beam_groups": 2}, "pass diversity_penalty=1.0 or so", [{"diversity_penalty": 1.0}]),
        ({"penalty_alpha": 0.5, "top_k": 1}, "pass top_k=4 or so", [{"top_k": 4}]),
        (
            {"repetition_stop": 1},
            "pass 2 or more, or 0 to leave it off",
            [{"repetition_stop": 2}, {"repetition_stop": 0}],
        ),
        (
            {"decoder_start_token_id": [5, 6, 7]},
            "give one id for all, or one for each",
            [{"decoder_start_token_id": 5}, {"decoder_start_token_id": [5, 6]}],
        ),
        (
            {"exponential_decay_length_penalty": (2, 1.5), "eos_token_id": ()},
            "give eos_token_id, or leave it out",
            [{"eos_token_id": 3}, {"exponential_decay_length_penalty": None}],
        ),
        (
            {"max_length": 7, "decoder_input_ids": ids(2)},
            "pass max_new_tokens instead",
            [{"max_length": None, "max_new_tokens": 3}],
        ),
        (
            {"penalty_alpha": 0.5, "top_k": 4, "do_sample": True},
            "pass {…}, or leave it out",
            [{"do_sample": False}, {"penalty_alpha": 0.0}],
        ),
        (
            {"penalty_alpha": 0.5, "top_k": 4, "num_beams": 2},
            "pass {…}, or leave it out",
            [{"num_beams": 1}, {"penalty_alpha": 0.0}],
        ),
        (
            {"prompt_lookup_num_tokens": 3, "num_beams": 2},
            "pass {…}, or leave it out",
            [{"num_beams": 1}, {"prompt_lookup_num_tokens": None}],
        ),
        (
            {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0, "do_sample": True},
            "pass {…}, or leave it out",
            [{"do_sample": False}],
        ),
        (
            {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0, "force_words_ids": [[5]]},
            "leave out one of them",
            [{"force_words_ids": []}, {"num_beam_groups": 1, "diversity_penalty": 0.0}],
        ),
        (
            {"prompt_lookup_num_tokens": 3, "penalty_alpha": 0.5, "top_k": 4},
            "leave out one of them",
            [{"penalty_alpha": 0.0}, {"prompt_lookup_num_tokens": None}],
        ),
        (
            {"draft": "int8", "use_cache": False},
            "pass use_cache=True, or leave it out",
            [{"use_cache": True}, {"draft": None}],
        ),
        ({"draft": "int8", "num_beams": 2}, "pass {…}, or leave it out", [{"num_beams": 1}, {"draft": None}]),
        (
            {"num_beam_groups": 3},
            "pass num_beams=4, num_beam_groups=2 and diversity_penalty=1.0 or so, or leave them out",
            [{"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0}, {"num_beam_groups": 1}],
        ),
        (
            {"diversity_penalty": 2.0},
            "pass num_beams=4, num_beam_groups=2 and diversity_penalty=1.0 or so, or leave them out",
            [{"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0}, {"diversity_penalty": 0.0}],
        ),
        (
            {"num_beams": 3, "diversity_penalty": 2.0},
            "pass a num_beam_groups of 2 or more that divides num_beams",
            [{"num_beam_groups": 3}],
        ),
        (
            {"force_words_ids": [[5, 6]]},
            "pass num_beams=2 or more, or leave it out",
            [{"num_beams": 2}, {"force_words_ids": []}],
        ),
        (
            {"force_words_ids": [[5, 6]], "num_beams": 2, "max_new_tokens": 1},
            "raise max_new_tokens, or leave words out",
            [{"max_new_tokens": 3}, {"force_words_ids": [[5]]}],
        ),
        (
            {"force_words_ids": [[5, EOS]], "num_beams": 2},
            "leave it out, or pass eos_token_id",
            [{"force_words_ids": [[5]]}, {"eos_token_id": 9}],
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_option(
    model: Any, pixels: Tensor, options: dict[str, Any], hint: str, mended: list[dict[str, Any]]
) -> None:
    told(hint, model.generate, pixels, **options)
    for change in mended:
        given = {"max_new_tokens": None if "max_length" in options else 5, **options, **change}
        out = model.generate(pixels, **given)
        assert len(out) == 2
        for run in given.get("force_words_ids", ()):
            assert all(str(run)[1:-1] in str(row) for row in out.tolist())


def test_what_turns_a_strategy_off_is_named(model: Any, pixels: Tensor) -> None:
    for options, off in (({"do_sample": True}, "do_sample=False"), ({"num_beams": 2}, "num_beams=1")):
        error = told("pass {…}, or leave it out", model.generate, pixels, penalty_alpha=0.5, top_k=4, **options)
        assert error.hint == f"pass {off}, or leave it out"


@pytest.mark.parametrize(
    ("options", "hint", "mended"),
    [
        ({}, "pass do_sample=True, or raise num_beams", [{"do_sample": True}, {"num_beams": 3}]),
        ({"num_beams": 2}, "lower it, or raise num_beams", [{"num_beams": 3}]),
        ({"num_beams": 2, "do_sample": True}, "lower it, or raise num_beams", [{"num_beams": 3}]),
        ({"prompt_lookup_num_tokens": 2}, "lower it, or pass do_sample=True", [{"do_sample": True}]),
        ({"penalty_alpha": 0.5, "top_k": 4}, "lower it", []),
    ],
    ids=str,
)
def test_several_texts(model: Any, pixels: Tensor, options: dict[str, Any], hint: str, mended: list[Any]) -> None:
    told(hint, model.generate, pixels, num_return_sequences=3, **options)
    for change in mended:
        out = model.generate(pixels, max_new_tokens=3, num_return_sequences=3, **{**options, **change})
        assert len(out) == 6
    lower = options.get("num_beams", 1)
    if hint.startswith("lower"):
        out = model.generate(pixels, max_new_tokens=3, num_return_sequences=lower, **options)
        assert len(out) == 2 * lower


# -- options without effect -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "hint", "mended"),
    [
        ({"temperature": 0.5, "top_p": 0.9}, "pass do_sample=True, or leave them out", {"do_sample": True}),
        ({"seed": 3}, "pass do_sample=True, or leave them out", {"do_sample": True}),
        ({"temperature": 0.5, "penalty_alpha": 0.5, "top_k": 4}, "leave them out", {"temperature": 1.0}),
        ({"early_stopping": True}, "pass num_beams=2 or more, or leave them out", {"num_beams": 2}),
        ({"length_penalty": 2.0}, "pass num_beams=2 or more, or leave them out", {"length_penalty": 1.0}),
        ({"max_matching_ngram_size": 3}, "pass prompt_lookup_num_tokens=10 or so", {"prompt_lookup_num_tokens": 10}),
        ({"max_length": 9}, "leave it out", {"max_length": None}),
        ({"min_length": 2, "min_new_tokens": 3}, "leave it out", {"min_length": None}),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("error")
def test_an_idle_option(model: Any, pixels: Tensor, options: dict[str, Any], hint: str, mended: dict[str, Any]) -> None:
    options = {"max_new_tokens": 4, **options}
    assert len(warned(hint, model.generate, pixels, **options)) == 2
    assert len(model.generate(pixels, **{**options, **mended})) == 2


# -- ids --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "option",
    [
        {"suppress_tokens": [VOCABULARY]},
        {"bad_words_ids": [[4, VOCABULARY + 3]]},
        {"forced_eos_token_id": VOCABULARY},
        {"sequence_bias": {(VOCABULARY,): -2.0}},
        {"force_words_ids": [[VOCABULARY]], "num_beams": 2},
    ],
    ids=str,
)
def test_ids_beyond_the_vocabulary(pixels: Tensor, option: dict[str, Any]) -> None:
    model = tiny("bert")
    error = told("leave it out, or first call model.resize_vocabulary({…})", model.generate, pixels, **option)
    assert len(model.generate(pixels, max_new_tokens=4)) == 2
    model.resize_vocabulary(int(error.hint.split("(")[1].rstrip(")")))
    assert len(model.generate(pixels, max_new_tokens=4, **option)) == 2


# -- lengths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"penalty_alpha": 0.5, "top_k": 4}], ids=str)
@pytest.mark.parametrize("asked", [{"max_new_tokens": 90}, {"max_length": 90}], ids=str)
def test_more_tokens_than_positions(model: Any, pixels: Tensor, options: dict[str, Any], asked: dict[str, int]) -> None:
    options = {**options, "eos_token_id": ()}
    for prompt in (1, 7, POSITIONS - 1):
        given = {"decoder_input_ids": ids(2, prompt), **options}
        given["decoder_input_ids"][:, 0] = model.token_ids.start
        error = told("pass max_new_tokens={…} or less", model.generate, pixels, **given, **asked)
        most = int(re.findall(r"\d+", error.hint)[0])
        assert model.generate(pixels, **given, max_new_tokens=most).shape[1] == prompt + most
        told("pass max_new_tokens={…} or less", model.generate, pixels, **given, max_new_tokens=most + 1)


def test_a_prompt_of_all_positions(model: Any, pixels: Tensor) -> None:
    prompt = ids(2, POSITIONS + 1)
    prompt[:, 0] = model.token_ids.start
    told("cut the prompt", model.generate, pixels, decoder_input_ids=prompt)
    assert model.generate(pixels, decoder_input_ids=prompt[:, :-1]).shape[1] == POSITIONS + 1
    full = {"decoder_input_ids": prompt[:, :-1], "penalty_alpha": 0.5, "top_k": 4, "max_new_tokens": 1}
    told("cut the prompt", model.generate, pixels, **full)
    full["decoder_input_ids"] = prompt[:, :-2]
    assert model.generate(pixels, **full).shape[1] == POSITIONS


def test_a_least_length_beyond_the_positions(model: Any, pixels: Tensor) -> None:
    told("lower the one or raise the other", model.generate, pixels, min_new_tokens=POSITIONS + 5)
    out = model.generate(pixels, min_new_tokens=POSITIONS - 5)
    assert out.shape[1] > POSITIONS - 5


def test_a_criterion_beyond_the_positions(model: Any, pixels: Tensor) -> None:
    from transformers import MaxLengthCriteria, StoppingCriteriaList

    def criteria(length: int) -> Any:
        return StoppingCriteriaList([MaxLengthCriteria(length)])

    hint = "lower the max_length of MaxLengthCriteria"
    with pytest.warns(UserWarning, match="takes the place"):
        told(hint, model.generate, pixels, max_length=10, stopping_criteria=criteria(500))
    with pytest.warns(UserWarning, match="takes the place"):
        out = model.generate(pixels, max_length=10, stopping_criteria=criteria(12), eos_token_id=())
    assert out.shape[1] == 12


# -- from a file, from a shell ----------------------------------------------------------------------------------------


def test_beams_that_the_model_has_by_itself(pixels: Tensor) -> None:
    model = tiny("bert")
    model.generation_config = vedcore.GenerationConfig(num_beams=3, max_new_tokens=5)
    hint = "pass {…}={…}, or leave out {…}"
    error = told(hint, model.generate, pixels, assistant_model=model)
    assert error.hint == "pass num_beams=1, or leave out assistant_model"
    assert len(model.generate(pixels)) == 2
    alone = model.generate(pixels, num_beams=1)
    assert torch.equal(model.generate(pixels, assistant_model=model, num_beams=1), alone)
    told("pass {…}, or leave it out", model.generate, pixels, prompt_lookup_num_tokens=3)
    assert torch.equal(model.generate(pixels, prompt_lookup_num_tokens=3, num_beams=1), alone)


def test_guesses_that_the_model_makes_by_itself(pixels: Tensor) -> None:
    model = tiny("bert")
    alone = model.generate(pixels, max_new_tokens=5)
    model.generation_config = vedcore.GenerationConfig(prompt_lookup_num_tokens=3, max_new_tokens=5)
    hint = "pass prompt_lookup_num_tokens=None, or leave it out"
    told(hint, model.generate, pixels, assistant_model=model)
    assert torch.equal(model.generate(pixels, assistant_model=model, prompt_lookup_num_tokens=None), alone)
    assert torch.equal(model.generate(pixels), alone)
