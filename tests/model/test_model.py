"""The composed model: arithmetic as transformers' `VisionEncoderDecoderModel`, training, vocabulary, text."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.models.vision_encoder_decoder.modeling_vision_encoder_decoder import shift_tokens_right as their_shift

import vedcore
from vedcore.model import shift_tokens_right
from vedcore.weights.keymap import to_ours

VOCABULARY, START, EOS, PAD = 50, 2, 3, 1
IMAGE = (16, 24)
VIT = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "patch_size": 8,
    "image_size": list(IMAGE),
    "layer_norm_eps": 1e-12,
}
BART = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 30,
}
BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 30,
}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 24, "n_layer": 2, "n_head": 2, "n_positions": 30}
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
DECODERS: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", GPT2, "identity"),
    "bert": ("BertConfig", "BertLMHeadModel", BERT, "linear"),
    "trocr": ("TrOCRConfig", "TrOCRForCausalLM", {**BART, "cross_attention_hidden_size": 24}, "identity"),
}
"""Their config, their class, the settings of both sides, and the projector that must come out."""


def spread(model: nn.Module, seed: int) -> None:
    """Draw every parameter anew, widely, so that nothing agrees by being zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            norm = "norm" in name.lower() or ".ln_" in name
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.25 + (norm and "weight" in name))


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


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randn(3, 3, *IMAGE, generator=torch.Generator().manual_seed(0))


