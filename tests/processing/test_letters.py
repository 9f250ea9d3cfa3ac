"""Characters that a tokenizer cannot spell, in each kind of tokenizer, and tokenizers made from texts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from vedcore import make_tokenizer
from vedcore.errors import TokenizerError, UsageError
from vedcore.processing.encoding import encode_text
from vedcore.processing.letters import new_letters, with_letters
from vedcore.processing.tokenizers import decode_ids, token_ids_of, vocab_size_of

UNICODE = st.characters(exclude_categories=["Cs"])
WORDS = "Müller trägt 12 Maß größer"


def word_piece() -> Tokenizer:
    letters = sorted(set("Mller trgt 12 Ma grer") - {" "})
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{each}" for each in letters)]
    tokenizer = Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(tokens[:4])
    return tokenizer


def unigram() -> Tokenizer:
    letters = [(letter, -5.0) for letter in sorted(set("▁Mller trgt 12 Ma grer") - {" "})]
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("er", -3.0), *letters], 0, False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def byte_pairs() -> Tokenizer:
    letters = sorted(set("▁Mller trgt 12 Ma grer") - {" "})
    vocab = {token: i for i, token in enumerate(["<unk>", *letters, "er"])}
    tokenizer = Tokenizer(models.BPE(vocab, [("e", "r")], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def byte_pairs_of_words() -> Tokenizer:
    letters = sorted(set("Mller trgt 12 Ma grer") - {" "})
    tokens = ["<unk>", *letters, *(f"{letter}</w>" for letter in letters)]
    model = models.BPE({t: i for i, t in enumerate(tokens)}, [], unk_token="<unk>", end_of_word_suffix="</w>")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    return tokenizer


@pytest.mark.parametrize("make", [word_piece, unigram, byte_pairs, byte_pairs_of_words])
def test_letters_leave_the_words_around_them_whole(make: object) -> None:
    tokenizer: Tokenizer = make()  # type: ignore[operator]
    tokenizer.add_tokens(["<tag>"])
    size = vocab_size_of(tokenizer)
    assert new_letters(tokenizer, [WORDS, "ü"]) == {"ß": 2, "ä": 1, "ö": 1, "ü": 2}
    grown = with_letters(tokenizer, "äüöß")
    assert grown.get_vocab().items() >= tokenizer.get_vocab().items()
    new = {token: i for token, i in grown.get_vocab().items() if token not in tokenizer.get_vocab()}
    assert sorted(new.values()) == list(range(size, size + len(new)))
    assert grown.token_to_id("ä") < grown.token_to_id("ü") < grown.token_to_id("ö")
    assert not new_letters(grown, [WORDS])
    assert decode_ids(grown, encode_text(grown, WORDS, on_unknown="error")) == WORDS
    assert grown.encode("Maer <tag>", add_special_tokens=False).ids == tokenizer.encode("Maer <tag>").ids
    assert vocab_size_of(tokenizer) == size


@settings(deadline=None, max_examples=40)
@given(st.text(UNICODE, max_size=20))
def test_any_text_can_be_spelt_with_its_letters(text: str) -> None:
    tokenizer = make_tokenizer("char")
    missing = new_letters(tokenizer, [text])
    assert set(missing) == {c for c in text if not " " <= c <= "~"}
    grown = with_letters(tokenizer, "".join(missing))
    assert decode_ids(grown, encode_text(grown, text)) == text
    assert not new_letters(make_tokenizer("byte"), [text])


def test_tokenizers_made_from_texts() -> None:
    texts = ["the cat, the hat", "ein Löwe"] * 4
    char = make_tokenizer("char", texts=texts)
    assert encode_text(char, " ,L") == [3, 4, 5]
    assert not new_letters(char, texts)
    bpe = make_tokenizer("bpe", texts=iter(texts), vocab_size=270)
    assert vocab_size_of(bpe) == 270
    assert bpe.to_str() == make_tokenizer("bpe", texts=texts, vocab_size=270).to_str()
    assert len(encode_text(bpe, "the hat")) < 7
    for text in (*texts, " 🙂\n ß</s"):
        assert decode_ids(bpe, encode_text(bpe, text)) == text
    assert token_ids_of(bpe) == token_ids_of(char) == token_ids_of(make_tokenizer("byte"))
    assert make_tokenizer(bpe).to_str() == bpe.to_str()


def test_texts_that_nothing_is_made_from() -> None:
    for wrong in ({"texts": "one"}, {"texts": ["a"], "vocab_size": 258}, {"texts": ["a"], "vocab_size": "x"}):
        with pytest.raises(UsageError):
            make_tokenizer("bpe", **wrong)
    for kind in ("byte", "char:ab"):
        with pytest.raises(UsageError, match="does not depend on them"):
            make_tokenizer(kind, texts=["a"])
    for texts in (None, [1], ["\ud800"]):
        with pytest.raises(TokenizerError):
            make_tokenizer("bpe", texts=texts)
    with pytest.raises(TokenizerError, match="alphabet of 0"):
        make_tokenizer("char", texts=[])
