"""Settings of transformers' image processors, read and written: the same pixels as transformers'."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from vedcore.config import Preprocessing
from vedcore.errors import ConfigError, ConfigLimitError, ConfigSchemaError, ImageLimitError, IncompatibleError
from vedcore.hf.image_processors import read_image_processor, write_image_processor
from vedcore.processing.preparation import prepare_image

KINDS = ("ViT", "DeiT", "Beit", "CLIP", "Siglip", "Donut", "Nougat")
LEVEL = 1 / 255


def picture(kind: str, height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth as a photo, black on white as text, or noise; in RGB, grey or with transparency."""
    random = np.random.default_rng(seed)
    if kind == "text":
        page = np.full((height, width, 3), random.integers(200, 256), np.uint8)
        for _ in range(12):
            y, x = random.integers(0, height), random.integers(0, width)
            page[y : y + 1 + height // 9, x : x + 1 + width // 30] = random.integers(0, 120, 3)
        return Image.fromarray(page)
    if kind == "photo":
        coarse = Image.fromarray(random.integers(0, 256, (5, 7, 3), np.uint8))
        return coarse.resize((width, height), Image.Resampling.BICUBIC)
    noise = Image.fromarray(random.integers(0, 256, (height, width, 4), np.uint8), "RGBA")
    return noise if kind == "RGBA" else noise.convert(kind)


def read(data: Mapping[str, Any], **keywords: Any) -> Preprocessing:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_image_processor(data, path="preprocessor_config.json", **keywords)


def theirs(data: Mapping[str, Any], image: Image.Image, backend: str = "Pil") -> Tensor:
    kind = data["image_processor_type"].removesuffix("ImageProcessor")
    processor = getattr(transformers, f"{kind}ImageProcessor{backend}").from_dict(dict(data))
    rgb = image.convert("RGB") if image.mode == "L" else image  # transparency: by do_convert_rgb
    pixels: Tensor = processor(rgb, return_tensors="pt", do_convert_rgb=True)["pixel_values"][0]
    return pixels.float()


def same(ours: Tensor, other: Tensor, std: tuple[float, ...], levels: float = 0.0) -> None:
    """Equal but for rounding, and ``levels`` of 255."""
    assert ours.shape == other.shape
    scale = torch.tensor(std)[:, None, None]
    worst = ((ours - other) * scale).abs().max()  # on the scale 0 to 1
    assert worst <= levels * LEVEL + 1e-6, f"{float(worst) * 255} levels"


# -- every class as it is --------------------------------------------------------------------------------------------

SHAPES = [(50, 70), (300, 200), (1, 1), (1, 40), (33, 2), (64, 64), (600, 90)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("looks", ["photo", "text", "RGB", "L", "RGBA"])
def test_defaults(kind: str, looks: str) -> None:
    data = {"image_processor_type": f"{kind}ImageProcessor"}
    preprocessing = read(data)
    small: dict[str, Any] = {"size": {"height": 96, "width": 64}} if kind in ("Donut", "Nougat") else {}
    for seed, (height, width) in enumerate(SHAPES):
        image = picture(looks, height, width, seed)
        same(prepare_image(image, read({**data, **small})), theirs({**data, **small}, image), preprocessing.image_std)


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_are_those_of_the_class(kind: str) -> None:
    for backend in ("Pil", ""):
        written = json.loads(getattr(transformers, f"{kind}ImageProcessor{backend}")().to_json_string())
        assert read({"image_processor_type": f"{kind}ImageProcessor"}) == read(written)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("resample", [0, 2, 3, 1])
def test_torchvision_is_a_level_away(kind: str, resample: int) -> None:
    """With bicubic and lanczos a few pixels differ by more: their overshoot is rounded differently."""
    data: dict[str, Any] = {"image_processor_type": f"{kind}ImageProcessor", "resample": resample}
    if kind in ("Donut", "Nougat"):
        data["size"] = {"height": 96, "width": 64}
    if kind == "Nougat":
        data["do_crop_margin"] = False
    preprocessing = read(data)
    for seed, looks in enumerate(["photo", "text", "RGB"]):
        image = picture(looks, 150, 100, seed)
        ours, other = prepare_image(image, preprocessing), theirs(data, image, "")
        if resample in (0, 2):
            same(ours, other, preprocessing.image_std, levels=1)
        else:
            levels = (ours - other).abs() * torch.tensor(preprocessing.image_std)[:, None, None] * 255
            assert (levels > 1.01).float().mean() < 1e-3


# -- every option ----------------------------------------------------------------------------------------------------

side = st.integers(1, 40)
sizes = st.one_of(side, st.tuples(side, side).map(list), st.fixed_dictionaries({"height": side, "width": side}))
numbers = st.floats(0.1, 0.9)
common = {
    "resample": st.integers(0, 5),
    "do_resize": st.booleans(),
    "do_rescale": st.booleans(),
    "rescale_factor": st.sampled_from([1 / 255, 1 / 127.5, 1.0, 0.01]),
    "do_normalize": st.booleans(),
    "image_mean": st.lists(numbers, min_size=3, max_size=3),
    "image_std": st.lists(numbers, min_size=3, max_size=3),
    "do_convert_rgb": st.booleans(),
}
cropping = {
    "do_center_crop": st.booleans(),
    "crop_size": st.one_of(side, st.fixed_dictionaries({"height": side, "width": side})),
}
documents = {
    "do_thumbnail": st.booleans(),
    "do_align_long_axis": st.booleans(),
    "do_pad": st.booleans(),
    "do_crop_margin": st.booleans(),
}


@st.composite
def files(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(KINDS))
    document = kind in ("Donut", "Nougat")
    own = dict(documents if document else cropping)
    if kind == "Donut":
        own.pop("do_crop_margin")
    allowed = sizes if document else st.one_of(sizes, st.fixed_dictionaries({"shortest_edge": side}))
    if not document:
        own.pop("crop_size")
    needed = {"size": allowed} if document else {"size": allowed, "crop_size": cropping["crop_size"]}
    data = draw(st.fixed_dictionaries(needed, optional={**common, **own}))
    return {"image_processor_type": f"{kind}ImageProcessor", **data}


pictures = st.builds(
    picture,
    st.sampled_from(["photo", "text", "RGB", "L", "RGBA"]),
    st.integers(1, 90),
    st.integers(1, 90),
    st.integers(0, 1000),
)


@settings(max_examples=300, deadline=None)
@given(files(), pictures)
def test_options(data: dict[str, Any], image: Image.Image) -> None:
    preprocessing = read(data)
    try:
        expected = theirs(data, image)
    except ValueError:  # a thumbnail without a pixel, or an image that stands out of its padding
        assume(False)
    same(prepare_image(image, preprocessing), expected, preprocessing.image_std)


@settings(max_examples=150, deadline=None)
@given(files(), pictures)
def test_settings_survive_a_round_trip(data: dict[str, Any], image: Image.Image) -> None:
    preprocessing = read(data)
    written = write_image_processor(preprocessing)
    assert json.loads(json.dumps(written)) == written
    ours = prepare_image(image, preprocessing)
    assert torch.equal(prepare_image(image, read(written)), ours)
    try:
        expected = theirs(written, image)
    except ValueError:
        return
    same(ours, expected, preprocessing.image_std)


@pytest.mark.parametrize("backend", ["pil", "torchvision"])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"interpolation": "bilinear", "image_std": (0.2, 0.3, 0.4)},
        {"resize_size": (40, 36), "do_center_crop": True},
        {"resize_mode": "shortest_edge", "do_center_crop": True},
        {"resize_mode": "none", "do_center_crop": True},
        {"resize_mode": "none"},
        {"resize_mode": "shortest_edge"},
        {"resize_mode": "shortest_edge", "thumbnail": "interpolation", "do_pad": True, "do_align_long_axis": True},
        {"resize_mode": "shortest_edge", "thumbnail": "bicubic", "do_pad": True, "do_crop_margin": True},
        {"resize_mode": "none", "do_crop_margin": True},
    ],
    ids=str,
)
def test_transformers_opens_what_is_written(tmp_path: Path, fields: dict[str, Any], backend: str) -> None:
    preprocessing = Preprocessing(image_size=(32, 24), **fields)
    written = write_image_processor(preprocessing)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(written))
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend=backend)
    image = picture("photo", 64, 96)
    pixels = processor(image, return_tensors="pt")["pixel_values"][0]
    resizes = 2 if preprocessing.thumbnail else 1
    same(prepare_image(image, preprocessing), pixels, preprocessing.image_std, resizes * (backend == "torchvision"))


