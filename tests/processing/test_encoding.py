"""Special tokens in texts, texts that must not hold any, and characters without a token."""

from __future__ import annotations

import copy
import pickle
import threading
import warnings
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from tests.hf.tokenizer_files import ALL, both
from vedcore.errors import TokenizerError, UsageError
from vedcore.processing.encoding import encode_labels, encode_text, encode_texts, unknown_id
from vedcore.processing.tokenizers import decode_ids, make_tokenizer

CHAR, BYTE = make_tokenizer("char"), make_tokenizer("byte")
NEW = ["<s_total>", AddedToken("</s_total>", special=True, normalized=False), "token"]


def with_tags(name: str) -> tuple[Tokenizer, Any]:
    """A tokenizer with special and added tokens, and transformers' with the same."""
    made, reference = both(name)
    made, reference = make_tokenizer(made), copy.deepcopy(reference)
    made.add_tokens(NEW)
    reference.add_tokens(NEW)
    return made, reference


def words(**options: Any) -> Tokenizer:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "##s", "on", "[", "]", "sep"]
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    return tokenizer


def letters(unk: str | None = "<unk>", **options: Any) -> Tokenizer:
    vocab = {t: i for i, t in enumerate(["<s>", "</s>", "<unk>", *"abc <>/s_"][:40])}
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token=unk, **options))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<s>", "</s>", "<unk>"])
    return tokenizer


# -- special and added tokens ---------------------------------------------------------------------------------------

TAGGED = [
    "<s_total>12</s_total>",
    "a <s_total> b token c</s_total>",
    "</s_total></s_total>",
    "a token",
    "<mask> a [SEP] b</s>",
    "<s_total",
]


@pytest.mark.parametrize("name", sorted(ALL))
def test_names_of_tokens_are_those_tokens(name: str) -> None:
    made, reference = with_tags(name)
    before = made.to_str()
    for text in TAGGED:
        assert encode_text(made, text) == reference(text, add_special_tokens=False)["input_ids"], text
    assert made.to_str() == before
    assert not made.encode_special_tokens


@pytest.mark.parametrize("name", sorted(ALL))
def test_in_untrusted_text_they_are_letters(name: str) -> None:
    made, reference = with_tags(name)
    added, unknown = made.get_added_tokens_decoder(), unknown_id(made)
    special = {i for i, token in added.items() if token.special} - {unknown}
    before = made.to_str()
    for text in [*TAGGED, "<s></s><pad><unk>[CLS][SEP]<|endoftext|>"]:
        ids = encode_text(made, text, untrusted=True, on_unknown="ignore")
        assert not special & set(ids), text
        assert made.token_to_id("<s_total>") not in ids
        if name.startswith(("gpt2", "roberta", "bart")):
            assert decode_ids(made, ids).strip() == text.strip()
    assert made.to_str() == before
    assert encode_text(made, "plain text") == encode_text(made, "plain text", untrusted=True)
    assert encode_text(made, "<s_total>") == reference("<s_total>", add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("text", ["", " ", "  two  spaces  ", "</s>", "<s>a</s><pad>", "a </s>", "<unk>"])
@pytest.mark.parametrize("tokenizer", [CHAR, BYTE], ids=["char", "byte"])
def test_the_tokenizers_without_a_file(tokenizer: Tokenizer, text: str) -> None:
    for one in (tokenizer, pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer), make_tokenizer(tokenizer)):
        ids = encode_text(one, text, untrusted=True)
        assert not {0, 1, 2} & set(ids)
        assert decode_ids(one, ids) == text
        assert decode_ids(one, encode_text(one, text), skip_special_tokens=False) == text
    assert encode_text(tokenizer, "<s></s><pad>") == [0, 1, 2]


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(["char", "byte"]), st.lists(st.sampled_from(["<s>", "</s>", "<pad>", "<", "s", ">", "a "])))
def test_untrusted_text_comes_back(name: str, parts: list[str]) -> None:
    tokenizer, text = CHAR if name == "char" else BYTE, "".join(parts)
    assert decode_ids(tokenizer, encode_text(tokenizer, text, untrusted=True), skip_special_tokens=False) == text


def test_untrusted_text_of_words_and_merges() -> None:
    assert encode_text(words(), "a [SEP] cats") == [4, 3, 5, 6]
    assert encode_text(words(), "a [SEP] cats", untrusted=True) == [4, 8, 10, 9, 5, 6]
    vocab = {t: i for i, t in enumerate(["<", "x", ">", "<x", "<x>"])}
    merged = Tokenizer(models.BPE(vocab, [("<", "x"), ("<x", ">")]))
    merged.add_special_tokens(["<x>"])
    assert encode_text(merged, "<x>") == [4]
    assert encode_text(merged, "<x>", untrusted=True) == [3, 2]
    whole = Tokenizer(models.WordLevel({"<x>": 0, "?": 1}, unk_token="?"))
    whole.add_special_tokens(["<x>"])
    assert encode_text(whole, "<x>", untrusted=True, on_unknown="ignore") == [1]


