"""Vocabularies that are resized, and token ids."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import vedcore
from tests.model.tiny import DECODERS, EOS, PAD, START, VOCABULARY, ids, tiny
from vedcore.errors import ConfigSchemaError
from vedcore.loss import shift_tokens_right
from vedcore.processing.processor import make_tokenizer


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("tied", [True, False])
def test_a_resized_vocabulary_keeps_the_logits_of_its_tokens(decoder: str, tied: bool, pixels: Tensor) -> None:
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


def test_tokens_are_added_to_tokenizer_and_decoder_in_one_step(pixels: Tensor, tmp_path: Any) -> None:
    model = tiny("bert", tokenizer="char", token_ids=None, decoder_vocab_size=98)
    data = {"total": "12", "items": [{"nm": "a"}, {"nm": "b"}]}
    tags = vedcore.fields.tokens(data)
    before = model(pixels, decoder_input_ids=ids(length=5)).logits
    assert model.add_tokens(tags, special_tokens=True) == len(tags) == 7
    assert model.add_tokens(tags) == 0
    assert (
        model.decoder.vocab_size == model.config.decoder.fields["vocab_size"] == len(model.processor.tokenizer) == 105
    )
    torch.testing.assert_close(model(pixels, decoder_input_ids=ids(length=5)).logits[..., :98], before)
    labels = model.processor(text=[vedcore.fields.write(data)] * 3).labels
    assert labels.shape[1] == len("12ab") + 9 + 1
    model(pixels, labels=labels).loss.backward()
    row = labels[0].tolist()
    assert vedcore.fields.parse(model.processor.decode(row[:-1], skip_special_tokens=False)) == data
    assert model.processor.decode(row) == "12ab"
    model.save_pretrained(tmp_path / "m")
    again = vedcore.load(tmp_path / "m")
    assert again.processor(text=[vedcore.fields.write(data)]).labels[0].tolist() == row
    assert torch.equal(again(pixels, labels=labels).logits, model(pixels, labels=labels).logits)


def test_added_tokens_take_rows_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("bert", tokenizer="char", token_ids=None, decoder_vocab_size=120)
    assert model.add_tokens("<x>") == 1
    assert model.decoder.vocab_size == 120
    assert model.processor(text="<x>").labels.tolist() == [[98, 1]]
    monkeypatch.setattr("vedcore.model.vocabulary.MAX_VOCAB_SIZE", 100)
    with pytest.raises(vedcore.ConfigLimitError, match="101"):
        model.add_tokens(["<y>", "<z>"])
    assert len(model.processor.tokenizer) == 99
    with pytest.raises(vedcore.TokenizerError, match="no tokenizer"):
        tiny("bert").add_tokens("<x>")


def test_labels_that_begin_with_the_start_id(model: Any, pixels: Tensor, recwarn: pytest.WarningsRecorder) -> None:
    labels = ids()
    labels[1, 0] = START
    model(pixels, labels=labels)
    assert [str(w.message) for w in recwarn if "start id" in str(w.message)] == [
        f"labels begin with the start id {START}, which the model puts before them itself, so that it comes twice; "
        "leave it out"
    ]
    recwarn.clear()
    model(pixels, labels=labels, decoder_input_ids=ids())  # not shifted
    labels[1, 1:] = -100  # a lone start id may be the end id
    model(pixels, labels=labels)
    model(pixels, labels=ids())
    assert not [w for w in recwarn if "start id" in str(w.message)]


def test_roles_of_the_tokenizer_are_the_models() -> None:
    """``tokenizer.pad_token = tokenizer.eos_token``, as GPT2's tutorials write, is read by training and generation."""
    model = vedcore.compose(
        {"name": "vit_tiny_patch16_224", "num_hidden_layers": 1},
        {"name": "gpt2", "n_layer": 1, "n_embd": 8, "n_head": 2},
        image_size=32,
        tokenizer="char",
    )
    tokenizer, pixels = model.processor.tokenizer, torch.zeros(1, 3, 32, 32)
    tokenizer.pad_token = tokenizer.eos_token
    assert model.token_ids.pad == model.config.pad_token_id == tokenizer.eos_token_id == 1
    assert tokenizer(["a", "bc"], padding=True).input_ids == [[68, 1], [69, 70]]
    tokenizer.eos_token = "a"
    assert model.processor(text="b").labels.tolist() == [[69, 68]]
    assert model.token_ids.eos == (68,)
    other = vedcore.Processor(model.processor.preprocessing, make_tokenizer("char"))
    model.processor = other
    assert other.token_ids == other.tokenizer.token_ids == model.token_ids
    assert other.model_max_length == model.decoder.max_positions
    other.tokenizer.add_tokens(["<new>"])
    other.tokenizer.pad_token = "<new>"
    with pytest.raises(ConfigSchemaError, match=r"token_ids.pad: id 98 is not below .*resize_vocabulary\(99\)"):
        model.generate(pixels)
    model.resize_vocabulary(99)
    assert model.token_ids.pad == 98
    model.processor.tokenizer = None
    assert model.token_ids.pad == 98
