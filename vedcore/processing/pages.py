"""Pages of a file: which of them are read, and how a TIFF and a PDF give theirs.

- **TIFF**: pages in the order of the file; smaller copies and masks of a page are not pages.
- **PDF**: drawn by pypdfium2, which the extra ``pdf`` installs, on white, with annotations and filled-in forms, at
  `PDF_DPI` pixels an inch. A page that would have more pixels than the limit is drawn with fewer, down to the 72 an
  inch that PDF itself counts in; a ``dpi`` that the caller gives is kept. A PDF that needs a password is refused.

A page is decoded when it is asked for; no other is in memory then.
"""

from __future__ import annotations

import contextlib
import math
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Integral, Real
from typing import IO, Any, TypeAlias

from PIL import Image

from vedcore.errors import ImageDecodeError, ImageError, ImageFormatError, ImageLimitError, UsageError, VedcoreError

__all__ = ["MAX_PAGES", "PDF_DPI", "OpenImage", "Pages", "check_dpi", "page_numbers", "parse_pages"]

MAX_PAGES = 10_000
"""Limit of the pages of a file."""
PDF_DPI = 200
"""Pixels an inch of a page of a PDF, by default."""
POINTS_AN_INCH = 72
"""Units of a PDF."""

Pages: TypeAlias = "int | str | range | list[int | str | range] | tuple[int | str | range, ...]"
"""Numbers of pages from 1: ``2``, ``"1-3"``, ``"1,4-"``, ``range(1, 4)``, or a list of such."""

_REDUCED_OR_MASK = 0b101
"""Bits of TIFF's NewSubfileType, tag 254: a smaller copy of another page, and a mask."""
_PDFIUM = threading.RLock()
"""PDFium may run in only one thread at a time, whatever the documents."""


@dataclass(frozen=True)
class OpenImage:
    """A source while it is open."""

    count: int
    """Pages of a TIFF or PDF; 1 of any other source."""
    read: Callable[[int], Image.Image]
    """The page of a number, from 1."""


def parse_pages(pages: Pages) -> list[tuple[int, int | None]]:
    """The first and the last number of each run of pages; None stands for the last page of the file.

    Raises:
        UsageError: not numbers of pages.
    """
    runs: list[tuple[int, int | None]] = []
    for item in pages if isinstance(pages, (list, tuple)) else [pages]:
        if isinstance(item, str):
            runs += [_parse_run(part, pages) for part in item.split(",")]
        elif isinstance(item, range) and len(item) <= MAX_PAGES:
            runs += [(number, number) for number in item]
        elif isinstance(item, Integral) and not isinstance(item, bool):
            runs.append((int(item), int(item)))
        else:
            raise _not_pages(pages)
    if not runs:
        raise _not_pages(pages)
    if min(first for first, _ in runs) < 1:
        raise UsageError(f"{pages!r} has a page below 1", field="pages", hint="count pages from 1")
    return runs


def _parse_run(part: str, pages: Pages) -> tuple[int, int | None]:
    match = re.fullmatch(r"\s*([0-9]{1,9})\s*(?:(-)\s*([0-9]{1,9})?\s*)?", part)
    if not match:
        raise _not_pages(pages)
    first, last = int(match[1]), int(match[3] or match[1])
    if last < first:
        raise UsageError(f"{part.strip()!r} runs backwards", field="pages", hint=f"give '{last}-{first}'")
    return first, None if match[2] and not match[3] else last


def _not_pages(pages: object) -> UsageError:
    hint = "give a number, '1-3', '1,4-', a range, or a list of such; leave it out for all pages"
    return UsageError(f"{pages!r} does not name pages", field="pages", hint=hint)


def page_numbers(pages: Pages | None, count: int, path: str | None = None) -> list[int]:
    """The numbers of the pages to read, in the order given and each once; all of them where ``pages`` is None.

    Raises:
        ImageError: a page that a file of ``count`` pages does not have.
        UsageError: as `parse_pages`.
    """
    if pages is None:
        return list(range(1, count + 1))
    numbers: dict[int, None] = {}
    for first, last in parse_pages(pages):
        if max(first, last or first) > count:
            there = "1 page" if count == 1 else f"{count:,} pages"
            hint = "leave pages out" if count == 1 else f"choose from 1 to {count}"
            raise ImageError(f"no page {max(first, count + 1)}, it has {there}", path=path, field="pages", hint=hint)
        numbers |= dict.fromkeys(range(first, (last or count) + 1))
    return list(numbers)


def check_dpi(dpi: float | None) -> None:
    """Refuse what is not a resolution.

    Raises:
        UsageError: not a number above 0.
    """
    if dpi is not None and not (isinstance(dpi, Real) and not isinstance(dpi, bool) and 0 < dpi < math.inf):
        raise UsageError(f"{dpi!r} is not a number above 0", field="dpi", hint=f"leave it out for {PDF_DPI}")


