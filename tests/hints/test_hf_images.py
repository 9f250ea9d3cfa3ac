"""Hints about the image processors of transformers' folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from PIL import Image

import vedcore
from tests.checkpoints.test_added_tokens import made
from tests.hints.templates import told
from tests.model.tiny import tiny
from vedcore.cli.app import group

PHOTO = Image.effect_noise((60, 40), 90).convert("RGB")
SIZE = {"height": 16, "width": 24}


def file(name: str = "ViT", **settings: Any) -> dict[str, Any]:
    return {"image_processor_type": f"{name}ImageProcessor", "size": SIZE, **settings}


ROWS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ('add it: "image_processor_type": "ViTImageProcessor"', {"size": SIZE}, file()),
    *(
        ("write one of {…}, with ImageProcessor after it", {"image_processor_type": name, "size": SIZE}, file())
        for name in ("Vit", "ViT", 5, "LayoutLMv3ImageProcessor")
    ),
    ("write 2 (bilinear) or 3 (bicubic)", file(resample="bilinear"), file(resample=2)),
    ("write 2 (bilinear) or 3 (bicubic)", file(resample=9), file(resample=3)),
    ("write 0.5 or so", file(image_std=[0.5, 0.0, 0.5]), file(image_std=[0.5, 0.5, 0.5])),
    ("write 1/255 as a number", file(rescale_factor=0), file(rescale_factor=1 / 255)),
    ("leave it out", file(rescale_factor=1e-40), file()),
    ("leave it out", file(image_std=1e-40), file()),
    ("set it to false", file(do_pad=True), file(do_pad=False)),
    ("set it to false", file("Donut", do_center_crop=True), file("Donut", do_center_crop=False)),
    (
        "set size to height and width",
        file("CLIP", use_square_size=True),
        file("CLIP", use_square_size=False, size=SIZE),
    ),
    ("add height and width, or set do_center_crop to false", file(do_center_crop=True), file(do_center_crop=False)),
    (
        "add height and width, or set do_center_crop to false",
        file(do_center_crop=True),
        file(do_center_crop=True, crop_size=SIZE),
    ),
    *(
        ("write height and width", wrong, file(wrong["image_processor_type"].removesuffix("ImageProcessor")))
        for wrong in (
            file(size={"longest_edge": 30}),
            file(size=[1, 2, 3]),
            file("Donut", size={"shortest_edge": 30}),
            file("Nougat", size={}),
        )
    ),
    (
        "write height and width",
        file(do_center_crop=True, crop_size={"shortest_edge": 9}),
        file(do_center_crop=True, crop_size={"height": 9, "width": 9}),
    ),
    ("write true or false", file(do_resize="yes"), file(do_resize=True)),
    ("write a finite number", file(image_mean=["0.5", 0.5, 0.5]), file(image_mean=[0.5, 0.5, 0.5])),
    ("write three: red, green, blue; or one: grey", file(image_mean=[0.5, 0.5]), file(image_mean=[0.5, 0.5, 0.5])),
    (
        "write three: red, green, blue; or one: grey",
        file(image_mean=[0.5, 0.5]),
        file(image_mean=[0.5], image_std=[0.5]),
    ),
    ("write pixels, such as 224", file(size={"height": 1.5, "width": 2}), file(size={"height": 224, "width": 224})),
    ("write pixels, such as 224", file(size=0), file(size=224)),
]


def reads(folder: Path, settings: dict[str, Any]) -> None:
    """A processor of a folder gives the pixels of transformers' class."""
    ours = vedcore.Processor.from_pretrained(folder)(PHOTO).pixel_values
    if len(settings.get("image_mean", (0, 0, 0))) == 1:  # transformers wants three
        assert ours.shape == (1, 1, 16, 24)
        return
    kind = getattr(hf, f"{settings['image_processor_type']}Pil").from_dict(dict(settings))
    assert (ours - kind(PHOTO, return_tensors="pt")["pixel_values"].float()).abs().max() < 1e-4


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(("template", "wrong", "right"), ROWS, ids=[template for template, _, _ in ROWS])
def test_settings(template: str, wrong: dict[str, Any], right: dict[str, Any], nested: bool, tmp_path: Path) -> None:
    path = tmp_path / ("processor_config.json" if nested else "preprocessor_config.json")
    path.write_text(json.dumps({"image_processor": wrong} if nested else wrong))
    error = told(template, vedcore.Processor.from_pretrained, tmp_path)
    assert str(error.field).startswith("image_processor.") == nested
    path.write_text(json.dumps({"image_processor": right} if nested else right))
    reads(tmp_path, right)


