"""Tokenizers of transformers' folders, compared with what transformers makes of the same files."""

from __future__ import annotations

import functools
import io
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers

from vedcore.config import TokenIds
from vedcore.errors import CheckpointLimitError, IncompatibleError, TokenizerError, VedcoreError
from vedcore.hf import tokenizers as ours
from vedcore.hf.tokenizers import TOKENIZER_FILES, read_tokenizer, write_tokenizer
from vedcore.processing.tokenizers import decode_ids, encode_text, make_tokenizer

CORPUS = [
    "The quick brown fox jumps over the lazy dog.",
    "Total: 12.50 EUR, VAT 20 % (incl.)",
    "don't we're I'm he's they've",
    "naïve café Élan Ångström ﬁne",
    "日本語のテキスト 中文字符",
    "Привет мир",
    "hello  world\nnew line\ttab",
    "🙂🎉 emoji",
    "a b c d e f g h i j k l m n o p q r s t u v w x y z",
    "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z 0123456789",
] * 3
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


@functools.cache
def byte_bpe(*special: str) -> dict[str, bytes]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(special),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    merges = "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in model["merges"])
    return {"vocab.json": json.dumps(model["vocab"]).encode(), "merges.txt": merges.encode()}


@functools.cache
def wordpiece() -> dict[str, bytes]:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(CORPUS + [text.lower() for text in CORPUS], trainer)
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return {"vocab.txt": "".join(f"{token}\n" for token, _ in vocab).encode()}


@functools.cache
def spm(kind: str = "unigram", rule: str = "nmt_nfkc", **options: Any) -> bytes:
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=written,
        model_type=kind,
        vocab_size=420,
        hard_vocab_limit=False,
        normalization_rule_name=rule,
        minloglevel=2,
        character_coverage=0.98,
        **options,
    )
    return written.getvalue()


def config(**values: Any) -> dict[str, bytes]:
    return {"tokenizer_config.json": json.dumps(values).encode()}


def special_map(**values: Any) -> dict[str, bytes]:
    return {"special_tokens_map.json": json.dumps(values).encode()}


def added(**values: Any) -> dict[str, bytes]:
    return {"added_tokens.json": json.dumps(values).encode()}


def mask(special: str = "<mask>") -> dict[str, Any]:
    return {
        "__type": "AddedToken",
        "content": special,
        "lstrip": True,
        "rstrip": False,
        "normalized": True,
        "single_word": False,
    }


ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
XLMR = "sentencepiece.bpe.model"


