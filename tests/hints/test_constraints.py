"""Hints about the rules that a text keeps to, each given and followed."""

from __future__ import annotations

import re
from typing import Any

import pytest
import tokenizers
import torch
from tokenizers import decoders, models

from tests.hints.templates import told
from tests.model.tiny import spread, tiny
from vedcore.generation.constraints import symbols, token_automaton

IMAGE = torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(0))
POSITIONS = 30
WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "the", "cat", "##s", "a", "b", "##b"]


def reader(tokenizer: Any = "char", **options: Any) -> Any:
    """A model with a tokenizer, whose weights are spread widely."""
    made = tiny("bert", tokenizer=tokenizer, token_ids=None, decoder_vocab_size=400, **options).eval()
    spread(made, 5)
    return made


def wordpiece() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    tokenizer.add_special_tokens(WORDS[:4])
    return tokenizer


@pytest.fixture(scope="module")
def char() -> Any:
    return reader()


@pytest.fixture(scope="module")
def byte() -> Any:
    return reader("byte")


def text_of(model: Any, **options: Any) -> str:
    """A text for the image, by the rules."""
    [result] = model.generate_text(IMAGE, **options)
    return str(result.text)


FOLLOWED = "write it with characters, classes, groups, | and repetitions only"
SPACES = "check it for spaces, and for characters that the tokenizer lacks"


