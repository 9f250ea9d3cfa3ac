"""Texts are those of the model in torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch
from models import PAIRS, images

import vedcore
import vedcore_tensorflow

Recorded = Callable[..., tuple[Any, Path]]
OPTIONS: list[dict[str, Any]] = [
    {"num_beams": 3, "max_length": 12, "early_stopping": True, "length_penalty": 2.0, "num_return_sequences": 2},
    {"num_beams": 2, "max_length": 14, "early_stopping": "never", "length_penalty": 0.5},
    {"num_beams": 4, "max_length": 9, "eos_token_id": (3, 8, 19), "min_length": 5},
    {"max_new_tokens": 12, "no_repeat_ngram_size": 2},
    {"max_new_tokens": 12, "repetition_penalty": 1.4, "min_new_tokens": 6, "eos_token_id": 17},
    {"max_new_tokens": 12, "bad_words_ids": [[19], [17, 17], [44, 9, 17]]},
    {"max_new_tokens": 6, "forced_bos_token_id": 9, "forced_eos_token_id": 3, "suppress_tokens": [44]},
    {"max_new_tokens": 6, "begin_suppress_tokens": [19, 46], "pad_token_id": 0, "decoder_start_token_id": 5},
    {"num_beams": 3, "max_new_tokens": 8, "no_repeat_ngram_size": 2, "repetition_penalty": 1.2},
]


def equal(found: Any, due: torch.Tensor) -> None:
    np.testing.assert_array_equal(found.numpy(), due.numpy())


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_greedy_texts_and_beams_of_any_number_of_images(pair: tuple[str, str], recorded: Recorded) -> None:
    theirs, folder = recorded(*pair)
    ours = vedcore_tensorflow.load(folder)
    for count in (1, 2, 5):
        pixels = images(theirs, count)
        for options in ({"max_new_tokens": 12}, {"num_beams": 4, "max_length": 12}):
            equal(ours.generate(pixels.numpy(), **options), theirs.generate(pixels, **options))


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options))
def test_options_do_what_they_do_in_torch(options: dict[str, Any], recorded: Recorded) -> None:
    theirs, folder = recorded()
    ours, pixels = vedcore_tensorflow.load(folder), images(theirs, 4)
    equal(ours.generate(pixels.numpy(), **options), theirs.generate(pixels, **options))


@pytest.mark.parametrize("decoder", ["gpt2", "roberta"])
def test_prompts_may_be_padded(decoder: str, recorded: Recorded) -> None:
    theirs, folder = recorded("vit" if decoder == "gpt2" else "swin", decoder)
    ours, pixels = vedcore_tensorflow.load(folder), images(theirs, 3)
    prompts = torch.tensor([[2, 9, 12], [1, 2, 9], [1, 1, 2]])
    given = {"decoder_input_ids": prompts, "decoder_attention_mask": (prompts != 1).long()}
    taken = {name: each.numpy() for name, each in given.items()}
    for options in ({"max_new_tokens": 6}, {"num_beams": 3, "max_new_tokens": 6}, {"repetition_penalty": 1.5}):
        due = theirs.generate(pixels, **given, **{"max_new_tokens": 5, **options})
        equal(ours.generate(pixels.numpy(), **taken, **{"max_new_tokens": 5, **options}), due)


def test_scores_of_beams(recorded: Recorded) -> None:
    theirs, folder = recorded()
    ours, pixels = vedcore_tensorflow.load(folder), images(theirs)
    options = {"num_beams": 3, "max_new_tokens": 6, "return_dict_in_generate": True, "num_return_sequences": 3}
    found, due = ours.generate(pixels.numpy(), **options), theirs.generate(pixels, **options)
    equal(found.sequences, due.sequences)
    np.testing.assert_allclose(found.sequences_scores.numpy(), due.sequences_scores.numpy(), rtol=1e-5)


def test_sampling_keeps_its_law(recorded: Recorded) -> None:
    theirs, folder = recorded()
    ours, pixels = vedcore_tensorflow.load(folder), images(theirs, 1)
    options = {"do_sample": True, "max_new_tokens": 1, "num_return_sequences": 1000}
    with torch.no_grad():
        logits = theirs(pixels, decoder_input_ids=torch.tensor([[2]])).logits[0, 0]
    for more in ({"top_k": 0}, {"top_k": 3}, {"top_k": 0, "top_p": 0.5}, {"top_k": 4, "temperature": 2.0}):
        shares = (logits / more.get("temperature", 1.0)).softmax(0)
        order = shares.argsort(descending=True)
        kept = order[: more["top_k"]] if more["top_k"] else order
        if "top_p" in more:
            kept = order[: int((shares[order].cumsum(0) < 0.5).sum()) + 1]
        due = torch.zeros_like(shares).index_copy(0, kept, shares[kept] / shares[kept].sum())
        drawn = ours.generate(pixels.repeat(4, 1, 1, 1).numpy(), **options, **more).numpy()[:, 1]
        np.testing.assert_allclose(np.bincount(drawn, minlength=50) / 4000, due, atol=0.035)
    drawing = {"do_sample": True, "max_new_tokens": 9, "eos_token_id": ()}
    seeded = [ours.generate(pixels.numpy(), seed=seed, **drawing).numpy() for seed in (1, 1, 2)]
    np.testing.assert_array_equal(seeded[0], seeded[1])
    assert (seeded[0] != seeded[2]).any()
    equal(
        ours.generate(pixels.numpy(), do_sample=True, top_k=1, max_new_tokens=9),
        theirs.generate(pixels, max_new_tokens=9),
    )


def test_a_search_is_compiled_once_for_all_batches_and_lengths(recorded: Recorded) -> None:
    theirs, folder = recorded()
    ours = vedcore_tensorflow.load(folder)
    for count, length in ((1, 3), (2, 5), (4, 7)):
        pixels = images(theirs, count)
        assert ours.generate(pixels.numpy(), max_new_tokens=length, eos_token_id=()).shape == (count, length + 1)
    traced = [
        each for each in ours._functions.made.values() if isinstance(each, tf.types.experimental.PolymorphicFunction)
    ]
    assert [each.experimental_get_tracing_count() for each in traced] == [1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"penalty_alpha": 0.6, "top_k": 4}, "penalty_alpha: an option that vedcore-tensorflow lacks"),
        ({"num_beams": 2, "do_sample": True}, "do_sample: beams are not drawn"),
        ({"num_beam": 2}, "num_beam: unknown option"),
        ({"max_new_tokens": 99}, "needs 99 positions"),
    ],
)
def test_options_that_are_not_here_are_refused(options: dict[str, Any], said: str, recorded: Recorded) -> None:
    theirs, folder = recorded()
    ours = vedcore_tensorflow.load(folder)
    with pytest.raises(vedcore.UsageError, match=said):
        ours.generate(images(theirs).numpy(), **options)
