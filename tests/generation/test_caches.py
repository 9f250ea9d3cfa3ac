"""The cache that `generate` gives and takes, and the scores of transitions: as transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vedcore.errors import UsageError

FAMILIES = ["bert", "roberta", "gpt2", "bart", "mbart", "trocr", "trocr-sinusoid"]
ENDS: dict[str, Any] = {"eos_token_id": [*range(4, 98, 7)], "pad_token_id": 2}
ASKED = {"return_dict_in_generate": True, "max_new_tokens": 7}


@pytest.mark.parametrize("family", FAMILIES)
def test_it_holds_what_transformers_holds(pair: Any, family: str) -> None:
    """The numbers, too; but after a greatest length the order of its beams is that of ties."""
    for options in ({}, {"eos_token_id": None}, {"num_beams": 3}, {"num_beams": 2, "max_new_tokens": 1}):
        ours, theirs = pair(family).generate({**ENDS, **ASKED, **options})
        cache = ours.past_key_values
        assert cache.length == theirs.past_key_values.get_seq_length()
        for layer, other in zip(cache.layers, theirs.past_key_values.self_attention_cache.layers, strict=False):
            assert layer.keys[:, :, : layer.length].shape == other.keys.shape
            if "num_beams" in options and options.get("max_new_tokens") != 1:
                continue
            torch.testing.assert_close(layer.keys[:, :, : layer.length], other.keys, atol=1e-3, rtol=1e-3)
            torch.testing.assert_close(layer.values[:, :, : layer.length], other.values, atol=1e-3, rtol=1e-3)


def test_only_where_it_is_asked_for(pair: Any) -> None:
    model, pixels = pair("gpt2").ours, pair("gpt2").pixels
    for options in ({"use_cache": False}, {"penalty_alpha": 0.6, "top_k": 3}, {"prompt_lookup_num_tokens": 2}):
        assert model.generate(pixels, **ASKED, **options).past_key_values is None


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_go_on(pair: Any, family: str) -> None:
    """Only new tokens are read, and the ids are those of no cache."""
    model, pixels = pair(family).ours, pair(family).pixels
    for options in ({}, {"num_beams": 3}, {"do_sample": True, "seed": 0, "num_return_sequences": 2}):
        begun = model.generate(pixels, **ASKED)
        whole = torch.cat([begun.sequences, torch.tensor([[40], [41], [42], [43]])], 1)
        expected = model.generate(pixels, decoder_input_ids=whole, max_new_tokens=6, **options)
        read: list[int] = []
        hook = model.decoder.register_forward_pre_hook(
            lambda module, args, kwargs, read=read: read.append(kwargs["input_ids"].shape[1]), with_kwargs=True
        )
        got = model.generate(
            pixels, decoder_input_ids=whole, past_key_values=begun.past_key_values, max_new_tokens=6, **options
        )
        hook.remove()
        assert got.tolist() == expected.tolist()
        assert read[0] == 2
        assert set(read[1:]) == {1}


def test_images_are_not_needed(pair: Any) -> None:
    model, pixels = pair("bart").ours, pair("bart").pixels
    begun = model.generate(pixels, **ASKED)
    expected = model.generate(pixels, decoder_input_ids=begun.sequences, max_new_tokens=4)
    got = model.generate(decoder_input_ids=begun.sequences, past_key_values=begun.past_key_values, max_new_tokens=4)
    assert got.tolist() == expected.tolist()


def test_a_cache_of_forward_with_padding(pair: Any) -> None:
    model, pixels = pair("gpt2").ours, pair("gpt2").pixels
    ids = torch.tensor([[2, 0, 5, 6], [0, 7, 8, 9], [0, 3, 3, 4], [2, 2, 0, 9]])
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1], [0, 0, 1, 1]])
    expected = model.generate(pixels, decoder_input_ids=ids, decoder_attention_mask=mask, max_new_tokens=5)
    for told in ({"decoder_attention_mask": mask}, {}):
        begun = model(pixels, decoder_input_ids=ids[:, :3], decoder_attention_mask=mask[:, :3], use_cache=True)
        got = model.generate(
            pixels, decoder_input_ids=ids, past_key_values=begun.past_key_values, max_new_tokens=5, **told
        )
        assert got.tolist() == expected.tolist()


def test_rows_of_beams_go_on(pair: Any) -> None:
    """The cache of beams has their rows, and an image for some of them each."""
    model, pixels = pair("mbart").ours, pair("mbart").pixels
    begun = model.generate(pixels, **ASKED, num_beams=2, num_return_sequences=2, eos_token_id=None)
    assert begun.past_key_values.rows == 8
    cache = model(pixels, decoder_input_ids=begun.sequences[:, :-1], use_cache=True).past_key_values
    got = model.generate(decoder_input_ids=begun.sequences, past_key_values=cache, max_new_tokens=3)
    expected = model.generate(pixels.repeat_interleave(2, 0), decoder_input_ids=begun.sequences, max_new_tokens=3)
    assert got.tolist() == expected.tolist()


def test_caches_that_do_not_fit(pair: Any) -> None:
    model, pixels = pair("gpt2").ours, pair("gpt2").pixels
    begun = model.generate(pixels, **ASKED, eos_token_id=None)
    whole, cache = begun.sequences, begun.past_key_values
    text_only = model.decoder(whole[:, :-1], use_cache=True).past_key_values
    for given, options, said in (
        ([1], {}, "a cache expected, got list"),
        (cache, {"decoder_input_ids": whole[:, :-1]}, "it holds 7 tokens, and the prompts have 7"),
        (cache, {"decoder_input_ids": whole[:2]}, "a cache of 4 rows for 2 prompts"),
        (cache, {"decoder_input_ids": None}, "it holds 7 tokens"),
        (cache, {"use_cache": False}, "contradicts use_cache=False"),
        (cache, {"penalty_alpha": 0.5}, "contrastive search does not go on with a cache"),
        (cache, {"prompt_lookup_num_tokens": 2}, "assisted decoding does not go on with a cache"),
        (text_only, {}, "not a cache of this model over images"),
        (pair("bart").ours.decoder.make_cache(), {}, ""),
    ):
        told = {"decoder_input_ids": whole, "max_new_tokens": 2, **options}
        if not said:
            model.generate(pixels, past_key_values=given, **told)
            continue
        with pytest.raises(UsageError, match=f"past_key_values: .*{said}"):
            model.generate(pixels, past_key_values=given, **told)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"repetition_penalty": 1.5},
        {"num_beams": 3},
        {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 0.0},
        {"num_beams": 3, "early_stopping": True, "no_repeat_ngram_size": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("family", ["bert", "trocr"])
def test_transition_scores(pair: Any, family: str, options: dict[str, Any]) -> None:
    model = pair(family)
    asked = {**ENDS, **ASKED, "output_scores": True, **options}
    ours, theirs = model.generate(asked)
    for normalize in (False, True):
        got = model.ours.compute_transition_scores(
            ours.sequences, ours.scores, ours.beam_indices, normalize_logits=normalize
        )
        told = model.theirs.compute_transition_scores(
            theirs.sequences, theirs.scores, theirs.get("beam_indices"), normalize_logits=normalize
        )
        torch.testing.assert_close(got, told, atol=1e-3, rtol=1e-3)


def test_transition_scores_of_something_else(pair: Any) -> None:
    model, pixels = pair("bert").ours, pair("bert").pixels
    plain = model.generate(pixels, **ASKED)
    with pytest.raises(UsageError, match="scores: .*output_scores=True"):
        model.compute_transition_scores(plain.sequences, plain.scores)
    beams = model.generate(pixels, **ASKED, num_beams=3, output_scores=True)
    with pytest.raises(UsageError, match="beam_indices: 12 rows of scores for 4 sequences; give out.beam_indices"):
        model.compute_transition_scores(beams.sequences, beams.scores)
    with pytest.raises(UsageError, match="do not fit"):
        model.compute_transition_scores(beams.sequences, beams.scores[:2], beams.beam_indices)
