"""Hints about the tokenizer files of transformers' folders."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import transformers as hf

import vedcore
from tests.checkpoints.test_added_tokens import made
from tests.hf.test_japanese import PIECES
from tests.hf.test_japanese import files as japanese_files
from tests.hf.test_tokenizer_refusals import PIECE
from tests.hf.tokenizer_files import (
    ROBERTA,
    XLMR,
    added,
    byte_bpe,
    config,
    special_map,
    spm,
    ved_config,
    wordpiece,
    write,
)
from tests.hints.templates import told
from tests.model.tiny import tiny
from vedcore.processing.tokenizers import make_tokenizer

Files = Mapping[str, bytes]
IMAGES = {"preprocessor_config.json": json.dumps({"image_processor_type": "ViTImageProcessor"}).encode()}
TEXT = "the lazy dog"
CHAR = {"tokenizer.json": make_tokenizer("char").to_str().encode()}
BPE = byte_bpe("<|endoftext|>")
FAIRSEQ = byte_bpe(*ROBERTA)
GPT2, BERT, XLM = ({"tokenizer_class": f"{name}Tokenizer"} for name in ("GPT2", "Bert", "XLMRoberta"))
VOCAB = json.loads(BPE["vocab.json"])
AGAIN = "copy the file again"
BOTH_AGAIN = "copy both files again"
TOO = "copy it, or the tokenizer.json, too"
SPM_AGAIN = "copy the file again, or save the tokenizer with transformers, which writes a tokenizer.json"
OTHER = "put the tokenizer.json of another tokenizer there"


def gpt2(vocab: Any = VOCAB, **settings: Any) -> Files:
    return {**BPE, "vocab.json": json.dumps(vocab).encode(), **config(**GPT2, **settings)}


def bert(**settings: Any) -> Files:
    return {**wordpiece(), **config(**BERT, **settings)}


def xlm(data: bytes = b"", **settings: Any) -> Files:
    return {XLMR: data or spm(), **config(**XLM, **settings)}


def generic(data: bytes) -> Files:
    return {"tokenizer.model": data, **config(tokenizer_class="PreTrainedTokenizerFast")}


def without(files: Files, name: str) -> Files:
    return {key: data for key, data in files.items() if key != name}


def reads(folder: Path, text: str = TEXT) -> None:
    """The tokenizer of a folder gives the text back."""
    tokenizer: Any = vedcore.Processor.from_pretrained(folder).tokenizer
    assert tokenizer.decode(tokenizer(text, on_unknown="error").input_ids).strip() == text


SIZE = len(VOCAB)
ROWS: list[tuple[str, Files, Files]] = [
    # files that are damaged or missing
    (AGAIN, {**bert(), "vocab.txt": b""}, bert()),
    (AGAIN, {**bert(), "vocab.txt": b"\xff\xfe\n"}, bert()),
    (AGAIN, {**bert(), "tokenizer_config.json": b'{"a": '}, bert()),
    (AGAIN, {**bert(), "tokenizer_config.json": b"[]"}, bert()),
    (AGAIN, {**gpt2(), "vocab.json": b"{}", "merges.txt": b""}, gpt2()),
    (AGAIN, {**gpt2(), "merges.txt": b"#version: 0.2\na b c\n"}, gpt2()),
    (AGAIN, xlm(PIECE + b"\x1a\x05\x12\x03abc"), xlm()),
    (AGAIN, generic(PIECE + b"\x12\x03\xc0\x02\x63"), generic(spm())),
    (BOTH_AGAIN, {**gpt2(), "merges.txt": b"#version: 0.2\nzz qq\n"}, gpt2()),
    (SPM_AGAIN, xlm(spm()[:-1]), xlm()),
    (SPM_AGAIN, xlm(b"\x1a\x00"), xlm()),
    (SPM_AGAIN, xlm(PIECE * 2), xlm()),
    (TOO, without(bert(), "vocab.txt") | {"vocab.json": b"{}"}, bert()),
    (TOO, without(bert(), "vocab.txt") | {"vocab.json": b"{}"}, {**bert(), **CHAR}),
    (TOO, without(gpt2(), "merges.txt"), gpt2()),
    (TOO, {**without(gpt2(), "vocab.json"), "vocab.txt": b""}, gpt2()),
    (TOO, {**bert(), **config(**XLM)}, xlm()),
    (TOO, {**bert(), **config(**XLM)}, {**bert(), **config(**XLM), **CHAR}),
    # ids
    ("number from 0", gpt2({**VOCAB, "new": -1}), gpt2({**VOCAB, "new": SIZE})),
    ("number from 0", gpt2({**VOCAB, "new": 1 << 30}), gpt2({**VOCAB, "new": SIZE})),
    (
        "number from 0",
        {**bert(), **added(**{"<new>": 1 << 40})},
        {**bert(), **added(**{"<new>": wordpiece()["vocab.txt"].count(b"\n")})},
    ),
    ("give each its own", gpt2({**VOCAB, "new": 5}), gpt2({**VOCAB, "new": SIZE})),
    (
        "number added tokens from the end of the vocabulary",
        {**gpt2(), **added(new=SIZE + 5)},
        {**gpt2(), **added(new=SIZE)},
    ),
    # settings
    ("write it as text, such as 'BertTokenizer'", {**wordpiece(), **config(tokenizer_class=3)}, bert()),
    ("set it to one of {…}", {**wordpiece()}, bert()),
    ("set it to one of {…}", {**wordpiece(), **config(tokenizer_class="PreTrainedTokenizer")}, bert()),
    ("write true or false", bert(do_lower_case="no"), bert(do_lower_case=False)),
    ("set it, such as {…}", bert(unk_token=None), bert(unk_token="[UNK]")),
    ('write a list, such as ["<a>", "<b>"]', bert(additional_special_tokens="<a>"), bert(extra_special_tokens=["<a>"])),
    (
        "write ids and their tokens",
        gpt2(added_tokens_decoder=["<x>"]),
        gpt2(added_tokens_decoder={str(SIZE): {"content": "<x>"}}),
    ),
    ('write its text, or {"content": "<s>", "lstrip": false}', bert(cls_token=7), bert(cls_token="[CLS]")),
    (
        'write its text, or {"content": "<s>", "lstrip": false}',
        {**bert(), **special_map(cls_token={"content": "[CLS]", "lstrip": 3})},
        {**bert(), **special_map(cls_token={"content": "[CLS]", "lstrip": False})},
    ),
    ("set another special token", bert(cls_token="[CLS:x]"), bert(cls_token="[CLS]")),
    ("set another special token", xlm(bos_token=""), xlm(bos_token="<s>")),
    (
        "set another special token",
        {**FAIRSEQ, **config(tokenizer_class="RobertaTokenizer", sep_token="")},
        {**FAIRSEQ, **config(tokenizer_class="RobertaTokenizer", sep_token="</s>")},
    ),
    (
        "give a code such as 'en_XX'",
        {XLMR: spm(), **config(tokenizer_class="MBartTokenizer", src_lang="English")},
        {XLMR: spm(), **config(tokenizer_class="MBartTokenizer", src_lang="en_XX")},
    ),
    # tokenizers that cannot be read
    (OTHER, generic(spm("word")), {**generic(spm("word")), **CHAR}),
    (OTHER, japanese_files(PIECES, do_word_tokenize=False), {**japanese_files(PIECES, do_word_tokenize=False), **CHAR}),
    (
        OTHER,
        japanese_files(PIECES, word_tokenizer_type="sudachi"),
        {**japanese_files(PIECES, word_tokenizer_type="sudachi"), **CHAR},
    ),
]


@pytest.mark.parametrize(("template", "wrong", "right"), ROWS, ids=[template for template, _, _ in ROWS])
def test_files_of_tokenizers(template: str, wrong: Files, right: Files, tmp_path: Path) -> None:
    write({**IMAGES, **wrong}, tmp_path)
    error = told(template, vedcore.Processor.from_pretrained, tmp_path)
    assert str(error.path).startswith(str(tmp_path))
    for name in wrong:
        (tmp_path / name).unlink()
    write(right, tmp_path)
    reads(tmp_path)


def test_japanese_dictionaries(tmp_path: Path) -> None:
    pytest.importorskip("fugashi")
    pytest.importorskip("ipadic")
    for wrong in ({"mecab_dic": "neologd"}, {"mecab_dic": "ipadic", "mecab_option": "-x"}):
        files = japanese_files(PIECES, word_tokenizer_type="mecab", mecab_kwargs=wrong)
        write({**IMAGES, **files}, tmp_path)
        error = told("write only mecab_dic, one of {…}", vedcore.Processor.from_pretrained, tmp_path)
        assert "ipadic" in error.hint
    write(japanese_files(PIECES, word_tokenizer_type="mecab", mecab_kwargs={"mecab_dic": "ipadic"}), tmp_path)
    reads(tmp_path, "私 は 日本")


def test_too_many_added_tokens(tmp_path: Path) -> None:
    names = [f"<{i}>" for i in range(50_001)]
    write({**IMAGES, **bert(extra_special_tokens=names)}, tmp_path)
    told("move them into the vocabulary", vedcore.Processor.from_pretrained, tmp_path)
    write({**bert(), "vocab.txt": wordpiece()["vocab.txt"] + "\n".join(names).encode()}, tmp_path)
    processor: Any = vedcore.Processor.from_pretrained(tmp_path)
    assert processor.tokenizer.token_to_id("<7>") == processor.tokenizer.token_to_id("<0>") + 7
    reads(tmp_path)


@pytest.mark.parametrize(
    ("template", "files"),
    [
        (SPM_AGAIN, xlm(b"\n" + b"\xe9\x0f" + b"\n" + b"\xe6\x0f" + b"a" * 2022)),
        (
            "save the tokenizer with transformers, which writes a tokenizer.json",
            {"spiece.model": spm(), **config(tokenizer_class="T5Tokenizer")},
        ),
        (
            "save the tokenizer with transformers, which writes a tokenizer.json",
            {"tokenizer.model": spm("bpe", byte_fallback=True), **config(tokenizer_class="LlamaTokenizer")},
        ),
    ],
)
def test_tokenizers_that_transformers_saves(template: str, files: Files, tmp_path: Path) -> None:
    write({**IMAGES, **files}, tmp_path)
    told(template, vedcore.Processor.from_pretrained, tmp_path)
    ved_config(tmp_path)
    theirs = hf.AutoTokenizer.from_pretrained(tmp_path)
    theirs.save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    ours: Any = vedcore.Processor.from_pretrained(tmp_path).tokenizer
    assert ours(TEXT, on_unknown="ignore").input_ids == theirs(TEXT).input_ids


def test_an_unreadable_tokenizer_in_the_folder_of_a_model(tmp_path: Path) -> None:
    folder = made(tmp_path / "m", "gpt2", [])
    whole = (folder / "tokenizer.json").read_bytes()
    (folder / "tokenizer.json").write_bytes(whole[:100])
    written = "give a tokenizer.json that the tokenizers library has written"
    template = f"{written}, or give tokenizer= to vedcore.load or compose, which do not read it then"
    told(template, vedcore.load, folder)
    told(template, vedcore.compose, str(folder), str(folder))
    (tmp_path / "other.json").write_bytes(whole)
    given = vedcore.load(folder, tokenizer=tmp_path / "other.json")
    composed = vedcore.compose(str(folder), str(folder), tokenizer=tmp_path / "other.json")
    assert composed.processor.tokenizer.get_vocab() == given.processor.tokenizer.get_vocab()
    told(written, vedcore.Processor.from_pretrained, folder)
    (folder / "tokenizer.json").write_bytes(whole)
    for processor in (vedcore.load(folder).processor, vedcore.Processor.from_pretrained(folder)):
        assert processor.tokenizer.get_vocab() == given.processor.tokenizer.get_vocab()


def test_ids_that_the_tokenizer_does_not_have(tmp_path: Path) -> None:
    model = tiny("bert", tokenizer="char", token_ids={"start": 0, "eos": (1,), "pad": 99}, decoder_vocab_size=100)
    for save in (
        lambda: model.save_pretrained(tmp_path / "m", format="transformers"),
        lambda: model.processor.save_pretrained(tmp_path / "p"),
    ):
        error = told("set an id that the tokenizer has", save)
        assert error.field == "token_ids.pad"
    model.token_ids = model.token_ids.changed(pad=2, start=99)
    assert (
        told("set an id that the tokenizer has", model.processor.save_pretrained, tmp_path).field == "token_ids.start"
    )
    model.token_ids = model.token_ids.changed(start=0)
    model.save_pretrained(tmp_path / "m", format="transformers")
    model.processor.save_pretrained(tmp_path / "p")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert vedcore.load(tmp_path / "m").token_ids == model.token_ids
    assert vedcore.Processor.from_pretrained(tmp_path / "p").token_ids == model.token_ids
