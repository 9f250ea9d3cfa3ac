"""Hints of the model, its decoder, its layers and its loss, each given and followed."""

from __future__ import annotations

import ast
from functools import partial
from typing import Any

import pytest
import tokenizers
import torch
from PIL import Image
from torch import Tensor, nn

import vedcore
from tests.hints.templates import told
from tests.model.tiny import BERT, GPT2, IMAGE, PAD, START, VIT, VOCABULARY, close, ids, tiny
from vedcore.layers.attention import CrossAttention, SelfAttention
from vedcore.layers.context import LayerContext
from vedcore.layers.injection import CrossAttentionInjection
from vedcore.layers.mlp import MLP
from vedcore.processing.tokenizers import make_tokenizer

PICTURE = Image.new("RGB", (40, 30), (10, 90, 200))
CACHE = "give what an earlier call returned with use_cache=True"
RESIZE = "leave such tokens out, or first call model.resize_vocabulary({…})"
TOO_LARGE = 99_999_999
"""An id beyond any vocabulary."""


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny("bert").eval()


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randn(2, 3, *IMAGE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def fresh() -> Any:
    """A model that a test may change."""
    return tiny("bert").eval()


# -- pixels and images ------------------------------------------------------------------------------------------------

PREPARED = "give what model.processor makes of files and pictures, or give them to generate_text"
READY = "give (N, {…}, H, W) of floats, N at least 1, as model.processor makes them, or call generate_text"


@pytest.mark.parametrize("given", [PICTURE, [PICTURE], "a.png"], ids=["picture", "list", "path"])
@pytest.mark.parametrize("call", ["generate", "encode", "__call__"])
def test_pictures(model: Any, call: str, given: Any) -> None:
    told(PREPARED, getattr(model, call), given)


def test_prepared_pictures_are_what_is_wanted() -> None:
    reader = tiny("bert", tokenizer="char", token_ids=None, decoder_vocab_size=98)
    told(PREPARED, reader, PICTURE, labels=torch.tensor([[5, 6]]))
    told(PREPARED, reader.generate, PICTURE, max_new_tokens=4)
    made = reader.processor(PICTURE).pixel_values
    assert reader(made, labels=torch.tensor([[5, 6]])).loss.isfinite()
    [result] = reader.generate_text(PICTURE, max_new_tokens=4)
    assert reader.processor.decode(reader.generate(made, max_new_tokens=4)[0]) == result.text


@pytest.mark.parametrize("call", ["generate", "__call__"])
def test_a_batch_is_unpacked(model: Any, call: str) -> None:
    from transformers import BatchFeature

    batch, options = model.processor(PICTURE), {"decoder_input_ids": ids(1)}
    for each in (batch, BatchFeature(dict(batch))):
        told("unpack it: **batch", getattr(model, call), each, **options)
        assert getattr(model, call)(**each, **options) is not None


@pytest.mark.parametrize(
    "wrong",
    [torch.zeros(3, *IMAGE), torch.zeros(1, 1, *IMAGE), torch.zeros(0, 3, *IMAGE), torch.zeros(1, 3, *IMAGE).byte()],
    ids=["one", "grey", "none", "bytes"],
)
def test_pixels_of_a_wrong_shape(model: Any, wrong: Tensor) -> None:
    for call in (model.generate, model.encode):
        told(READY, call, wrong)
    assert len(model.generate(model.processor(PICTURE).pixel_values, max_new_tokens=3)) == 1
    reader = tiny("bert", tokenizer="char", token_ids=None, decoder_vocab_size=98)
    told(READY, reader.generate, wrong)
    assert len(reader.generate_text(PICTURE, max_new_tokens=3)) == 1


def test_positions_that_are_not_resampled() -> None:
    cnn = vedcore.compose(
        {"name": "vit", "variant": "vit_tiny_r_s16_p8_224"}, {"name": "bert", **BERT}, token_ids={"start": START}
    )
    size = cnn.encoder.preprocessing.image_size
    error = told(
        "leave it out, and give images of {…} x {…} pixels",
        cnn,
        torch.zeros(1, 3, 64, 64),
        decoder_input_ids=ids(1),
        interpolate_pos_encoding=True,
    )
    assert f"{size[0]} x {size[1]}" in error.hint
    assert cnn(torch.zeros(1, 3, *size), decoder_input_ids=ids(1)).logits.isfinite().all()
    assert cnn.generate(torch.zeros(1, 3, *size), max_new_tokens=2).shape == (1, 3)


# -- ids, labels, embeddings, masks -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "name"),
    [
        ("__call__", "decoder_input_ids"),
        ("generate", "decoder_input_ids"),
        ("__call__", "labels"),
        ("__call__", "decoder_inputs_embeds"),
    ],
)
def test_lists_of_numbers(model: Any, pixels: Tensor, call: str, name: str) -> None:
    given = torch.randn(2, 3, BERT["hidden_size"]).tolist() if name.endswith("embeds") else ids(2).tolist()
    told("wrap it in torch.tensor", getattr(model, call), pixels, **{name: given})
    assert getattr(model, call)(pixels, **{name: torch.tensor(given)}) is not None


