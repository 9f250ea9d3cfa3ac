"""Logits, loss, gradients, ids and tuples are those of transformers' `VisionEncoderDecoderModel`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor
from transformers.models.vision_encoder_decoder.modeling_vision_encoder_decoder import shift_tokens_right as their_shift

import vedcore
from tests.model.tiny import DECODERS, EOS, PAD, START, VIT, close, ids, some_labels, spread
from vedcore.loss import shift_tokens_right
from vedcore.weights.keymap import to_ours


@pytest.fixture(scope="module", params=DECODERS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """transformers' model and ours with its weights."""
    name: str = request.param
    config_name, class_name, words, projector = DECODERS[name]
    encoder = transformers.ViTModel(transformers.ViTConfig(**VIT), add_pooling_layer=False)
    config = getattr(transformers, config_name)(**words, is_decoder=True, add_cross_attention=True)
    theirs = transformers.VisionEncoderDecoderModel(encoder=encoder, decoder=getattr(transformers, class_name)(config))
    spread(theirs, seed=3)
    theirs.config.decoder_start_token_id, theirs.config.pad_token_id = START, PAD
    theirs.generation_config = transformers.GenerationConfig(
        decoder_start_token_id=START, bos_token_id=START, eos_token_id=EOS, pad_token_id=PAD
    )
    ours = vedcore.compose(
        {"name": "vit", **VIT}, {"name": name, **words}, token_ids={"start": START, "eos": (EOS,), "pad": PAD}
    )
    folder = tmp_path_factory.mktemp(name)
    theirs.encoder.save_pretrained(folder)  # the key map has the names of files
    ours.encoder.load_state_dict(to_ours(load_file(folder / "model.safetensors"), ours.encoder.key_map))
    ours.decoder.load_state_dict(to_ours(theirs.decoder.state_dict(), ours.decoder.transformers[0].key_map))
    assert ours.config.projector.name == projector
    if projector == "linear":
        ours.projector.proj.load_state_dict(theirs.enc_to_dec_proj.state_dict())
    return theirs.eval(), ours


def test_logits_loss_and_states_are_theirs(pair: tuple[Any, Any], pixels: Tensor) -> None:
    theirs, ours = pair
    labels = some_labels()
    with torch.no_grad():
        a = theirs(pixel_values=pixels, labels=labels, output_hidden_states=True)
        b = ours(pixel_values=pixels, labels=labels, output_hidden_states=True)
    assert a.logits.std() > 0.5  # so that 1e-4 says something
    close(b.logits, a.logits)
    close(b.loss, a.loss)
    close(b.encoder_last_hidden_state, a.encoder_last_hidden_state)
    assert len(b.encoder_hidden_states) == len(a.encoder_hidden_states)
    assert len(b.decoder_hidden_states) == len(a.decoder_hidden_states)
    for mine, their in zip(b.encoder_hidden_states, a.encoder_hidden_states, strict=True):
        close(mine, their)


def test_decoder_inputs_and_masks_are_theirs(pair: tuple[Any, Any], pixels: Tensor) -> None:
    theirs, ours = pair
    text, mask = ids(), torch.ones(3, 7, dtype=torch.long)
    mask[2, 4:] = 0
    with torch.no_grad():
        a = theirs(pixel_values=pixels, decoder_input_ids=text, decoder_attention_mask=mask).logits
        b = ours(pixel_values=pixels, decoder_input_ids=text, decoder_attention_mask=mask).logits
        embeddings = ours.decoder.embed_tokens(text)
        c = ours(pixel_values=pixels, decoder_inputs_embeds=embeddings, decoder_attention_mask=mask).logits
    close(b[mask.bool()], a[mask.bool()])
    close(c[mask.bool()], a[mask.bool()])


def test_gradients_are_theirs(pair: tuple[Any, Any], pixels: Tensor) -> None:
    theirs, ours = pair
    for side in pair:
        side.zero_grad()
        side(pixel_values=pixels, labels=some_labels()).loss.backward()
    patches = ours.encoder.model.patch_embed.proj.weight.grad
    close(patches, theirs.encoder.embeddings.patch_embeddings.projection.weight.grad)
    a, b = (side.decoder.get_input_embeddings().weight.grad for side in pair)
    close(a[2:], b[2:])  # but for the padding rows, which theirs do not train
    if hasattr(theirs, "enc_to_dec_proj"):
        close(ours.projector.proj.weight.grad, theirs.enc_to_dec_proj.weight.grad)
    for side in pair:
        side.zero_grad(set_to_none=True)


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 12},
        {"max_new_tokens": 12, "num_beams": 4},
        {"max_new_tokens": 9, "num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.5, "early_stopping": True},
        {"max_new_tokens": 9, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
        {"max_length": 8, "min_length": 5},
    ],
    ids=str,
)
def test_ids_are_theirs(pair: tuple[Any, Any], pixels: Tensor, options: dict[str, Any]) -> None:
    theirs, ours = pair
    a = theirs.generate(pixels, **{"do_sample": False, "num_beams": 1, **options})
    b = ours.generate(pixels, **options)
    assert b.tolist() == a.tolist()


def test_stepping_with_past_key_values_is_theirs(pair: tuple[Any, Any], pixels: Tensor) -> None:
    theirs, ours = pair
    text = ids()
    with torch.no_grad():
        whole = ours(pixels, decoder_input_ids=text).logits
        a = theirs(pixel_values=pixels, decoder_input_ids=text[:, :3], use_cache=True)
        b = ours(pixel_values=pixels, decoder_input_ids=text[:, :3], use_cache=True)
        for step in range(3, 7):
            given = {"decoder_input_ids": text[:, step : step + 1], "use_cache": True}
            a = theirs(encoder_outputs=(a.encoder_last_hidden_state,), past_key_values=a.past_key_values, **given)
            if step % 2:  # with the cache, nothing of the image is needed again
                b = ours(past_key_values=b.past_key_values, **given)
            else:
                b = ours(pixel_values=pixels, past_key_values=b.past_key_values, **given)
            close(b.logits, a.logits)
            close(b.logits[:, 0], whole[:, step])
    assert b.past_key_values.get_seq_length() == 7


def test_the_tuple_is_theirs(pair: tuple[Any, Any], pixels: Tensor) -> None:
    given = {"pixel_values": pixels, "labels": some_labels(), "use_cache": False}
    with torch.no_grad():
        a, b = (side(**given, return_dict=False) for side in pair)
    assert isinstance(b, tuple)
    for mine, their in zip(b, a, strict=False):
        close(mine, their)
    out = pair[1](**given)
    assert out.to_tuple()[0] is out.loss is out[0] is out["loss"]
    assert out[1] is out.logits
    assert out[:2] == (out.loss, out.logits)
    assert list(out) == ["loss", "logits", "encoder_last_hidden_state"]
    assert "past_key_values" not in out
    with pytest.raises(KeyError):
        out["past_key_values"]


@pytest.mark.parametrize(("pad", "start"), [(0, 5), (1, 2), (7, 7)])
def test_labels_are_shifted_as_theirs(pad: int, start: int) -> None:
    labels = some_labels()
    before = labels.clone()
    ours = shift_tokens_right(labels, pad, start)
    assert torch.equal(ours, their_shift(labels, pad, start))
    assert torch.equal(labels, before)
    assert (ours[:, 0] == start).all()
