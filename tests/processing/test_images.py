"""Whatever a user calls an image: what it becomes, and how it is refused."""

from __future__ import annotations

import io
import os
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageFile

from vedcore.errors import ImageDecodeError, ImageError, ImageFormatError, ImageLimitError
from vedcore.processing.images import load_image


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int = 8, colour: int = 0, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def one_bit_bomb() -> bytes:
    packed = zlib.compressobj(9)
    data = b"".join(packed.compress(bytes(1251)) for _ in range(10_000)) + packed.flush()
    return png(10_000, 10_000, 1, 0, chunk(b"IDAT", data))


def check_message(error: ImageError) -> None:
    message = str(error)
    assert len(message) <= 300
    assert message.isprintable()
    assert "0x7" not in message
    assert error.hint


def refused(error: type[ImageError], source: object, *words: str, **options: int) -> ImageError:
    with pytest.raises(error) as caught:
        load_image(source, **options)
    check_message(caught.value)
    assert type(caught.value) is error
    for word in words:
        assert word in str(caught.value)
    return caught.value


PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 14, 3), np.uint8))


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
def test_what_is_no_image_at_all_is_refused(source: object) -> None:
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


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_many(format: str) -> None:
    frames = [Image.new("RGB", (8, 8), (5 * i, 0, 0)) for i in range(50)]
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
    assert max(colour(data)) <= 2


# -- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "0 bytes"),
        (b"just some words\n", "text"),
        ("Grüße\n".encode() * 60, "text"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"\xef\xbb\xbf <svg>", "SVG"),
        (b"<!DOCTYPE html><html>404</html>", "HTML"),
        (b"<?xml version='1.0'?><note/>", "XML"),
        (bytes(range(128, 256)), "80 81 82"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"\xff\xd8\xff\xe0", "JPEG"),
        (b"BMW is a car", "BMP"),
        (b"II*\0" + b"\xff" * 40, "TIFF"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "WEBP"),
        (b"P6\n3 x", "PPM"),
        (b"P1\n4 4\n9 9", "PPM"),
        (b"GIF89a", "GIF"),
        (b"\0\0\0\x1cftypavif", "AVIF"),
    ],
)
def test_bytes_that_are_no_image(data: bytes, word: str, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(data)
    refused(ImageDecodeError, data, word)
    error = refused(ImageDecodeError, path, word, "x.png")
    assert error.path == str(path)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "EPS"),
        (b"\xc5\xd0\xd3\xc6" + bytes(30), "EPS"),
        (b"8BPS\0\1" + bytes(30), "PSD"),
        (b"SIMPLE  =                    T" + b" " * 60, "FITS"),
        (b"\xff\xfe\0\x02\0\x02\x01" + bytes(20), "GD"),
        (b"%PDF-1.7\n", "PDF"),
        (b"\xff\x4f\xff\x51" + bytes(20), "JPEG 2000"),
        (b"\0\0\0\x0cftypheic", "HEIF"),
        (b"\0\0\1\0\1\0", "ICO"),
        (bytes(128) + b"DICM", "DICOM"),
        (encoded(PHOTO, "JPEG2000"), "JPEG 2000"),
        (encoded(PHOTO, "EPS"), "EPS"),
        (encoded(PHOTO, "PDF"), "PDF"),
        (encoded(PHOTO, "ICNS"), "ICNS"),
        (encoded(PHOTO, "DDS"), "DDS"),
        (encoded(PHOTO, "PCX"), "PCX"),
        (encoded(PHOTO, "SGI"), "SGI"),
    ],
)
def test_formats_off_the_list(data: bytes, name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(data)
    refused(ImageFormatError, path, name, "x.jpg", "PNG, JPEG")


def test_no_other_program_is_looked_for(tmp_path: Path) -> None:
    path = tmp_path / "x.eps"
    path.write_bytes(encoded(PHOTO, "EPS"))
    child = """
        import sys
        events = []
        sys.addaudithook(lambda name, args: events.append((name, args)) if not name.startswith("object.") else None)
        from vedcore import errors
        from vedcore.processing import images
        try:
            images.load_image(sys.argv[1])
        except errors.ImageFormatError:
            pass
        else:
            raise SystemExit("not refused")
        bad = [e for e in events if e[0].startswith(("subprocess", "os.exec", "os.posix_spawn", "os.system", "socket"))]
        assert not bad, bad
        assert "PIL.EpsImagePlugin" not in sys.modules
        assert "torch" not in sys.modules
    """
    run_child(child, path)


def run_child(code: str, *arguments: object) -> None:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("format", "length"), [("JPEG", 400), ("PNG", 100), ("GIF", 60), ("BMP", 100), ("TIFF", 120)])
def test_what_is_cut_short(format: str, length: int, tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 40, 3), np.uint8))
    path = tmp_path / "cut"
    path.write_bytes(encoded(noise, format)[:length])
    refused(ImageDecodeError, path, "cut", format)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"]), st.data())