def check_count(count: int, path: str | None) -> None:
    """Refuse a file with more than `MAX_PAGES`."""
    if count > MAX_PAGES:
        raise ImageLimitError(f"more than {MAX_PAGES:,} pages", path=path, hint="split it into several files")


def check_size(
    width: int, height: int, max_pixels: int, path: str | None, hint: str = "make the image smaller"
) -> None:
    """Refuse an image without pixels, or with more than ``max_pixels``."""
    if width < 1 or height < 1:
        raise ImageDecodeError(f"no pixels: {width} x {height}", path=path, hint="give an image of 1 x 1 or more")
    if width * height > max_pixels:
        raise ImageLimitError(
            f"{width} x {height} is {width * height:,} pixels, above the limit of {max_pixels:,}",
            path=path,
            hint=f"{hint}, or raise max_pixels of the processor",
        )


@contextlib.contextmanager
def foreign_errors(
    what: str, path: str | None = None, hint: str = "it is damaged or truncated: copy it again"
) -> Iterator[None]:
    """Turn errors of Pillow, PDFium, NumPy and torch into ImageDecodeError."""
    try:
        yield
    except (VedcoreError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise ImageLimitError(str(error), path=path, hint="make the image smaller") from None
    except Exception as error:
        reason = re.sub(r"<[^<>]* at 0x[0-9a-fA-F]+>", "the data", str(error)).rstrip(". ") or type(error).__name__
        message = f"{what} cannot be decoded: {reason}"
        raise ImageDecodeError(message, path=path, hint=hint) from None


def tiff_frames(image: Image.Image, path: str | None) -> tuple[list[int], Exception | None]:
    """The frames of an open TIFF that are pages, counted from 0, and why the last of them cannot be read.

    Pages behind damage cannot be found, so that a damaged page is the last one.
    """
    frames: list[int] = []
    for frame in range(MAX_PAGES + 1):
        try:
            image.seek(frame)
        except EOFError:
            break
        except Exception as damage:
            if not frames:
                raise
            return [*frames, frame], damage
        kind = image.tag_v2.get(254, 0)  # type: ignore[attr-defined]
        if not frame or not (isinstance(kind, int) and kind & _REDUCED_OR_MASK):
            frames.append(frame)
    else:
        check_count(MAX_PAGES + 1, path)
    return frames, None


@contextlib.contextmanager
def open_pdf(stream: IO[bytes], path: str | None, max_pixels: int, dpi: float | None) -> Iterator[OpenImage]:
    """An open PDF.

    Raises:
        ImageFormatError: pypdfium2 is not installed.
        ImageDecodeError: a damaged PDF, one without pages, or one that needs a password.
        ImageLimitError: more than `MAX_PAGES`.
    """
    try:
        with _PDFIUM:
            import pypdfium2
    except ImportError:
        message = "a PDF needs pypdfium2, which is not installed"
        raise ImageFormatError(message, path=path, hint='pip install "vedcore[pdf]"') from None
    with foreign_errors("the PDF data", path), _PDFIUM:
        try:
            document = pypdfium2.PdfDocument(stream if hasattr(stream, "readinto") else stream.read())
        except pypdfium2.PdfiumError as error:
            if not re.search("password|security|success", str(error), re.IGNORECASE):
                raise
            stream.seek(0)
            if b"/Encrypt" not in stream.read():  # PDFium keeps the error of another document where it has none
                hint = "give a file of 1 page or more"
                raise ImageDecodeError("a PDF without pages", path=path, hint=hint) from None
            raise ImageDecodeError("an encrypted PDF", path=path, hint="save it without a password") from None
    try:
        with foreign_errors("the PDF data", path), _PDFIUM:
            document.init_forms()  # filled-in fields are drawn only then
            count = len(document)
        check_count(count, path)
        yield OpenImage(count, lambda number: _draw(document, number - 1, path, max_pixels, dpi))
    finally:
        with _PDFIUM:
            document.close()


def _draw(document: Any, index: int, path: str | None, max_pixels: int, dpi: float | None) -> Image.Image:
    """A page of a PDF as an image."""
    with foreign_errors("the PDF data", path), _PDFIUM, contextlib.closing(document[index]) as page:
        width, height = page.get_size()
        scale = (dpi or PDF_DPI) / POINTS_AN_INCH
        largest = 0.99 * math.sqrt(max_pixels / max(width * height, 1))  # sizes are rounded up
        if dpi is None:
            scale = max(1.0, min(scale, largest))
        pixels = math.ceil(width * scale), math.ceil(height * scale)
        fitting = int(largest * POINTS_AN_INCH)
        check_size(*pixels, max_pixels, path, f"give dpi={fitting}" if fitting else "make the page smaller")
        with contextlib.closing(page.render(scale=scale)) as bitmap:
            return bitmap.to_pil().convert("RGB")  # type: ignore[no-any-return]
