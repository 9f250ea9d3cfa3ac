"""The processor makes a batch of images and texts, and texts of ids."""

from __future__ import annotations

import copy
import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from vedcore.components import VisionEncoder
from vedcore.config import EncoderConfig, Preprocessing, TokenIds
from vedcore.errors import (
    ConfigSchemaError,
    ImageDecodeError,
    ImageLimitError,
    IncompatibleError,
    TokenizerError,
    UsageError,
)
from vedcore.model_files import PREPROCESSOR_CONFIG, TOKENIZER
from vedcore.outputs import EncoderOutput
from vedcore.processing.preparation import prepare_image
from vedcore.processing.processor import Processor, make_tokenizer

RANDOM = np.random.default_rng(0)


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(RANDOM.integers(0, 256, (height, width, 3), np.uint8))


def settings_of(**fields: Any) -> Preprocessing:
    return Preprocessing.parse({"image_size": (8, 12), **fields})


# -- prepare_image --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(30, 50), (5, 7), (8, 12), (200, 3)])
def test_squash_is_what_transformers_does(interpolation: str, size: tuple[int, int]) -> None:
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    preprocessing = settings_of(interpolation=interpolation, image_mean=(0.4, 0.5, 0.6), image_std=(0.2, 0.3, 0.25))
    image = noise(*size)
    theirs = ViTImageProcessorPil(
        size={"height": 8, "width": 12},
        resample=Image.Resampling[interpolation.upper()],
        image_mean=[0.4, 0.5, 0.6],
        image_std=[0.2, 0.3, 0.25],
    )(image, return_tensors="pt")["pixel_values"][0]
    ours = prepare_image(image, preprocessing)
    assert ours.shape == (3, 8, 12)
    assert ours.dtype == torch.float32
    assert ours.is_contiguous()
    assert (ours - theirs).abs().max() <= 1e-5


def test_crop_takes_the_middle() -> None:
    pixels = np.zeros((8, 36, 3), np.uint8)
    pixels[:, 12:24] = 255
    out = prepare_image(
        Image.fromarray(pixels), settings_of(resize_mode="crop", image_mean=(0.0,) * 3, image_std=(1.0,) * 3)
    )
    assert out.shape == (3, 8, 12)
    assert bool((out == 1).all())
    tall = prepare_image(noise(100, 6), settings_of(resize_mode="crop"))
    assert tall.shape == (3, 8, 12)


def test_pad_fits_inside_and_fills_with_the_mean() -> None:
    white = Image.new("RGB", (4, 8), "white")
    out = prepare_image(white, settings_of(resize_mode="pad"))
    assert bool((out[:, :, 4:8] == 1).all())
    assert not out[:, :, :4].any()
    assert not out[:, :, 8:].any()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from(["squash", "crop", "pad"]),
)
def test_any_size_becomes_the_size(height: int, width: int, to_height: int, to_width: int, mode: str) -> None:
    out = prepare_image(
        Image.new("RGB", (width, height), "white"), settings_of(image_size=(to_height, to_width), resize_mode=mode)
    )
    assert out.shape == (3, to_height, to_width)
    if mode != "pad":
        assert bool((out == 1).all())


@pytest.mark.parametrize("mode", ["squash", "crop", "pad"])
def test_a_thin_line_of_a_million_pixels(mode: str) -> None:
    assert prepare_image(Image.new("RGB", (1_000_000, 1)), settings_of(resize_mode=mode)).shape == (3, 8, 12)


def test_grey_is_made_rgb_first() -> None:
    assert prepare_image(Image.new("L", (5, 5)), settings_of()).shape == (3, 8, 12)


WHITE: dict[str, Any] = {"image_mean": (0.0,) * 3, "image_std": (1.0,) * 3}


def test_padding_and_cropping_add_black() -> None:
    dot = Image.new("RGB", (3, 3), "white")
    padded = prepare_image(dot, settings_of(resize_mode="none", do_pad=True, **WHITE))
    assert padded.shape == (3, 8, 12)
    assert padded[0].nonzero().amin(0).tolist() == [2, 4]  # the odd pixel is at the bottom and at the right
    cropped = prepare_image(dot, settings_of(resize_mode="none", do_center_crop=True, **WHITE))
    assert cropped[0].nonzero().amin(0).tolist() == [3, 5]
    assert padded.sum() == cropped.sum() == 27