@pytest.mark.parametrize(
    "fields",
    [
        {"resize_mode": "crop"},
        {"resize_mode": "pad"},
        {"do_pad": True},
        {"resize_mode": "none", "do_pad": True, "do_center_crop": True},
        {"resize_mode": "none", "do_crop_margin": True, "thumbnail": "interpolation"},
    ],
    ids=str,
)
def test_settings_that_no_processor_of_transformers_has(fields: dict[str, Any]) -> None:
    with pytest.raises(IncompatibleError, match=r'preprocessing: no image processor.*format="native"'):
        write_image_processor(Preprocessing(image_size=(32, 24), **fields))


# -- files of every era ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["FeatureExtractor", "ImageProcessor", "ImageProcessorFast", "ImageProcessorPil"])
@pytest.mark.parametrize("field", ["image_processor_type", "feature_extractor_type"])
def test_class_names_of_every_version(name: str, field: str) -> None:
    for kind in KINDS:
        assert read({field: kind + name}) == read({"image_processor_type": f"{kind}ImageProcessor"})


def test_first_files() -> None:
    trocr = read(
        {
            "do_normalize": True,
            "do_resize": True,
            "feature_extractor_type": "ViTFeatureExtractor",
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "resample": 2,
            "size": 384,
        }
    )
    assert trocr == Preprocessing(image_size=(384, 384), interpolation="bilinear")
    donut = read(
        {
            "align_long_axis": True,
            "do_normalize": True,
            "do_pad": True,
            "do_resize": True,
            "do_thumbnail": True,
            "feature_extractor_type": "DonutFeatureExtractor",
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
            "resample": 2,
            "size": [1920, 2560],
        }
    )
    assert donut.image_size == (2560, 1920)
    assert donut.do_align_long_axis
    assert donut.resize_mode == "shortest_edge"
    nameless = {"do_normalize": True, "do_resize": True, "size": 224}
    assert read(nameless, model_type="vit").image_size == (224, 224)
    assert read({"image_processor": trocr_of_5()}) == read(trocr_of_5())
    with pytest.raises(ConfigSchemaError, match="image_processor_type: no class"):
        read(nameless)


