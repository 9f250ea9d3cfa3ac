"""Images from every kind of source become RGB pictures: formats, modes, orientations, frames."""

from __future__ import annotations

import io
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.processing.pictures import PHOTO, encoded, refused
from vedcore.errors import ImageDecodeError, ImageError, ImageFormatError
from vedcore.processing.images import load_image

# -- sources --------------------------------------------------------------------------------------------------------


def test_every_kind_of_source_gives_the_same_image(tmp_path: Path) -> None:
    data = encoded(PHOTO, "PNG")
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    array = np.asarray(PHOTO)
    with open(path, "rb") as file:
        sources = [
            path,
            str(path),
            data,
            bytearray(data),
            memoryview(data),
            file,
            io.BytesIO(data),
            PHOTO,
            Image.open(path),
            array,
            array.transpose(2, 0, 1),
            torch.from_numpy(array.copy()),
            torch.from_numpy(array.copy()).permute(2, 0, 1),
            torch.from_numpy(array / 255).requires_grad_(),
            (array / 255).astype(np.float32),
            array.astype(np.int64),
        ]
        for source in sources:
            image = load_image(source)
            assert image.mode == "RGB"
            np.testing.assert_array_equal(np.asarray(image), array)
        assert not file.closed


def test_a_file_object_is_read_from_its_start_and_a_pipe_from_where_it_is() -> None:
    data = encoded(PHOTO, "BMP")
    stream = io.BytesIO(data)
    stream.seek(0, io.SEEK_END)
    assert load_image(stream).size == PHOTO.size
    read_end, write_end = os.pipe()
    os.write(write_end, data)
    os.close(write_end)
    with open(read_end, "rb", buffering=0) as pipe:
        assert load_image(pipe).size == PHOTO.size


def test_a_text_file_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("hello")
    with open(tmp_path / "x") as file:
        refused(ImageDecodeError, file, "text", "'rb'")
    refused(ImageDecodeError, io.StringIO("hello"), "'rb'")


@pytest.mark.parametrize("source", [None, 5, ["a.png"], {"path": "a.png"}, object()])
def test_other_objects_are_refused(source: object) -> None:
    refused(ImageDecodeError, source, type(source).__name__)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF"])
def test_formats_on_the_list(format: str, tmp_path: Path) -> None:
    path = tmp_path / "named.wrongly"
    path.write_bytes(encoded(Image.new("RGB", (16, 8), (200, 30, 40)), format))
    image = load_image(path)
    assert image.size == (16, 8)
    assert np.abs(np.asarray(image).astype(int) - (200, 30, 40)).max() <= 6


def test_the_source_is_left_alone() -> None:
    image = Image.new("LA", (3, 3), (10, 128))
    image.getexif()[274] = 6
    before = image.copy()
    load_image(image)
    assert image == before
    assert image.getexif()[274] == 6
    array = np.zeros((3, 3, 3), np.uint8)
    load_image(array).putpixel((0, 0), (9, 9, 9))
    assert not array.any()
    rgb = Image.new("RGB", (2, 2))
    load_image(rgb).putpixel((0, 0), (9, 9, 9))
    assert rgb.getpixel((0, 0)) == (0, 0, 0)


# -- colours, turns, frames -----------------------------------------------------------------------------------------


def colour(image: Image.Image | bytes) -> tuple[int, ...]:
    return load_image(image).getpixel((0, 0))  # type: ignore[return-value]


def test_alpha_lies_on_white() -> None:
    assert colour(Image.new("RGBA", (2, 2), (0, 0, 0, 0))) == (255, 255, 255)
    assert colour(Image.new("RGBA", (2, 2), (200, 100, 0, 255))) == (200, 100, 0)
    assert colour(Image.new("LA", (2, 2), (0, 0))) == (255, 255, 255)
    assert colour(Image.new("RGBA", (2, 2), (0, 0, 0, 128))) == (127, 127, 127)
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert colour(encoded(palette, "PNG")) == (10, 20, 30)
    assert colour(encoded(palette, "PNG", transparency=1)) == (255, 255, 255)
    assert colour(encoded(palette, "GIF", transparency=1)) == (255, 255, 255)
    assert colour(Image.new("PA", (2, 2))) == (255, 255, 255)
    assert colour(encoded(Image.new("L", (2, 2), 7), "PNG", transparency=7)) == (255, 255, 255)
    assert colour(encoded(Image.new("I;16", (2, 2), 300), "PNG", transparency=300)) == (255, 255, 255)