def test_images_that_keep_their_size() -> None:
    assert prepare_image(noise(5, 7), settings_of(resize_mode="none")).shape == (3, 5, 7)
    assert prepare_image(noise(5, 7), settings_of(resize_mode="shortest_edge")).shape == (3, 8, 11)
    with pytest.raises(IncompatibleError, match="5 x 7, 4 x 4"):
        Processor(settings_of(resize_mode="none"))([noise(5, 7), noise(4, 4)])


def test_margins_turning_and_thumbnails() -> None:
    page = Image.new("RGB", (60, 40), "white")
    page.paste("black", (10, 20, 14, 30))
    cut = settings_of(resize_mode="none", do_crop_margin=True, do_align_long_axis=True, **WHITE)
    assert prepare_image(page, cut).shape == (3, 4, 10)
    assert prepare_image(Image.new("RGB", (9, 9), "white"), cut).shape == (3, 9, 9)  # nothing but margin
    thumbnail = settings_of(resize_mode="none", thumbnail="interpolation")
    assert prepare_image(noise(100, 2), thumbnail).shape == (3, 8, 1)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"resize_mode": "pad", "do_pad": True}, "do_pad: nothing is left"),
        ({"resize_mode": "crop", "do_center_crop": True}, "do_center_crop: nothing is left"),
        ({"resize_size": (9, 9)}, "resize_size: without"),
        ({"resize_size": (9, 9), "resize_mode": "none", "do_center_crop": True}, "resize_size: without"),
    ],
    ids=str,
)
def test_settings_at_odds(fields: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigSchemaError, match=match):
        settings_of(**fields)


# -- Processor ------------------------------------------------------------------------------------------------------


