"""Tokenizers of transformers' folders, compared with what transformers makes of the same files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from tests.hf.tokenizer_files import ALL, added, both, config, special_map, theirs, ved_config, write
from vedcore.config import TokenIds
from vedcore.errors import IncompatibleError
from vedcore.hf.tokenizers import TOKENIZER_FILES, read_tokenizer, write_tokenizer
from vedcore.processing.encoding import encode_text
from vedcore.processing.tokenizers import decode_ids, make_tokenizer

TEXTS = [
    "",
    " ",
    "Hello, world!",
    "  leading and trailing  ",
    "new\nline\r\n\ttab",
    "Crème BRÛLÉE, naïve ﬁance",
    "日本語 and 中文",
    "🙂👩‍👩‍👧 ok",
    "unknown \u0e01\u0e02 \x00 \ufffd",
    "a </s> b <s>c [SEP] d<mask> e <mask>f",
    "don't . we 're , ok ?",
    "ＦＵＬＬ　ｗｉｄｔｈ",
    "en_XX ar_AR",
    "x" * 120,
    "…–—“”",
    "e\u0301a\u0300",
]
any_text = st.text(
    st.one_of(st.sampled_from(" \n\t.,'?!<>/s[]éÅ日本🙂\u200d\u0301▁"), st.characters(exclude_categories=["Cs"])),
    max_size=30,
)


def assert_same(made: Tokenizer, reference: Any, text: str) -> None:
    for around in (False, True):
        ids = reference(text, add_special_tokens=around)["input_ids"]
        assert made.encode(text, add_special_tokens=around).ids == ids, text
        for skip in (False, True):
            assert made.decode(ids, skip_special_tokens=skip) == reference.decode(ids, skip_special_tokens=skip), text


@pytest.mark.parametrize("name", ALL)
def test_the_same_as_transformers(name: str) -> None:
    made, reference = both(name)
    assert made.get_vocab() == reference.get_vocab()
    for text in TEXTS:
        assert_same(made, reference, text)
    special = {token.content for token in made.get_added_tokens_decoder().values() if token.special}
    assert special == {t.content for t in reference.added_tokens_decoder.values() if t.special}


@settings(max_examples=60, suppress_health_check=list(HealthCheck), deadline=None)
@given(st.sampled_from(sorted(ALL)), any_text)
def test_any_text(name: str, text: str) -> None:
    assert_same(*both(name), text)


@pytest.mark.parametrize(
    "name",
    [
        "gpt2",
        "roberta",
        "bert",
        "bert cased",
        "mpnet",
        "electra",
        "xlm-r nmt_nfkc",
        "camembert",
        "mbart50",
        "generic bytes",
    ],
)
def test_tokenizers_that_transformers_saves(name: str, tmp_path: Path) -> None:
    """transformers saves tokenizer.json, with tokens that a fine-tune added."""
    reference = theirs(*ALL[name])
    reference.add_tokens(["<new>", AddedToken("plain", normalized=True)])
    reference.add_special_tokens({"additional_special_tokens": ["<task>"]})
    reference.save_pretrained(tmp_path)
    ved_config(tmp_path)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name in TOKENIZER_FILES}
    made = read_tokenizer(files, folder=tmp_path)
    assert made is not None
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in [*TEXTS, "a <new> b plain <task>c"]:
        assert_same(made, again, text)


def test_tokens_beside_a_tokenizer_json() -> None:
    base, _ = both("gpt2")
    files = {
        "tokenizer.json": base.to_str().encode(),
        **config(tokenizer_class="PreTrainedTokenizerFast", sep_token="<sep>"),
        **special_map(pad_token="<p>", eos_token="<|endoftext|>"),
        **added(**{"<late>": base.get_vocab_size()}),
    }
    made, reference = read_tokenizer(files, folder="f"), theirs(files)
    assert made is not None
    assert made.get_vocab() == reference.get_vocab()
    assert_same(made, reference, "a <sep> b<p><late> <|endoftext|>")


@pytest.mark.parametrize("name", [*ALL, "char", "byte"])
def test_written_for_transformers(name: str, tmp_path: Path) -> None:
    made = make_tokenizer(name) if name in ("char", "byte") else both(name)[0]
    ids = TokenIds(start=0, eos=(2, 1), pad=1)
    write(write_tokenizer(made, ids, model_max_length=77), tmp_path)
    ved_config(tmp_path)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (again.bos_token_id, again.eos_token_id, again.pad_token_id, again.model_max_length) == (0, 2, 1, 77)
    # Ids 0 to 2 become special in transformers, which they are not in every tokenizer here
    special = [again.convert_ids_to_tokens(i) for i in range(3)]
    for text in ["Hello, world!", "12.50 EUR"] if name == "char" else TEXTS:
        if not any(token in text for token in special):
            assert_same(made, again, text)
    copy = make_tokenizer(made)
    ids_of_text = encode_text(copy, "Hello, world")
    assert ids_of_text == again.encode("Hello, world", add_special_tokens=False)
    assert decode_ids(copy, ids_of_text) == again.decode(ids_of_text, skip_special_tokens=True)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    back = read_tokenizer(files, folder=tmp_path)
    assert back is not None
    assert back.get_vocab() == made.get_vocab()


def test_unlimited_and_without_ids() -> None:
    files = write_tokenizer(make_tokenizer("byte"), TokenIds(), model_max_length=None)
    assert json.loads(files["special_tokens_map.json"]) == {}
    assert theirs(files).pad_token is None
    with pytest.raises(IncompatibleError, match="999"):
        write_tokenizer(make_tokenizer("byte"), TokenIds(pad=999), model_max_length=None)


def test_trocr_by_its_files() -> None:
    """TrOCR has two vocabularies where no class is named; transformers knows only one of them."""
    for name, like in (("roberta", "roberta by type"), ("xlm-r nmt_nfkc", "xlm-r by type")):
        files = {key: data for key, data in ALL[name][0].items() if key != "tokenizer_config.json"}
        made = read_tokenizer(files, folder="f", model_type="trocr")
        assert made is not None
        assert made.to_str() == both(like)[0].to_str()


def test_no_tokenizer() -> None:
    assert read_tokenizer({}, folder="f") is None
    assert read_tokenizer(config(tokenizer_class="BertTokenizer"), folder="f") is None
