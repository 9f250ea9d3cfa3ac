"""Settings that people assign: the hint of each refusal is a line of code, and it works."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor

import vedcore
from vedcore.errors import UsageError


@pytest.mark.parametrize(
    ("target", "name", "value", "now"),
    [
        ("model.generation_config", "num_beams", 4, "model.generation_config.num_beams"),
        ("model.generation_config", "max_length", 9, "model.generation_config.max_length"),
        ("model.generation_config", "eos_token_id", [1, 2], "list(model.generation_config.eos_token_id)"),
        ("model.config", "num_beams", 4, "model.generation_config.num_beams"),
        ("model.config", "max_length", 9, "model.generation_config.max_length"),
        ("model.config", "pad_token_id", 4, "model.token_ids.pad"),
        ("model.config", "eos_token_id", 2, "model.token_ids.eos[0]"),
        ("model.config", "decoder_start_token_id", 4, "model.token_ids.start"),
        ("model.config.decoder", "pad_token_id", 1, "model.token_ids.pad"),
        ("model.config.decoder", "max_length", 9, "model.generation_config.max_length"),
        ("model.decoder.config", "decoder_start_token_id", 2, "model.token_ids.start"),
        ("model.decoder.config", "vocab_size", 80, "model.decoder.vocab_size"),
        ("model.config", "vocab_size", 80, "model.decoder.vocab_size"),
        ("model.token_ids", "pad", 4, "model.token_ids.pad"),
        ("model.token_ids", "eos", 3, "model.token_ids.eos[0]"),
        ("model.token_ids", "eos_token_id", 3, "model.token_ids.eos[0]"),
        ("model.token_ids", "bos_token_id", 3, "model.token_ids.start"),
        ("model.processor.preprocessing", "interpolation", "nearest", "model.processor.preprocessing.interpolation"),
    ],
)
def test_a_hint_is_what_to_write(model: Any, target: str, name: str, value: object, now: str) -> None:
    settings = eval(target, {"model": model})
    with pytest.raises(UsageError, match=f"{name}: settings of a .* do not change in place; model") as caught:
        setattr(settings, name, value)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) <= 300
    exec(message.split("; ", 1)[1], {"model": model})
    assert eval(now, {"model": model}) == value


@pytest.mark.parametrize(
    ("target", "name", "value", "said"),
    [
        ("model.config", "image_size", (32, 64), r"load or compose the model with image_size=\(32, 64\)"),
        ("model.config", "dtype", "float16", "compose the model with dtype='float16'"),
        ("model.config", "anything", 3, "there are: format_version, encoder, "),
        (
            "model.processor.preprocessing",
            "image_size",
            (32, 64),
            r"load or compose the model with image_size=\(32, 64\)",
        ),
        ("model.encoder.config", "hidden_size", 9, "compose the model with encoder_hidden_size=9"),
        ("model.decoder.config", "num_hidden_layers", 9, "compose the model with decoder_num_hidden_layers=9"),
        ("model.decoder.config", "n_layer", 9, r"did you mean .num_hidden_layers.\?"),
    ],
)
def test_settings_that_need_another_model(model: Any, target: str, name: str, value: object, said: str) -> None:
    with pytest.raises(UsageError, match=f"{name}: .*; {said}"):
        setattr(eval(target, {"model": model}), name, value)


def test_a_trainer_may_set_use_cache(model: Any) -> None:
    model.config.use_cache = False


def test_transformers_options_are_taken(model: Any, pixels: Tensor) -> None:
    theirs = hf.GenerationConfig(max_new_tokens=3, num_beams=2)
    expected = model.generate(pixels, max_new_tokens=3, num_beams=2)
    assert model.generate(pixels, theirs).tolist() == expected.tolist()
    assert model.generate(pixels, generation_config=theirs).tolist() == expected.tolist()
    longer = model.generate(pixels, theirs, max_new_tokens=5, eos_token_id=None)
    assert longer.tolist() == model.generate(pixels, max_new_tokens=5, num_beams=2, eos_token_id=None).tolist()
    model.generation_config = theirs
    assert model.generation_config == vedcore.GenerationConfig(max_new_tokens=3, num_beams=2)
    assert model.generate(pixels).tolist() == expected.tolist()
    model.generation_config = vedcore.GenerationConfig(num_beams=2)
    assert model.generate(pixels, hf.GenerationConfig(max_new_tokens=3)).tolist() == expected.tolist()


@pytest.mark.parametrize("given", [{"num_beams": 2}, 4, "greedy"], ids=repr)
def test_other_objects_are_refused(model: Any, pixels: Tensor, given: Any) -> None:
    said = f"generation_config: a GenerationConfig expected, got {type(given).__name__}"
    with pytest.raises(UsageError, match=said):
        model.generate(pixels, generation_config=given)
    with pytest.raises(UsageError, match=said):
        model.generation_config = given


def test_other_names_of_transformers(model: Any, pixels: Tensor) -> None:
    expected = model.generate(pixels, max_new_tokens=3)
    assert model.generate(inputs=pixels, max_new_tokens=3).tolist() == expected.tolist()
    assert model.generate(pixels, max_new_tokens=3, tokenizer=None).tolist() == expected.tolist()
    with pytest.raises(UsageError, match="inputs: contradicts pixel_values; give the images once"):
        model.generate(pixels, inputs=pixels)
    with pytest.raises(UsageError, match="tokenizer: int does not decode ids"):
        model.generate(pixels, tokenizer=3)


def test_a_tokenizer_of_the_caller_finds_stop_strings(model: Any, pixels: Tensor) -> None:
    """Where the model has none."""

    class Letters:
        def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
            return "".join(chr(97 + i % 26) for i in ids)

    model.processor.tokenizer = None
    plain = model.generate(pixels[:1], max_new_tokens=8, eos_token_id=None)[0].tolist()
    stop = Letters().decode(plain[3:4])
    first = next(i for i, token in enumerate(plain) if i and Letters().decode([token]) == stop)
    with pytest.raises(UsageError, match="stop_strings: the model has no tokenizer"):
        model.generate(pixels[:1], stop_strings=[stop], max_new_tokens=8)
    out = model.generate(pixels[:1], stop_strings=[stop], tokenizer=Letters(), max_new_tokens=8, eos_token_id=None)
    assert out[0].tolist() == plain[: first + 1]


def test_what_tutorials_write(model: Any, pixels: Tensor) -> None:
    with pytest.warns(UserWarning, match="early_stopping=True would do nothing with num_beams=1"):
        got = model.generate(pixels, max_length=6, num_beams=1, early_stopping=True)
    assert got.tolist() == model.generate(pixels, max_length=6).tolist()
    with pytest.warns(UserWarning, match="max_length=30 would do nothing beside max_new_tokens"):
        got = model.generate(pixels, max_length=30, max_new_tokens=3)
    assert got.tolist() == model.generate(pixels, max_new_tokens=3).tolist()
    ids = {"eos_token_id": torch.tensor([5, 6]), "bad_words_ids": [torch.tensor([7]), torch.tensor([8, 9])]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = model.generate(pixels, max_new_tokens=3, **ids)
    plain = {"eos_token_id": [5, 6], "bad_words_ids": [[7], [8, 9]]}
    assert got.tolist() == model.generate(pixels, max_new_tokens=3, **plain).tolist()


def test_a_text_is_missing(model: Any, pixels: Tensor) -> None:
    with pytest.raises(UsageError, match="decoder_input_ids: no text is given; give it, or labels to train"):
        model(pixels)
    with pytest.raises(UsageError, match="not both"):
        model(pixels, decoder_input_ids=torch.zeros(3, 2).long(), decoder_inputs_embeds=torch.zeros(3, 2, 8))
