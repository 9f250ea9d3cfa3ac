"""Letters that a model gets behind its old ids."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import vedcore
from tests.model.tiny import tiny
from vedcore.errors import ConfigLimitError, TokenizerError

LETTERS = "üẞ\u0301\u00a0🙂"


@pytest.mark.parametrize("decoder", ["gpt2", "bert", "trocr"])
def test_old_ids_and_their_scores_stay(decoder: str, pixels: Tensor, tmp_path: Any) -> None:
    model = tiny(decoder, tokenizer="char", token_ids=None, decoder_vocab_size=98)
    tokenizer, text = model.processor.tokenizer, model.processor(text=["hello"] * 3).labels
    before = model(pixels, decoder_input_ids=text).logits
    assert model.extend_alphabet(["aü", LETTERS, "ü"]) == LETTERS
    assert model.processor.tokenizer is tokenizer
    assert model.decoder.vocab_size == len(tokenizer) == 103
    assert [tokenizer.token_to_id(letter) for letter in LETTERS] == list(range(98, 103))
    torch.testing.assert_close(model(pixels, decoder_input_ids=text).logits[..., :98], before, atol=1e-6, rtol=0)
    assert torch.equal(model.processor(text="hello").labels[0], text[0])
    written = "Mu\u0301ller🙂 fünf\u00a0ẞ"
    labels = model.processor(text=[written] * 3).labels
    assert model.processor.decode(labels[0]) == written
    model(pixels, labels=labels).loss.backward()
    assert model.extend_alphabet(LETTERS + "hello") == ""
    name = next(name for name, tensor in model.state_dict().items() if tensor.shape[:1] == (103,))
    assert model.provenance[name].steps[0].startswith("resized from (98, ")
    model.save_pretrained(tmp_path / "m")
    again = vedcore.load(tmp_path / "m")
    assert torch.equal(again.processor(text=[written] * 3).labels, labels)
    assert torch.equal(again(pixels, labels=labels).logits, model(pixels, labels=labels).logits)
    assert again.extend_alphabet("ß") == "ß"
    assert again.processor.tokenizer.token_to_id("ß") == 103


def test_letters_beside_added_tokens() -> None:
    model = tiny("bert", tokenizer="char", token_ids=None, decoder_vocab_size=120)
    model.add_tokens(["<x>", "é"])
    assert model.extend_alphabet("éü") == "ü"
    model.add_tokens(["<y>"])
    assert model.extend_alphabet("ö") == "ö"
    assert model.decoder.vocab_size == 120
    assert model.processor(text="<x>éü<y>ö").labels.tolist() == [[98, 99, 100, 101, 102, 1]]


def test_models_that_get_none(monkeypatch: pytest.MonkeyPatch) -> None:
    spelling = tiny("bert", tokenizer="byte", token_ids=None, decoder_vocab_size=259)
    assert spelling.extend_alphabet(LETTERS) == ""
    with pytest.raises(TokenizerError, match="no tokenizer"):
        tiny("bert").extend_alphabet("ü")
    model = tiny("bert", tokenizer="char", token_ids=None, decoder_vocab_size=98)
    with pytest.raises(TokenizerError, match="lone surrogate"):
        model.extend_alphabet("\ud800")
    monkeypatch.setattr("vedcore.model.vocabulary.MAX_VOCAB_SIZE", 99)
    with pytest.raises(ConfigLimitError, match="100"):
        model.extend_alphabet("üö")
    assert len(model.processor.tokenizer) == model.decoder.vocab_size == 98