def test_damage_anywhere_gives_an_image_or_our_error(format: str, data: st.DataObject) -> None:
    raw = bytearray(encoded(PHOTO, format))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = load_image(bytes(raw[: data.draw(st.integers(1, len(raw)))]))
    except ImageError as error:
        check_message(error)
    else:
        assert image.mode == "RGB"


def test_a_bomb_costs_neither_time_nor_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(one_bit_bomb())
    assert path.stat().st_size < 16_000
    child = """
        import resource, sys, time
        from vedcore import errors
        from vedcore.processing import images
        images.load_image(b"GIF89a\\1\\0\\1\\0\\x80\\0\\0\\0\\0\\0\\xff\\xff\\xff,\\0\\0\\0\\0\\1\\0\\1\\0\\0\\2\\2D\\1\\0;")
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        try:
            images.load_image(sys.argv[1])
        except errors.ImageLimitError as error:
            assert "100,000,000" in str(error) and "50,000,000" in str(error) and "bomb.png" in str(error), error
        else:
            raise SystemExit("not refused")
        assert time.perf_counter() - start < 5
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16_000
    """
    run_child(child, path)


@pytest.mark.parametrize("size", [(2**31 - 1, 2**31 - 1), (100_000, 100_000), (7072, 7072)])
def test_headers_of_huge_images(size: tuple[int, int]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused(ImageLimitError, png(*size), f"{size[0] * size[1]:,}")
        refused(ImageLimitError, b"P5 %d %d 255\n" % size, f"{size[0] * size[1]:,}")


def test_the_limit_is_ours_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_image(PHOTO, max_pixels=9 * 14).size == (14, 9)
    for source in (PHOTO, encoded(PHOTO, "PNG"), np.asarray(PHOTO), torch.zeros(3, 9, 14)):
        refused(ImageLimitError, source, "126", "125", "14 x 9", max_pixels=125)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_image(encoded(PHOTO, "JPEG")).size == (14, 9)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_text_chunks_that_blow_up() -> None:
    bomb = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(80_000_000), 9))
    data = chunk(b"IDAT", zlib.compress(b"\0\0"))
    refused(ImageDecodeError, png(1, 1, 8, 0, bomb, data), "PNG")


def test_an_image_of_no_pixels() -> None:
    refused(ImageDecodeError, Image.new("RGB", (0, 5)), "0 x 5")
    refused(ImageDecodeError, png(0, 5), "PNG")


def test_a_pillow_image_whose_file_is_closed(tmp_path: Path) -> None:
    PHOTO.save(tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        pass
    refused(ImageDecodeError, image, "closed")


@pytest.mark.parametrize(
    "url", ["https://example.org/a.png", "HTTP://example.org/a.png", "s3://bucket/a.png", "data:image/png;base64,AAAA"]
)
def test_urls_are_not_fetched(url: str) -> None:
    refused(ImageError, url, "URL", "download it first")


def test_a_file_url_says_what_to_do() -> None:
    refused(ImageError, "file:///a.png", "without file://")


# -- paths ----------------------------------------------------------------------------------------------------------


def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    refused(ImageDecodeError, tmp_path / "none.png", "none.png", "no such file")
    refused(ImageDecodeError, tmp_path, "folder")
    refused(ImageDecodeError, "", "no such file")
    refused(ImageDecodeError, "a\0b.png", "null")
    refused(ImageDecodeError, "\ud800.png", "surrogate")
    refused(ImageDecodeError, tmp_path / ("n" * 300), "too long")
    refused(ImageDecodeError, tmp_path / "new\nline\x1b[31m", "no such file")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refused(ImageDecodeError, tmp_path / "loop", "loop", "symbolic links")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    refused(ImageDecodeError, tmp_path / "dangling", "no such file")
    (tmp_path / "file").write_bytes(b"")
    refused(ImageDecodeError, tmp_path / "file" / "x.png", "not a directory")


def test_what_is_no_regular_file_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "fifo")
    refused(ImageDecodeError, tmp_path / "fifo", "not a regular file")
    refused(ImageDecodeError, "/dev/zero", "not a regular file")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # the path of a socket must be short
        server.bind("socket")
        refused(ImageDecodeError, tmp_path / "socket", "not a regular file")
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("opened"))
    refused(ImageDecodeError, tmp_path / "fifo")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(encoded(PHOTO, "PNG"))
    path.chmod(0)
    refused(ImageDecodeError, path, "permission denied")


def test_permission_denied_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(encoded(PHOTO, "PNG"))

    def denied(*_: object) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", denied)
    refused(ImageDecodeError, path, "permission denied", "secret.png")