def ids(rows: int = 3, length: int = 7, seed: int = 1) -> Tensor:
    return torch.randint(4, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def some_labels(rows: int = 3) -> Tensor:
    labels = ids(rows)
    labels[0, 4:] = -100
    labels[1, 2] = -100
    return labels


def tiny(decoder: str = "gpt2", **options: Any) -> Any:
    """A small model; ``gpt2`` keeps the encoder's width, ``bert`` needs a projector."""
    options = {"token_ids": {"start": START, "eos": (EOS,), "pad": PAD}, "seed": 0, **options}
    return vedcore.compose({"name": "vit", **VIT}, {"name": decoder, **DECODERS[decoder][2]}, **options)


@pytest.fixture
def model() -> Any:
    return tiny("bert")


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


# -- as transformers has it -------------------------------------------------------------------------------------


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


# -- the loss ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_the_loss_is_plain_cross_entropy(model: Any, pixels: Tensor, smoothing: float) -> None:
    labels = some_labels()
    out = model(pixels, labels=labels, label_smoothing=smoothing)
    expected = nn.CrossEntropyLoss(label_smoothing=smoothing)(out.logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(out.loss, expected)


def test_losses_of_parts_of_a_batch_add_up(model: Any) -> None:
    images, labels = torch.randn(6, 3, *IMAGE), some_labels(6)
    items = int((labels != -100).sum())
    whole = model(images, labels=labels)
    for count in (items, torch.tensor(items)):
        parts = [
            model(images[at : at + 2], labels=labels[at : at + 2], num_items_in_batch=count).loss for at in (0, 2, 4)
        ]
        torch.testing.assert_close(sum(parts), whole.loss)


def test_given_decoder_inputs_are_not_shifted(model: Any, pixels: Tensor) -> None:
    labels = some_labels()
    shifted = shift_tokens_right(labels, PAD, START)
    a, b = model(pixels, labels=labels), model(pixels, labels=labels, decoder_input_ids=shifted)
    torch.testing.assert_close(a.loss, b.loss)
    c = model(pixels, labels=labels, decoder_inputs_embeds=model.decoder.embed_tokens(shifted))
    torch.testing.assert_close(a.loss, c.loss)


def test_the_loss_is_in_float32_whatever_the_model(pixels: Tensor) -> None:
    model = tiny("bert", dtype="bfloat16")
    out = model(pixels, labels=some_labels())
    assert (model.dtype, out.logits.dtype, out.loss.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    out.loss.backward()
    assert out.loss.isfinite()
    assert model.generate(pixels, max_new_tokens=4).shape[0] == 3


# -- arguments --------------------------------------------------------------------------------------------------


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
    whole = model.encode(pixels)  # for gradients all at once
    sizes, encode = [], model.encoder.forward

    def forward(pixel_values: Tensor, **options: Any) -> Any:
        sizes.append(len(pixel_values))
        states = encode(pixel_values, **options).last_hidden_state
        shown = torch.arange(states.shape[1]) < 1 + len(sizes)  # of each part another mask
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
    with torch.no_grad():  # what is drawn for a batch is drawn for it whole
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


# -- freezing and checkpointing ---------------------------------------------------------------------------------


def graph_nodes(tensor: Tensor) -> int:
    seen, todo = set(), [tensor.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [parent for parent, _ in node.next_functions]
    return len(seen)


def test_a_frozen_encoder_keeps_no_graph(model: Any, pixels: Tensor) -> None:
    free = model.train()(pixels, labels=ids())
    assert model.freeze("encoder") is model
    out = model(pixels, labels=ids())
    assert not out.encoder_last_hidden_state.requires_grad
    assert out.encoder_last_hidden_state.grad_fn is None
    assert graph_nodes(out.loss) < graph_nodes(free.loss) - 20
    out.loss.backward()
    assert all(p.grad is None for p in model.encoder.parameters())
    assert all(p.grad is not None and p.grad.any() for p in model.projector.parameters())
    assert not any(m.training for m in model.encoder.modules())
    model.eval().train()
    assert not any(m.training for m in model.encoder.modules())
    assert all(m.training for m in model.decoder.modules())
    assert all(m.training for m in copy.deepcopy(model).train().decoder.modules())
    assert not any(m.training for m in copy.deepcopy(model).train().encoder.modules())


def test_unfrozen_parts_train_again(model: Any, pixels: Tensor) -> None:
    model.freeze("encoder").freeze("projector").train()
    model.unfreeze("encoder").unfreeze("projector")
    assert all(m.training for m in model.modules())
    model(pixels, labels=ids()).loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_frozen_decoder_passes_gradients_on(model: Any, pixels: Tensor) -> None:
    model.freeze("decoder").train()(pixels, labels=ids()).loss.backward()
    assert all(p.grad is None for p in model.decoder.parameters())
    assert model.projector.proj.weight.grad.any()
    assert model.encoder.model.patch_embed.proj.weight.grad.any()


def test_a_part_of_a_frozen_encoder_may_be_trained(model: Any, pixels: Tensor) -> None:
    model.freeze("encoder").encoder.model.norm.requires_grad_(True)
    model(pixels, labels=ids()).loss.backward()
    learned = [name for name, p in model.encoder.named_parameters() if p.grad is not None]
    assert learned == ["model.norm.weight", "model.norm.bias"]


def test_there_are_three_parts(model: Any) -> None:
    with pytest.raises(vedcore.UsageError, match="encoder, projector or decoder"):
        model.freeze("head")


@pytest.mark.parametrize("frozen", [False, True])
def test_gradient_checkpointing_changes_nothing_but_memory(pixels: Tensor, frozen: bool) -> None:
    grads, losses, saved = [], [], []
    for enable in (False, True):
        model = tiny("gpt2", **{f"decoder_{k}": v for k, v in NO_DROPOUT.items()}).train()
        if frozen:
            model.freeze("encoder")
        model.gradient_checkpointing_enable(enable)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            out = model(pixels, labels=some_labels())
        out.loss.backward()
        losses.append(out.loss)
        saved.append(sum(sizes))
        grads.append({name: p.grad for name, p in model.named_parameters()})
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(grads[0], grads[1])
    assert saved[1] < saved[0] * 0.7
    with pytest.raises(vedcore.UsageError, match="use_cache"):
        model(pixels, decoder_input_ids=ids(), use_cache=True)
    assert model.generate(pixels, max_new_tokens=3).shape[0] == 3


# -- vocabulary and token ids -----------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("tied", [True, False])
def test_a_resized_vocabulary_keeps_what_it_kept(decoder: str, tied: bool, pixels: Tensor) -> None:
    model = tiny(decoder, decoder_tie_word_embeddings=tied)
    text = ids() % 36 + 4
    before = model(pixels, decoder_input_ids=text).logits
    model.resize_vocabulary(61)
    grown = model(pixels, decoder_input_ids=text).logits
    assert grown.shape[-1] == model.config.decoder.fields["vocab_size"] == model.decoder.vocab_size == 61
    torch.testing.assert_close(grown[..., :50], before)
    model(pixels, labels=torch.full((3, 4), 60)).loss.backward()
    model.resize_vocabulary(40)
    torch.testing.assert_close(model(pixels, decoder_input_ids=text).logits, before[..., :40])
    embedding, output = model.decoder.get_input_embeddings(), model.decoder.get_output_embeddings()
    assert (embedding.weight is output.weight) is tied
    assert embedding.weight.shape == (40, model.decoder.hidden_size)
    again = vedcore.compose(model.config)
    again.load_state_dict(model.state_dict())
    assert model.generate(pixels, max_new_tokens=4).tolist() == again.generate(pixels, max_new_tokens=4).tolist()


def test_a_vocabulary_is_not_cut_below_its_token_ids(model: Any) -> None:
    for size in (3, 0, -1):
        with pytest.raises(vedcore.ConfigError):
            model.resize_vocabulary(size)
    assert model.decoder.vocab_size == VOCABULARY
    with_text = tiny("bert", tokenizer="char", decoder_vocab_size=120, token_ids=None)
    with pytest.raises(vedcore.IncompatibleError, match="98 tokens, more than 97"):
        with_text.resize_vocabulary(97)
    with_text.resize_vocabulary(98)


def test_the_familys_own_ids_do_not_outlive_its_vocabulary() -> None:
    model = tiny("gpt2", decoder_vocab_size=50257)
    assert model.config.decoder.fields["bos_token_id"] == 50256
    model.resize_vocabulary(100)
    assert model.config.decoder.fields["bos_token_id"] is None
    assert vedcore.compose(model.config).token_ids == model.token_ids


def test_token_ids_are_in_one_place(pixels: Tensor) -> None:
    model = tiny("bert", tokenizer="char", decoder_vocab_size=98, token_ids=None)
    assert model.token_ids == vedcore.TokenIds(start=0, eos=(1,), pad=2)
    model.token_ids = vedcore.TokenIds(start=9, eos=(8, 7), pad=6)
    labels = ids(3, 4)
    labels[0, 1] = -100
    shifted = shift_tokens_right(labels, 6, 9)
    torch.testing.assert_close(model(pixels, labels=labels).logits, model(pixels, decoder_input_ids=shifted).logits)
    written = model.generate(pixels, max_new_tokens=20)
    assert (written[:, 0] == 9).all()
    assert model.processor(text="ab")["labels"][0, -1] == 8
    assert model.config.token_ids == model.token_ids
    assert vedcore.compose(model.config).token_ids == model.token_ids
    with pytest.raises(vedcore.ConfigSchemaError, match="id 98 is not below vocab_size 98"):
        model.token_ids = vedcore.TokenIds(start=98)
    assert model.token_ids.start == 9


def test_any_of_the_end_ids_ends_a_text(model: Any, pixels: Tensor) -> None:
    free = model.generate(pixels, max_new_tokens=12, eos_token_id=None)
    first = free[0, 4].item()
    model.token_ids = vedcore.TokenIds(start=START, eos=(EOS, first), pad=PAD)
    out = model.generate(pixels, max_new_tokens=12, return_dict_in_generate=True)
    end = free[0].tolist().index(first, 1)
    assert out.sequences[0, : end + 1].tolist() == free[0, : end + 1].tolist()
    assert (out.sequences[0, end + 1 :] == PAD).all()
    assert out.finish_reasons[0] == "eos"


# -- generation -------------------------------------------------------------------------------------------------


def test_generating_while_training_has_no_dropout_and_goes_back(pixels: Tensor) -> None:
    model = tiny("gpt2", decoder_embd_pdrop=0.5, decoder_resid_pdrop=0.5)
    expected = model.generate(pixels, max_new_tokens=8)
    model.train()
    model.decoder.dropout.eval()  # whatever the mode of each module was
    modes = {name: module.training for name, module in model.named_modules()}
    state = torch.get_rng_state()
    assert model.generate(pixels, max_new_tokens=8).tolist() == expected.tolist()
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: module.training for name, module in model.named_modules()} == modes
    with pytest.raises(vedcore.VedcoreError):
        model.generate(pixels * math.nan, max_new_tokens=8)
    assert {name: module.training for name, module in model.named_modules()} == modes


def test_generation_needs_no_graph(model: Any, pixels: Tensor) -> None:
    assert not model.generate(pixels.clone().requires_grad_(), max_new_tokens=3).requires_grad


def test_sampling_repeats_under_a_seed(model: Any, pixels: Tensor) -> None:
    a, b, c = (model.generate(pixels, do_sample=True, seed=seed, max_new_tokens=8).tolist() for seed in (1, 1, 2))
    assert a == b != c


def test_prompts_go_before_what_is_written(model: Any, pixels: Tensor) -> None:
    prompt = ids(3, 4)
    out = model.generate(pixels, decoder_input_ids=prompt, max_new_tokens=3)
    assert torch.equal(out[:, :4], prompt)
    assert out.shape[1] <= 7
    padded = torch.cat([torch.full((3, 2), PAD), prompt], 1)
    mask = torch.cat([torch.zeros(3, 2), torch.ones(3, 4)], 1)
    same = model.generate(pixels, decoder_input_ids=padded, decoder_attention_mask=mask, max_new_tokens=3)
    with pytest.raises(vedcore.UsageError, match="ends in padding; pad at the left"):
        model.generate(pixels, decoder_input_ids=padded, decoder_attention_mask=mask.flip(1), max_new_tokens=3)
    assert same[:, 2:].tolist() == out.tolist()
    with pytest.raises(vedcore.VedcoreError):
        model.generate(pixels, decoder_input_ids=prompt[:2])


def test_defaults_of_generation_are_the_models_own(model: Any, pixels: Tensor) -> None:
    model.generation_config = vedcore.GenerationConfig(max_new_tokens=4, num_beams=2)
    assert model.generate(pixels).tolist() == model.generate(pixels, max_new_tokens=4, num_beams=2).tolist()
    assert model.generate(pixels, num_beams=1, max_new_tokens=6).shape[1] <= 7
    given = vedcore.GenerationConfig(max_new_tokens=2)
    assert model.generate(pixels, given).shape[1] <= 3


@pytest.fixture(scope="module")
def reader() -> Any:
    """A model with text on its other side; its weights are wide, so that images differ."""
    model = tiny("bert", tokenizer="char", token_ids=None, decoder_vocab_size=98)
    spread(model, seed=5)
    return model


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 255, (20 + 9 * i, 41, 3), dtype=np.uint8)) for i in range(5)]