def cases() -> Iterator[tuple[str, dict[str, bytes], str | None]]:
    """Names, files, and the model type for those that name no class."""
    gpt2, roberta, bert = byte_bpe("<|endoftext|>"), byte_bpe(*ROBERTA), wordpiece()
    yield "gpt2", {**gpt2, **config(tokenizer_class="GPT2Tokenizer")}, None
    yield "gpt2 by type", {**gpt2}, "gpt2"
    yield "gpt2 pad added", {**gpt2, **config(tokenizer_class="GPT2TokenizerFast", pad_token="[PAD]")}, None
    yield (
        "gpt2 map",
        {
            **gpt2,
            **config(tokenizer_class="GPT2Tokenizer", add_prefix_space=True, add_bos_token=True),
            **special_map(
                pad_token={
                    "content": "<p>",
                    "lstrip": True,
                    "rstrip": False,
                    "normalized": False,
                    "single_word": False,
                },
                bos_token="<|endoftext|>",
            ),
        },
        None,
    )
    yield (
        "opt",
        {
            **byte_bpe(*ROBERTA),
            **config(
                tokenizer_class="GPT2Tokenizer",
                add_bos_token=True,
                bos_token="</s>",
                eos_token="</s>",
                unk_token="</s>",
                pad_token="<pad>",
            ),
        },
        None,
    )
    yield "roberta", {**roberta, **config(tokenizer_class="RobertaTokenizer", mask_token=mask())}, None
    yield "roberta by type", {**roberta}, "roberta"
    yield (
        "roberta prefix",
        {**roberta, **config(tokenizer_class="RobertaTokenizer", add_prefix_space=True, trim_offsets=False)},
        None,
    )
    yield (
        "roberta added",
        {
            **roberta,
            **config(tokenizer_class="RobertaTokenizer", additional_special_tokens=["<x>", "hello"]),
            **added(
                **{
                    "<x>": len(json.loads(roberta["vocab.json"])),
                    "hello": len(json.loads(roberta["vocab.json"])) + 1,
                    "World": len(json.loads(roberta["vocab.json"])) + 2,
                }
            ),
        },
        None,
    )
    yield (
        "roberta map",
        {
            **roberta,
            **config(tokenizer_class="RobertaTokenizer", extra_special_tokens=["<x>"], box_token="<box>"),
            **special_map(
                extra_special_tokens=["<y>", "<x>"],
                image_token={
                    "content": "<img>",
                    "lstrip": False,
                    "rstrip": True,
                    "normalized": False,
                    "single_word": False,
                },
            ),
        },
        None,
    )
    yield (
        "roberta named",
        {**roberta, **config(tokenizer_class="RobertaTokenizer", extra_special_tokens={"box_token": "<box>"})},
        None,
    )
    yield "bart", {**roberta, **config(tokenizer_class="BartTokenizer", model_max_length=64)}, None
    yield "bart by type", {**roberta}, "bart"
    yield "bert", {**bert, **config(tokenizer_class="BertTokenizer")}, None
    yield "bert by type", {**bert}, "bert"
    yield (
        "bert cased",
        {
            **bert,
            **config(
                tokenizer_class="BertTokenizerFast",
                do_lower_case=False,
                tokenize_chinese_chars=False,
                strip_accents=True,
                clean_up_tokenization_spaces=True,
                never_split=["[x]"],
            ),
        },
        None,
    )
    yield (
        "bert accents",
        {**bert, **config(tokenizer_class="BertTokenizer", strip_accents=False, extra_special_tokens=["[x]", "lazy"])},
        None,
    )
    yield "distilbert", {**bert, **config(tokenizer_class="DistilBertTokenizer", image_token="[IMG]")}, None
    yield "distilbert by type", {**bert}, "distilbert"
    yield (
        "bert decoder",
        {
            **bert,
            **config(
                tokenizer_class="BertTokenizer",
                added_tokens_decoder={
                    "0": {
                        "content": "[PAD]",
                        "lstrip": False,
                        "normalized": False,
                        "rstrip": False,
                        "single_word": False,
                        "special": True,
                    },
                    "2": {
                        "content": "[CLS]",
                        "lstrip": False,
                        "normalized": False,
                        "rstrip": False,
                        "single_word": False,
                        "special": True,
                    },
                    str(bert["vocab.txt"].count(b"\n")): {
                        "content": "quick",
                        "lstrip": False,
                        "normalized": True,
                        "rstrip": False,
                        "single_word": True,
                        "special": False,
                    }
                    if b"\nquick\n" not in bert["vocab.txt"]
                    else {
                        "content": "zzz",
                        "lstrip": False,
                        "normalized": True,
                        "rstrip": False,
                        "single_word": True,
                        "special": False,
                    },
                },
            ),
        },
        None,
    )
    for rule in ("nmt_nfkc", "identity"):
        yield f"xlm-r {rule}", {XLMR: spm(rule=rule), **config(tokenizer_class="XLMRobertaTokenizer")}, None
    yield (
        "xlm-r mask",
        {
            XLMR: spm(),
            **config(tokenizer_class="XLMRobertaTokenizer", mask_token=mask()),
            **special_map(mask_token="<mask>", bos_token="<s>", additional_special_tokens=["<s_ocr>"]),
        },
        None,
    )
    yield (
        "xlm-r donut",
        {
            XLMR: spm(user_defined_symbols="<sep/>"),
            **config(
                tokenizer_class="XLMRobertaTokenizer",
                additional_special_tokens=["<s_iitcdip>", "<s_synthdog>"],
                clean_up_tokenization_spaces=True,
            ),
        },
        None,
    )
    yield (
        "xlm-r user symbols",
        {
            XLMR: spm(user_defined_symbols="<sep/>,lazy", control_symbols="<ctl>"),
            **config(tokenizer_class="XLMRobertaTokenizer"),
        },
        None,
    )
    yield "xlm-r bpe", {XLMR: spm("bpe"), **config(tokenizer_class="XLMRobertaTokenizer")}, None
    yield "xlm-r by type", {XLMR: spm()}, "xlm-roberta"
    yield "camembert", {XLMR: spm(), **config(tokenizer_class="CamembertTokenizer")}, None
    yield "mbart", {XLMR: spm(), **config(tokenizer_class="MBartTokenizer")}, None
    yield "mbart language", {XLMR: spm(), **config(tokenizer_class="MBartTokenizer", src_lang="de_DE")}, None
    yield (
        "mbart extra",
        {XLMR: spm(), **config(tokenizer_class="MBartTokenizer", additional_special_tokens=["<x>", "en_XX"])},
        None,
    )
    yield "mbart50", {XLMR: spm(), **config(tokenizer_class="MBart50Tokenizer", src_lang="fr_XX")}, None
    for kind in ("unigram", "bpe"):
        yield (
            f"generic {kind}",
            {"tokenizer.model": spm(kind), **config(tokenizer_class="PreTrainedTokenizerFast", pad_token="<pad>")},
            None,
        )
    yield (
        "generic bytes",
        {
            "tokenizer.model": spm("bpe", byte_fallback=True),
            **config(tokenizer_class="PreTrainedTokenizerFast", add_bos_token=True, add_eos_token=True),
        },
        None,
    )


