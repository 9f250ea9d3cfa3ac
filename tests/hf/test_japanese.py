"""Tokenizers of Japanese BERT, compared with transformers'."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import AddedToken, Tokenizer

from tests.hf.tokenizer_files import config, write
from vedcore.config import TokenIds
from vedcore.errors import TokenizerError
from vedcore.hf.tokenizers import read_tokenizer, write_tokenizer
from vedcore.processing import japanese
from vedcore.processing.encoding import encode_text
from vedcore.processing.tokenizers import decode_ids, make_tokenizer

WORDS = "日本 日本語 の 文章 を 読む 読み ます 東京 ##都 都 ##語 私 は abc ##d 。 、"
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split()]
CHARACTERS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *dict.fromkeys("日本語の文章を読みます東京都私はabcdA1。、ーアイ"),
]
TEXTS = [
    "日本語の文章を読みます。",
    "私は東京都で、日本語を読む",
    "ＡＢＣ abcd 日本",
    "ﾆｭｰｽ 私 は",
    "[MASK]は東京[SEP]の",
    "",
    " ",
    "  私\t は ",
]


def files(pieces: list[str], **settings: Any) -> dict[str, bytes]:
    vocabulary = {"vocab.txt": "".join(f"{piece}\n" for piece in pieces).encode()}
    return {**vocabulary, **config(tokenizer_class="BertJapaneseTokenizer", **settings)}


def both(given: dict[str, bytes], folder: Path) -> tuple[Tokenizer, Any]:
    made = read_tokenizer(given, folder="f")
    assert made is not None
    return made, transformers.BertJapaneseTokenizer.from_pretrained(write(given, folder))


def assert_same(made: Tokenizer, reference: Any) -> None:
    for text in TEXTS:
        ids = reference(text, add_special_tokens=False)["input_ids"]
        assert encode_text(made, text, on_unknown="ignore") == ids, text
        for skip in (True, False):
            assert decode_ids(made, ids, skip) == reference.decode(ids, skip_special_tokens=skip), text
    assert made.encode("日", add_special_tokens=True).ids[0] == reference.cls_token_id


@pytest.mark.parametrize("lower", [True, False])
def test_characters_need_no_splitter(lower: bool, tmp_path: Path) -> None:
    given = files(
        CHARACTERS,
        word_tokenizer_type="mecab",
        subword_tokenizer_type="character",
        do_lower_case=lower,
        mecab_kwargs={"mecab_dic": "ipadic"},
    )
    pytest.importorskip("fugashi")
    assert_same(*both(given, tmp_path))


@pytest.mark.parametrize("lower", [True, False])
def test_words_of_mecab(lower: bool, tmp_path: Path) -> None:
    pytest.importorskip("fugashi")
    pytest.importorskip("ipadic")
    given = files(PIECES, word_tokenizer_type="mecab", do_lower_case=lower, mecab_kwargs={"mecab_dic": "ipadic"})
    made, reference = both(given, tmp_path)
    assert_same(made, reference)
    for other in (pickle.loads(pickle.dumps(made)), make_tokenizer(made)):
        assert_same(other, reference)
    assert 3 not in encode_text(made, "私[SEP]", untrusted=True, on_unknown="ignore")
    with pytest.warns(UserWarning, match="京都"):
        encode_text(made, "私は京都")


@pytest.mark.parametrize("lower", [True, False])
def test_written_for_transformers(lower: bool, tmp_path: Path) -> None:
    pytest.importorskip("fugashi")
    pytest.importorskip("ipadic")
    given = files(PIECES, word_tokenizer_type="mecab", do_lower_case=lower, mecab_kwargs={"mecab_dic": "ipadic"})
    made = read_tokenizer(given, folder="f")
    assert made is not None
    made.add_tokens(["<s_東京>", AddedToken("<task>", special=True)])
    written = write_tokenizer(made, TokenIds(start=2, eos=(3,), pad=0), model_max_length=64)
    again, reference = both(written, tmp_path)
    for text in [*TEXTS, "<task>私<s_東京>は"]:
        ids = reference(text, add_special_tokens=False)["input_ids"]
        assert encode_text(again, text, on_unknown="ignore") == ids == encode_text(made, text, on_unknown="ignore")
    assert reference.pad_token_id == 0


@pytest.mark.parametrize("pieces", ["wordpiece", "character"])
def test_words_between_spaces(pieces: str, tmp_path: Path) -> None:
    given = files(PIECES if pieces == "wordpiece" else CHARACTERS, subword_tokenizer_type=pieces)
    assert_same(*both(given, tmp_path))


@pytest.fixture
def without_mecab(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "fugashi", None)
    japanese.require_mecab.cache_clear()
    yield
    japanese.require_mecab.cache_clear()


@pytest.mark.usefixtures("without_mecab")
def test_what_is_to_be_installed() -> None:
    with pytest.raises(TokenizerError, match=r"fugashi is not installed; pip install 'vedcore\[japanese\]'"):
        read_tokenizer(files(PIECES, word_tokenizer_type="mecab"), folder="f")
    given = files(CHARACTERS, word_tokenizer_type="mecab", subword_tokenizer_type="character")
    made = read_tokenizer(given, folder="f")
    assert made is not None
    assert encode_text(made, "日本") == [5, 6]


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"word_tokenizer_type": "sudachi"}, "word_tokenizer_type"),
        ({"word_tokenizer_type": ["mecab"]}, "word_tokenizer_type"),
        ({"subword_tokenizer_type": "sentencepiece"}, "subword_tokenizer_type"),
        ({"do_subword_tokenize": False}, "do_word_tokenize"),
        ({"word_tokenizer_type": "mecab", "mecab_kwargs": {"mecab_dic": "neologd"}}, "mecab_kwargs"),
        ({"word_tokenizer_type": "mecab", "mecab_kwargs": {"mecab_option": "-d x"}}, "mecab_kwargs"),
        ({"word_tokenizer_type": "mecab", "mecab_kwargs": "ipadic"}, "mecab_kwargs"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_read(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(TokenizerError) as caught:
        read_tokenizer(files(PIECES, **settings), folder="f")
    assert caught.value.field == field
    assert str(caught.value.path).endswith("tokenizer_config.json")
