"""Arguments of `vedcore.load` in place of a folder's own files, and transformers' names of its arguments."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from PIL import Image
from tokenizers import Tokenizer, models

import vedcore

WORDS = ["<s>", "</s>", "<pad>", "<unk>", *"abcdefgh "]
SIZES = {
    "encoder_hidden_size": 24,
    "encoder_num_hidden_layers": 1,
    "encoder_num_attention_heads": 2,
    "encoder_intermediate_size": 40,
    "encoder_patch_size": 8,
    "decoder_n_embd": 36,
    "decoder_n_layer": 1,
    "decoder_n_head": 3,
    "decoder_n_positions": 20,
}


def tokenizer_of(words: list[str] = WORDS) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.add_special_tokens(words[:3])
    return tokenizer


@pytest.fixture(scope="module")
def model() -> vedcore.VisionEncoderDecoder:
    made = vedcore.compose(
        "vit", "gpt2", image_size=16, tokenizer=tokenizer_of(), token_ids={"start": 4, "eos": (1,), "pad": 2}, **SIZES
    )
    made.generation_config = vedcore.GenerationConfig(num_beams=2, max_length=7)
    return made


@pytest.fixture(params=["native", "transformers"])
def folder(tmp_path: Path, request: pytest.FixtureRequest, model: vedcore.VisionEncoderDecoder) -> Path:
    model.save_pretrained(tmp_path / "model", format=request.param)
    return tmp_path / "model"


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message=".* never trained")
        yield


def assert_same(a: vedcore.VisionEncoderDecoder, b: vedcore.VisionEncoderDecoder) -> None:
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert (a.token_ids, a.generation_config) == (b.token_ids, b.generation_config)


# -- in place of files that cannot be read ----------------------------------------------------------------------


def garbage(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")


def newer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text(json.dumps({"version": "2.0", "model": {"type": "Unheard"}}))


def endless(folder: Path) -> None:
    with open(folder / "tokenizer.json", "wb") as file:
        file.truncate(300_000_000)


def link(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("/etc/hostname")


@pytest.mark.parametrize("damage", [garbage, newer, endless, link])
def test_a_tokenizer_that_cannot_be_read(folder: Path, damage: Any, model: vedcore.VisionEncoderDecoder) -> None:
    damage(folder)
    with pytest.raises(vedcore.VedcoreError, match="or give tokenizer= to vedcore.load") as caught:
        vedcore.load(folder)
    assert len(str(caught.value)) <= 300
    tokenizer_of().save(str(folder.with_name("own.json")))
    fast = hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer_of())
    for tokenizer in (tokenizer_of(), str(folder.with_name("own.json")), folder.with_name("own.json"), fast):
        loaded = vedcore.load(folder, tokenizer=tokenizer)
        assert_same(loaded, model)
        assert loaded.processor.tokenizer is not None
        assert loaded.processor.tokenizer.token_to_id("h") == WORDS.index("h")
    loaded.save_pretrained(folder.with_name("mended"))
    assert vedcore.load(folder.with_name("mended")).generate_text(Image.new("RGB", (16, 16)))[0].text is not None


def test_a_tokenizer_of_a_class_that_is_not_read(model: vedcore.VisionEncoderDecoder, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, format="transformers")
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertJapaneseMystery"}))
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(vedcore.TokenizerError, match="or give tokenizer= to vedcore.load"):
        vedcore.load(tmp_path)
    assert_same(vedcore.load(tmp_path, tokenizer=tokenizer_of()), model)


def test_a_native_folder_whose_tokenizer_is_gone(model: vedcore.VisionEncoderDecoder, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(vedcore.TokenizerError, match="or give tokenizer= to vedcore.load"):
        vedcore.load(tmp_path)
    assert_same(vedcore.load(tmp_path, tokenizer=tokenizer_of()), model)


def test_another_tokenizer_than_a_good_one(folder: Path) -> None:
    other = tokenizer_of([*WORDS[:4], *"hgfedcba "])
    loaded = vedcore.load(folder, tokenizer=other)
    assert loaded.processor.decode([4, 5]) == "h g"
    assert loaded.token_ids.start == 4
    with pytest.raises(vedcore.IncompatibleError, match="the tokenizer has 98 tokens, the decoder 13"):
        vedcore.load(folder, tokenizer="char")
    with pytest.raises(vedcore.TokenizerError, match="no such file"):
        vedcore.load(folder, tokenizer="missing.json")


@pytest.mark.parametrize("text", ["{", '{"image_processor_type": "Unheard", "size": {"longest_edge": 3}}', "[]"])
def test_preprocessing_that_cannot_be_read(folder: Path, text: str, model: vedcore.VisionEncoderDecoder) -> None:
    (folder / "preprocessor_config.json").write_text(text)
    with pytest.raises(vedcore.ConfigError, match="or give preprocessing= to vedcore.load") as caught:
        vedcore.load(folder)
    assert len(str(caught.value)) <= 300
    given = {"image_size": (16, 16), "image_mean": (0.1, 0.2, 0.3)}
    for preprocessing in (given, vedcore.Preprocessing.parse(given)):
        loaded = vedcore.load(folder, preprocessing=preprocessing)
        assert_same(loaded, model)
        assert loaded.processor.preprocessing == loaded.config.preprocessing == vedcore.Preprocessing.parse(given)
    loaded.save_pretrained(folder)
    assert vedcore.load(folder).processor.preprocessing == loaded.processor.preprocessing


def test_preprocessing_where_the_folder_has_none(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    assert vedcore.load(folder, preprocessing={"image_size": [16, 16]}).processor.preprocessing.image_size == (16, 16)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"image_sise": 3}, "image_size"),
        ({"image_size": "large"}, "image_size"),
        ("squash", "object expected, got str"),
        ({}, "image_size"),
    ],
)
def test_preprocessing_that_is_wrong(folder: Path, given: Any, says: str) -> None:
    with pytest.raises(vedcore.ConfigError, match=rf"^preprocessing.*{says}"):
        vedcore.load(folder, preprocessing=given)


def test_images_of_a_size_that_is_not_one(folder: Path) -> None:
    for size in ("large", (1, 2, 3), 0, -5, (16.5, 16), True):
        with pytest.raises(vedcore.ConfigError, match="^image_size"):
            vedcore.load(folder, image_size=size)  # type: ignore[arg-type]


# -- transformers' names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_types_by_both_names(folder: Path, name: str) -> None:
    stored = vedcore.load(folder)
    assert_same(vedcore.load(folder, **{name: "auto"}), stored)
    for dtype in ("bfloat16", torch.bfloat16):
        assert vedcore.load(folder, **{name: dtype}).dtype == torch.bfloat16
    with pytest.raises(vedcore.UsageError, match="is not a type of weights"):
        vedcore.load(folder, **{name: "float8"})


def test_auto_is_the_stored_type(tmp_path: Path, model: vedcore.VisionEncoderDecoder) -> None:
    model.save_pretrained(tmp_path, format="transformers", weights_dtype="bfloat16")
    theirs = hf.VisionEncoderDecoderModel.from_pretrained(tmp_path, dtype="auto")
    assert vedcore.load(tmp_path, dtype="auto").dtype == vedcore.load(tmp_path).dtype == theirs.dtype


def test_a_type_given_twice(folder: Path) -> None:
    with pytest.raises(vedcore.UsageError, match="torch_dtype: dtype is given too"):
        vedcore.load(folder, dtype="float32", torch_dtype="float32")


@pytest.mark.parametrize(
    "places", ["cpu", "auto", {"": "cpu"}, {"encoder": "cpu", "decoder": "cpu"}, torch.device("cpu")]
)
def test_a_map_of_one_device(folder: Path, places: Any, model: vedcore.VisionEncoderDecoder) -> None:
    loaded = vedcore.load(folder, device_map=places)
    assert loaded.device.type == ("cuda" if places == "auto" and torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    ("places", "says"),
    [
        ({"encoder": "cpu", "decoder": 0}, "names 2 devices"),
        ({}, "names no devices"),
        ("disk", "'disk' cannot be used"),
        (77, "'cuda:77' cannot be used"),
    ],
)
def test_a_map_of_other_devices(folder: Path, places: Any, says: str) -> None:
    with pytest.raises(vedcore.UsageError, match=says) as caught:
        vedcore.load(folder, device_map=places)
    assert "device" in str(caught.value)
    with pytest.raises(vedcore.UsageError, match="device_map: device is given too"):
        vedcore.load(folder, device="cpu", device_map="cpu")


def test_from_pretrained(folder: Path, model: vedcore.VisionEncoderDecoder) -> None:
    cls = vedcore.VisionEncoderDecoder
    assert_same(cls.from_pretrained(folder), model)
    assert_same(cls.from_pretrained(str(folder), tokenizer=tokenizer_of()), model)
    assert cls.from_pretrained(pretrained_model_name_or_path=folder, torch_dtype="float64").dtype == torch.float64
    with pytest.raises(vedcore.UsageError, match="revison: unknown argument; did you mean 'revision'"):
        cls.from_pretrained(folder, revison="main")
    with pytest.raises(vedcore.UsageError, match="there are: image_size"):
        cls.from_pretrained(folder, quux=True)


# -- hints, followed from where they are given ------------------------------------------------------------------


def test_without_a_tokenizer_the_hint_is_followed(tmp_path: Path) -> None:
    vedcore.compose("vit", "gpt2", image_size=16, decoder_vocab_size=13, **SIZES).save_pretrained(tmp_path / "bare")
    tokenizer_of().save(str(tmp_path / "tokenizer.json"))
    pixels, path = torch.zeros(1, 3, 16, 16), str(tmp_path / "bare")
    bare = vedcore.load(path)
    bare.token_ids = vedcore.TokenIds(start=0, eos=(1,), pad=2)
    for call in (
        lambda model: model.generate_text(Image.new("RGB", (16, 16))),
        lambda model: model.generate(pixels, allowed_chars="abc"),
        lambda model: model.processor(text="a"),
    ):
        with pytest.raises(vedcore.VedcoreError, match="give tokenizer=.* to vedcore.load or compose"):
            call(bare)
        for model in (
            vedcore.load(path, tokenizer=str(tmp_path / "tokenizer.json")),
            vedcore.compose(path, path, tokenizer=str(tmp_path / "tokenizer.json")),
        ):
            model.token_ids = bare.token_ids
            call(model)


def test_without_ids_the_hint_is_followed(tmp_path: Path) -> None:
    composed = vedcore.compose(
        "vit", "gpt2", image_size=16, tokenizer=tokenizer_of(), token_ids=vedcore.TokenIds(), **SIZES
    )
    composed.save_pretrained(tmp_path)
    pixels, labels = torch.zeros(1, 3, 16, 16), torch.tensor([[5, 1]])
    for model in (composed, vedcore.load(tmp_path)):
        with pytest.raises(vedcore.TokenizerError, match=r"model\.token_ids = model\.token_ids\.changed\(eos"):
            model.processor(text="a")
        with pytest.raises(vedcore.UsageError, match=r"set model\.token_ids = model\.token_ids\.changed\(start"):
            model(pixels, labels=labels)
        model.token_ids = model.token_ids.changed(start=0)
        with pytest.raises(vedcore.UsageError, match=r"set model\.token_ids = model\.token_ids\.changed\(pad"):
            model(pixels, labels=labels)
        model.token_ids = model.token_ids.changed(pad=2, eos=(1,))
        assert model(pixels, labels=labels).loss.isfinite()
        assert model.processor(text="a")["labels"].tolist() == [[4, 1]]


def test_past_the_positions_the_hint_is_followed(folder: Path) -> None:
    model = vedcore.load(folder)
    pixels, ids = torch.zeros(1, 3, 16, 16), torch.zeros(1, 25, dtype=torch.long)
    with pytest.raises(vedcore.IncompatibleError, match="cut the text to 20 tokens"):
        model(pixels, decoder_input_ids=ids)
    model(pixels, decoder_input_ids=ids[:, :20])


def test_states_of_another_width_the_hint_is_followed(folder: Path) -> None:
    model = vedcore.load(folder)
    encoded, ids = model.encode(torch.zeros(1, 3, 16, 16)), torch.zeros(1, 2, dtype=torch.long)
    with pytest.raises(vedcore.IncompatibleError, match=r"model\.project made of what model\.encode gave"):
        model.decoder(ids, encoder_hidden_states=encoded.last_hidden_state)
    model.decoder(ids, encoder_hidden_states=model.project(encoded)[0])