@pytest.mark.parametrize(
    "name", [b"\xff.png", b"-rf.png", b"new\nline.png", b"n" * 251 + b".png", "e\u0301.png".encode()]
)
def test_odd_names_are_read_and_named(name: bytes, tmp_path: Path) -> None:
    path = os.path.join(os.fsencode(tmp_path), name)
    with open(path, "wb") as file:
        file.write(encoded(PHOTO, "PNG"))
    assert load_image(os.fsdecode(path)).size == (14, 9)
    with open(path, "wb") as file:
        file.write(b"text")
    refused(ImageDecodeError, os.fsdecode(path), "text")


# -- arrays ---------------------------------------------------------------------------------------------------------


def test_the_axis_of_channels() -> None:
    assert load_image(np.zeros((7, 5), np.uint8)).size == (5, 7)
    assert load_image(np.zeros((7, 5, 1), np.uint8)).size == (5, 7)
    assert load_image(np.zeros((3, 7, 5), np.uint8)).size == (5, 7)
    assert load_image(np.zeros((1, 7, 5), np.uint8)).size == (5, 7)
    assert load_image(np.zeros((3, 7, 4), np.uint8)).size == (7, 3)  # both could be: last for NumPy
    assert load_image(torch.zeros(3, 7, 4)).size == (4, 7)  # first for torch
    assert load_image(torch.zeros(7, 5, 3)).size == (5, 7)
    assert load_image(torch.zeros(7, 5)).size == (5, 7)
    transparent = np.zeros((2, 2, 4), np.uint8)
    assert load_image(transparent).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("value", "dtype", "grey"),
    [
        (True, bool, 255),
        (200, np.uint8, 200),
        (65535, np.uint16, 255),
        (257, np.uint16, 1),
        (257, ">u2", 1),
        (0.5, np.float16, 128),
        (1.0, np.float32, 255),
        (0.2, np.float64, 51),
        (255, np.int64, 255),
        (7, np.int8, 7),
        (255, np.uint32, 255),
        (9, np.int16, 9),
    ],
)
def test_scales_of_types(value: float, dtype: object, grey: int) -> None:
    assert load_image(np.full((2, 3), value, dtype)).getpixel((0, 0)) == (grey,) * 3


def test_scales_of_tensors() -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        assert load_image(torch.ones(3, 4, 5, dtype=dtype)).getpixel((0, 0)) == (255, 255, 255)
    assert load_image(torch.full((3, 4, 5), 9, dtype=torch.uint8)).getpixel((0, 0)) == (9, 9, 9)
    assert load_image(torch.ones(4, 5, dtype=torch.bool)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.full((2, 3), np.nan), ["6 of 6", "NaN"]),
        (np.array([[0.0, np.inf]]), ["1 of 2"]),
        (np.full((2, 3), 1.5), ["1.5", "0 to 1", "divide by 255"]),
        (np.array([[-2.1, 2.6]]), ["-2.1", "2.6", "pixel_values"]),
        (np.full((2, 3), 256), ["256", "0 to 255"]),
        (np.full((2, 3), -1, np.int8), ["-1"]),
        (np.zeros((0, 3), np.uint8), ["(0, 3)", "no pixels"]),
        (np.zeros((3, 0, 3), np.uint8), ["no pixels"]),
        (np.zeros(9, np.uint8), ["(9,)"]),
        (np.zeros((2, 3, 4, 4), np.uint8), ["(2, 3, 4, 4)", "list"]),
        (np.uint8(3) + np.zeros((), np.uint8), ["int"]),
        (np.zeros((5, 6, 2), np.uint8), ["(5, 6, 2)", "channels"]),
        (np.zeros((5, 6, 7), np.uint8), ["channels"]),
        (np.zeros((2, 3), complex), ["complex128"]),
        (np.full((2, 3), "x"), ["<U1"]),
        (np.full((2, 3), None), ["object"]),
        (torch.zeros(3, 4, 5, device="meta"), ["meta"]),
        (torch.zeros(3, 4, 5).to_sparse(), ["dense"]),
        (torch.full((3, 4, 5), float("nan")), ["NaN"]),
        (torch.full((3, 4, 5), 300), ["300"]),
        (torch.zeros(3, 4, 5, dtype=torch.complex64), ["complex64"]),
        (torch.zeros(0), ["(0,)"]),
    ],
)
def test_arrays_that_are_no_image(array: object, words: list[str]) -> None:
    refused(ImageDecodeError, array, *words)


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(
        st.one_of(
            hnp.integer_dtypes(),
            hnp.unsigned_integer_dtypes(),
            hnp.floating_dtypes(),
            hnp.boolean_dtypes(),
            hnp.complex_number_dtypes(),
        ),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6),
    )
)
def test_any_array_gives_an_image_or_our_error(array: np.ndarray) -> None:
    try:
        image = load_image(array)
    except ImageDecodeError as error:
        check_message(error)
    else:
        assert image.mode == "RGB"
        assert image.size in [(array.shape[1], array.shape[0]), (array.shape[-1], array.shape[-2])]


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
