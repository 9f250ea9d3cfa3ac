"""Damaged and hostile files of tokenizers: refused by name, at a cost in keeping with their size."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.counting import steps
from tests.hf.tokenizer_files import XLMR, added, both, byte_bpe, config, spm, wordpiece
from vedcore.errors import CheckpointLimitError, IncompatibleError, TokenizerError, VedcoreError
from vedcore.hf.tokenizers import read_tokenizer
from vedcore.processing.encoding import encode_text

GPT2 = config(tokenizer_class="GPT2Tokenizer")
BERT = config(tokenizer_class="BertTokenizer")
XLM = config(tokenizer_class="XLMRobertaTokenizer")


def bert_with(**values: Any) -> dict[str, bytes]:
    return {**wordpiece(), **config(tokenizer_class="BertTokenizer", **values)}


GENERIC = config(tokenizer_class="PreTrainedTokenizerFast")
BPE_FILES = byte_bpe("<|endoftext|>")
PIECE = b"\n\x0b\n\x04\xe2\x96\x81a\x15\x00\x00\x80\xbf"
BAD: dict[str, tuple[dict[str, bytes], str]] = {
    "empty json": ({"tokenizer.json": b""}, "tokenizer.json"),
    "list": ({"tokenizer.json": b"[]"}, "tokenizer.json"),
    "version": ({"tokenizer.json": b'{"version": "9.9", "model": {}}'}, "tokenizer.json"),
    "config list": ({**BPE_FILES, "tokenizer_config.json": b"[]"}, "tokenizer_config.json"),
    "config cut": ({**BPE_FILES, "tokenizer_config.json": b'{"a": '}, "tokenizer_config.json"),
    "config deep": ({**BPE_FILES, "tokenizer_config.json": b"[" * 100000}, "tokenizer_config.json"),
    "class a number": ({**BPE_FILES, **config(tokenizer_class=3)}, "tokenizer_class"),
    "class unknown": ({**BPE_FILES, **config(tokenizer_class="MarianTokenizer")}, "MarianTokenizer"),
    "class nowhere": ({**BPE_FILES}, "tokenizer_class"),
    "vocab cut": ({**BPE_FILES, **GPT2, "vocab.json": BPE_FILES["vocab.json"][:500]}, "vocab.json"),
    "vocab empty": ({**BPE_FILES, **GPT2, "vocab.json": b"{}", "merges.txt": b""}, "vocab.json"),
    "vocab list": ({**BPE_FILES, **GPT2, "vocab.json": b"[1]"}, "vocab.json"),
    "vocab bytes": ({**BPE_FILES, **GPT2, "vocab.json": b"\xff\xfe"}, "vocab.json"),
    "vocab 2**32": ({**BPE_FILES, **GPT2, "vocab.json": b'{"a": 4294967296}'}, "4294967296"),
    "vocab negative": ({**BPE_FILES, **GPT2, "vocab.json": b'{"a": -1}'}, "vocab.json"),
    "vocab text": ({**BPE_FILES, **GPT2, "vocab.json": b'{"a": "0"}'}, "vocab.json"),
    "vocab shared": ({**BPE_FILES, **GPT2, "vocab.json": b'{"a": 0, "b": 0}', "merges.txt": b""}, "share the id 0"),
    "vocab twice": ({**BPE_FILES, **GPT2, "vocab.json": b'{"a": 0, "a": 1}'}, "vocab.json"),
    "special surrogate": ({**BPE_FILES, **config(tokenizer_class="GPT2Tokenizer", bos_token="\ud800")}, "config.json"),
    "vocab surrogate": ({**GPT2, "vocab.json": b'{"\\ud800": 0}', "merges.txt": b""}, "vocab.json"),
    "no merges": ({**GPT2, "vocab.json": BPE_FILES["vocab.json"]}, "merges.txt"),
    "merges strange": ({**BPE_FILES, **GPT2, "merges.txt": b"#version: 0.2\nzz qq\n"}, "merges.txt"),
    "merges long": (
        {**GPT2, "vocab.json": b'{"aaaa": 0, "bbbb": 1}', "merges.txt": b"#version: 0.2\naaaa bbbb\n"},
        "'aaaabbbb'",
    ),
    "merges three": ({**BPE_FILES, **GPT2, "merges.txt": b"#version: 0.2\na b c\n"}, "merges.txt:2"),
    "merges bytes": ({**BPE_FILES, **GPT2, "merges.txt": b"\xff"}, "merges.txt"),
    "no vocab.txt": ({**BPE_FILES, **BERT}, "vocab.txt"),
    "vocab.txt empty": ({**BERT, "vocab.txt": b""}, "vocab.txt"),
    "vocab.txt bytes": ({**BERT, "vocab.txt": b"\xff\xfe\n"}, "vocab.txt"),
    "flag": (bert_with(do_lower_case="no"), "do_lower_case"),
    "token": (bert_with(cls_token=7), "cls_token"),
    "token flags": (bert_with(cls_token={"content": "x", "lstrip": 3}), "cls_token"),
    "extras": (bert_with(additional_special_tokens=7), "extra_special"),
    "added 500": ({**wordpiece(), **BERT, **added(new=500)}, "500"),
    "added moved": ({**wordpiece(), **BERT, **added(**{"[PAD]": 3})}, "3"),
    "added text": ({**wordpiece(), **BERT, **added(new="a")}, "added_tokens.json"),
    "added huge": ({**wordpiece(), **BERT, **added(new=2**40)}, "added_tokens.json"),
    "decoder": (bert_with(added_tokens_decoder=[1]), "added_tokens_decoder"),
    "decoder id": (bert_with(added_tokens_decoder={"500": {"content": "x"}}), "500"),
    "decoder key": (bert_with(added_tokens_decoder={"x": {"content": "x"}}), "config"),
    "language": ({XLMR: spm(), **config(tokenizer_class="MBartTokenizer", src_lang="xx")}, "src_lang"),
    "spm empty": ({XLMR: b"", **XLM}, XLMR),
    "spm cut": ({XLMR: spm()[:1000], **XLM}, XLMR),
    "spm cut 1": ({XLMR: spm()[:-1], **XLM}, XLMR),
    "spm text": ({XLMR: b"version https://git-lfs.github.com/spec/v1\n", **XLM}, XLMR),
    "spm length": ({XLMR: b"\n\xff\xff\xff\xff\xff\xff\xff\xff\x7f", **XLM}, XLMR),
    "spm number": ({XLMR: b"\n" + b"\xff" * 20, **XLM}, XLMR),
    "spm twice": ({XLMR: PIECE * 2, **XLM}, "twice"),
    "spm nan": ({XLMR: PIECE[:-4] + b"\x00\x00\xc0\x7f", **XLM}, "nan"),
    "spm utf-8": ({XLMR: PIECE.replace(b"\xe2", b"\xff"), **XLM}, XLMR),
    "spm charsmap": ({XLMR: PIECE + b"\x1a\x05\x12\x03abc", **XLM}, XLMR),
    "spm unknown id": ({"tokenizer.model": PIECE + b"\x12\x03\xc0\x02\x63", **GENERIC}, "tokenizer.model"),
    "spm words": ({"tokenizer.model": PIECE + b"\x12\x02\x18\x03", **GENERIC}, "algorithm 3"),
    "no spm": ({**BPE_FILES, **XLM}, XLMR),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str) -> None:
    files, word = BAD[name]

    def refuse() -> None:
        with pytest.raises((TokenizerError, IncompatibleError), match=r"^[^\n]{1,300}$") as caught:
            read_tokenizer(files, folder="f")
        assert word in str(caught.value)
        assert caught.value.hint
        assert str(caught.value.path).startswith("f")

    size = sum(map(len, files.values()))
    tracemalloc.start()
    try:
        refuse()
        assert tracemalloc.get_traced_memory()[1] < 2_000_000 + 20 * size
    finally:
        tracemalloc.stop()
    assert steps(refuse) < 30_000 + 50 * size


@settings(max_examples=150, suppress_health_check=list(HealthCheck), deadline=None)
@given(st.sampled_from([XLMR, "vocab.json", "merges.txt", "vocab.txt", "tokenizer.json"]), st.data())
def test_flipped_bytes(name: str, data: st.DataObject) -> None:
    whole = {
        XLMR: {XLMR: spm(), **XLM},
        "vocab.json": {**BPE_FILES, **GPT2},
        "merges.txt": {**BPE_FILES, **GPT2},
        "vocab.txt": {**wordpiece(), **BERT},
        "tokenizer.json": {"tokenizer.json": both("bert")[0].to_str().encode()},
    }[name]
    damaged = bytearray(whole[name])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    try:
        made = read_tokenizer({**whole, name: bytes(damaged[: cut or None])}, folder="f")
        assert made is not None
        encode_text(made, "Hello, world! naïve")
    except VedcoreError as error:
        assert str(error)


def test_limits() -> None:
    long = b"\n" + b"\xe9\x0f" + b"\n" + b"\xe6\x0f" + b"a" * 2022
    with pytest.raises(CheckpointLimitError, match=XLMR):
        read_tokenizer({XLMR: long, **XLM}, folder="f")
    with pytest.raises(CheckpointLimitError, match="50,000"):
        read_tokenizer(bert_with(extra_special_tokens=[f"<{i}>" for i in range(50_001)]), folder="f")


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model"])
@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a pointer of git-lfs.*git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "a web page, not the file itself"),
    ],
)
def test_something_else_in_the_place_of_a_file(name: str, data: bytes, says: str) -> None:
    """The lines of either would be read as a vocabulary."""
    with pytest.raises(TokenizerError, match=f"folder/{name}: {says}"):
        read_tokenizer({name: data, "merges.txt": b""}, folder="folder", model_type="bert")