def test_texts_as_ids(pixels: Tensor) -> None:
    reader = tiny("bert", tokenizer="char", token_ids=None, decoder_vocab_size=98)
    for call in (reader, reader.generate):
        for text in ("Nr. ", ["Nr. ", "No. "]):
            told("give ids, as model.processor.tokenizer makes them", call, pixels, decoder_input_ids=text)
    made = reader.processor.tokenizer(["Nr. ", "No. "], return_tensors="pt").input_ids
    out = reader.generate(pixels, decoder_input_ids=made, max_new_tokens=3)
    assert [text[:4] for text in reader.processor.batch_decode(out)] == ["Nr. ", "No. "]
    told("give ids: model.processor(text=…).labels", reader, pixels, labels=["one", "two"])
    assert reader(pixels, labels=reader.processor(text=["one", "two"]).labels).loss.isfinite()


def test_no_text(model: Any, pixels: Tensor) -> None:
    told("give it, or labels to train; model.generate writes texts", model, pixels)
    assert model(pixels, decoder_input_ids=ids(2)).logits.shape == (2, 7, VOCABULARY)
    assert model(pixels, labels=ids(2)).loss.isfinite()
    assert model.generate(pixels, max_new_tokens=3).shape[0] == 2


def test_ids_of_a_wrong_shape(model: Any, pixels: Tensor) -> None:
    told("give (B, T) of torch.long", model, pixels, decoder_input_ids=ids(2)[0])
    told("give (B, T) of torch.long", model, pixels, decoder_input_ids=ids(2).float())
    assert model(pixels, decoder_input_ids=ids(2).float().long()).logits.shape[:2] == (2, 7)


def test_ids_beyond_the_vocabulary(fresh: Any, pixels: Tensor) -> None:
    given = ids(2).index_fill(1, torch.tensor([3]), VOCABULARY + 4)
    error = told(RESIZE, fresh, pixels, decoder_input_ids=given)
    told(RESIZE, fresh.generate, pixels, decoder_input_ids=given)
    assert fresh(pixels, decoder_input_ids=given.clamp(max=VOCABULARY - 1)).logits.shape[-1] == VOCABULARY
    fresh.resize_vocabulary(int(error.hint.split("(")[1].rstrip(")")))
    assert fresh(pixels, decoder_input_ids=given).logits.shape[-1] == VOCABULARY + 5
    assert fresh.generate(pixels, decoder_input_ids=given, max_new_tokens=2).shape[0] == 2


def test_ids_of_another_tokenizer(pixels: Tensor) -> None:
    reader = tiny("bert", tokenizer="char", token_ids=None, decoder_vocab_size=98)
    given = torch.tensor([[5, TOO_LARGE]]).expand(2, -1)
    told("use the model's own tokenizer", reader, pixels, decoder_input_ids=given)
    own = reader.processor.tokenizer(["abc"] * 2, return_tensors="pt").input_ids
    assert reader(pixels, decoder_input_ids=own).logits.shape[1] == own.shape[1]


