"""Hints about texts, tokenizers, batches and the files of a processor."""

from __future__ import annotations

import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor

import vedcore
from tests.hints.templates import told
from tests.model.tiny import tiny
from vedcore.components import VisionEncoder
from vedcore.config import EncoderConfig
from vedcore.outputs import EncoderOutput
from vedcore.processing import japanese
from vedcore.processing.tokenizers import make_tokenizer

PHOTO = Image.new("RGB", (24, 16), "red")


def captioner(**options: Any) -> Any:
    return tiny("bert", **{"tokenizer": "char", "token_ids": None, "decoder_vocab_size": 98, **options})


def alone(tokenizer: Any = "char", **settings: Any) -> vedcore.Processor:
    made = None if tokenizer is None else make_tokenizer(tokenizer)
    return vedcore.Processor(vedcore.Preprocessing(image_size=(16, 24), **settings), made)


def labels(processor: vedcore.Processor, *texts: str, **options: Any) -> Any:
    return processor(text=list(texts), **options).labels.tolist()


# -- calls of a processor -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "wrong", "right"),
    [
        ("give 'pt', or leave it out", {"return_tensors": "np"}, [{"return_tensors": "pt"}, {}]),
        (
            "give warn, error or ignore",
            {"on_unknown": "raise"},
            [{"on_unknown": word} for word in ("warn", "error", "ignore")],
        ),
        ("give a str", {"text": ["a", 5]}, [{"text": ["a", "5"]}]),
        ("give padding=True", {"padding": False}, [{"padding": True}]),
        ("give 1 or more", {"max_length": 0}, [{"max_length": 1}]),
        ("give True or False", {"truncation": "left"}, [{"truncation": False}, {"truncation": True, "max_length": 2}]),
        ("give max_length= too", {"truncation": True}, [{"truncation": True, "max_length": 2}]),
        (
            "give True, False or 'max_length'",
            {"padding": "left"},
            [{"padding": True}, {"padding": False, "text": "a"}, {"padding": "max_length", "max_length": 9}],
        ),
        ("give max_length= too", {"padding": "max_length"}, [{"padding": "max_length", "max_length": 9}]),
        (
            "give truncation=True",
            {"padding": "max_length", "max_length": 2, "truncation": False},
            [{"padding": "max_length", "max_length": 2, "truncation": True}],
        ),
        ("give images, text or both, one or more", {"text": None}, [{"text": "a"}, {"images": PHOTO, "text": "a"}]),
        ("give images, text or both, one or more", {"text": []}, [{"images": PHOTO, "text": None}]),
        ("give one text for each image", {"images": [PHOTO] * 3}, [{"images": [PHOTO] * 2}]),
        ("shorten it", {"text": "a" * 200_001}, [{"text": "a" * 1000}]),
        ("decode the text with errors='replace'", {"text": "a\ud800"}, [{"text": b"a\xed".decode(errors="replace")}]),
    ],
)
def test_calls_of_a_processor(template: str, wrong: dict[str, Any], right: list[dict[str, Any]]) -> None:
    processor = alone("byte")
    given = {"text": ["abc", "a"]}
    told(template, processor, **{**given, **wrong})
    for each in right:
        assert processor(**{**given, **each})


@pytest.mark.parametrize(
    ("template", "wrong", "right"),
    [
        ("give padding=True", {"return_tensors": "pt"}, {"return_tensors": "pt", "padding": True}),
        ("give 'pt', or leave it out", {"return_tensors": "np"}, {}),
        ("give max_length= too", {"padding": "max_length"}, {"padding": "max_length", "max_length": 9}),
        (
            "give truncation=True",
            {"padding": "max_length", "max_length": 2},
            {"padding": "max_length", "max_length": 2, "truncation": True},
        ),
    ],
)
def test_calls_of_a_tokenizer(template: str, wrong: dict[str, Any], right: dict[str, Any]) -> None:
    tokenizer: Any = alone().tokenizer
    told(template, tokenizer, ["abc", "a"], **wrong)
    assert len(tokenizer(["abc", "a"], **right).input_ids) == 2


