"""Guessed tokens and contrastive search through the model's own calls: the same texts, streamed too."""

from __future__ import annotations

from typing import Any

import pytest

import vedcore
from vedcore.errors import IncompatibleError, UsageError

ENDS: dict[str, Any] = {"max_new_tokens": 12, "eos_token_id": [*range(4, 98, 7)], "pad_token_id": 2}


@pytest.mark.parametrize("family", ["bert", "gpt2", "trocr"])
def test_guesses_change_nothing(pair: Any, family: str) -> None:
    model, pixels, other = pair(family).ours, pair(family).pixels, pair(family, 1).ours
    plain = model.generate(pixels, **ENDS).tolist()
    for options in (
        {"prompt_lookup_num_tokens": 4},
        {"prompt_lookup_num_tokens": 4, "use_cache": False},
        {"assistant_model": other},
        {"assistant_model": model, "assistant_confidence_threshold": 0.0},
        {"assistant_model": pair("bart").ours},
    ):
        assert model.generate(pixels, **ENDS, **options).tolist() == plain
    encoded = model.encode(pixels)
    assert model.generate(encoder_outputs=encoded, assistant_model=other, **ENDS).tolist() == plain


@pytest.mark.parametrize("family", ["roberta", "mbart"])
def test_they_are_streamed(pair: Any, family: str) -> None:
    model, image, other = pair(family).ours, pair(family).pixels[0].clamp(0, 1), pair("gpt2").ours
    for options in ({"assistant_model": other}, {"prompt_lookup_num_tokens": 3}, {"penalty_alpha": 0.5, "top_k": 4}):
        [result] = model.generate_text(image, max_new_tokens=9, **options)
        assert "".join(model.stream(image, max_new_tokens=9, **options)) == result.text


def test_the_assistants_mode_is_left_alone(pair: Any) -> None:
    model, other = pair("gpt2").ours, pair("gpt2", 1).ours
    other.train()
    model.generate(pair("gpt2").pixels, max_new_tokens=3, assistant_model=other)
    assert other.training
    assert other.decoder.training
    other.eval()


def test_what_does_not_go_together(pair: Any) -> None:
    model, pixels, other = pair("gpt2").ours, pair("gpt2").pixels, pair("gpt2", 1).ours
    for options, said in (
        ({"assistant_model": other.decoder}, "assistant_model: a model expected"),
        ({"assistant_model": other, "num_beams": 2}, "num_beams=2 contradicts assistant_model"),
        ({"assistant_model": other, "prompt_lookup_num_tokens": 2}, "contradicts prompt_lookup_num_tokens=2"),
        ({"assistant_model": other, "output_attentions": True}, "contradicts assistant_model"),
        ({"prompt_lookup_num_tokens": 2, "output_hidden_states": True}, "contradicts prompt_lookup_num_tokens"),
    ):
        with pytest.raises(UsageError, match=said):
            model.generate(pixels, max_new_tokens=3, **options)
    byte = vedcore.compose(
        {"name": "vit_tiny_patch16_224", "num_hidden_layers": 1},
        {"name": "gpt2", "n_layer": 1},
        tokenizer="byte",
        image_size=16,
        decoder_n_embd=16,
        decoder_n_head=2,
    )
    with pytest.raises(IncompatibleError, match="its vocabulary has 259 tokens, this model's 98"):
        model.generate(pixels, max_new_tokens=3, assistant_model=byte)
    for options in ({"assistant_model": other}, {"prompt_lookup_num_tokens": 2}):
        with pytest.raises(UsageError, match="4 texts by guessed tokens cannot be streamed"):
            model.generate(pixels, max_new_tokens=3, streamer=_Nothing(), **options)


class _Nothing:
    def put(self, value: Any) -> None:
        raise AssertionError

    def end(self) -> None:
        pass