class OwnSizes(VisionEncoder):
    """An encoder that keeps each image's size, in patches of 4."""

    config_class = EncoderConfig
    hidden_size = 4
    preprocessing = settings_of()
    tells = True
    gives: Tensor | None = None

    def __init__(self, **attributes: object) -> None:
        super().__init__()
        for name, value in attributes.items():
            setattr(self, name, value)

    def num_tokens(self, image_size: tuple[int, int] | None = None) -> int:
        height, width = image_size or (8, 12)
        return (height // 4) * (width // 4)

    def forward(self, pixel_values: Tensor, *_: object, **__: object) -> EncoderOutput:
        raise NotImplementedError

    def preprocess(self, image: Image.Image) -> Tensor | None:
        if self.gives is not None:
            return self.gives
        return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255

    def token_mask(self, sizes: Tensor, padded_size: tuple[int, int]) -> Tensor | None:
        if not self.tells:
            return None
        rows = torch.arange(padded_size[0] // 4) < sizes[:, :1] // 4  # (N, rows)
        columns = torch.arange(padded_size[1] // 4) < sizes[:, 1:] // 4  # (N, columns)
        return (rows[:, :, None] & columns[:, None]).flatten(1)  # (N, S)


def test_images_alone() -> None:
    processor = Processor(settings_of())
    for images in (noise(9, 9), [noise(9, 9)], (noise(9, 9), noise(20, 3))):
        batch = processor(images)
        assert list(batch) == ["pixel_values"]
        assert batch["pixel_values"].shape == (len(images) if isinstance(images, (list, tuple)) else 1, 3, 8, 12)


def test_texts_alone() -> None:
    batch = Processor(settings_of(), make_tokenizer("char"))(text=["!", '!"', ""])
    assert batch["labels"].tolist() == [[4, 1, -100], [4, 5, 1], [1, -100, -100]]
    assert batch["labels"].dtype == torch.long
    assert Processor(settings_of(), make_tokenizer("char"))(text='!"', max_length=2)["labels"].tolist() == [[4, 1]]


def test_both_and_to() -> None:
    batch = Processor(settings_of(), make_tokenizer("char"))([noise(4, 4)] * 2, ["a", "b"])
    assert set(batch) == {"pixel_values", "labels"}
    moved = batch.to("meta")
    assert all(tensor.is_meta for tensor in moved.values())


def test_an_encoder_that_preprocesses_images() -> None:
    processor = Processor(settings_of(), encoder=OwnSizes())
    same = processor([noise(8, 4), noise(8, 4)])
    assert list(same) == ["pixel_values"]
    small, wide = noise(4, 8), noise(8, 12)
    batch = processor([small, wide])
    assert batch["pixel_values"].shape == (2, 3, 8, 12)
    assert batch["encoder_attention_mask"].tolist() == [[True, True, False, False, False, False], [True] * 6]
    torch.testing.assert_close(
        batch["pixel_values"][0, :, :4, :8], torch.from_numpy(np.array(small)).permute(2, 0, 1) / 255
    )
    assert not batch["pixel_values"][0, :, 4:].any()
    assert not batch["pixel_values"][0, :, :, 8:].any()


def test_an_encoder_that_leaves_it_to_preprocessing() -> None:
    class Plain(OwnSizes):
        def preprocess(self, image: Image.Image) -> Tensor | None:
            return None

    image = noise(9, 5)
    ours = Processor(settings_of(), encoder=Plain())([image, noise(2, 2)])["pixel_values"][0]
    assert torch.equal(ours, prepare_image(image, settings_of()))


def test_padding_without_a_mask_is_refused() -> None:
    processor = Processor(settings_of(), encoder=OwnSizes(tells=False))
    with pytest.raises(IncompatibleError, match="4 x 8, 8 x 12"):
        processor([noise(4, 8), noise(8, 12)])
    for tensor in (torch.zeros(8, 8), torch.zeros(1, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8)):
        with pytest.raises(IncompatibleError, match="preprocess gave"):
            Processor(settings_of(), encoder=OwnSizes(gives=tensor))(noise(4, 4))


def test_the_image_at_fault_is_named(tmp_path: Path) -> None:
    processor = Processor(settings_of())
    with pytest.raises(ImageDecodeError, match=r"images\[1\]: empty.*; PNG") as caught:
        processor([noise(3, 3), b""])
    assert caught.value.field == "images[1]"
    assert str(caught.value).count(caught.value.hint) == 1
    (tmp_path / "bad.png").write_bytes(b"")
    with pytest.raises(ImageDecodeError, match=r"bad\.png: empty"):
        processor([noise(3, 3), tmp_path / "bad.png"])
    with pytest.raises(ImageLimitError, match="50 pixels"):
        Processor(settings_of(), max_pixels=49)(noise(5, 10))


def test_calls_that_contradict_themselves() -> None:
    processor = Processor(settings_of(), make_tokenizer("char"))
    for arguments in ({}, {"images": []}, {"text": []}, {"images": [], "text": []}):
        with pytest.raises(UsageError, match="nothing to process"):
            processor(**arguments)
    for arguments in ({"images": [noise(3, 3)] * 2, "text": "a"}, {"images": noise(3, 3), "text": []}):
        with pytest.raises(UsageError, match="texts"):
            processor(**arguments)
    with pytest.raises(TokenizerError, match="int"):
        processor(text=[5])  # type: ignore[list-item]


def test_no_tokenizer_or_no_end() -> None:
    processor = Processor(settings_of())
    for call in (lambda: processor(text="a"), lambda: processor.decode([1]), lambda: processor.token_text(1)):
        with pytest.raises(TokenizerError, match="no tokenizer; give tokenizer="):
            call()
    with pytest.raises(TokenizerError, match="ends a text"):
        Processor(settings_of(), make_tokenizer("char"), token_ids=TokenIds())(text="a")


def test_the_models_token_ids_win() -> None:
    processor = Processor(settings_of(), make_tokenizer("char"), token_ids=TokenIds(start=0, eos=(7, 1), pad=2))
    assert processor(text="!")["labels"].tolist() == [[4, 7]]


def test_decoding() -> None:
    processor = Processor(settings_of(), make_tokenizer("char"))
    labels = processor(text=["  a b ", "</s>"], untrusted=True)["labels"]
    assert processor.batch_decode(labels) == ["  a b ", "</s>"]
    assert processor.batch_decode([[0, 4, 1], [4]]) == ["!", "!"]
    assert processor.decode([0, 4, 1], skip_special_tokens=False) == "<s>!</s>"
    assert [processor.token_text(i) for i in (1, 3, 4, 500)] == ["</s>", " ", "!", ""]
    with pytest.raises(TokenizerError, match="batch_decode"):
        processor.decode(labels)


# -- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["squash", "crop", "pad"])
def test_files_survive_a_round_trip(mode: str) -> None:
    processor = Processor(settings_of(resize_mode=mode, interpolation="lanczos"), make_tokenizer("byte"))
    files = processor.to_files()
    again = Processor.from_files(files)
    assert again.preprocessing == processor.preprocessing
    assert again.token_ids == processor.token_ids
    assert again(text="</s> é")["labels"].tolist() == processor(text="</s> é")["labels"].tolist()
    assert again.to_files() == files
    alone = Processor(settings_of()).to_files()
    assert list(alone) == [PREPROCESSOR_CONFIG]
    assert Processor.from_files(alone).tokenizer is None


@pytest.mark.parametrize(
    "fields",
    [
        {"resize_mode": "shortest_edge", "resize_size": (9, 10), "do_center_crop": True},
        {"resize_mode": "none", "do_crop_margin": True, "do_align_long_axis": True, "thumbnail": "bicubic"},
        {"do_pad": True, "interpolation": "box"},
    ],
    ids=str,
)
def test_every_setting_survives_a_round_trip(fields: dict[str, Any]) -> None:
    processor = Processor(settings_of(**fields))
    assert Processor.from_files(processor.to_files()).preprocessing == processor.preprocessing


def test_files_from_before_there_were_more_settings() -> None:
    plain = {"image_size": [8, 12], "image_mean": [0.5] * 3, "interpolation": "bilinear", "resize_mode": "pad"}
    read = Processor.from_files({PREPROCESSOR_CONFIG: json.dumps(plain).encode()}).preprocessing
    assert read == settings_of(interpolation="bilinear", resize_mode="pad")


def test_transformers_reads_the_settings(tmp_path: Path) -> None:
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    processor = Processor(settings_of(interpolation="lanczos", image_mean=(0.1, 0.2, 0.3)))
    (tmp_path / PREPROCESSOR_CONFIG).write_bytes(processor.to_files()[PREPROCESSOR_CONFIG])
    theirs = ViTImageProcessorPil.from_pretrained(tmp_path)
    image = noise(33, 21)
    ours = processor(image)["pixel_values"]
    assert (ours - theirs(image, return_tensors="pt")["pixel_values"]).abs().max() <= 1e-5


def test_settings_that_are_bad() -> None:
    files = Processor(settings_of()).to_files()
    plain = json.loads(files[PREPROCESSOR_CONFIG])

    def read(data: object) -> None:
        raw = data if isinstance(data, bytes) else json.dumps(data).encode()
        Processor.from_files({PREPROCESSOR_CONFIG: raw}, folder="folder")

    for data, match in (
        (b"", "not JSON"),
        (b"\xff\xff", "not JSON"),
        ([], "object expected"),
        ({}, "image_size"),
        (b"[" * 100_000, "not JSON"),
        ({**plain, "image_sise": 3}, "image_sise.*did you mean"),
        ({**plain, "size": {"height": 9, "width": 12}}, "contradicts"),
        ({**plain, "do_normalize": False}, "contradicts"),
        ({**plain, "resize_mode": "pad"}, "contradicts"),
        ({**plain, "image_std": [0, 1, 1]}, "image_std"),
    ):
        with pytest.raises(ConfigSchemaError, match=match) as caught:
            read(data)
        assert f"folder/{PREPROCESSOR_CONFIG}" in str(caught.value)
    with pytest.raises(ConfigSchemaError, match="no such file"):
        Processor.from_files({}, folder="folder")
    with pytest.raises(TokenizerError, match=f"folder/{TOKENIZER}"):
        Processor.from_files({**files, TOKENIZER: b"[]"}, folder="folder")


def test_a_copy_and_a_pickle_do_the_same() -> None:
    processor = Processor(settings_of(), make_tokenizer("char"), token_ids=TokenIds(eos=(1,)))
    buffer = io.BytesIO()
    pickle.dump(processor, buffer)
    for other in (copy.deepcopy(processor), pickle.loads(buffer.getvalue())):
        assert other(text="</s>")["labels"].tolist() == processor(text="</s>")["labels"].tolist()


# -- as people call transformers' processors ------------------------------------------------------------------------


def test_a_batch_by_attributes_and_its_type() -> None:
    processor = Processor(settings_of(), make_tokenizer("char"))
    batch = processor(images=noise(4, 4), text="ab", return_tensors="pt")
    assert batch.pixel_values is batch["pixel_values"]
    assert batch.labels is batch["labels"]
    with pytest.raises(AttributeError, match="no 'input_ids' in this batch, but pixel_values, labels"):
        batch.input_ids  # noqa: B018
    assert batch.to("cpu", torch.float16) is batch
    assert (batch.pixel_values.dtype, batch.labels.dtype) == (torch.float16, torch.long)
    assert batch.to(torch.bfloat16).pixel_values.dtype == torch.bfloat16
    again = pickle.loads(pickle.dumps(copy.deepcopy(batch)))
    assert type(again) is type(batch)
    assert torch.equal(again.labels, batch.labels)
    for other in ("np", "tf", "jax", 5):
        with pytest.raises(UsageError, match="return_tensors: .* only torch's; give 'pt'"):
            processor(text="a", return_tensors=other)  # type: ignore[arg-type]


def test_padding_and_truncation() -> None:
    processor = Processor(settings_of(), make_tokenizer("char"))
    texts = ["!!!!", "!"]
    for padding in (True, "longest"):
        assert processor(text=texts, padding=padding)["labels"].tolist() == [[4] * 4 + [1], [4, 1, -100, -100, -100]]
    fixed = processor(text=texts, padding="max_length", max_length=6, truncation=True)
    assert fixed.labels.tolist() == [[4] * 4 + [1, -100], [4, 1, *[-100] * 4]]
    cut = processor(text=texts, padding="max_length", max_length=3, truncation=True)
    assert cut.labels.tolist() == [[4, 4, 1], [4, 1, -100]]
    assert processor(text=texts, max_length=3).labels.tolist() == [[4, 4, 1], [4, 1, -100]]
    assert processor(text=texts, max_length=3, truncation=False).labels.shape == (2, 5)
    assert processor(text=["ab", "cd"], padding=False).labels.shape == (2, 3)
    for options, match in (
        ({"padding": False}, "padding: texts of different lengths; give padding=True"),
        ({"padding": "right"}, "'right' is not a choice"),
        ({"padding": "max_length"}, "max_length= too"),
        ({"truncation": True}, "max_length= too"),
        ({"truncation": "sometimes"}, "'sometimes' is not a choice"),
        ({"padding": "max_length", "max_length": 3, "truncation": False}, "truncation=True"),
        ({"max_length": 0}, "0 is not a length"),
        ({"max_length": 2.5}, "2.5 is not a length"),
    ):
        with pytest.raises(UsageError, match=match):
            processor(text=texts, **options)  # type: ignore[arg-type]
    processor.model_max_length = 4
    assert processor(text=texts, truncation=True).labels.tolist() == [[4, 4, 4, 1], [4, 1, -100, -100]]
    assert processor(text="!", padding="max_length").labels.tolist() == [[4, 1, -100, -100]]


def test_tags_in_a_text() -> None:
    processor = Processor(settings_of(), make_tokenizer("char"))
    assert processor.tokenizer is not None
    processor.tokenizer.add_tokens(["<s_total>", "</s_total>"])
    before = processor.tokenizer.to_str()
    assert processor(text="<s_total>!</s_total>").labels.tolist() == [[98, 4, 99, 1]]
    spelled = processor(text="<s_total>!</s_total>", untrusted=True).labels[0].tolist()
    assert len(spelled) == len("<s_total>!</s_total>") + 1
    assert processor.decode(spelled) == "<s_total>!</s_total>"
    assert processor.tokenizer.to_str() == before


def test_the_start_id_at_the_head_of_a_text(recwarn: pytest.WarningsRecorder) -> None:
    processor = Processor(settings_of(), make_tokenizer("char"))
    assert processor(text=["a", "<s>a"]).labels[1].tolist() == [0, 68, 1]
    assert [str(w.message) for w in recwarn] == [
        "text[1] begins with the start id 0, which the model puts before the labels itself, so that it comes twice; "
        "leave it out"
    ]
    recwarn.clear()
    processor(text=["a<s>", "</s>", ""])
    processor(text="<s>a", untrusted=True)
    processor.token_ids = TokenIds(start=1, eos=(1,), pad=2)
    processor(text=["", "<s>"])  # the end id alone is not a start
    assert not list(recwarn)


def test_what_has_no_token() -> None:
    tokenizer = make_tokenizer("char")
    plain = json.loads(tokenizer.to_str())
    plain["model"]["unk_token"] = "?"
    processor = Processor(settings_of(), make_tokenizer(type(tokenizer).from_str(json.dumps(plain))))
    with pytest.warns(UserWarning, match="'é' \\(2 times\\), 'ü', which become '\\?'") as caught:
        assert processor(text=["éaé", "ü"]).labels.tolist() == [[34, 68, 34, 1], [34, 1, -100, -100]]
    assert len(caught) == 1
    with pytest.raises(TokenizerError, match="'é'"):
        processor(text="é", on_unknown="error")
    assert processor(text="é", on_unknown="ignore").labels.tolist() == [[34, 1]]


def test_setting_tokenizer_and_ids() -> None:
    processor = Processor(settings_of(), make_tokenizer("char"))
    processor.token_ids = TokenIds(start=0, eos=(7,), pad=3)
    assert processor.tokenizer is not None
    assert (processor.tokenizer.eos_token_id, processor.tokenizer.pad_token_id) == (7, 3)
    processor.tokenizer = make_tokenizer("byte")
    assert len(processor.tokenizer) == 259
    assert processor.tokenizer.eos_token_id == 7
    processor.tokenizer = "char"
    assert len(processor.tokenizer) == 98
    processor.tokenizer = processor.tokenizer
    assert not hasattr(processor.tokenizer.backend_tokenizer, "backend_tokenizer")
    processor.tokenizer = None
    assert processor.tokenizer is None


# -- collate --------------------------------------------------------------------------------------------------------


def test_examples_of_every_kind_make_the_same_batch() -> None:
    processor = Processor(settings_of(), make_tokenizer("char"))
    images, texts = [noise(5, 5), noise(9, 2)], ["!!", "!"]
    whole = processor(images, texts)
    single = [processor(image, text) for image, text in zip(images, texts, strict=True)]
    for examples in (
        list(zip(images, texts, strict=True)),
        [{"image": image, "text": text} for image, text in zip(images, texts, strict=True)],
        [dict(one) for one in single],
        [{"pixel_values": one.pixel_values[0], "labels": one.labels[0].tolist()} for one in single],
        [{"pixel_values": one.pixel_values[0].numpy(), "labels": one.labels[0].numpy()} for one in single],
        [{"pixel_values": one.pixel_values, "text": text} for one, text in zip(single, texts, strict=True)],
    ):
        batch = processor.collate(examples)
        assert set(batch) == {"pixel_values", "labels"}
        assert torch.equal(batch.pixel_values, whole.pixel_values)
        assert torch.equal(batch.labels, whole.labels)
    assert list(processor.collate([{"image": noise(3, 3)}])) == ["pixel_values"]
    assert list(processor.collate([{"labels": [1]}, {"labels": [4, 4, 1]}])) == ["labels"]


def test_examples_of_different_sizes() -> None:
    processor = Processor(settings_of(), make_tokenizer("char"), encoder=OwnSizes())
    images = [noise(4, 8), noise(8, 12)]
    pixels = [processor(image).pixel_values[0] for image in images]
    batch = processor.collate([{"pixel_values": p, "labels": [1]} for p in pixels])
    whole = processor(images)
    assert torch.equal(batch.pixel_values, whole.pixel_values)
    assert torch.equal(batch.encoder_attention_mask, whole.encoder_attention_mask)


def test_a_data_loader_collates() -> None:
    processor = Processor(settings_of(), make_tokenizer("char"))
    examples = [(noise(5, 5), "a" * (1 + i)) for i in range(4)]
    loader = torch.utils.data.DataLoader(examples, batch_size=2, collate_fn=processor.collate)  # type: ignore[arg-type]
    assert [tuple(batch.labels.shape) for batch in loader] == [(2, 3), (2, 5)]


@pytest.mark.parametrize(
    "examples", [[], [5], ["ab"], [{}], [{"a": 1}], [{"text": "a"}, {"labels": [1]}], [(noise(3, 3), "a", 5)]]
)
def test_examples_that_make_no_batch(examples: list[Any]) -> None:
    with pytest.raises(UsageError, match="examples: .*pairs"):
        Processor(settings_of(), make_tokenizer("char")).collate(examples)