@pytest.mark.parametrize("examples", [[5], [{"a": 1}], [{"text": "a"}, {"labels": [1]}]])
def test_examples_of_a_batch(examples: list[Any]) -> None:
    processor = alone()
    template = "give mappings of the same names (pixel_values or image, labels or text), or pairs (image, text)"
    told(template, processor.collate, examples)
    pixels = processor(PHOTO).pixel_values[0]
    for good in ([{"image": PHOTO, "text": "a"}], [{"pixel_values": pixels, "labels": [68, 1]}], [(PHOTO, "a")]):
        batch = processor.collate(good)
        assert batch.labels.tolist() == [[68, 1]]
        assert torch.equal(batch.pixel_values[0], pixels)


class Own(VisionEncoder):
    """An encoder that prepares images itself, into a form that may be wrong."""

    config_class = EncoderConfig
    hidden_size = 4
    made = torch.zeros(1, 8, 8)

    def num_tokens(self, image_size: tuple[int, int] | None = None) -> int:
        return 1

    def preprocess(self, image: Image.Image) -> Tensor:
        return self.made

    def forward(self, pixel_values: Tensor, **_: Any) -> EncoderOutput:
        raise NotImplementedError


@pytest.mark.parametrize("wrong", [torch.zeros(8, 8), torch.zeros(1, 8, 8), torch.zeros(3, 8, 8).int()])
def test_an_encoder_that_prepares_images(wrong: Tensor) -> None:
    encoder = Own()
    processor = vedcore.Processor(vedcore.Preprocessing(image_size=(8, 8)), encoder=encoder)
    encoder.made = wrong
    error = told("it must give ({…}, H, W) float", processor, PHOTO)
    assert "(3, H, W)" in error.hint
    encoder.made = torch.zeros(3, 8, 8)
    assert processor(PHOTO).pixel_values.shape == (1, 3, 8, 8)


# -- no tokenizer, no ids -------------------------------------------------------------------------------------------


def test_no_tokenizer(tmp_path: Path) -> None:
    template = "give tokenizer= to vedcore.load or compose, or set processor.tokenizer to a tokenizer.json"
    model, file = captioner(tokenizer=None, token_ids={"start": 0, "eos": (1,), "pad": 2}), tmp_path / "tokenizer.json"
    make_tokenizer("char").save(str(file))
    told(template, model.processor, text="a")
    model.save_pretrained(tmp_path / "m")
    assert labels(vedcore.load(tmp_path / "m", tokenizer=file).processor, "a") == [[68, 1]]
    assert labels(captioner(tokenizer=file).processor, "a") == [[68, 1]]
    told(template, alone(None).decode, [68])
    for processor in (model.processor, alone(None)):
        processor.tokenizer = file
        processor.token_ids = processor.token_ids.changed(eos=(1,))
        assert labels(processor, "a") == [[68, 1]]
    assert model.generate_text(PHOTO, prompt="a", max_new_tokens=2)[0].text


def test_no_end_id() -> None:
    model = captioner(token_ids={"start": 0, "pad": 2, "eos": ()})
    for owner, processor in ((model, model.processor), (one := alone(), one)):
        owner.token_ids = owner.token_ids.changed(eos=())
        told(
            "set model.token_ids = model.token_ids.changed(eos=(…,)), or those of a processor alone",
            processor,
            text="a",
        )
        owner.token_ids = owner.token_ids.changed(eos=(1,))
        assert labels(processor, "a") == [[68, 1]]


def test_no_pad_id() -> None:
    model = captioner(token_ids={"start": 0, "eos": (1,)})
    for owner, processor in ((model, model.processor), (one := alone(), one)):
        owner.token_ids = owner.token_ids.changed(pad=None)
        told(
            "set model.token_ids = model.token_ids.changed(pad=…), or those of a processor alone",
            processor.tokenizer,
            ["a", "bb"],
            padding=True,
        )
        owner.token_ids = owner.token_ids.changed(pad=2)
        assert processor.tokenizer(["a", "bb"], padding=True).input_ids == [[68, 2], [69, 69]]


def test_roles_of_tokens() -> None:
    model = captioner()
    for owner, processor in ((model, model.processor), (one := alone(), one)):
        told(
            "set model.token_ids = model.token_ids.changed(start=…), or those of a processor alone",
            setattr,
            processor.tokenizer,
            "bos_token",
            "x",
        )
        owner.token_ids = owner.token_ids.changed(start=7, pad=5, eos=6)
        assert (processor.tokenizer.pad_token_id, processor.tokenizer.eos_token_id) == (5, 6)