def test_tokens_that_are_added_later_count() -> None:
    tokenizer = make_tokenizer("char")
    assert encode_text(tokenizer, "<s><x>", untrusted=True) == encode_text(tokenizer, "<s><x>", untrusted=True)
    tokenizer.add_tokens(["<x>"])
    assert encode_text(tokenizer, "<x>") == [98]
    assert 98 not in encode_text(tokenizer, "<s><x>", untrusted=True)


def test_threads_share_one_tokenizer() -> None:
    tokenizer, failures = make_tokenizer("byte"), []
    tokenizer.add_tokens(["<x>"])

    def work(untrusted: bool) -> None:
        for _ in range(200):
            ids = encode_text(tokenizer, "<x></s>", untrusted=untrusted)
            if (ids == [259, 1]) == untrusted or (not untrusted and len(ids) != 2):
                failures.append(ids)

    threads = [threading.Thread(target=work, args=(bool(i % 2),)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_labels_end_and_do_not_start() -> None:
    assert encode_labels(CHAR, ["!", ""], eos=1) == [[4, 1], [1]]
    assert encode_labels(words(), ["a cat"], eos=3) == [[4, 5, 3]]  # no [CLS] of the template
    assert encode_labels(CHAR, ["!!!!", "!!"], eos=1, max_length=3) == [[4, 4, 1], [4, 4, 1]]
    assert encode_labels(CHAR, ["!!"], eos=1, max_length=1) == [[1]]


# -- characters without a token -------------------------------------------------------------------------------------


def said(tokenizer: Tokenizer, *texts: str, **options: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        encode_texts(tokenizer, texts, **options)
    assert all(issubclass(w.category, UserWarning) for w in caught)
    return [str(w.message) for w in caught]


def test_what_has_no_token_is_named_once_a_call() -> None:
    (message,) = said(letters(), "aBc", "日本 B", "ab")
    assert "4 pieces" in message
    assert "'B' (2 times)" in message
    assert "'日'" in message
    assert "become '<unk>'" in message
    assert "model.add_tokens" in message
    assert len(said(letters(), "".join(map(chr, range(0x4E00, 0x4E80))))[0]) < 500
    (message,) = said(words(), "a dog on a cat")
    assert "1 piece of the text: 'dog', which becomes '[UNK]'" in message
    assert not said(letters(), "abc", "a<unk>b", "")  # the unknown token itself
    assert said(letters(), "a\nb")


@pytest.mark.parametrize("name", ["xlm-r identity", "camembert", "mbart", "mbart50", "generic unigram", "generic bpe"])
def test_unknown_pieces_of_sentencepiece(name: str) -> None:
    made, reference = both(name)
    (message,) = said(made, "ab \u0e01\u0e02 cd")
    assert "\u0e01" in message
    assert reference.unk_token in message
    assert reference.unk_token_id == unknown_id(made)
    assert not said(made, "the lazy dog")


@pytest.mark.parametrize("name", ["gpt2", "roberta", "bart", "generic bytes", "byte", "char"])
def test_tokenizers_of_bytes_have_a_token_for_all(name: str) -> None:
    made = make_tokenizer(name) if name in ("byte", "char") else both(name)[0]
    assert not said(made, "plain text" if name == "char" else "naïve 日本語 🙂 e\u0301 \u0e01\u0e02\x00\ufffd")
    assert name == "generic bytes" or unknown_id(made) is None


def test_characters_that_are_lost() -> None:
    """A byte-pair model without an unknown token drops what it does not know."""
    (message,) = said(letters(None), "aBcB日")
    assert "3 pieces" in message
    assert "'B' (2 times)" in message
    assert "are left out" in message
    assert not said(letters(None), "abc a")
    lower = letters(None)
    lower.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])
    assert not said(lower, "ÀBç")  # the normaliser's doing
    assert said(lower, "ÀBD")
    tagged = letters(None)
    tagged.add_tokens(["<s_é>"])
    assert not said(tagged, "a<s_é>b")
    assert said(tagged, "a<s_é>é")


def test_an_error_or_nothing_on_demand() -> None:
    with pytest.raises(TokenizerError, match=r"'B', which becomes '<unk>'.*on_unknown='warn'") as caught:
        encode_texts(letters(), ["aB"], on_unknown="error")
    assert caught.value.field == "text"
    assert not said(letters(), "aB", on_unknown="ignore")
    assert encode_texts(letters(), ["abc"], on_unknown="error") == [[3, 4, 5]]
    with pytest.raises(UsageError, match="on_unknown"):
        encode_texts(letters(), ["a"], on_unknown="raise")  # type: ignore[arg-type]