def test_labels_as_ids(model: Any, pixels: Tensor) -> None:
    labels = ids(2).index_fill(1, torch.tensor([6]), -100)
    told("give ids from 0 on; -100 is for labels alone", model, pixels, decoder_input_ids=labels)
    assert model(pixels, labels=labels).loss.isfinite()
    assert model(pixels, decoder_input_ids=labels.clamp(min=PAD)).logits.isfinite().all()


def test_embeddings_of_a_wrong_shape(model: Any, pixels: Tensor) -> None:
    hint = "give (B, T, {…})"
    error = told(hint, model, pixels, decoder_inputs_embeds=torch.zeros(2, 3, 5))
    told(hint, model, pixels, decoder_inputs_embeds=torch.zeros(3, BERT["hidden_size"]))
    width = int(error.hint.split(", ")[-1].rstrip(")"))
    assert model(pixels, decoder_inputs_embeds=torch.zeros(2, 3, width)).logits.shape[:2] == (2, 3)


def test_a_mask_of_a_wrong_shape(model: Any, pixels: Tensor) -> None:
    error = told("give ({…}, {…})", model, pixels, decoder_input_ids=ids(2), decoder_attention_mask=torch.ones(2, 9))
    shape = ast.literal_eval(error.hint.removeprefix("give "))
    masked = model(pixels, decoder_input_ids=ids(2), decoder_attention_mask=torch.ones(shape))
    close(masked.logits, model(pixels, decoder_input_ids=ids(2)).logits)


def test_more_tokens_than_positions(model: Any, pixels: Tensor) -> None:
    cut, anew = "cut the text to {…} tokens", "begin a new text, without past_key_values"
    positions = BERT["max_position_embeddings"]
    for long in ({"labels": ids(2, positions + 5)}, {"decoder_input_ids": ids(2, positions + 5)}):
        error = told(cut, model, pixels, **long)
        most = int(error.hint.split()[4])
        assert most == positions
        out = model(pixels, **{name: value[:, :most] for name, value in long.items()})
        assert out.logits.shape[1] == positions
    full = model(pixels, decoder_input_ids=ids(2, positions), use_cache=True).past_key_values
    told(anew, model, past_key_values=full, decoder_input_ids=ids(2, 1))
    assert model(pixels, decoder_input_ids=ids(2, 1)).logits.shape[1] == 1


LABELS = "give (B, T) of torch.long, at least one of each"


@pytest.mark.parametrize("wrong", [ids(2)[0], ids(2).float(), ids(2)[:, :0]], ids=["row", "float", "empty"])
def test_labels_of_a_wrong_shape(model: Any, pixels: Tensor, wrong: Tensor) -> None:
    told(LABELS, model, pixels, labels=wrong)
    assert model(pixels, labels=ids(2)).loss.isfinite()


def test_labels_out_of_the_vocabulary(fresh: Any, pixels: Tensor) -> None:
    ignored = "use -100 for what is to be ignored"
    for wrong in (-1, TOO_LARGE):
        labels = ids(2).index_fill(1, torch.tensor([5, 6]), wrong)
        told(ignored, fresh, pixels, labels=labels)
        close(
            fresh(pixels, labels=labels.masked_fill(labels == wrong, -100)).loss,
            fresh(pixels, labels=labels[:, :5]).loss,
        )
    added = ids(2).index_fill(1, torch.tensor([5]), VOCABULARY)
    both = "use -100 for what is to be ignored; for added tokens first call model.resize_vocabulary({…})"
    told(both, fresh, pixels, labels=added)
    fresh.resize_vocabulary(VOCABULARY + 1)
    assert fresh(pixels, labels=added).loss.isfinite()


