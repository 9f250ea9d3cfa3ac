"""Images of any kind that a user has, as 8-bit RGB images.

- **Files and bytes** are PNG, JPEG, GIF, BMP, WebP, TIFF, PPM (PGM, PBM), AVIF or PDF, told apart by their first bytes
  and not by their name. No other decoder is started. A TIFF and a PDF have pages (`vedcore.processing.pages`); of an
  animation the first frame is read, and of a Pillow image the one at which it stands.
- **Orientation** in the EXIF data is applied. Colour profiles are not: CMYK, YCbCr and others become RGB by Pillow's
  plain arithmetic.
- **Transparency** is laid over white.
- **16-bit grey** maps 0 to 65535 linearly onto 0 to 255. Pillow's mode ``I`` has no fixed scale: it is read as 8-bit if
  no value is above 255, as 16-bit if no value is above 65535, and refused otherwise. Mode ``F`` is 0 to 255, Pillow's
  scale, and other values are refused. It is also refused if no value is above 1, as it was then meant as 0 to 1.
- **Arrays and tensors** are (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels. Where both the first and the last
  axis could be channels, a NumPy array has them last and a torch tensor first. ``bool`` is black and white, ``uint8``
  0 to 255, ``uint16`` 0 to 65535, a float type 0 to 1, any other integer type 0 to 255; other values are refused.

The limit of pixels is checked before an image is decoded, and does not use or change Pillow's global limit. Importing
this module does not import torch.

Shape letters: H height, W width, C channels.
"""

from __future__ import annotations

import codecs
import contextlib
import importlib
import io
import os
import re
import sys
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image, ImageOps

from vedcore.errors import (
    ImageDecodeError,
    ImageError,
    ImageFormatError,
    ImageLimitError,
    UsageError,
    printable,
    warn_caller,
)
from vedcore.files import open_regular
from vedcore.processing.pages import (
    OpenImage,
    Pages,
    check_dpi,
    check_size,
    foreign_errors,
    open_pdf,
    page_numbers,
    tiff_frames,
)

if TYPE_CHECKING:
    import torch

__all__ = ["MAX_PIXELS", "ImageSource", "first_page", "load_image", "open_image", "path_of", "rewound"]

MAX_PIXELS = 50_000_000
"""Default limit of width times height."""
MAX_STREAM_BYTES = 512_000_000
"""Limit of bytes read from a stream that cannot be rewound."""

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
ImageSource: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image | Array | torch.Tensor"
)

