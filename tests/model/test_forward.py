"""Arguments of `forward`: equivalent ones, and those that are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import vedcore
from tests.model.tiny import IMAGE, VOCABULARY, close, ids, tiny


def test_encoder_outputs_stand_for_images(model: Any, pixels: Tensor) -> None:
    text = ids()
    expected = model(pixels, decoder_input_ids=text).logits
    encoded = model.encode(pixels)
    states = encoded.last_hidden_state
    their_output = transformers.modeling_outputs.BaseModelOutput(last_hidden_state=states)
    for given in (encoded, (states,), [states], states, their_output):
        out = model(encoder_outputs=given, decoder_input_ids=text)
        torch.testing.assert_close(out.logits, expected)
        assert out.encoder_last_hidden_state is states
    a, b = (
        model.generate(**given, max_new_tokens=5) for given in ({"pixel_values": pixels}, {"encoder_outputs": encoded})
    )
    assert a.tolist() == b.tolist()


@pytest.mark.parametrize("masks", ["none", "all", "some"])
@pytest.mark.parametrize("images", [9, 16, 21])
def test_many_images_go_through_the_encoder_a_few_at_a_time(
    model: Any, monkeypatch: pytest.MonkeyPatch, images: int, masks: str
) -> None:
    pixels = torch.randn(images, 3, *IMAGE)
    whole = model.encode(pixels)  # with gradients, all at once
    sizes, encode = [], model.encoder.forward

    def forward(pixel_values: Tensor, **options: Any) -> Any:
        sizes.append(len(pixel_values))
        states = encode(pixel_values, **options).last_hidden_state
        shown = torch.arange(states.shape[1]) < 1 + len(sizes)  # another mask for each part
        masked = masks == "all" or (masks == "some" and len(sizes) == 2)
        return vedcore.outputs.EncoderOutput(states, shown.expand(states.shape[:2]) if masked else None)

    monkeypatch.setattr(model.encoder, "forward", forward)
    with torch.no_grad():
        parts = model.encode(pixels)
    assert sum(sizes) == images
    assert max(sizes) <= 8
    assert max(sizes) - min(sizes) < len(sizes)
    close(parts.last_hidden_state, whole.last_hidden_state)
    if masks == "none":
        assert parts.attention_mask is None
    else:
        counts = [1 + n if masks == "all" or n == 2 else 7 for n, size in enumerate(sizes, 1) for _ in range(size)]
        assert parts.attention_mask.sum(1).tolist() == counts
    model.train()
    with torch.no_grad():  # random numbers are drawn for the whole batch
        model.encode(pixels)
    assert sizes[-1] == images


def test_several_captions_an_image(model: Any, pixels: Tensor) -> None:
    labels = ids(6)
    shared = model(pixels, labels=labels)
    repeated = model(pixels.repeat_interleave(2, 0), labels=labels)
    close(shared.logits, repeated.logits)
    close(shared.loss, repeated.loss)


def test_masked_image_tokens_do_not_count(model: Any, pixels: Tensor) -> None:
    text, tokens = ids(), model.encode(pixels).last_hidden_state
    mask = torch.ones(3, tokens.shape[1])
    mask[1, 2:] = 0
    with torch.no_grad():
        masked = model(encoder_outputs=tokens, decoder_input_ids=text, encoder_attention_mask=mask).logits
        cut = model(encoder_outputs=tokens[1:2, :2], decoder_input_ids=text[1:2]).logits
        free = model(encoder_outputs=tokens, decoder_input_ids=text).logits
        by_pixels = model(pixels, decoder_input_ids=text, encoder_attention_mask=mask).logits
        own = vedcore.EncoderOutput(tokens, attention_mask=mask.bool())
        carried = model(encoder_outputs=own, decoder_input_ids=text).logits
    close(masked[1:2], cut)
    close(masked[0], free[0])
    assert (masked[1] - free[1]).abs().max() > 1e-4
    close(by_pixels, masked)
    close(carried, masked)
    with_mask = model.generate(encoder_outputs=tokens, encoder_attention_mask=mask, max_new_tokens=6)
    assert with_mask[1].tolist() == model.generate(encoder_outputs=tokens[1:2, :2], max_new_tokens=6)[0].tolist()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "give pixel_values"),
        ({"decoder_input_ids": ids()}, "pixel_values"),
        ({"pixel_values": torch.zeros(3, 3, *IMAGE)}, "decoder_input_ids"),
        ({"pixel_values": torch.zeros(3, 3, *IMAGE), "encoder_outputs": torch.zeros(3, 7, 24)}, "not both"),
        (
            {
                "pixel_values": torch.zeros(3, 3, *IMAGE),
                "decoder_input_ids": ids(),
                "decoder_inputs_embeds": torch.zeros(3, 7, 36),
            },
            "not both",
        ),
        ({"pixel_values": [1.0], "labels": ids()}, "pixel_values: a tensor expected, got list"),
        ({"encoder_outputs": torch.zeros(3, 7, 24), "labels": [[1]]}, "labels: a tensor expected, got list"),
        ({"encoder_outputs": torch.zeros(3, 7, 24), "past_key_values": (1,)}, "past_key_values: a cache expected"),
        ({"pixel_values": torch.zeros(3, *IMAGE), "labels": ids()}, r"pixel_values.*\(N, 3, H, W\)"),
        ({"pixel_values": torch.zeros(3, 1, *IMAGE), "labels": ids()}, "pixel_values"),
        ({"pixel_values": torch.zeros(3, 3, *IMAGE, dtype=torch.uint8), "labels": ids()}, "uint8"),
        ({"pixel_values": torch.zeros(0, 3, *IMAGE), "decoder_input_ids": ids(0)}, r"pixel_values.*\(0, 3"),
        ({"encoder_outputs": torch.zeros(0, 7, 24), "decoder_input_ids": ids(0)}, "0 rows of text for 0 images"),
        ({"pixel_values": torch.zeros(3, 3, *IMAGE), "decoder_input_ids": ids(0)}, "0 rows of text for 3 images"),
        ({"pixel_values": torch.zeros(3, 3, *IMAGE), "labels": ids()[:, :0]}, r"labels of shape \(3, 0\)"),
        ({"pixel_values": torch.zeros(3, 3, 16, 16), "labels": ids()}, "16 x 16.*16 x 24"),
        ({"encoder_outputs": torch.zeros(3, 7, 25), "labels": ids()}, "25"),
        ({"encoder_outputs": "no", "labels": ids()}, "encoder_outputs of type str"),
        ({"pixel_values": torch.zeros(3, 3, *IMAGE), "labels": ids(4)}, "4 rows of text for 3 images"),
        ({"pixel_values": torch.zeros(3, 3, *IMAGE), "labels": ids()[0]}, "labels of shape"),
        ({"pixel_values": torch.zeros(3, 3, *IMAGE), "labels": ids().float()}, "labels.*float32"),
        ({"pixel_values": torch.zeros(3, 3, *IMAGE), "labels": ids() + 40}, "labels run from 4.*vocabulary has 50"),
        ({"pixel_values": torch.zeros(3, 3, *IMAGE), "labels": ids() - 50}, "labels run from -"),
        ({"pixel_values": torch.zeros(3, 3, *IMAGE), "decoder_input_ids": ids() + 40}, "vocabulary has 50"),
        ({"pixel_values": torch.zeros(3, 3, *IMAGE), "labels": ids(), "decoder_input_ids": ids()[:, 1:]}, "labels"),
        ({"pixel_values": torch.zeros(3, 3, *IMAGE), "labels": ids(3, 31)}, "31 tokens.*30 positions"),
        ({"pixel_values": torch.zeros(3, 3, *IMAGE), "labels": ids(), "label_smoothing": 1.5}, "label_smoothing"),
        (
            {"pixel_values": torch.zeros(3, 3, *IMAGE), "labels": ids(), "decoder_attention_mask": torch.ones(3, 5)},
            r"decoder_attention_mask.*\(3, 7\)",
        ),
        (
            {"pixel_values": torch.zeros(3, 3, *IMAGE), "labels": ids(), "encoder_attention_mask": torch.ones(3, 5)},
            r"encoder_attention_mask.*\(3, 7\)",
        ),
    ],
    ids=lambda value: ",".join(value) or "nothing" if isinstance(value, dict) else "",
)
def test_refused_with_a_reason(model: Any, given: dict[str, Any], says: str) -> None:
    with pytest.raises(vedcore.ConfigError, match=says) as refused:
        model(**given)
    assert len(str(refused.value)) <= 300
    assert "\n" not in str(refused.value)


def test_unknown_arguments_are_type_errors(model: Any, pixels: Tensor) -> None:
    with pytest.raises(TypeError, match="decoder_imput_ids"):
        model(pixels, decoder_imput_ids=ids())
    with pytest.raises(TypeError, match=r"did you mean 'num_beams'"):
        model.generate(pixels, num_beam=2)
    with pytest.raises(TypeError):
        model.generate()
    with pytest.raises(TypeError):
        model.generate(pixels, encoder_outputs=model.encode(pixels))


def test_without_token_ids_training_and_generation_say_so(pixels: Tensor) -> None:
    model = tiny("bert", decoder_eos_token_id=None, decoder_pad_token_id=None, token_ids=None)
    assert model.token_ids == vedcore.TokenIds()
    with pytest.raises(vedcore.UsageError, match=r"token_ids\.start"):
        model(pixels, labels=ids())
    with pytest.raises(vedcore.UsageError, match=r"token_ids\.start"):
        model.generate(pixels)
    assert model(pixels, decoder_input_ids=ids()).logits.shape == (3, 7, VOCABULARY)