def test_labels_of_another_length(model: Any, pixels: Tensor) -> None:
    told(
        "give one label for each token of the decoder's input",
        model,
        pixels,
        decoder_input_ids=ids(2, 5),
        labels=ids(2, 7),
    )
    assert model(pixels, decoder_input_ids=ids(2, 7), labels=ids(2, 7)).loss.isfinite()


@pytest.mark.parametrize("wrong", [10.0, -0.1])
def test_smoothing(model: Any, pixels: Tensor, wrong: float) -> None:
    told("0.1 is common, 0 is none", model, pixels, labels=ids(2), label_smoothing=wrong)
    plain = model(pixels, labels=ids(2)).loss
    assert model(pixels, labels=ids(2), label_smoothing=0.1).loss != plain
    assert model(pixels, labels=ids(2), label_smoothing=0).loss == plain


# -- images of the decoder, the cache ---------------------------------------------------------------------------------


def test_states_that_are_not_projected(model: Any, pixels: Tensor) -> None:
    hint = "give what model.project made of what model.encode gave"
    encoded = model.encode(pixels)
    told(hint, model.decoder, ids(2), encoder_hidden_states=encoded.last_hidden_state)
    states, mask = model.project(encoded)
    out = model.decoder(ids(2), encoder_hidden_states=states, encoder_attention_mask=mask)
    close(out.logits, model(pixels, decoder_input_ids=ids(2)).logits)


@pytest.mark.parametrize("wrong", [3, "states", torch.zeros(2, 7, 5), (torch.zeros(2, 7, 5),)], ids=repr)
def test_outputs_that_are_not_the_encoders(model: Any, pixels: Tensor, wrong: Any) -> None:
    for call in (model, model.generate):
        told("give what model.encode gave", call, encoder_outputs=wrong, decoder_input_ids=ids(2))
    given = {"encoder_outputs": model.encode(pixels), "decoder_input_ids": ids(2)}
    close(model(**given).logits, model(pixels, decoder_input_ids=ids(2)).logits)
    assert torch.equal(model.generate(**given), model.generate(pixels, decoder_input_ids=ids(2)))


def test_a_mask_of_other_images(model: Any, pixels: Tensor) -> None:
    given = {"encoder_outputs": model.encode(pixels), "decoder_input_ids": ids(2)}
    for call in (model, model.generate):
        error = told("give {…}", call, **given, encoder_attention_mask=torch.ones(2, 3))
    mask = torch.ones(ast.literal_eval(error.hint.removeprefix("give ")))
    close(model(**given, encoder_attention_mask=mask).logits, model(pixels, decoder_input_ids=ids(2)).logits)
    assert model.generate(**given, encoder_attention_mask=mask).shape[0] == 2


def test_rows_that_do_not_fit_the_images(model: Any, pixels: Tensor) -> None:
    told("give every image as many rows", model, pixels, decoder_input_ids=ids(3))
    assert model(pixels, decoder_input_ids=ids(4)).logits.shape[0] == 4


def test_a_cache_of_other_rows(model: Any, pixels: Tensor) -> None:
    hint = "give the same rows at each step, or reorder the cache"
    text = ids(4)
    cache = model(pixels, decoder_input_ids=text[::2, :6], use_cache=True).past_key_values
    told(hint, model, past_key_values=cache, decoder_input_ids=text[:, 6:])
    cache.reorder(torch.tensor([0, 0, 1, 1]))
    out = model(past_key_values=cache, decoder_input_ids=text[:, 6:])
    whole = model(pixels, decoder_input_ids=torch.cat([text[[0, 0, 2, 2], :6], text[:, 6:]], 1))
    close(out.logits, whole.logits[:, -1:])
    cache = model(pixels, decoder_input_ids=text[::2, :6], use_cache=True).past_key_values
    told(hint, model, past_key_values=cache, decoder_input_ids=text[:, 6:])
    close(
        model(past_key_values=cache, decoder_input_ids=text[::2, 6:]).logits,
        model(pixels, decoder_input_ids=text[::2]).logits[:, -1:],
    )


