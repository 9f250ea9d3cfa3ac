"""Tokenizers and token ids: their sources, and those that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tokenizers

import vedcore
from tests.composer.tiny import BERT, GPT2, VIT, without


def test_tokenizers_decide_vocabulary_and_ids(tmp_path: Path) -> None:
    decoder = without(BERT, "vocab_size")
    vocabulary = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "cat": 3, "[UNK]": 9}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary))
    words.add_special_tokens(["[PAD]", "[CLS]", "[SEP]"])
    words.save(str(tmp_path / "tokenizer.json"))
    for tokenizer in (words, tmp_path / "tokenizer.json", str(tmp_path / "tokenizer.json"), tmp_path):
        model = vedcore.compose(VIT, decoder, tokenizer=tokenizer)
        assert model.decoder.vocab_size == 10  # a gap is a row too
        assert model.token_ids == vedcore.TokenIds(start=1, eos=(2,), pad=0)
        assert model.processor.tokenizer.token_to_id("cat") == 3
    char = vedcore.compose(VIT, decoder, tokenizer="char")
    assert (char.decoder.vocab_size, char.token_ids) == (98, vedcore.TokenIds(start=0, eos=(1,), pad=2))
    assert char.processor(text="ab")["labels"][0].tolist()[-1] == 1
    assert vedcore.compose(VIT, decoder, tokenizer="byte").decoder.vocab_size == 259
    assert vedcore.compose(VIT, BERT, tokenizer="char").decoder.vocab_size == 150
    with pytest.raises(vedcore.IncompatibleError, match=r"98 tokens.*decoder 97"):
        vedcore.compose(VIT, BERT, tokenizer="char", decoder_vocab_size=97)
    for bad in ("chars", 3, tmp_path / "none.json"):
        with pytest.raises(vedcore.VedcoreError):
            vedcore.compose(VIT, decoder, tokenizer=bad)


def test_ids_that_a_tokenizer_lacks_are_not_borrowed_from_the_family() -> None:
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "</s>": 2}))
    model = vedcore.compose(VIT, without(BERT, "vocab_size"), tokenizer=words)
    assert model.token_ids == vedcore.TokenIds(start=None, eos=(2,), pad=2)  # BERT's own padding id, 0, is a word here
    notes = vedcore.plan(VIT, without(BERT, "vocab_size"), tokenizer=words).notes
    assert any("no start token id" in note for note in notes)


def test_token_ids_come_from_the_decoder_where_there_is_no_tokenizer() -> None:
    assert vedcore.plan("vit", "gpt2").token_ids == vedcore.TokenIds(start=50256, eos=(50256,), pad=50256)
    assert vedcore.plan("vit", "bert").token_ids == vedcore.TokenIds(start=101, eos=(102,), pad=0)
    assert vedcore.plan("vit", "bart").token_ids == vedcore.TokenIds(start=2, eos=(2,), pad=1)
    given = vedcore.plan(VIT, GPT2, decoder_bos_token_id=4, decoder_eos_token_id=[5, 6])
    assert given.token_ids == vedcore.TokenIds(start=4, eos=(5, 6), pad=5)


def test_ids_of_the_family_that_do_not_fit_are_unset_with_a_note() -> None:
    plan = vedcore.plan(VIT, GPT2)
    assert plan.token_ids == vedcore.TokenIds()
    assert len(plan.notes) == 3
    assert "gpt2's own bos_token_id 50256 is outside a vocabulary of 50: unset" in plan.notes
    assert "note        no start or eos or pad token id" in str(plan)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"decoder_bos_token_id": 50}, r"decoder\.bos_token_id: id 50 is not below vocab_size 50"),
        ({"decoder_eos_token_id": [1, 77]}, r"decoder\.eos_token_id: id 77"),
        ({"token_ids": {"start": 1, "eos": [2, 50], "pad": 0}}, r"token_ids\.eos: id 50"),
        ({"token_ids": {"begin": 1}}, "begin"),
        ({"token_ids": {"start": -1}}, r"token_ids\.start"),
        ({"token_ids": 3}, "token_ids"),
    ],
)
def test_given_ids_must_fit(options: dict[str, Any], says: str) -> None:
    with pytest.raises(vedcore.ConfigError, match=says):
        vedcore.plan(VIT, GPT2, **options)


def test_a_new_tokenizer_brings_its_ids() -> None:
    old = vedcore.compose(VIT, BERT, token_ids={"start": 7, "eos": (8,), "pad": 9})
    assert vedcore.compose(old.config, tokenizer="char").token_ids == vedcore.TokenIds(start=0, eos=(1,), pad=2)
    both = vedcore.compose(old.config, tokenizer="char", token_ids={"start": 3, "eos": (8,), "pad": 9})
    assert both.token_ids.start == 3