def test_every_mode_has_a_documented_result() -> None:
    assert colour(Image.new("1", (2, 2), 1)) == (255, 255, 255)
    assert colour(Image.new("L", (2, 2), 77)) == (77, 77, 77)
    assert colour(Image.new("CMYK", (2, 2), (0, 255, 255, 0))) == (255, 0, 0)
    assert colour(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))[0] > 240
    assert colour(Image.new("YCbCr", (2, 2), (128, 128, 128))) == (128, 128, 128)
    assert colour(Image.new("HSV", (2, 2), (0, 0, 255))) == (255, 255, 255)
    assert colour(Image.new("RGBX", (2, 2), (1, 2, 3, 0))) == (1, 2, 3)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L"])
def test_sixteen_bits_are_scaled(mode: str) -> None:
    for value, grey in ((0, 0), (257, 1), (32896, 128), (65535, 255)):
        assert colour(Image.new(mode, (2, 2), value)) == (grey,) * 3


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_files(format: str) -> None:
    image = Image.fromarray(np.array([[0, 257], [32896, 65535]], np.uint16))
    np.testing.assert_array_equal(np.asarray(load_image(encoded(image, format)))[..., 0], [[0, 1], [128, 255]])


def test_modes_without_a_scale_of_their_own() -> None:
    assert colour(Image.new("I", (2, 2), 77)) == (77, 77, 77)
    assert colour(Image.new("I", (2, 2), 65535)) == (255, 255, 255)
    refused(ImageDecodeError, Image.new("I", (2, 2), 65536), "65536", "mode I")
    refused(ImageDecodeError, Image.new("I", (2, 2), -1), "-1")
    assert colour(Image.new("F", (2, 2), 77.4)) == (77, 77, 77)
    assert colour(Image.new("F", (2, 2), 0.0)) == (0, 0, 0)
    refused(ImageDecodeError, Image.new("F", (2, 2), 0.5), "0.5", "0 to 255")
    refused(ImageDecodeError, Image.new("F", (2, 2), float("nan")), "nan")
    refused(ImageDecodeError, encoded(Image.new("F", (2, 2), 300.0), "TIFF"), "300")


def test_a_scale_at_fault_in_a_file_names_the_file(tmp_path: Path) -> None:
    Image.new("F", (2, 2), 0.5).save(tmp_path / "x.tif")
    refused(ImageDecodeError, tmp_path / "x.tif", "x.tif", "0.5")


def test_a_format_that_this_pillow_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.AvifImagePlugin", None)
    refused(ImageFormatError, b"\0\0\0\x1cftypavif", "AVIF", "pip install -U Pillow")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, format: str) -> None:
    upright = np.zeros((24, 32, 3), np.uint8)
    upright[:12, :16] = 255  # white at the top left only
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    stored = Image.fromarray(np.ascontiguousarray(turned))
    exif = Image.Exif()
    exif[274] = orientation
    image = load_image(encoded(stored, format, exif=exif))
    assert image.size == (32, 24)
    assert np.abs(np.asarray(image).astype(int) - upright).mean() < 4
    if format == "TIFF":
        grey = load_image(encoded(stored.convert("L").convert("I;16"), format, exif=exif))
        assert grey.size == (32, 24)


def test_orientation_of_sixteen_bit_grey_in_memory() -> None:
    image = Image.new("I;16", (4, 2))
    image.getexif()[274] = 6
    assert load_image(image).size == (2, 4)


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_of_many(format: str, recwarn: pytest.WarningsRecorder) -> None:
    frames = [Image.new("RGB", (8, 8), (5 * i, 0, 0)) for i in range(50)]
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
    assert max(colour(data)) <= 2
    assert not recwarn
    refused(ImageError, data, "no page 2, it has 1 page", pages=2)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(
        [
            "1",
            "L",
            "LA",
            "P",
            "PA",
            "RGB",
            "RGBA",
            "RGBX",
            "CMYK",
            "YCbCr",
            "HSV",
            "LAB",
            "I",
            "F",
            "I;16",
            "La",
            "RGBa",
        ]
    ),
    st.integers(1, 5),
    st.integers(1, 5),
)
def test_any_mode_gives_an_image_or_our_error(mode: str, width: int, height: int) -> None:
    try:
        image = load_image(Image.new(mode, (width, height)))
    except ImageDecodeError:
        assert mode == "La"  # Pillow converts it to nothing
    else:
        assert (image.mode, image.size) == ("RGB", (width, height))


def test_many_threads_at_once() -> None:
    good, bad = encoded(PHOTO, "PNG"), encoded(PHOTO, "PNG")[:90]
    failures: list[object] = []

    def work() -> None:
        for _ in range(20):
            if load_image(good).size != (14, 9):
                failures.append("size")
            try:
                load_image(bad)
                failures.append("no error")
            except ImageDecodeError:
                pass

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