@pytest.mark.parametrize("wrong", [(), "cache", ((torch.zeros(1),),)], ids=["empty", "text", "tuple"])
def test_something_else_as_a_cache(model: Any, pixels: Tensor, wrong: Any) -> None:
    told(CACHE, model, past_key_values=wrong, decoder_input_ids=ids(2)[:, 6:])
    cache = model(pixels, decoder_input_ids=ids(2)[:, :6], use_cache=True).past_key_values
    out = model(past_key_values=cache, decoder_input_ids=ids(2)[:, 6:])
    close(out.logits, model(pixels, decoder_input_ids=ids(2)).logits[:, -1:])


# -- the model itself -------------------------------------------------------------------------------------------------


def test_ids_that_are_set(fresh: Any) -> None:
    hint = "model.token_ids.changed(eos=(1,)) gives such"
    for wrong in ({"eos": (1,)}, 5):
        told(hint, setattr, fresh, "token_ids", wrong)
    fresh.token_ids = fresh.token_ids.changed(eos=(1,))
    assert (fresh.token_ids.eos, fresh.token_ids.start) == ((1,), START)


def test_settings_of_generation(fresh: Any, pixels: Tensor) -> None:
    hint = "give vedcore.GenerationConfig(num_beams=4), or to a call its fields as keywords"
    told(hint, setattr, fresh, "generation_config", {"num_beams": 4})
    told(hint, fresh.generate, pixels, {"num_beams": 4, "max_new_tokens": 3})
    beams = fresh.generate(pixels, num_beams=4, max_new_tokens=3)
    config = vedcore.GenerationConfig(num_beams=4)
    assert torch.equal(fresh.generate(pixels, config, max_new_tokens=3), beams)
    fresh.generation_config = config
    assert torch.equal(fresh.generate(pixels, max_new_tokens=3), beams)


def test_the_name_of_resizing(fresh: Any) -> None:
    told("call model.resize_vocabulary(n)", fresh.resize_token_embeddings, 60)
    fresh.resize_vocabulary(60)
    assert fresh.decoder.vocab_size == 60


def test_an_empty_vocabulary(fresh: Any) -> None:
    told("give 1 or more", fresh.resize_vocabulary, 0)
    bare = tiny("bert", token_ids={"start": 0})
    bare.resize_vocabulary(1)
    assert bare.decoder.vocab_size == 1


def test_a_vocabulary_below_the_tokenizers() -> None:
    reader = tiny("bert", tokenizer="char", token_ids=None, decoder_vocab_size=120)
    told("change model.processor.tokenizer first", reader.resize_vocabulary, 90)
    words = {"<s>": 0, "</s>": 1, "<pad>": 2, "<unk>": 3, "a": 4, "b": 5}
    reader.processor.tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, "<unk>"))
    reader.resize_vocabulary(90)
    assert reader.decoder.vocab_size == 90


@pytest.mark.parametrize("call", ["freeze", "unfreeze"])
def test_parts_by_name(fresh: Any, call: str) -> None:
    told("name encoder, projector or decoder", getattr(fresh, call), "decoders")
    for part in ("encoder", "projector", "decoder"):
        getattr(fresh, call)(part)
        assert {p.requires_grad for p in getattr(fresh, part).parameters()} == {call == "unfreeze"}


NO_TOKENIZER = "give tokenizer=, such as a tokenizer.json, to vedcore.load or compose"


def test_tokens_without_a_tokenizer(fresh: Any, tmp_path: Any) -> None:
    told(NO_TOKENIZER, fresh.add_tokens, ["<s_total>"])
    make_tokenizer("char").save(str(tmp_path / "tokenizer.json"))
    composed = tiny("bert", tokenizer=str(tmp_path / "tokenizer.json"), token_ids=None, decoder_vocab_size=98)
    assert composed.add_tokens(["<s_total>"]) == 1
    tiny("bert", decoder_vocab_size=98).save_pretrained(tmp_path / "model")
    loaded = vedcore.load(tmp_path / "model", tokenizer=str(tmp_path / "tokenizer.json"))
    assert loaded.add_tokens(["<s_total>"]) == 1
    assert loaded.decoder.vocab_size == 99