@pytest.mark.parametrize(
    ("wrong", "hint", "mended"),
    [
        ({"pattern": "(a"}, "write it as for Python's re.fullmatch", {"pattern": "(a)"}),
        ({"pattern": "*"}, "write it as for Python's re.fullmatch", {"pattern": r"\*"}),
        ({"pattern": r"a(?=b)b"}, FOLLOWED, {"pattern": "ab"}),
        ({"pattern": r"(a|b)\1"}, FOLLOWED, {"pattern": "aa|bb"}),
        ({"pattern": r"\bab\b"}, FOLLOWED, {"pattern": "[a-b]{2}"}),
        ({"pattern": "(" * 4000 + ")" * 4000}, "make it simpler", {"pattern": "a"}),
        ({"pattern": "(ab){0,9000}"}, "use smaller repetition counts, * or +", {"pattern": "(ab)*"}),
        ({"pattern": "(ab){0,9000}"}, "use smaller repetition counts, * or +", {"pattern": "(ab){0,9}"}),
        ({"pattern": "é+"}, SPACES, {"pattern": "e+"}),
        ({"allowed_chars": "éè"}, SPACES, {"allowed_chars": "ee"}),
        ({"allowed_chars": "a", "pattern": "b+"}, "leave one option out", {"pattern": "b{1,9}"}),
        ({"lexicon": ["ab", "cd"], "pattern": "e"}, "leave one option out", {"lexicon": ["ab", "cd"]}),
        ({"lexicon": ["ab"], "allowed_chars": "a"}, "leave one option out", {"lexicon": ["ab"]}),
        ({"pattern": "abcdef", "max_new_tokens": 3}, "pass max_new_tokens={…} or more", {"pattern": "abcdef"}),
        ({"pattern": "a{60}"}, "allow shorter texts", {"pattern": "a{1,60}"}),
        ({"pattern": "a{60}", "max_new_tokens": 9}, "allow shorter texts", {"pattern": "a{1,60}"}),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_rule(char: Any, wrong: dict[str, Any], hint: str, mended: dict[str, Any]) -> None:
    error = told(hint, char.generate_text, IMAGE, **wrong)
    if "max_new_tokens=" in error.hint:
        mended = {**mended, "max_new_tokens": int(re.findall(r"\d+", error.hint)[0])}
    text = text_of(char, **mended)
    assert re.fullmatch(mended.get("pattern", ".*"), text)
    assert set(text) <= set(mended.get("allowed_chars", text))
    assert text in mended.get("lexicon", [text])


def test_as_many_tokens_as_the_hint_says(char: Any) -> None:
    rules = {"pattern": "a{20}"}
    error = told("pass max_new_tokens={…} or more", char.generate_text, IMAGE, **rules, max_new_tokens=3)
    for more in (0, 3):
        length = int(re.findall(r"\d+", error.hint)[0]) + more
        assert text_of(char, **rules, max_new_tokens=length) == "a" * 20


def test_spaces_that_the_decoder_writes() -> None:
    words = reader(wordpiece(), decoder_bos_token_id=1, decoder_eos_token_id=2)
    told(SPACES, words.generate_text, IMAGE, pattern="thecat")
    assert text_of(words, pattern="the cat") == "the cat"


def test_entries_as_the_tokenizer_decodes_them() -> None:
    words = reader(wordpiece(), decoder_bos_token_id=1, decoder_eos_token_id=2)
    hint = "leave them out, or write them as the tokenizer decodes them, in lower case perhaps"
    told(hint, words.generate_text, IMAGE, lexicon=["The cats", "ab"])
    for lexicon in (["ab"], ["the cats", "ab"], ["the cats"]):
        assert text_of(words, lexicon=lexicon) in lexicon


def test_a_rule_without_an_end(char: Any) -> None:
    told("pass eos_token_id=", char.generate_text, IMAGE, pattern="ab", eos_token_id=())
    assert text_of(char, pattern="ab", eos_token_id=1) == "ab"


def test_many_words_in_a_pattern(byte: Any) -> None:
    words = [chr(0x4E00 + i) + "a" for i in range(1001)]
    told("for many words use lexicon=", byte.generate_text, IMAGE, pattern="|".join(words))
    assert text_of(byte, lexicon=words) in words


def test_characters_of_many_bytes(byte: Any) -> None:
    hint = r"start it with (?a), write [0-9] for \d, or use smaller repetition counts"
    told(hint, byte.generate_text, IMAGE, pattern=r"(\d\w){0,900}")
    for pattern in (r"(?a)(\d\w){0,900}", r"([0-9][A-Za-z]){0,900}", r"(\d\w){0,9}"):
        assert re.fullmatch(pattern, text_of(byte, pattern=pattern))


def test_a_lexicon_beyond_the_limits(char: Any, byte: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hint, long = "give fewer or shorter ones", ["abcdefgh", "hgfedcba", "cdefghab"]
    monkeypatch.setattr(symbols, "MAX_WORD_STATES", 12)
    told(hint, char.generate_text, IMAGE, lexicon=long)
    for lexicon in (long[:1], ["abc", "hgf", "cde"]):
        assert text_of(char, lexicon=lexicon) in lexicon


def test_a_lexicon_beyond_the_limits_where_text_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tokenizers.Tokenizer(models.WordLevel({w: i for i, w in enumerate(["<s>", "</s>", *"abcdefgh"])}, "a"))
    tokenizer.decoder = decoders.Sequence([decoders.Fuse(), decoders.Replace("x", "y")])
    tokenizer.add_special_tokens(["<s>", "</s>"])
    words, long = reader(tokenizer), ["abcdefgh", "hgfedcba", "cdefghab"]
    monkeypatch.setattr(symbols, "MAX_TABLE_CELLS", 120)
    told("give fewer or shorter ones", words.generate_text, IMAGE, lexicon=long)
    for lexicon in (long[:1], ["abc", "hgf", "cde"]):
        assert text_of(words, lexicon=lexicon) in lexicon


def test_ways_beyond_the_limit(char: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hint = "use smaller repetition counts, * or +, or fewer words"
    monkeypatch.setattr(token_automaton, "MAX_EDGES", 150)
    told(hint, char.generate_text, IMAGE, pattern="[ -~]{0,200}")
    for pattern in ("[ -~]{0,20}", "[ -~]*", "[ -~]+"):
        assert re.fullmatch(pattern, text_of(char, pattern=pattern))
    many = ["".join(chr(32 + (i * j) % 90) for j in range(1, 20)) for i in range(1, 200)]
    told(hint, char.generate_text, IMAGE, lexicon=many)
    assert text_of(char, lexicon=many[:5]) in many[:5]


def test_a_decoder_that_joins_otherwise() -> None:
    hint = "use a tokenizer of another kind, or none of allowed_chars, pattern and lexicon"
    tokenizer = wordpiece()
    tokenizer.decoder = decoders.CTC()
    words = reader(tokenizer, decoder_bos_token_id=1, decoder_eos_token_id=2)
    for rule in ({"allowed_chars": "ab"}, {"pattern": "ab"}, {"lexicon": ["ab"]}):
        told(hint, words.generate_text, IMAGE, **rule)
    assert text_of(words, max_new_tokens=4) is not None
    words.processor.tokenizer = "char"
    words.token_ids = words.token_ids.changed(eos=(0,))
    assert text_of(words, pattern="ab") == "ab"
