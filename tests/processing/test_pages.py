"""Pages of TIFFs and PDFs: which are read, at which size, and what is refused."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import textwrap
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.processing.pictures import check_message, encoded, encrypted_pdf, pdf, refused, several
from vedcore.config import Preprocessing
from vedcore.errors import ImageDecodeError, ImageError, ImageFormatError, ImageLimitError, UsageError
from vedcore.processing import pages as pages_module
from vedcore.processing.images import load_image
from vedcore.processing.pages import page_numbers
from vedcore.processing.processor import Processor
from vedcore.processing.reader import ImageReader

GREYS = (0, 90, 180, 250)
PAGES = [Image.new("RGB", (40 + i, 20), (grey,) * 3) for i, grey in enumerate(GREYS)]
FORMATS = ["TIFF", "PDF"]


def read(*sources: object, **options: Any) -> list[Image.Image]:
    with ImageReader(sources, **options) as reader:
        return [reader.read(origin) for origin in reader.origins]


def greys(images: list[Image.Image]) -> list[int]:
    return [min(GREYS, key=lambda grey: abs(grey - image.getpixel((5, 5))[0])) for image in images]


# -- which pages ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pages", "numbers"),
    [
        (None, [1, 2, 3, 4, 5]),
        (2, [2]),
        (np.int64(2), [2]),
        ("2", [2]),
        ("1-3", [1, 2, 3]),
        (" 1 - 3 , 5", [1, 2, 3, 5]),
        ("1,4-", [1, 4, 5]),
        ("5-", [5]),
        ("5-5", [5]),
        (range(1, 4), [1, 2, 3]),
        (range(5, 0, -2), [5, 3, 1]),
        ([4, 1], [4, 1]),
        ((1, "3-4", range(2, 4)), [1, 3, 4, 2]),
        ("2,2,1-3", [2, 1, 3]),
    ],
    ids=repr,
)
def test_pages_that_are_chosen(pages: Any, numbers: list[int]) -> None:
    assert page_numbers(pages, 5) == numbers


NOT_PAGES = ["", "a", "1-2-3", "1;2", "-3", "1,,2", "3-1", "0", "0-2", "1" * 10, "١", b"1", {1}, True, 1.0, 0, -1]


@pytest.mark.parametrize(
    "pages",
    [*NOT_PAGES, range(3), range(1, 1), range(1, 10**9), [], [[1]]],
    ids=repr,
)
def test_pages_that_are_not_numbers_of_pages(pages: Any) -> None:
    with pytest.raises(UsageError, match="^pages: ") as caught:
        page_numbers(pages, 5)
    assert caught.value.hint


@pytest.mark.parametrize("pages", [6, "6", "1-6", "6-", "2,6", range(1, 7), "4-999999999", "7-9"], ids=repr)
def test_pages_that_are_not_there(pages: Any) -> None:
    with pytest.raises(ImageError, match=r"scan.pdf: pages: no page [67], it has 5 pages; choose from 1 to 5"):
        page_numbers(pages, 5, "scan.pdf")


# -- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_every_page_of_every_kind_of_file(format: str, tmp_path: Path) -> None:
    data = several(PAGES, format)
    path = tmp_path / "named.wrongly"
    path.write_bytes(data)
    read_end, write_end = os.pipe()
    os.write(write_end, data)
    os.close(write_end)
    with open(path, "rb") as file, open(read_end, "rb", buffering=0) as pipe:
        sources = [path, str(path), data, bytearray(data), memoryview(data), file, io.BytesIO(data), pipe]
        with ImageReader(sources) as reader:
            assert [(origin.source, origin.page) for origin in reader.origins] == [
                (source, page) for source in range(8) for page in (1, 2, 3, 4)
            ]
            images = [reader.read(origin) for origin in reader.origins]
            again = reader.read(reader.origins[1])
        assert not file.closed
    assert greys(images) == [*GREYS] * 8
    assert greys([again]) == [GREYS[1]]
    assert {image.mode for image in images} == {"RGB"}


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate", "jpeg", "packbits"])
def test_compressed_pages(compression: str | None) -> None:
    images = read(several(PAGES, "TIFF", compression=compression))
    assert (greys(images), [image.size for image in images]) == ([*GREYS], [page.size for page in PAGES])


def test_pages_of_different_modes_and_turns() -> None:
    """Each page has its own mode, size, transparency and orientation."""
    turned, clear = Image.new("L", (30, 10), 90), Image.new("RGBA", (7, 9), (0, 0, 0, 0))
    turned.encoderinfo = {"tiffinfo": {274: 6}}
    others = [turned, Image.new("I;16", (9, 9), 32896), clear, Image.new("CMYK", (5, 5))]
    images = read(encoded(Image.new("1", (8, 8), 1), "TIFF", save_all=True, append_images=others))
    assert [image.size for image in images] == [(8, 8), (10, 30), (9, 9), (7, 9), (5, 5)]
    assert [image.getpixel((1, 1)) for image in images] == [(g,) * 3 for g in (255, 90, 128, 255, 255)]


def test_smaller_copies_and_masks_are_not_pages() -> None:
    copy, mask, page = (Image.new("L", (20, 10), grey) for grey in (1, 2, 180))
    for image, kind in zip((copy, mask, page), (1, 4, 2), strict=True):
        image.encoderinfo = {"tiffinfo": {254: kind}}
    data = encoded(PAGES[0].copy(), "TIFF", save_all=True, append_images=[copy, mask, page])
    assert greys(read(data)) == [0, 180]
    assert greys(read(data, pages=2)) == [180]


def test_sources_side_by_side() -> None:
    photo = encoded(PAGES[3], "PNG")
    with ImageReader([several(PAGES[:2], "PDF"), photo, several(PAGES[1:], "TIFF"), PAGES[0]]) as reader:
        assert [(origin.source, origin.page) for origin in reader.origins] == [
            *[(0, 1), (0, 2), (1, None)],
            *[(2, 1), (2, 2), (2, 3), (3, None)],
        ]
        assert greys([reader.read(origin) for origin in reader.origins]) == [0, 90, 250, 90, 180, 250, 0]
        assert greys([reader.read(origin) for origin in reversed(reader.origins)]) == [0, 250, 180, 90, 250, 90, 0]


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_of_one_page_has_no_number(format: str) -> None:
    with ImageReader([encoded(PAGES[0], format)], pages="1-") as reader:
        assert [origin.page for origin in reader.origins] == [None]


@pytest.mark.parametrize("format", FORMATS)
def test_one_image_is_the_first_page_with_a_warning(format: str, tmp_path: Path) -> None:
    path = tmp_path / "scan"
    path.write_bytes(several(PAGES, format))
    with pytest.warns(UserWarning, match=r"scan: the first of 4 pages is read.*pages=") as caught:
        assert greys([load_image(path)]) == [0]
    assert [warning.filename for warning in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert greys([load_image(path, pages=page) for page in (1, "3", range(4, 5))]) == [0, 180, 250]
    with pytest.raises(UsageError, match="pages: 2 pages are not one image; give one, as pages=2"):
        load_image(path, pages="2-3")
    refused(ImageError, path, "scan: pages: no page 5, it has 4 pages", pages=5)
    with pytest.raises(UsageError, match="pages"):
        load_image(path, pages="x")


def test_a_pillow_image_is_the_page_at_which_it_stands() -> None:
    with Image.open(io.BytesIO(several(PAGES, "TIFF"))) as image:
        with pytest.warns(UserWarning, match="only page 1 of a Pillow image of several pages"):
            assert greys([load_image(image)]) == [0]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            image.seek(2)
            assert greys([load_image(image)]) == [180]
            load_image(Image.open(io.BytesIO(encoded(PAGES[0], "TIFF"))))
        assert image.tell() == 2


def test_the_processor_gives_a_row_a_page(tmp_path: Path) -> None:
    processor = Processor(Preprocessing(image_size=(4, 4), image_mean=(0, 0, 0), image_std=(1, 1, 1)))
    path = tmp_path / "scan.tif"
    path.write_bytes(several(PAGES, "TIFF"))
    with pytest.warns(UserWarning, match=r"scan.tif: the first of 4 pages") as caught:
        assert processor(path)["pixel_values"].shape == (1, 3, 4, 4)
    assert [warning.filename for warning in caught] == [__file__]
    rows = processor([path, PAGES[2], several(PAGES, "PDF")], pages="1-")["pixel_values"]
    expected = torch.tensor([*GREYS, GREYS[2], *GREYS]) / 255
    assert torch.allclose(rows[:, 0, 2, 2], expected, atol=0.01)
    with pytest.raises(UsageError, match="text: 3 images, but 1 texts"):
        processor(path, text="a", pages="2-4")
    with pytest.raises(ImageError, match=r"scan.tif: pages: no page 9, it has 4 pages"):
        processor([path, PAGES[0]], pages=[9])
    with pytest.raises(ImageError, match=r"images\[1\], pages: no page 2, it has 1 page"):
        processor([path, PAGES[0]], pages=2)


# -- PDF ------------------------------------------------------------------------------------------------------------


def test_the_resolution_of_a_pdf() -> None:
    data = pdf(box="0 0 144 72")
    assert load_image(data).size == (400, 200)
    assert load_image(data, dpi=72).size == (144, 72)
    assert load_image(data, dpi=36.0).size == (72, 36)
    assert read(data, dpi=300)[0].size == (600, 300)
    processor = Processor(Preprocessing(image_size=(4, 4)))
    assert processor(data, dpi=20)["pixel_values"].shape == (1, 3, 4, 4)
    for wrong in (0, -1, True, "200", float("nan"), float("inf")):
        with pytest.raises(UsageError, match="^dpi: "):
            load_image(data, dpi=wrong)


def test_a_large_page_is_drawn_smaller_down_to_a_pixel_a_point() -> None:
    """An image of any size that is read as a file is read in a PDF of Pillow's too, which has a point for a pixel."""
    assert load_image(pdf(box="0 0 100 100"), max_pixels=20_000).size == (141, 141)
    assert load_image(pdf(box="0 0 100 100"), max_pixels=10_000).size == (100, 100)
    error = refused(ImageLimitError, pdf(box="0 0 14400 14400"), "14400 x 14400", "207,360,000", "50,000,000")
    dpi = int(re.search(r"give dpi=(\d+)", error.hint)[1])  # type: ignore[index]
    assert load_image(pdf(box="0 0 14400 14400"), dpi=dpi).width > 6900
    error = refused(ImageLimitError, pdf(box="0 0 1000 1000"), "give dpi=", dpi=1000)
    assert load_image(pdf(box="0 0 1000 1000"), dpi=int(re.search(r"\d+", error.hint)[0])).size  # type: ignore[index]
    refused(ImageLimitError, pdf(box="0 0 2000000 2000000"), "make the page smaller")
    refused(ImageLimitError, pdf(box="0 0 200 200"), "40,000 pixels", max_pixels=10_000)