def test_text_has_confidence_tokens_and_a_reason(reader: Any, pictures: list[Image.Image]) -> None:
    results = reader.generate_text(pictures, max_new_tokens=9)
    assert len({r.text for r in results}) > 1
    for result in results:
        assert 0 < result.confidence <= 1
        assert "".join(text for text, _ in result.tokens if len(text) == 1) == result.text
        assert all(0 < p <= 1 for _, p in result.tokens)
        assert result.finish_reason in ("eos", "length")
        if result.finish_reason == "length":
            mean = math.exp(sum(math.log(p) for _, p in result.tokens) / len(result.tokens))
            assert result.confidence == pytest.approx(mean)


def test_text_of_a_batch_is_that_of_each(reader: Any, pictures: list[Image.Image]) -> None:
    together = reader.generate_text(pictures, max_new_tokens=9, batch_size=2)
    alone = [reader.generate_text(picture, max_new_tokens=9)[0] for picture in pictures]
    for a, b in zip(together, alone, strict=True):
        assert (a.text, a.finish_reason) == (b.text, b.finish_reason)
        assert a.confidence == pytest.approx(b.confidence, rel=1e-4)


def test_text_of_any_kind_of_image(reader: Any, pictures: list[Image.Image], tmp_path: Path) -> None:
    picture = pictures[0]
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    array = np.asarray(picture)
    kinds = [
        picture,
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        buffer.getvalue(),
        array,
        torch.from_numpy(array.copy()).permute(2, 0, 1),
    ]
    results = reader.generate_text(kinds, max_new_tokens=9)
    assert {r.text for r in results} == {results[0].text}
    assert [r.text for kind in kinds for r in reader.generate_text(kind, max_new_tokens=9)] == [r.text for r in results]
    assert reader.generate_text([]) == []


