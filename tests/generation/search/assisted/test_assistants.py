"""Guessed tokens and contrastive search through the model's own calls: the same texts, streamed too."""

from __future__ import annotations

from typing import Any

import pytest
import torch

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


INNER = ("decoder_attentions", "cross_attentions", "decoder_hidden_states", "encoder_attentions", "scores", "logits")
RECORDED = dict.fromkeys(
    ("output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate"), True
)
PROMPT = [[0, 5, 9, 9, 11]]


@pytest.mark.parametrize("how", ["lookup", "other"])
@pytest.mark.parametrize("options", [{}, {"do_sample": True, "top_k": 1}], ids=["greedy", "sampled"])
@pytest.mark.parametrize("prompt", [None, PROMPT], ids=["start", "prompt"])
@pytest.mark.parametrize("family", ["bert", "gpt2", "bart", "trocr"])
def test_inner_states_as_transformers(
    pair: Any, family: str, prompt: list[list[int]] | None, options: dict[str, Any], how: str
) -> None:
    """Of one image, as transformers takes it; it shifts the records of guesses that its first call accepts."""
    model, other = pair(family), pair(family, 3)
    drafts: dict[str, Any] = {"prompt_lookup_num_tokens": 3, "max_matching_ngram_size": 1}
    theirs_drafts = drafts
    if how == "other":
        drafts = {"assistant_model": other.ours}
        theirs_drafts = {"assistant_model": other.theirs}
    more = {**ENDS, **RECORDED, **options, "max_new_tokens": 24}
    if prompt is not None:
        more["decoder_input_ids"] = torch.tensor(prompt)
    with torch.no_grad():
        theirs = model.theirs.generate(model.pixels[:1], **more, **theirs_drafts, max_length=None)
    ours = model.ours.generate(model.pixels[:1], **more, **drafts)
    assert ours.sequences.tolist() == theirs.sequences.tolist()
    for name in INNER:
        assert_close(ours[name], theirs[name])


def assert_close(ours: Any, theirs: Any) -> None:
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        if isinstance(other, tuple):
            assert_close(mine, other)
        else:
            assert mine.shape == other.shape
            torch.testing.assert_close(mine, other, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "top_k": 1, "num_return_sequences": 2}], ids=str)
@pytest.mark.parametrize("drafts", [{"prompt_lookup_num_tokens": 3}, {"assistant_model": "itself"}], ids=str)
def test_inner_states_of_several_images(pair: Any, drafts: dict[str, Any], options: dict[str, Any]) -> None:
    """As those of plain search by transformers, up to the end of each row."""
    model = pair("bart")
    drafts = {"assistant_model": model.ours} if "assistant_model" in drafts else drafts
    more = {**ENDS, **RECORDED, **options}
    with torch.no_grad():
        theirs = model.theirs.generate(model.pixels, **more, max_length=None)
    ours = model.ours.generate(model.pixels, **more, **drafts)
    assert ours.sequences.tolist() == theirs.sequences.tolist()
    for name in ("decoder_attentions", "cross_attentions", "decoder_hidden_states"):
        assert len(ours[name]) == len(theirs[name])
        for step, (mine, other) in enumerate(zip(ours[name], theirs[name], strict=True)):
            rows = [row for row, length in enumerate(ours.lengths) if step < length]
            assert_close([layer[rows] for layer in mine], [layer[rows] for layer in other])
    assert_close(ours.encoder_hidden_states, theirs.encoder_hidden_states)


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
        ({"prompt_lookup_num_tokens": 2, "num_beams": 2}, "num_beams"),
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