def test_annotations_and_filled_in_fields_are_drawn() -> None:
    red = "<</Type/XObject/Subtype/Form/BBox[0 0 30 30]/Length 24>>stream\n1 0 0 rg 0 0 30 30 re f \nendstream"
    field = "<</Type/Annot/Subtype/Widget/FT/Tx/T(a)/V(x)/F 4/Rect[10 10 40 40]/AP<</N 4 0 R>>>>"
    stamp = "<</Type/Annot/Subtype/Stamp/F 4/Rect[60 10 90 40]/AP<</N 4 0 R>>>>"
    image = load_image(
        pdf(1, red, field, stamp, page="/Annots[5 0 R 6 0 R]", root="/AcroForm<</Fields[5 0 R]>>"), dpi=72
    )
    assert [image.getpixel((x, 25)) for x in (5, 25, 75)] == [(255, 255, 255), (255, 0, 0), (255, 0, 0)]


def test_a_pdf_without_pypdfium2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "scan.pdf"
    path.write_bytes(pdf())
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    refused(ImageFormatError, path, "scan.pdf", 'pip install "vedcore[pdf]"')


def test_bad_pdfs(tmp_path: Path) -> None:
    refused(ImageDecodeError, encrypted_pdf(), "encrypted", "without a password")
    refused(ImageDecodeError, b"%PDF-1.7\n", "PDF")
    refused(ImageDecodeError, pdf(0), "PDF")
    whole = several(PAGES, "PDF")
    path = tmp_path / "scan.pdf"
    path.write_bytes(whole[: len(whole) // 2])
    refused(ImageDecodeError, path, "scan.pdf", "PDF", "damaged")
    counted = pdf(2).replace(b"/Count 2", b"/Count 3")
    with ImageReader([counted]) as reader:
        first, second, third = reader.origins
        reader.read(first)
        with pytest.raises(ImageDecodeError, match=r"^images\[0\], page 3: the PDF data cannot be decoded"):
            reader.read(third)
        reader.read(second)


def test_threads_read_pdfs() -> None:
    data = several(PAGES, "PDF")
    found: list[list[int]] = []
    threads = [threading.Thread(target=lambda: found.extend(greys(read(data)) for _ in range(5))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[*GREYS]] * 30


# -- limits and damage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_too_many_pages(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages_module, "MAX_PAGES", 4)
    assert len(read(several(PAGES, format))) == 4
    refused(ImageLimitError, several([*PAGES, PAGES[0]], format), "more than 4 pages", "split it", pages=1)


def test_a_page_above_the_limit_of_pixels_is_that_pages_error() -> None:
    large = Image.new("1", (300, 300))
    for data in (several([PAGES[0], large, PAGES[3]], "TIFF"), several([PAGES[0], large, PAGES[3]], "PDF")):
        with ImageReader([data], max_pixels=10_000) as reader:
            assert greys([reader.read(reader.origins[i]) for i in (0, 2)]) == [0, 250]
            with pytest.raises(ImageLimitError, match=r"^images\[0\], page 2: 300 x 300 is 90,000 pixels"):
                reader.read(reader.origins[1])


def test_of_a_tiff_that_is_cut_short_the_whole_pages_are_read() -> None:
    data = several(PAGES, "TIFF", compression="tiff_lzw")
    for length in range(len(data) - 1, 8, -7):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with ImageReader([data[:length]]) as reader:
                outcomes: list[object] = []
                for origin in reader.origins:
                    try:
                        outcomes.append(greys([reader.read(origin)])[0])
                    except ImageDecodeError as error:
                        check_message(error)
                        outcomes.append(None)
        whole = [outcome for outcome in outcomes if outcome is not None]
        assert whole == [*GREYS][: len(whole)]
        assert None in outcomes or len(whole) == 4, "pages are lost without a word"


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(FORMATS), st.data())
def test_damage_anywhere_gives_images_or_our_errors(format: str, data: st.DataObject) -> None:
    raw = bytearray(several(PAGES[:2], format))
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with ImageReader([bytes(raw[: data.draw(st.integers(1, len(raw)))])]) as reader:
            for origin in reader.origins:
                try:
                    assert reader.read(origin).mode == "RGB"
                except ImageError as error:
                    check_message(error)


@pytest.mark.parametrize("format", FORMATS)
def test_many_pages_are_never_in_memory_together(format: str, tmp_path: Path) -> None:
    page = Image.new("1", (4000, 4000))
    path = tmp_path / "scan"
    path.write_bytes(pdf(16, box="0 0 4000 4000") if format == "PDF" else several([page] * 16, "TIFF"))
    child = """
        import resource, sys
        from vedcore.processing.reader import ImageReader
        with ImageReader([sys.argv[1]], dpi=72) as reader:
            peaks = []
            for origin in reader.origins:
                assert reader.read(origin).size == (4000, 4000)
                peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        assert len(peaks) == 16
        assert peaks[-1] - peaks[3] < 100_000, peaks  # a page is 48 MB
    """
    command = [sys.executable, "-c", textwrap.dedent(child), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