def test_text_takes_the_options_of_generate(reader: Any, pictures: list[Image.Image]) -> None:
    beams = reader.generate_text(pictures[:2], num_beams=3, num_return_sequences=2, max_new_tokens=6)
    assert len(beams) == 4
    assert all(len(r.tokens) <= 6 for r in beams)
    config = vedcore.GenerationConfig(max_new_tokens=2)
    assert all(len(r.tokens) <= 2 for r in reader.generate_text(pictures, generation_config=config))
    ended = reader.generate_text(pictures[0], max_new_tokens=6, eos_token_id=None)[0]
    assert (ended.finish_reason, len(ended.tokens)) == ("length", 6)
    with pytest.raises(vedcore.UsageError, match="did you mean 'max_new_tokens'"):
        reader.generate_text(pictures, max_new_token=2)
    with pytest.raises(vedcore.UsageError, match="batch_size"):
        reader.generate_text(pictures, batch_size=0)
    with pytest.raises(vedcore.UsageError, match="no tokenizer"):
        tiny("gpt2").generate_text(pictures)


# -- as a module ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_are_whole_and_apart(reader: Any, pictures: list[Image.Image], how: Callable[[Any], Any]) -> None:
    again = how(reader)
    a, b = (m.generate_text(pictures[0], max_new_tokens=6)[0] for m in (reader, again))
    assert a == b
    assert again.config == reader.config
    assert again.processor.encoder is again.encoder
    with torch.no_grad():
        next(again.parameters()).add_(1.0)
    assert reader.generate_text(pictures[0], max_new_tokens=6)[0] == a