ALL = {name: (files, model_type) for name, files, model_type in cases()}
CONFIGS = {
    "gpt2": "GPT2Config",
    "roberta": "RobertaConfig",
    "bart": "BartConfig",
    "bert": "BertConfig",
    "distilbert": "DistilBertConfig",
    "xlm-roberta": "XLMRobertaConfig",
}


def write(files: Mapping[str, bytes], folder: Path) -> Path:
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def ved_config(folder: Path) -> None:
    parts = {"encoder": {"model_type": "vit"}, "decoder": {"model_type": "trocr"}}
    (folder / "config.json").write_text(json.dumps({"model_type": "vision-encoder-decoder", **parts}))


def theirs(files: Mapping[str, bytes], model_type: str | None = None) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        write(files, Path(folder))
        if model_type:
            getattr(transformers, CONFIGS[model_type])().save_pretrained(folder)
        else:
            ved_config(Path(folder))
        return transformers.AutoTokenizer.from_pretrained(folder)


@functools.cache
def both(name: str) -> tuple[Tokenizer, Any]:
    files, model_type = ALL[name]
    made = read_tokenizer(files, folder="folder", model_type=model_type)
    assert made is not None
    return made, theirs(files, model_type)


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
    "name", ["gpt2", "roberta", "bert", "bert cased", "xlm-r nmt_nfkc", "mbart50", "generic bytes"]
)
def test_what_transformers_saves(name: str, tmp_path: Path) -> None:
    """As tokenizer.json, with tokens added by a fine-tune."""
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
    """Its two vocabularies, where no class is named; transformers itself knows one of them only."""
    for name, like in (("roberta", "roberta by type"), ("xlm-r nmt_nfkc", "xlm-r by type")):
        files = {key: data for key, data in ALL[name][0].items() if key != "tokenizer_config.json"}
        made = read_tokenizer(files, folder="f", model_type="trocr")
        assert made is not None
        assert made.to_str() == both(like)[0].to_str()


def test_no_tokenizer() -> None:
    assert read_tokenizer({}, folder="f") is None
    assert read_tokenizer(config(tokenizer_class="BertTokenizer"), folder="f") is None


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
    started = time.perf_counter()
    with pytest.raises((TokenizerError, IncompatibleError), match=r"^[^\n]{1,300}$") as caught:
        read_tokenizer(files, folder="f")
    assert time.perf_counter() - started < 5
    assert word in str(caught.value)
    assert caught.value.hint
    assert str(caught.value.path).startswith("f")


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


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    long = b"\n" + b"\xe9\x0f" + b"\n" + b"\xe6\x0f" + b"a" * 2022
    with pytest.raises(CheckpointLimitError, match=XLMR):
        read_tokenizer({XLMR: long, **XLM}, folder="f")
    with pytest.raises(CheckpointLimitError, match="50,000"):
        read_tokenizer(bert_with(extra_special_tokens=[f"<{i}>" for i in range(50_001)]), folder="f")
    monkeypatch.setattr(ours, "MAX_FILE_BYTES", 1000)
    for name, (files, _) in {"bpe": ALL["gpt2"], "bert": ALL["bert"], "spm": ALL["mbart"]}.items():
        with pytest.raises(CheckpointLimitError, match="1,000"):
            read_tokenizer(files, folder=name)
