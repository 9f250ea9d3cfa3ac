"""Files of transformers' tokenizers, trained on a small corpus, and what transformers makes of them."""

from __future__ import annotations

import functools
import io
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import sentencepiece
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from vedcore.hf.tokenizers import read_tokenizer

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
def wordpiece(*special: str) -> dict[str, bytes]:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = list(special or ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=names, show_progress=False)
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
    for name in ("Electra", "MobileBert", "SqueezeBert"):
        cased = config(tokenizer_class=f"{name}Tokenizer", do_lower_case=name != "MobileBert")
        yield name.lower(), {**bert, **cased}, None
        yield f"{name.lower()} by type", {**bert}, name.lower()
    mpnet = wordpiece("<s>", "<pad>", "</s>", "<unk>", "[UNK]", "<mask>")
    yield "mpnet", {**mpnet, **config(tokenizer_class="MPNetTokenizer")}, None
    yield "mpnet mask", {**mpnet, **config(tokenizer_class="MPNetTokenizerFast", mask_token=mask())}, None
    yield "mpnet by type", {**mpnet}, "mpnet"
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
    yield "camembert by type", {XLMR: spm()}, "camembert"
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
    "electra": "ElectraConfig",
    "mobilebert": "MobileBertConfig",
    "squeezebert": "SqueezeBertConfig",
    "mpnet": "MPNetConfig",
    "camembert": "CamembertConfig",
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
