"""`generate` in JAX gives the ids of torch, and draws by the same law."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import vedcore
from vedcore import GenerationConfig
from vedcore_jax.generation.options import search_of
from vedcore_jax.generation.scores import processed
from vedcore_jax.model import JaxModel

from .conftest import Pair, text


@pytest.fixture(scope="module")
def model(vit: Pair) -> JaxModel:
    """One model, whose compiled searches stay."""
    return vit.load()


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_greedy_ids_and_those_of_beams_are_equal(vit: Pair, model: JaxModel, rows: int) -> None:
    pixels = vit.images(rows, seed=rows)
    for options in ({"max_new_tokens": 12}, {"num_beams": 4, "max_length": 12}):
        due: Any = vit.model.generate(torch.from_numpy(pixels), **options)
        assert np.array_equal(model.generate(pixels, **options).sequences, due.numpy())


OPTIONS: list[dict[str, Any]] = [
    {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.3, "early_stopping": True},
    {"num_beams": 2, "early_stopping": "never", "length_penalty": 2.0, "no_repeat_ngram_size": 2},
    {"repetition_penalty": 1.6, "min_length": 6, "suppress_tokens": (20, 21), "forced_eos_token_id": 3},
    {"no_repeat_ngram_size": 1, "forced_bos_token_id": 9, "begin_suppress_tokens": (8,), "eos_token_id": (3, 30)},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options_mean_the_same(vit: Pair, model: JaxModel, options: dict[str, Any]) -> None:
    pixels = vit.images(3, seed=4)
    due: Any = vit.model.generate(torch.from_numpy(pixels), max_new_tokens=9, **options)
    assert np.array_equal(model.generate(pixels, max_new_tokens=9, **options).sequences, due.numpy())


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=str)
def test_a_prompt_goes_on(pair: Callable[..., Pair], options: dict[str, Any]) -> None:
    made = pair("deit", "roberta")
    pixels, prompt = made.images(2), np.concatenate([np.full((2, 1), 2), text(2, 3)], 1)
    mask = np.ones(prompt.shape, bool)
    mask[0, :1] = False
    prompt[0, :2] = 1, 2  # padding, and the start
    given = {"decoder_input_ids": prompt, "decoder_attention_mask": mask}
    due = made.model.generate(
        torch.from_numpy(pixels), max_new_tokens=5, **{k: torch.from_numpy(v) for k, v in given.items()}, **options
    )
    found = made.load().generate(pixels, max_new_tokens=5, **given, **options).sequences
    assert np.array_equal(found, due.numpy())


def test_draws_follow_the_distribution(vit: Pair, model: JaxModel) -> None:
    pixels = vit.images(1)
    options: dict[str, Any] = {"do_sample": True, "max_new_tokens": 1, "top_k": 6, "temperature": 1.4, "top_p": 0.9}
    found = model.generate(pixels, num_return_sequences=1000, prng_key=jax.random.key(1), **options).sequences
    search, _ = search_of(GenerationConfig(), options, model.graphs, 1)
    scores = model(pixels, np.full((1, 1), 2)).logits[:, 0]
    law = jax.nn.softmax(processed(search, scores, jnp.full((1, 2), 2), jnp.ones((1, 2), bool), jnp.array(1)), 1)[0]
    share = np.bincount(np.asarray(found)[:, 1], minlength=50) / 1000
    assert 1 < (law > 0).sum() <= 6
    assert np.abs(share - law).max() < 0.05
    assert not share[np.asarray(law) == 0].any()


def test_a_key_decides_the_draws(vit: Pair, model: JaxModel) -> None:
    pixels = vit.images(2)
    for beams in (1, 3):
        options: dict[str, Any] = {"do_sample": True, "max_new_tokens": 8, "num_beams": beams, "temperature": 3.0}
        one, same, other = (
            np.asarray(model.generate(pixels, prng_key=jax.random.key(key), **options).sequences) for key in (0, 0, 1)
        )
        assert np.array_equal(one, same)
        assert not np.array_equal(one, other)
    assert np.array_equal(model.generate(pixels, seed=0, **options).sequences, one)


@pytest.mark.parametrize(
    "options", [{"temperature": 0.7, "top_k": 5}, {"top_p": 0.6}, {"min_p": 0.2, "top_k": 0}], ids=str
)
def test_what_is_drawn_from_is_torchs(vit: Pair, model: JaxModel, options: dict[str, Any]) -> None:
    from vedcore.generation.processors.warpers import make_warpers

    asked = GenerationConfig(do_sample=True, **options)
    scores = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)) * 3
    due = scores
    for warper in make_warpers(asked, 1):
        due = warper(torch.zeros(3, 1).long(), due)
    search, _ = search_of(asked, {"max_new_tokens": 3}, model.graphs, 1)
    found = processed(search, scores.numpy(), jnp.zeros((3, 4), int), jnp.ones((3, 4), bool), jnp.array(1))
    np.testing.assert_allclose(found, due.numpy(), rtol=1e-5)


def test_within_another_jit_texts_have_the_greatest_length(vit: Pair, model: JaxModel) -> None:
    pixels = vit.images(2)
    ids = jax.jit(lambda p: model.generate(p, max_new_tokens=12, num_beams=2).sequences)(pixels)
    short = model.generate(pixels, max_new_tokens=12, num_beams=2).sequences
    assert ids.shape == (2, 13)
    assert np.array_equal(ids[:, : short.shape[1]], short)


def test_options_that_are_not_here(vit: Pair, model: JaxModel) -> None:
    pixels = vit.images(1)
    with pytest.raises(vedcore.UsageError, match="num_beam_groups: not an option of vedcore-jax"):
        model.generate(pixels, num_beams=4, num_beam_groups=2, diversity_penalty=1.0)
    with pytest.raises(vedcore.UsageError, match="num_beams"):
        model.generate(pixels, num_beam=4)
    with pytest.raises(vedcore.UsageError, match="one text for each image"):
        model.generate(pixels, text())
    with pytest.raises(vedcore.NonFiniteError):
        model.generate(pixels * np.nan, max_new_tokens=3)
