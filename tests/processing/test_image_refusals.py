"""Bytes, paths and limits that are refused as images, by name and before anything is decoded."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from tests.processing.pictures import PHOTO, check_message, chunk, encoded, png, refused
from vedcore.errors import ImageDecodeError, ImageError, ImageFormatError, ImageLimitError
from vedcore.processing.images import load_image


def one_bit_bomb() -> bytes:
    packed = zlib.compressobj(9)
    data = b"".join(packed.compress(bytes(1251)) for _ in range(10_000)) + packed.flush()
    return png(10_000, 10_000, 1, 0, chunk(b"IDAT", data))


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
def test_bytes_that_are_not_an_image(data: bytes, word: str, tmp_path: Path) -> None:
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
        (b"\xff\x4f\xff\x51" + bytes(20), "JPEG 2000"),
        (b"\0\0\0\x0cftypheic", "HEIF"),
        (b"\0\0\1\0\1\0", "ICO"),
        (bytes(128) + b"DICM", "DICOM"),
        (encoded(PHOTO, "JPEG2000"), "JPEG 2000"),
        (encoded(PHOTO, "EPS"), "EPS"),
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
def test_files_that_are_cut_short(format: str, length: int, tmp_path: Path) -> None:
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


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(one_bit_bomb())
    assert path.stat().st_size < 16_000
    child = """
        import resource, sys
        from PIL import ImageFile
        from vedcore import errors
        from vedcore.processing import images
        images.load_image(b"GIF89a\\1\\0\\1\\0\\x80\\0\\0\\0\\0\\0\\xff\\xff\\xff,\\0\\0\\0\\0\\1\\0\\1\\0\\0\\2\\2D\\1\\0;")
        ImageFile.ImageFile.load = lambda self: sys.exit("decoded")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            images.load_image(sys.argv[1])
        except errors.ImageLimitError as error:
            assert "100,000,000" in str(error) and "50,000,000" in str(error) and "bomb.png" in str(error), error
        else:
            raise SystemExit("not refused")
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


def test_files_that_are_not_regular_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