# formats that are read: name, Pillow's module, and a pattern of a file's first bytes
_READ_FORMATS = (
    ("PNG", "PngImagePlugin", rb"\x89PNG\r\n\x1a\n"),
    ("JPEG", "JpegImagePlugin", rb"\xff\xd8\xff"),
    ("GIF", "GifImagePlugin", rb"GIF8[79]a"),
    ("BMP", "BmpImagePlugin", rb"BM"),
    ("WEBP", "WebPImagePlugin", rb"RIFF.{4}WEBP"),
    ("TIFF", "TiffImagePlugin", rb"II[*+]\0|MM\0[*+]"),
    ("PPM", "PpmImagePlugin", rb"P[1-6][\s#]"),
    ("AVIF", "AvifImagePlugin", rb".{4}ftyp(?:avi[fs]|m(?:if|sf)1.{0,40}avi[fs])"),
    ("PDF", "", rb"(?:\xef\xbb\xbf)?\s*%PDF-"),  # not by Pillow
)
# image formats that are known and refused
_REFUSED_FORMATS = (
    ("EPS", rb"%!PS|\xc5\xd0\xd3\xc6"),
    ("PSD", rb"8BPS"),
    ("FITS", rb"SIMPLE  ="),
    ("GD", rb"\xff\xfe.{4}\x01|\xff\xff.{4}\x00|gd2\0"),
    ("JPEG 2000", rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  "),
    ("JPEG XL", rb"\xff\x0a|\0\0\0\x0cJXL "),
    ("HEIF", rb".{4}ftyp(?:hei[cfmsx]|hev[cmsx]|mif1|msf1)"),
    ("ICO", rb"\0\0[\x01\x02]\0"),
    ("ICNS", rb"icns"),
    ("DDS", rb"DDS "),
    ("QOI", rb"qoif"),
    ("SGI", rb"\x01\xda[\0\x01][\x01\x02]"),
    ("SUN", rb"\x59\xa6\x6a\x95"),
    ("PCX", rb"\x0a[\0-\x05][\0\x01][\x01\x02\x04\x08]"),
    ("XPM", rb"/\* XPM \*/"),
    ("XBM", rb"#define \w+_width"),
    ("WMF", rb"\xd7\xcd\xc6\x9a|\x01\0\0\0.{36} EMF"),
    ("HDF5", rb"\x89HDF\r\n"),
    ("OpenEXR", rb"\x76\x2f\x31\x01"),
    ("XCF", rb"gimp xcf"),
    ("DICOM", rb".{128}DICM"),
)
# text formats, for messages
_TEXT_FORMATS = (
    ("an SVG drawing", rb"(?:<\?xml.*?)?(?:<!--.*?)?(?:<!DOCTYPE svg.*?)?<svg[\s>]"),
    ("an HTML page", rb"(?:<!--.*?)?<(?:!doctype html|html|head|body)"),
    ("an XML file", rb"<\?xml"),
)
_HEAD_BYTES = 512
"""First bytes of a file that are compared with the patterns."""
_FORMAT_HINT = "PNG, JPEG, GIF, BMP, WebP, TIFF, PPM, AVIF and PDF are read"
_SHAPE_HINT = "give (H, W), (H, W, C) or (C, H, W)"
_VALUE_HINT = "give uint8, or floats from 0 to 1"


def load_image(
    source: ImageSource, *, pages: Pages | None = None, dpi: float | None = None, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """``source`` as an RGB image; the module's docstring has the rules.

    Args:
        source: a path, the bytes of a file, a binary file object (read from its start), a Pillow image, a NumPy
            array or a torch tensor on any device.
        pages: the page to read of a TIFF or a PDF, from 1; by default the first, with a warning if there are more.
        dpi: pixels an inch of a page of a PDF; by default `PDF_DPI`, or fewer on a large page.
        max_pixels: limit of width times height.

    Returns:
        An image of mode ``RGB``, which shares no memory with ``source``.

    Raises:
        ImageDecodeError: not an image, a damaged image, a file that cannot be read, an array of a wrong shape or range.
        ImageFormatError: an image in a format that is not read, or a PDF without pypdfium2.
        ImageLimitError: more than ``max_pixels``, or a file of too many pages; the image is not decoded.
        ImageError: a URL, as nothing is downloaded; a page that is not there.
        UsageError: ``pages`` of more than one page, or not of the kinds that `Pages` has.
    """
    check_dpi(dpi)
    with open_image(source, dpi, max_pixels) as opened:
        numbers = (
            first_page(source, opened.count) if pages is None else page_numbers(pages, opened.count, path_of(source))
        )
        if len(numbers) > 1:
            hint = f"give one, as pages={numbers[0]}; model.processor and model.generate_text take several"
            raise UsageError(f"{len(numbers)} pages are not one image", field="pages", hint=hint)
        return opened.read(numbers[0])


def first_page(source: ImageSource, count: int) -> list[int]:
    """The number of the first page, with a warning where there are more."""
    if count > 1:
        name = printable(path_of(source) or "the file")
        message = f"{name}: the first of {count:,} pages is read, and the others are not; choose with pages="
        warn_caller(message)
    return [1]


def path_of(source: ImageSource) -> str | None:
    """The path that ``source`` is, if it is one."""
    return os.fsdecode(source) if isinstance(source, (str, os.PathLike)) else None


@contextlib.contextmanager
def open_image(source: ImageSource, dpi: float | None, max_pixels: int) -> Iterator[OpenImage]:
    """``source`` open, with its number of pages; errors as `load_image`, on opening or on reading."""
    path = path_of(source)
    if path is not None:
        _refuse_url(path)
        with (
            open_regular(path, ImageDecodeError, "give the path of a readable image file") as file,
            _open_file(file, path, max_pixels, dpi) as opened,
        ):
            yield opened
    elif isinstance(source, (bytes, bytearray, memoryview)):
        with _open_file(io.BytesIO(source), None, max_pixels, dpi) as opened:
            yield opened
    elif hasattr(source, "read"):
        with _open_file(rewound(source), None, max_pixels, dpi) as opened:
            yield opened
    else:
        yield OpenImage(1, lambda _: _from_memory(source, max_pixels))


def _from_memory(source: Any, max_pixels: int) -> Image.Image:
    if isinstance(source, Image.Image):
        if source.format == "TIFF" and getattr(source, "is_animated", False) and source.tell() == 0:
            message = (
                "only page 1 of a Pillow image of several pages is read, as it stands there; give the file for all"
            )
            warn_caller(message)
        with foreign_errors("the image", hint="load it before its file is closed"):
            check_size(source.width, source.height, max_pixels, None)
            return _to_rgb(source)
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels, channels_first=False)
    torch = sys.modules.get("torch")  # a tensor exists only where torch was imported
    if torch is not None and isinstance(source, torch.Tensor):
        return _from_array(_tensor_to_array(source), max_pixels, channels_first=True)
    raise ImageDecodeError(
        f"an image cannot be made from {type(source).__name__}",
        hint="give a path, bytes, a binary file, a Pillow image, an array or a tensor",
    )


def _refuse_url(path: str) -> None:
    if match := re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://|data:", path):
        local = match[1] is not None and match[1].lower() == "file"
        hint = "give its path, without file://" if local else "download it first, and give the file or its bytes"
        raise ImageError("a URL, not a path", path=path[:100], hint=hint)


def rewound(stream: Any) -> IO[bytes]:
    """``stream`` at its start; if it cannot seek, a copy of the rest of it."""
    with foreign_errors("the file object", hint="give the bytes of the image"):
        if getattr(stream, "seekable", bool)():
            stream.seek(0)
            if not isinstance(stream.read(0), str):
                binary: IO[bytes] = stream
                return binary
        copy = io.BytesIO()
        while chunk := stream.read(1 << 20):
            if isinstance(chunk, str):
                raise ImageDecodeError("a file object in text mode", hint="open it in binary mode, 'rb'")
            if copy.write(chunk) and copy.tell() > MAX_STREAM_BYTES:
                raise ImageLimitError(
                    f"more than {MAX_STREAM_BYTES:,} bytes", hint="save it as a file, and give its path"
                )
        copy.seek(0)
        return copy


@contextlib.contextmanager
def _open_file(stream: IO[bytes], path: str | None, max_pixels: int, dpi: float | None) -> Iterator[OpenImage]:
    with foreign_errors("the file", path):
        head = stream.read(_HEAD_BYTES)
        stream.seek(0)
    name, module = _format_of(head, path)
    if name == "PDF":
        with open_pdf(stream, path, max_pixels, dpi) as opened:
            yield _naming_pages(opened, path)
        return
    try:
        importlib.import_module(f"PIL.{module}")
    except ImportError:  # AVIF came to Pillow in 2025
        raise ImageFormatError(f"this Pillow reads no {name}", path=path, hint="pip install -U Pillow") from None

    def decoded(_: int) -> Image.Image:
        stream.seek(0)
        # not Image.open, which applies Pillow's global MAX_IMAGE_PIXELS, and hides why a header is bad
        with foreign_errors(f"the {name} data", path), Image.OPEN[name][0](stream, b"") as image:
            check_size(image.width, image.height, max_pixels, path)
            return _to_rgb(image, path)

    if name != "TIFF":
        yield OpenImage(1, decoded)
        return
    with contextlib.ExitStack() as stack:
        with foreign_errors(f"the {name} data", path):
            image = stack.enter_context(Image.OPEN[name][0](stream, b""))
            frames, damage = tiff_frames(image, path)

        def page(number: int) -> Image.Image:
            with foreign_errors(f"the {name} data", path):
                if damage is not None and number == len(frames):
                    raise damage
                image.seek(frames[number - 1])
                check_size(image.width, image.height, max_pixels, path)
                return _to_rgb(image, path)

        yield _naming_pages(OpenImage(len(frames), page), path)


def _naming_pages(opened: OpenImage, path: str | None) -> OpenImage:
    """The same, with the number of the page in errors where there are several."""

    def read(number: int) -> Image.Image:
        try:
            return opened.read(number)
        except ImageError as error:
            raise error.at(path, f"page {number}") from None

    return opened if opened.count == 1 else OpenImage(opened.count, read)


def _format_of(head: bytes, path: str | None) -> tuple[str, str]:
    """Pillow's name of the format, and its module, for a file that starts with ``head``."""
    for name, module, start in _READ_FORMATS:
        if re.match(start, head, re.DOTALL):
            return name, module
    for name, start in _REFUSED_FORMATS:
        if re.match(start, head, re.DOTALL):
            raise ImageFormatError(f"{name} is not read", path=path, hint=f"convert it: {_FORMAT_HINT}")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    kinds = (kind for kind, start in _TEXT_FORMATS if re.match(start, text, re.DOTALL | re.IGNORECASE))
    if not head:
        found = "empty, 0 bytes"
    elif (kind := next(kinds, None)) is not None:
        found = f"{kind}, not an image of pixels"
    elif _is_text(head):
        found = "text, not an image"
    else:
        found = f"not an image in a known format: it starts with {head[:8].hex(' ')}"
    raise ImageDecodeError(found, path=path, hint=_FORMAT_HINT)


def _is_text(head: bytes) -> bool:
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # the last character may be incomplete
    except UnicodeDecodeError:
        return False
    return not re.search(r"[\x00-\x08\x0e-\x1f\x7f]", text)


def _to_rgb(image: Image.Image, path: str | None = None) -> Image.Image:
    image.load()
    if image.mode == "F" or image.mode.startswith("I"):
        image = _grey_to_8_bits(image, path)
    image = ImageOps.exif_transpose(image)  # always a copy
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _grey_to_8_bits(image: Image.Image, path: str | None) -> Image.Image:
    """Modes I;16, I and F as L, or as LA if a grey value means transparent."""
    values = np.asarray(image)  # (H, W)
    low, high = values.min(), values.max()
    limit = 255 if image.mode == "F" or (image.mode == "I" and high <= 255) else 65535
    if not (low >= 0 and high <= limit) or (image.mode == "F" and 0 < high <= 1):
        raise ImageDecodeError(
            f"mode {image.mode} with values from {low:g} to {high:g}, not 0 to {limit}",
            path=path,
            hint=f"scale its values to 0 to {limit}",
        )
    grey = Image.fromarray(np.rint(values * np.float32(255 / limit)).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    grey.getexif().update(image.getexif())
    return grey


def _tensor_to_array(tensor: torch.Tensor) -> Array:
    with foreign_errors("the tensor", hint="give a dense tensor"):
        if tensor.is_meta:
            raise ImageDecodeError("a tensor on the meta device holds no pixels", hint="give one with data")
        tensor = tensor.detach().cpu()
        if tensor.is_floating_point():
            tensor = tensor.float()  # NumPy has no bfloat16
        array: Array = tensor.numpy()
        return array


def _from_array(array: Array, max_pixels: int, *, channels_first: bool) -> Image.Image:
    shape = array.shape
    if array.ndim not in (2, 3):
        hint = "give a list of images, one by one" if array.ndim == 4 else _SHAPE_HINT
        raise ImageDecodeError(f"an array of shape {shape} is not one image", hint=hint)
    if array.size == 0:
        raise ImageDecodeError(f"an array of shape {shape} has no pixels", hint="give an image of 1 x 1 or more")
    if array.ndim == 3:  # which axis has the channels
        first, last = shape[0] in (1, 3, 4), shape[2] in (1, 3, 4)
        if not first and not last:
            raise ImageDecodeError(f"an array of shape {shape} has no axis of 1, 3 or 4 channels", hint=_SHAPE_HINT)
        if first and (channels_first or not last):
            array = array.transpose(1, 2, 0)  # (H, W, C)
    check_size(array.shape[1], array.shape[0], max_pixels, None)
    pixels = np.ascontiguousarray(_array_to_8_bits(array))
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]  # (H, W)
    return _to_rgb(Image.fromarray(pixels))


def _array_to_8_bits(array: Array) -> Array:
    kind = array.dtype.kind
    if kind == "b":
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint8:
        return array
    if kind not in "uif":
        raise ImageDecodeError(f"an array of {array.dtype} is not an image", hint=_VALUE_HINT)
    if kind == "f" and not np.isfinite(array).all():
        count = int((~np.isfinite(array)).sum())
        raise ImageDecodeError(f"{count:,} of {array.size:,} values are NaN or infinite", hint=_VALUE_HINT)
    limit = 1 if kind == "f" else 65535 if array.dtype.newbyteorder("=") == np.uint16 else 255
    low, high = array.min(), array.max()
    if low < 0 or high > limit:
        scale_255 = kind == "f" and low >= 0 and high <= 255
        normal = f"scale it to 0 to {limit}, or pass it to model.generate if it is normalised"
        hint = "divide by 255" if scale_255 else normal
        raise ImageDecodeError(f"{array.dtype} values from {low:.6g} to {high:.6g}, not 0 to {limit}", hint=hint)
    scaled: Array = array if limit == 255 else np.rint(array * np.float32(255 / limit))
    return scaled.astype(np.uint8)