def test_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "processor_config.json"
    path.write_text(json.dumps({"image_processor": [file()]}))
    template = "copy the file again, or save the image processor with transformers"
    told(template, vedcore.Processor.from_pretrained, tmp_path)
    path.unlink()
    hf.ViTImageProcessor(size=SIZE).save_pretrained(tmp_path)
    assert vedcore.Processor.from_pretrained(tmp_path)(PHOTO).pixel_values.shape == (1, 3, 16, 24)


def test_a_model_whose_image_processor_cannot_be_read(tmp_path: Path) -> None:
    folder = made(tmp_path / "m", "gpt2", [])
    path = folder / "preprocessor_config.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({**whole, "do_pad": True}))
    template = "set it to false, or give preprocessing= to vedcore.load or compose, which do not read it then"
    told(template, vedcore.load, folder)
    told(template, vedcore.compose, str(folder), str(folder))
    settings = {"image_size": (16, 16), "resize_mode": "pad"}
    assert (
        vedcore.compose(str(folder), str(folder), preprocessing=settings).processor.preprocessing.resize_mode == "pad"
    )
    given = vedcore.load(folder, preprocessing=vedcore.Preprocessing(image_size=(16, 16), interpolation="bilinear"))
    path.write_text(json.dumps({**whole, "do_pad": False}))
    again = vedcore.load(folder)
    assert torch.equal(again.processor(PHOTO).pixel_values, given.processor(PHOTO).pixel_values)


@pytest.mark.parametrize(
    "settings",
    [
        {"resize_mode": "pad"},
        {"resize_mode": "crop"},
        {"do_crop_margin": True},
        {"resize_mode": "shortest_edge", "do_pad": True, "do_center_crop": True},
        {"resize_mode": "shortest_edge", "thumbnail": "interpolation", "do_crop_margin": True},
    ],
    ids=str,
)
def test_settings_that_transformers_lacks(settings: dict[str, Any], tmp_path: Path) -> None:
    processor = vedcore.Processor(vedcore.Preprocessing(image_size=(16, 24), **settings))
    model = tiny("bert", preprocessing=processor.preprocessing)
    told('save it with format="native"', model.save_pretrained, tmp_path / "m", format="transformers")
    model.save_pretrained(tmp_path / "m", format="native")
    assert vedcore.load(tmp_path / "m").processor.preprocessing == processor.preprocessing
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "config.json").write_text(json.dumps({"model_type": "vision-encoder-decoder"}))
    told("save it to a folder without a model of transformers", processor.save_pretrained, tmp_path / "t")
    processor.save_pretrained(tmp_path / "p")
    assert vedcore.Processor.from_pretrained(tmp_path / "p").preprocessing == processor.preprocessing


def test_the_command_that_converts(tmp_path: Path) -> None:
    tiny("bert", preprocessing={"image_size": (16, 24), "resize_mode": "pad"}).save_pretrained(tmp_path / "m")
    arguments = ["convert", str(tmp_path / "m"), str(tmp_path / "t"), "--format"]
    told('save it with format="native"', group.main, [*arguments, "transformers"], standalone_mode=False)
    group.main([*arguments, "native"], standalone_mode=False)
    assert vedcore.load(tmp_path / "t").processor.preprocessing.resize_mode == "pad"