def trocr_of_5() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(transformers.ViTImageProcessor(size={"height": 32, "width": 32}).to_json_string())
    return data


def test_unknown_keys_are_one_warning() -> None:
    data = {"image_processor_type": "ViTImageProcessor", "do_magic": True, "zoom": 3, "patches": None}
    with pytest.warns(UserWarning, match=r"preprocessor_config\.json: .*do_magic.*zoom") as caught:
        read_image_processor(data, path="preprocessor_config.json")
    assert len(caught) == 1


# -- bad files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"size": 0}, "size"),
        ({"size": -3}, "size"),
        ({"size": "224"}, "size"),
        ({"size": True}, "size"),
        ({"size": 224.0}, "size"),
        ({"size": []}, "size"),
        ({"size": [224]}, "size"),
        ({"size": [0, 4]}, "size"),
        ({"size": {}}, "size"),
        ({"size": {"height": 4}}, "size"),
        ({"size": {"height": 0, "width": 4}}, "size"),
        ({"size": {"longest_edge": 4}}, "size"),
        ({"size": {"shortest_edge": 4, "longest_edge": 8}}, "size"),
        ({"size": {"max_height": 4, "max_width": 8}}, "size"),
        ({"size": {"shortest_edge": 0}}, "size"),
        ({"image_std": [0, 1, 1]}, "image_std"),
        ({"image_std": 0}, "image_std"),
        ({"image_std": [1, 1]}, "image_std"),
        ({"image_std": [1, 1, -1]}, "image_std"),
        ({"image_std": [1e-40, 1, 1]}, "image_std"),
        ({"image_mean": [1e300, 0, 0]}, "image_std"),
        ({"image_mean": ["a", 0, 0]}, "image_mean"),
        ({"image_mean": [float("nan"), 0, 0]}, "image_mean"),
        ({"image_mean": 10**400}, "image_mean"),
        ({"rescale_factor": 0}, "rescale_factor"),
        ({"rescale_factor": "1/255"}, "rescale_factor"),
        ({"rescale_factor": -1}, "rescale_factor"),
        ({"rescale_factor": 1e300, "do_normalize": False}, "rescale_factor"),
        ({"rescale_factor": float("inf")}, "rescale_factor"),
        ({"resample": 6}, "resample"),
        ({"resample": -1}, "resample"),
        ({"resample": "bicubic"}, "resample"),
        ({"resample": True}, "resample"),
        ({"do_resize": "yes"}, "do_resize"),
        ({"do_resize": 1}, "do_resize"),
        ({"do_center_crop": True}, "crop_size"),
        ({"do_center_crop": True, "crop_size": 0}, "crop_size"),
        ({"do_center_crop": True, "crop_size": {"shortest_edge": 4}}, "crop_size"),
        ({"do_pad": True}, "do_pad"),
        ({"image_processor_type": "ViltImageProcessor"}, "image_processor_type"),
        ({"image_processor_type": "ViT"}, "image_processor_type"),
        ({"image_processor_type": 3}, "image_processor_type"),
        ({"image_processor_type": "CLIPImageProcessor", "use_square_size": True}, "use_square_size"),
        ({"image_processor_type": "DonutImageProcessor", "size": {"shortest_edge": 4}}, "size"),
        ({"image_processor_type": "DonutImageProcessor", "do_center_crop": True}, "do_center_crop"),
        ({"image_processor_type": "DonutImageProcessor", "do_thumbnail": 1}, "do_thumbnail"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_bad_settings_are_named(data: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigSchemaError, match=f"^preprocessor_config.json: {field}: .*; ") as caught:
        read({"image_processor_type": "ViTImageProcessor", **data})
    assert caught.value.field == field


@pytest.mark.parametrize("size", [10**9, 10**400, [10**6, 10**6], {"height": 1 << 21, "width": 1}])
def test_absurd_sizes(size: Any) -> None:
    for kind in KINDS:
        with pytest.raises(ConfigLimitError, match=r"^preprocessor_config.json: size: .* limit"):
            read({"image_processor_type": f"{kind}ImageProcessor", "size": size, "do_center_crop": False})


@pytest.mark.parametrize("data", [None, [], "x", 3])
def test_not_an_object(data: Any) -> None:
    with pytest.raises(ConfigSchemaError, match="object expected"):
        read(data)


def test_an_image_that_would_grow_past_memory() -> None:
    with pytest.raises(ImageLimitError, match="5000 x 1 would be resized"):
        prepare_image(Image.new("RGB", (5000, 1)), read({"image_processor_type": "DonutImageProcessor"}))


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=200, deadline=None)
@given(files(), st.sampled_from(sorted({*common, *cropping, *documents, "size", "image_processor_type"})), plain)
def test_any_value_is_read_or_refused(data: dict[str, Any], field: str, value: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read_image_processor({**data, field: value}, path="file")
        except ConfigError as error:
            assert str(error).startswith("file: ")