def test_a_token_that_there_is_not() -> None:
    model = captioner()
    template = "add it with model.add_tokens([…], special_tokens=True) first"
    told(template, setattr, model.processor.tokenizer, "pad_token", "<fill>")
    model.add_tokens(["<fill>"], special_tokens=True)
    model.processor.tokenizer.pad_token = "<fill>"
    assert model.token_ids.pad == model.processor.tokenizer.pad_token_id == 98


@pytest.mark.parametrize("role", ["cls", "sep", "mask", "unk"])
def test_roles_that_only_a_tokenizer_has(role: str) -> None:
    model = captioner()
    tokenizer = model.processor.tokenizer
    error = told("add {…} with model.add_tokens([…], special_tokens=True)", setattr, tokenizer, f"{role}_token", "x")
    token = error.hint.split()[1]
    model.add_tokens([token], special_tokens=True)
    assert getattr(tokenizer, f"{role}_token") == token
    assert model.decoder.vocab_size == 99


def test_settings_that_a_tokenizer_does_not_have() -> None:
    tokenizer: Any = alone().tokenizer
    error = told("a call takes {…}", setattr, tokenizer, "padding", True)
    assert "padding" in error.hint.split(", ")
    assert tokenizer(["a", "bb"], padding=True).input_ids == [[68, 2], [69, 69]]


def test_roles_given_as_in_transformers() -> None:
    model = captioner()
    tokenizer = model.processor.tokenizer
    template = "add it with model.add_tokens([…], special_tokens=True), and set model.token_ids"
    told(template, tokenizer.add_special_tokens, {"pad_token": "[PAD]"})
    model.add_tokens(["[PAD]"], special_tokens=True)
    model.token_ids = model.token_ids.changed(pad=tokenizer.token_to_id("[PAD]"))
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("[PAD]", 98)


# -- texts without tokens -------------------------------------------------------------------------------------------


def test_a_character_without_a_token() -> None:
    model = captioner()
    template = "leave it out, or add it with model.extend_alphabet({…})"
    for call in (lambda: model.processor(text="é"), lambda: model.generate_text(PHOTO, prompt="é")):
        told(template, call)
    assert labels(model.processor, "") == [[1]]
    assert model.extend_alphabet("é") == "é"
    assert labels(model.processor, "aé") == [[68, 98, 1]]
    assert "é" in model.generate_text(PHOTO, prompt="é", max_new_tokens=2)[0].text


def unknowing(pieces: str, unk: str | None = "?") -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces.split())}, unk_token=unk or "-"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def test_pieces_that_become_the_unknown_token() -> None:
    model = captioner(tokenizer=unknowing("<s> </s> ? a ##b"), decoder_vocab_size=5)
    template = "add what is missing with model.add_tokens([…]), or pass on_unknown='warn'"
    told(template, model.processor, text="a dog", on_unknown="error")
    with pytest.warns(UserWarning, match="'dog'"):
        assert labels(model.processor, "a dog", on_unknown="warn") == [[3, 2, 1]]
    model.add_tokens(["dog"])
    assert labels(model.processor, "a dog", on_unknown="error") == [[3, 5, 1]]


def test_a_text_that_the_library_cannot_encode() -> None:
    processor = alone()
    processor.tokenizer = unknowing("<s> </s> a b ab", unk=None)
    told("try another text, or another tokenizer", processor, text="ba")
    assert labels(processor, "ab") == [[4, 1]]
    processor.tokenizer = "char"
    assert labels(processor, "ba") == [[69, 68, 1]]


