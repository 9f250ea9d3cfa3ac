"""Hints about images and pages."""

from __future__ import annotations

import io
import json
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, features

import vedcore
from tests.hints.templates import told
from tests.model.tiny import tiny
from tests.processing.pictures import PHOTO, encoded, encrypted_pdf, pdf, several
from vedcore.cli.app import group
from vedcore.processing import images, pages
from vedcore.processing.images import load_image

PAGES = [Image.new("RGB", (40, 20), (grey,) * 3) for grey in (0, 90, 180)]
FLOATS = np.random.default_rng(0).random((9, 14, 3), np.float32)


@pytest.fixture
def processor() -> vedcore.Processor:
    return vedcore.Processor(vedcore.Preprocessing(image_size=(9, 14)))


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny("bert", tokenizer="char", token_ids=None, decoder_vocab_size=98)


def same(processor: vedcore.Processor, source: Any, other: Any = PHOTO) -> None:
    assert torch.equal(processor(source).pixel_values, processor(other).pixel_values)


class Pipe(io.RawIOBase):
    """A stream that cannot be rewound."""

    def __init__(self, data: bytes | str) -> None:
        self.rest = data

    def seekable(self) -> bool:
        return False

    def read(self, size: int = -1) -> Any:
        taken, self.rest = self.rest[:size], self.rest[size:]
        return taken


class Broken(Pipe):
    def read(self, size: int = -1) -> bytes:
        raise RuntimeError("the connection is lost")


# -- files ----------------------------------------------------------------------------------------------------------


def test_a_path_that_cannot_be_read(model: Any, processor: vedcore.Processor, tmp_path: Path) -> None:
    PHOTO.save(tmp_path / "a.png")
    for wrong in (tmp_path / "b.png", tmp_path):
        told("give the path of a readable image file", processor, wrong)
        told("give the path of a readable image file", model.generate_text, [wrong])
    same(processor, tmp_path / "a.png")


def test_addresses(processor: vedcore.Processor, tmp_path: Path) -> None:
    PHOTO.save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    told("download it first, and give the file or its bytes", processor, "https://example.org/a.png")
    same(processor, tmp_path / "a.png")
    same(processor, data)
    told("give its path, without file://", processor, f"file://{tmp_path}/a.png")
    same(processor, f"{tmp_path}/a.png")


@pytest.mark.parametrize("data", [b"some words", b"", b"<svg></svg>", bytes(range(128, 256))])
def test_files_that_are_no_images(data: bytes, processor: vedcore.Processor) -> None:
    told("PNG, JPEG, GIF, BMP, WebP, TIFF, PPM, AVIF and PDF are read", processor, data)
    for format in ("PNG", "JPEG", "GIF", "BMP", "WebP", "TIFF", "PPM", "AVIF", "PDF"):
        if format != "AVIF" or features.check("avif"):
            assert processor(encoded(PHOTO, format)).pixel_values.shape == (1, 3, 9, 14)


@pytest.mark.parametrize("format", ["JPEG2000", "ICNS", "PCX", "SGI"])
def test_formats_that_are_not_read(format: str, processor: vedcore.Processor) -> None:
    data = encoded(PHOTO, format)
    told("convert it: {…}", processor, data)
    with Image.open(io.BytesIO(data)) as image:
        converted = encoded(image, "PNG")
    assert processor(converted).pixel_values.shape == (1, 3, 9, 14)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "TIFF", "PDF"])