def test_the_state_is_saved_as_that_of_any_module(model: Any, pixels: Tensor) -> None:
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    other = tiny("bert", seed=1)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(other(pixels, decoder_input_ids=ids()).logits, model(pixels, decoder_input_ids=ids()).logits)


def test_the_config_says_what_the_model_is_now(model: Any) -> None:
    assert model.config.dtype == "float32"
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        model.to(dtype)
        assert model.config.dtype == str(dtype).removeprefix("torch.")
        assert vedcore.compose(model.config).dtype == dtype
    model.processor.preprocessing = model.processor.preprocessing.changed(image_mean=(0.1, 0.2, 0.3))
    assert vedcore.compose(model.config).processor.preprocessing.image_mean == (0.1, 0.2, 0.3)
    assert model.device == torch.device("cpu")


def test_double_precision_agrees_with_single(pixels: Tensor) -> None:
    single, double = tiny("bert"), tiny("bert").double()
    text = ids()
    close(double(pixels, decoder_input_ids=text).logits.float(), single(pixels, decoder_input_ids=text).logits)


def test_calls_with_other_types_are_refused() -> None:
    model = tiny("gpt2")
    pixels = torch.zeros(1, 3, *IMAGE)
    calls: tuple[tuple[str, Callable[[], object]], ...] = (
        ("generation_config", lambda: model.generate(pixels, {"num_beams": 2})),  # type: ignore[arg-type]
        ("decoder_input_ids", lambda: model.generate(pixels, decoder_input_ids=torch.tensor(1))),
        ("pad_token_id", lambda: model.generate(pixels, pad_token_id=10**5000)),
        ("top_k", lambda: model.generate(pixels, top_k=10**5000)),
        ("vocab_size", lambda: model.resize_vocabulary(1 << 70)),
        ("vocab_size", lambda: model.resize_vocabulary("9")),  # type: ignore[arg-type]
        ("token_ids", lambda: setattr(model, "token_ids", {"start": 1})),
    )
    for field, call in calls:
        with pytest.raises(vedcore.ConfigError, match=f"^{field}: "):
            call()