def test_a_name_that_cannot_be_spelt_out() -> None:
    processor = alone()
    pieces = [("<s>", 0.0), ("</s>", 0.0), ("a", -1.0), ("?", -9.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.add_special_tokens(["<s>", "</s>"])
    processor.tokenizer = tokenizer
    hostile = "a</s>\U0010fffd0"
    told("leave it out of the text", processor, text=hostile, untrusted=True, on_unknown="ignore")
    assert labels(processor, hostile.replace("</s>", ""), untrusted=True, on_unknown="ignore")


# -- ids to text ----------------------------------------------------------------------------------------------------


def test_rows_of_ids() -> None:
    processor = alone()
    rows = torch.tensor([[68, 69], [70, 1]])
    told("for several rows use batch_decode", processor.decode, rows)
    assert processor.batch_decode(rows) == ["ab", "c"]


@pytest.mark.parametrize("ids", [[-5], [1 << 40]])
def test_ids_that_no_tokenizer_has(ids: list[int]) -> None:
    processor = alone()
    told("give ids of this tokenizer", processor.decode, ids)
    assert processor.decode(labels(processor, "ab")[0]) == "ab"


# -- tokenizers -----------------------------------------------------------------------------------------------------


class Upper:
    def normalize(self, text: Any) -> None:
        text.uppercase()


def test_names_of_tokenizers(tmp_path: Path) -> None:
    processor, file = alone(None), tmp_path / "tokenizer.json"
    make_tokenizer("char").save(str(file))
    told("give 'char', 'byte' or the path of a tokenizer.json", setattr, processor, "tokenizer", "no/such/file")
    told("give 'char', 'byte', a path or a tokenizers.Tokenizer", setattr, processor, "tokenizer", {"name": "char"})
    assert told("did you mean {…}?", setattr, processor, "tokenizer", "chars").hint == "did you mean 'char'?"
    for name in ("char", "byte", file, str(file), make_tokenizer("char")):
        processor.tokenizer = name
        assert len(processor.tokenizer) in (98, 259)


def test_tokenizers_from_texts(tmp_path: Path) -> None:
    template = "give vedcore.make_tokenizer('bpe', texts=[…]), or take 'byte', which learns nothing"
    told(template, vedcore.make_tokenizer, "bpe")
    told("leave vocab_size out, or make a 'bpe'", vedcore.make_tokenizer, "char", vocab_size=300)
    told("leave texts out, or give 'char' or 'bpe'", vedcore.make_tokenizer, "byte", texts=["a"])
    told("give a list of texts", vedcore.make_tokenizer, "bpe", texts="a")
    told("give a list of texts", vedcore.make_tokenizer, "char", texts=[1])
    told("give a number of {…} or more", vedcore.make_tokenizer, "bpe", texts=["a"], vocab_size=3)
    file = tmp_path / "tokenizer.json"
    vedcore.make_tokenizer("bpe", texts=["a"], vocab_size=300).save(str(file))
    told("give 'char' or 'bpe'", vedcore.make_tokenizer, file, texts=["a"])
    assert len(vedcore.make_tokenizer(file).get_vocab()) == 259
    assert len(vedcore.make_tokenizer("char", texts=["a"]).get_vocab()) == 4
    assert len(vedcore.make_tokenizer("byte").get_vocab()) == 259


def test_a_tokenizer_with_parts_of_a_program(tmp_path: Path) -> None:
    own = make_tokenizer("char")
    own.normalizer = normalizers.Normalizer.custom(Upper())
    told("use parts that the tokenizers library can save", captioner, tokenizer=own)
    model = captioner()
    model.processor.tokenizer.normalizer = normalizers.Normalizer.custom(Upper())
    told("use parts that the tokenizers library can save", model.save_pretrained, tmp_path / "t", format="transformers")
    own.normalizer = model.processor.tokenizer.normalizer = normalizers.Lowercase()
    assert labels(captioner(tokenizer=own).processor, "A") == [[68, 1]]
    model.save_pretrained(tmp_path / "t", format="transformers")


@pytest.mark.parametrize("alphabet", ["char:", "char:aba"])
def test_alphabets(alphabet: str) -> None:
    template = "write each character once, as in 'char:0123456789'"
    told(template, captioner, tokenizer=alphabet)
    assert labels(captioner(tokenizer="char:0123456789", decoder_vocab_size=13).processor, "19") == [[4, 12, 1]]


def char_file(**changes: Any) -> bytes:
    plain = json.loads(make_tokenizer("char:ab").to_str())
    for path, value in changes.items():
        here = plain
        *way, last = path.split("__")
        for key in way:
            here = here[key]
        here[last] = value
    return json.dumps(plain).encode()


BPE = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "<s>": 3, "</s>": 4, "<pad>": 5}, "merges": [["a", "b"]]}
BPE_FILE = {"model": BPE, "added_tokens": [], "pre_tokenizer": None, "decoder": None}
WRITTEN = "give a tokenizer.json that the tokenizers library has written"