def test_files_that_are_cut_short(format: str, processor: vedcore.Processor, tmp_path: Path) -> None:
    whole, path = encoded(PHOTO.resize((90, 60)), format), tmp_path / "a"
    path.write_bytes(whole[: len(whole) // 2])
    told("it is damaged or truncated: copy it again", processor, path)
    path.write_bytes(whole)
    same(processor, path, whole)


def test_avif_and_a_pillow_without_it(processor: vedcore.Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    data = encoded(PHOTO, "AVIF")
    with monkeypatch.context() as older:
        older.setitem(sys.modules, "PIL.AvifImagePlugin", None)
        told("pip install -U Pillow", processor, data)
    assert processor(data).pixel_values.shape == (1, 3, 9, 14)


def test_streams(processor: vedcore.Processor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, data = tmp_path / "a.png", encoded(PHOTO, "PNG")
    path.write_bytes(data)
    told("give the bytes of the image", processor, Broken(data))
    same(processor, data)
    for text in (Pipe("text"), io.StringIO("text")):
        told("open it in binary mode, 'rb'", processor, text)
    with open(path, "rb") as file:
        same(processor, file)
    monkeypatch.setattr(images, "MAX_STREAM_BYTES", 100)
    told("save it as a file, and give its path", processor, Pipe(data))
    same(processor, path)


# -- images in memory -----------------------------------------------------------------------------------------------


def test_an_image_whose_file_is_closed(processor: vedcore.Processor, tmp_path: Path) -> None:
    PHOTO.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        pass
    told("load it before its file is closed", processor, image)
    with Image.open(tmp_path / "a.png") as image:
        image.load()
    same(processor, image)


def test_objects_that_are_no_images(processor: vedcore.Processor, tmp_path: Path) -> None:
    PHOTO.save(tmp_path / "a.png")
    told("give a path, bytes, a binary file, a Pillow image, an array or a tensor", processor, {"image": PHOTO})
    array = np.asarray(PHOTO)
    with open(tmp_path / "a.png", "rb") as file:
        tensor = torch.from_numpy(array.copy())
        for source in (tmp_path / "a.png", encoded(PHOTO, "PNG"), file, PHOTO, array, tensor, tensor.permute(2, 0, 1)):
            same(processor, source)


@pytest.mark.parametrize(
    ("mode", "values"), [("F", FLOATS[..., 0]), ("F", FLOATS[..., 0] * 1000), ("I", np.full((9, 14), 1 << 20, "i4"))]
)
def test_greys_out_of_their_range(mode: str, values: Any, processor: vedcore.Processor) -> None:
    image = Image.fromarray(values)
    assert image.mode == mode
    error = told("scale its values to 0 to {…}", processor, image)
    limit = int(error.hint.rpartition(" ")[2])
    scaled = (values / values.max() * limit).astype(values.dtype)
    grey = np.rint(values / values.max() * 255).astype(np.uint8)
    assert (processor(Image.fromarray(scaled)).pixel_values - processor(grey).pixel_values).abs().max() < 0.02


@pytest.mark.parametrize(
    ("template", "wrong", "right"),
    [
        ("give a dense tensor", torch.tensor(FLOATS).to_sparse(), lambda t: t.to_dense()),
        ("give one with data", torch.empty(9, 14, 3, device="meta"), lambda t: torch.tensor(FLOATS)),
        ("give (H, W), (H, W, C) or (C, H, W)", FLOATS[:, :, :, None, None], lambda a: a[..., 0, 0]),
        ("give (H, W), (H, W, C) or (C, H, W)", FLOATS[:, 0, 0], lambda a: FLOATS),
        ("give (H, W), (H, W, C) or (C, H, W)", FLOATS.reshape(3, 9, 14).transpose(1, 0, 2), lambda a: FLOATS),
        ("give (H, W), (H, W, C) or (C, H, W)", np.zeros((9, 14, 2)), lambda a: FLOATS),
        ("give an image of 1 x 1 or more", FLOATS[:0], lambda a: FLOATS[:1]),
        ("give an image of 1 x 1 or more", Image.new("RGB", (0, 5)), lambda image: Image.new("RGB", (1, 1))),
        ("give uint8, or floats from 0 to 1", FLOATS.astype(complex), lambda a: a.real),
        ("give uint8, or floats from 0 to 1", np.array([[np.nan, 1.0]]), lambda a: np.nan_to_num(a)),
        ("give uint8, or floats from 0 to 1", np.array([["a"]]), lambda a: np.asarray(PHOTO)),
        ("divide by 255", FLOATS * 255, lambda a: a / 255),
    ],
)
def test_arrays(template: str, wrong: Any, right: Any, processor: vedcore.Processor) -> None:
    told(template, processor, [wrong])
    assert bool(processor([right(wrong)]).pixel_values.isfinite().all())


def test_a_batch_as_one_array(processor: vedcore.Processor) -> None:
    for batch in (np.stack([FLOATS, FLOATS / 2]), torch.tensor(FLOATS).permute(2, 0, 1)[None]):
        told("give a list of images, one by one", processor, batch)
        assert len(processor(list(batch)).pixel_values) == len(batch)


def test_normalised_images(model: Any) -> None:
    pixels = torch.randn(3, 16, 24)
    template = "scale it to 0 to {…}, or pass it to model.generate if it is normalised"
    told(template, model.generate_text, pixels)
    told(template, model.generate_text, np.full((16, 24), 300))
    (result,) = model.generate_text((pixels - pixels.min()) / (pixels.max() - pixels.min()), max_new_tokens=3)
    assert result.tokens
    assert model.generate(pixels[None], max_new_tokens=3).shape[0] == 1
    assert model.generate_text(np.full((16, 24), 255), max_new_tokens=3)


# -- sizes ----------------------------------------------------------------------------------------------------------


def test_too_many_pixels(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    large = Image.new("RGB", (300, 300))
    monkeypatch.setattr(model.processor, "max_pixels", 10_000)
    for call in (model.processor, model.generate_text):
        error = told("{…}, or raise max_pixels of the processor", call, large)
        assert error.hint.startswith("make the image smaller")
    assert model.generate_text(large.resize((100, 100)), max_new_tokens=2)
    model.processor.max_pixels = 90_000
    assert model.generate_text(large, max_new_tokens=2)


def test_too_many_pixels_of_a_pdf(processor: vedcore.Processor) -> None:
    error = told("{…}, or raise max_pixels of the processor", processor, pdf(box="0 0 14400 14400"))
    dpi = int(error.hint.split(",")[0].removeprefix("give dpi="))
    assert processor(pdf(box="0 0 14400 14400"), dpi=dpi).pixel_values.shape == (1, 3, 9, 14)


def test_a_gif_whose_frame_is_far_larger_than_it_says(processor: vedcore.Processor) -> None:
    screen = b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff,"
    told("make the image smaller", processor, screen + struct.pack("<HHHH", 0, 0, 20_000, 20_000) + b"\0\2\2D\1\0;")
    assert processor(screen + struct.pack("<HHHH", 0, 0, 1, 1) + b"\0\2\2D\1\0;").pixel_values.shape == (1, 3, 9, 14)


def test_a_line_that_becomes_too_long() -> None:
    settings = vedcore.Preprocessing(image_size=(32, 32), resize_mode="shortest_edge")
    processor, line = vedcore.Processor(settings), Image.new("RGB", (1_000_000, 10))
    error = told("cut it into parts that give at most {…}", processor, line)
    assert "102,400,000 pixels" in str(error)
    parts = [line.crop((x, 0, x + 1000, 10)) for x in range(0, 3000, 1000)]
    assert processor(parts).pixel_values.shape == (3, 3, 32, 3200)


def test_images_of_different_sizes() -> None:
    processor = vedcore.Processor(vedcore.Preprocessing(image_size=(8, 12), resize_mode="none"))
    two = [PHOTO, PHOTO.resize((20, 30))]
    told("give them one by one, or resize them to the same size", processor, two)
    assert [processor(image).pixel_values.shape[2:] for image in two] == [(9, 14), (30, 20)]
    assert processor([image.resize((14, 9)) for image in two]).pixel_values.shape == (2, 3, 9, 14)


# -- pages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["TIFF", "PDF"])
def test_pages(format: str, model: Any, tmp_path: Path) -> None:
    path = tmp_path / "scan"
    path.write_bytes(several(PAGES, format))
    error = told(
        "give one, as pages={…}; model.processor and model.generate_text take several", load_image, path, pages="2-3"
    )
    assert "pages=2;" in error.hint
    assert load_image(path, pages=2).getpixel((5, 5))[0] in range(85, 95)
    assert len(model.processor(path, pages="2-3").pixel_values) == 2
    assert [r.page for r in model.generate_text(path, pages="2-3", max_new_tokens=2)] == [2, 3]
    error = told("choose from 1 to {…}", model.generate_text, path, pages=4)
    assert error.hint == "choose from 1 to 3"
    assert len(model.generate_text(path, pages="1-3", max_new_tokens=2)) == 3


def test_pages_from_the_command_line(model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model.save_pretrained(tmp_path / "m")
    (tmp_path / "scan.tif").write_bytes(several(PAGES, "TIFF"))
    call = ["generate", str(tmp_path / "m"), str(tmp_path / "scan.tif"), "--max-new-tokens", "2", "--jsonl", "--pages"]
    error = told("give '{…}-{…}'", group.main, [*call, "3-2"], standalone_mode=False)
    group.main([*call, error.hint.split("'")[1]], standalone_mode=False)
    assert [json.loads(line)["page"] for line in capsys.readouterr().out.splitlines()] == [2, 3]


def test_a_page_of_a_picture(processor: vedcore.Processor) -> None:
    told("leave pages out", processor, PHOTO, pages=2)
    assert processor(PHOTO).pixel_values.shape == (1, 3, 9, 14)


@pytest.mark.parametrize(
    ("template", "wrong", "right"),
    [
        ("count pages from 1", 0, 1),
        ("count pages from 1", "0-1", "1-2"),
        ("give '{…}-{…}'", "3-2", "2-3"),
        *(
            ("give a number, '1-3', '1,4-', a range, or a list of such; leave it out for all pages", wrong, right)
            for wrong, right in [
                ("first", 2),
                ("1;3", "1-3"),
                ("1-2-3", "1,3-"),
                ([[1]], range(1, 3)),
                ([], [1, "2-3"]),
                ("all", None),
            ]
        ),
    ],
)
def test_words_for_pages(template: str, wrong: Any, right: Any, model: Any) -> None:
    data = several(PAGES, "TIFF")
    error = told(template, model.generate_text, data, pages=wrong)
    if template.startswith("give '{"):
        assert error.hint == f"give {right!r}"
    assert model.generate_text(data, pages=right, max_new_tokens=2)


def test_a_resolution(model: Any) -> None:
    error = told("leave it out for {…}", model.generate_text, pdf(), dpi="200")
    assert error.hint == "leave it out for 200"
    assert model.generate_text(pdf(), max_new_tokens=2)


def test_too_many_pages(processor: vedcore.Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "MAX_PAGES", 2)
    for format in ("TIFF", "PDF"):
        told("split it into several files", processor, several(PAGES, format))
        parts = [several(PAGES[:2], format), several(PAGES[2:], format)]
        assert len(processor(parts, pages="1-").pixel_values) == 3


def test_pdfs(processor: vedcore.Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    told("save it without a password", processor, encrypted_pdf())
    told("give a file of 1 page or more", processor, pdf(0))
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pypdfium2", None)
        told('pip install "vedcore[pdf]"', processor, pdf())
    assert processor(pdf(1)).pixel_values.shape == (1, 3, 9, 14)