def test_arguments_of_from_pretrained(fresh: Any, tmp_path: Any) -> None:
    fresh.save_pretrained(tmp_path / "model")
    load = vedcore.VisionEncoderDecoder.from_pretrained
    error = told("there are: {…}", load, tmp_path / "model", wings=True)
    assert {"image_size", "device"} <= set(error.hint.removeprefix("there are: ").split(", "))
    assert load(tmp_path / "model", device="cpu").device.type == "cpu"
    error = told("did you mean {…}?", load, tmp_path / "model", image_sizes=(16, 24))
    assert "'image_size'" in error.hint
    assert load(tmp_path / "model", image_size=(16, 24)).encoder.preprocessing.image_size == (16, 24)


def test_the_maker_of_transformers(fresh: Any, pixels: Tensor, tmp_path: Any) -> None:
    made, folder = vedcore.VisionEncoderDecoder.from_encoder_decoder_pretrained, str(tmp_path / "model")
    assert "'hub:org/vit'" in told("call vedcore.compose({…}, {…}, pretrained=True)", made, "org/vit", "gpt2").hint
    fresh.save_pretrained(folder)
    error = told("call vedcore.compose({…}, {…}, pretrained=True)", made, folder, folder)
    model = eval(error.hint.removeprefix("call "), {"vedcore": vedcore})
    close(model(pixels, labels=ids(2)).loss, fresh(pixels, labels=ids(2)).loss)


def test_types_of_weights(fresh: Any, tmp_path: Any) -> None:
    hint = "choose one of {…}"
    fresh.save_pretrained(tmp_path / "model")
    choices = told(hint, fresh.optimize_for_inference, "int8").hint.removeprefix("choose one of ").split(", ")
    told(hint, vedcore.load, tmp_path / "model", dtype="int8")
    for choice in choices:
        assert vedcore.load(tmp_path / "model", dtype=choice).dtype == getattr(torch, choice)
        assert fresh.optimize_for_inference(choice).dtype == getattr(torch, choice)


# -- parts and layers -------------------------------------------------------------------------------------------------


def test_variants() -> None:
    decoder = {**GPT2, "name": "gpt2", "variant": "qqqqq"}
    encoder = {"name": "vit", **VIT}
    error = told("choose one of {…}", vedcore.plan, encoder, decoder)
    for variant in error.hint.removeprefix("choose one of ").split(", "):
        assert vedcore.plan(encoder, {**decoder, "variant": variant}).decoder.name == "gpt2"
    error = told("did you mean {…}?", vedcore.plan, encoder, {**decoder, "variant": "gpt2-meduim"})
    assert "'gpt2-medium'" in error.hint


def test_layers_of_a_plugin() -> None:
    told("change the decoder's hidden size or its number of heads", SelfAttention, 25, 2)
    states = torch.randn(1, 3, 24)
    assert SelfAttention(24, 2)(states, LayerContext()).shape == (1, 3, 24)
    told("change one of the two", SelfAttention, 24, 4, num_key_value_heads=3)
    assert SelfAttention(24, 4, num_key_value_heads=2)(states, LayerContext()).shape == (1, 3, 24)
    given: tuple[Any, ...] = ([nn.Identity()] * 2, partial(CrossAttention, 24, 24, 2))
    norm = partial(nn.LayerNorm, 24)
    told("give a number from 1 to {…}", CrossAttentionInjection.into, *given, every=3, norm=norm)
    assert len(CrossAttentionInjection.into(*given, every=2, norm=norm)) == 2
    error = told("choose one of {…}", MLP, 24, 48, "zzzz")
    for name in error.hint.removeprefix("choose one of ").split(", "):
        assert MLP(24, 48, name)(states).shape == (1, 3, 24)
    error = told("did you mean {…}?", MLP, 24, 48, "gelu_neww")
    assert "'gelu_new'" in error.hint