@pytest.mark.parametrize(
    ("template", "wrong", "right"),
    [
        (WRITTEN, b"{", char_file()),
        (WRITTEN, b"", char_file()),
        (WRITTEN, b"{}", char_file()),
        (WRITTEN, char_file(version="2.0"), char_file()),
        (WRITTEN, char_file(model__type="Words"), char_file()),
        (
            "make it smaller",
            char_file(
                truncation={"max_length": 200_000, "stride": 0, "direction": "Right", "strategy": "LongestFirst"}
            ),
            char_file(truncation={"max_length": 2000, "stride": 0, "direction": "Right", "strategy": "LongestFirst"}),
        ),
        (
            "copy the file again",
            char_file(**{**BPE_FILE, "model": {**BPE, "merges": [["b", "a"]]}}),
            char_file(**BPE_FILE),
        ),
        (
            "make it null if tokens have no such prefix",
            char_file(**{**BPE_FILE, "model": {**BPE, "continuing_subword_prefix": "##"}}),
            char_file(**{**BPE_FILE, "model": {**BPE, "continuing_subword_prefix": None}}),
        ),
        ("give each token its own id", char_file(model__vocab__b=3), char_file(model__vocab__b=4)),
        ("number from 0", char_file(model__vocab__b=1 << 30), char_file(model__vocab__b=4)),
        (
            "number added tokens from the end of the vocabulary",
            char_file(added_tokens=[{**json.loads(char_file())["added_tokens"][0], "content": "<x>", "id": 9}]),
            char_file(added_tokens=[{**json.loads(char_file())["added_tokens"][0], "content": "<x>", "id": 5}]),
        ),
    ],
)
def test_files_of_tokenizers(template: str, wrong: bytes, right: bytes, tmp_path: Path) -> None:
    processor, file = alone(), tmp_path / "tokenizer.json"
    file.write_bytes(wrong)
    told(template, setattr, processor, "tokenizer", file)
    file.write_bytes(right)
    processor.tokenizer = file
    assert labels(processor, "a", "b")


def test_a_file_that_is_no_tokenizer(tmp_path: Path) -> None:
    processor, file = alone(), tmp_path / "model.safetensors"
    file.touch()
    os.truncate(file, 300_000_000)
    told(WRITTEN, setattr, processor, "tokenizer", file)
    (tmp_path / "tokenizer.json").write_bytes(char_file())
    processor.tokenizer = tmp_path / "tokenizer.json"
    assert labels(processor, "ab") == [[3, 4, 1]]


def test_japanese_words_without_mecab(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fugashi")
    pytest.importorskip("ipadic")
    processor = alone()
    tokenizer = unknowing("<s> </s> ? 日本 語")
    tokenizer.normalizer = normalizers.Sequence([japanese.mecab_mark("ipadic")])
    processor.tokenizer = pickle.loads(pickle.dumps(tokenizer))
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "fugashi", None)
        japanese.require_mecab.cache_clear()
        told("pip install 'vedcore[japanese]'{…}", processor, text="日本")
    assert labels(processor, "日本") == [[3, 1]]


# -- files of a processor -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"{", b"[]"])
def test_settings_of_images_that_are_damaged(data: bytes, tmp_path: Path) -> None:
    whole = alone().to_files()
    told("copy the file again", vedcore.Processor.from_files, {**whole, "preprocessor_config.json": data})
    told("give it too, as processor.to_files() does", vedcore.Processor.from_files, {})
    assert labels(vedcore.Processor.from_files(whole), "a") == [[68, 1]]


def test_settings_of_images_that_contradict_each_other(tmp_path: Path) -> None:
    model = captioner()
    model.save_pretrained(tmp_path / "m")
    file = tmp_path / "m" / "preprocessor_config.json"
    whole = json.loads(file.read_text())
    file.write_text(json.dumps({**whole, "do_resize": False}))
    template = "leave {…} out: it follows from image_size, interpolation and resize_mode"
    assert "do_resize" in told(template, vedcore.Processor.from_pretrained, tmp_path / "m").hint
    told(
        template + ", or give preprocessing= to vedcore.load or compose, which do not read it then",
        vedcore.load,
        tmp_path / "m",
    )
    given = vedcore.load(tmp_path / "m", preprocessing=model.processor.preprocessing)
    assert given.processor.preprocessing == model.processor.preprocessing
    file.write_text(json.dumps({key: value for key, value in whole.items() if key != "do_resize"}))
    for processor in (vedcore.load(tmp_path / "m").processor, vedcore.Processor.from_pretrained(tmp_path / "m")):
        assert torch.equal(processor(PHOTO).pixel_values, model.processor(PHOTO).pixel_values)
