"""Images of any kind that a user has, as 8-bit RGB images.

- **Files and bytes** are PNG, JPEG, GIF, BMP, WebP, TIFF, PPM (PGM, PBM) or AVIF, told apart by their first bytes and
  not by their name. No other decoder is started. Of an animation the first frame is read.
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

from vedcore.errors import ImageDecodeError, ImageError, ImageFormatError, ImageLimitError, VedcoreError
from vedcore.files import open_regular

if TYPE_CHECKING:
    import torch

__all__ = ["MAX_PIXELS", "ImageSource", "load_image"]

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
)
# image formats that are known and refused
_REFUSED_FORMATS = (
    ("PDF", rb"\s*%PDF-"),
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
_FORMAT_HINT = "PNG, JPEG, GIF, BMP, WebP, TIFF, PPM and AVIF are read"
_SHAPE_HINT = "give (H, W), (H, W, C) or (C, H, W)"
_VALUE_HINT = "give uint8, or floats from 0 to 1"


def load_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """``source`` as an RGB image; the module's docstring has the rules.

    Args:
        source: a path, the bytes of a file, a binary file object (read from its start), a Pillow image, a NumPy
            array or a torch tensor on any device.
        max_pixels: limit of width times height.

    Returns:
        An image of mode ``RGB``, which shares no memory with ``source``.

    Raises:
        ImageDecodeError: not an image, a damaged image, a file that cannot be read, an array of a wrong shape or range.
        ImageFormatError: an image in a format that is not read.
        ImageLimitError: more than ``max_pixels``; the image is not decoded.
        ImageError: a URL; nothing is downloaded.
    """
    if isinstance(source, (str, os.PathLike)):
        path = os.fsdecode(source)
        _refuse_url(path)
        with open_regular(path, ImageDecodeError, "give the path of a readable image file") as file:
            return _decode(file, path, max_pixels)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(source), None, max_pixels)
    if isinstance(source, Image.Image):
        with _foreign_errors("the image", hint="load it before its file is closed"):
            _check_size(source.width, source.height, max_pixels, None)
            return _to_rgb(source)
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels, channels_first=False)
    torch = sys.modules.get("torch")  # a tensor exists only where torch was imported
    if torch is not None and isinstance(source, torch.Tensor):
        return _from_array(_tensor_to_array(source), max_pixels, channels_first=True)
    if hasattr(source, "read"):
        return _decode(_rewound(source), None, max_pixels)
    raise ImageDecodeError(
        f"an image cannot be made from {type(source).__name__}",
        hint="give a path, bytes, a binary file, a Pillow image, an array or a tensor",
    )


def _refuse_url(path: str) -> None:
    if match := re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://|data:", path):
        local = match[1] is not None and match[1].lower() == "file"
        hint = "give its path, without file://" if local else "download it first, and give the file or its bytes"
        raise ImageError("a URL, not a path", path=path[:100], hint=hint)


def _rewound(stream: Any) -> IO[bytes]:
    """``stream`` at its start; if it cannot seek, a copy of the rest of it."""
    with _foreign_errors("the file object", hint="give the bytes of the image"):
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


def _decode(stream: IO[bytes], path: str | None, max_pixels: int) -> Image.Image:
    with _foreign_errors("the file", path):
        head = stream.read(_HEAD_BYTES)
        stream.seek(0)
    name, module = _format_of(head, path)
    try:
        importlib.import_module(f"PIL.{module}")
    except ImportError:  # AVIF came to Pillow in 2025
        raise ImageFormatError(f"this Pillow reads no {name}", path=path, hint="pip install -U Pillow") from None
    # not Image.open, which applies Pillow's global MAX_IMAGE_PIXELS, and hides why a header is bad
    with _foreign_errors(f"the {name} data", path), Image.OPEN[name][0](stream, b"") as image:
        _check_size(image.width, image.height, max_pixels, path)
        return _to_rgb(image, path)


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


def _check_size(width: int, height: int, max_pixels: int, path: str | None) -> None:
    if width < 1 or height < 1:
        raise ImageDecodeError(f"no pixels: {width} x {height}", path=path, hint="give an image of 1 x 1 or more")
    if width * height > max_pixels:
        raise ImageLimitError(
            f"{width} x {height} is {width * height:,} pixels, above the limit of {max_pixels:,}",
            path=path,
            hint="make the image smaller, or raise max_pixels",
        )


@contextlib.contextmanager
def _foreign_errors(
    what: str, path: str | None = None, hint: str = "it is damaged or truncated: copy it again"
) -> Iterator[None]:
    """Turn errors of Pillow, NumPy and torch into ImageDecodeError."""
    try:
        yield
    except (VedcoreError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise ImageLimitError(str(error), path=path, hint="make the image smaller") from None
    except Exception as error:
        reason = re.sub(r"<[^<>]* at 0x[0-9a-fA-F]+>", "the data", str(error)) or type(error).__name__
        message = f"{what} cannot be decoded: {reason}"
        raise ImageDecodeError(message, path=path, hint=hint) from None


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
            hint="scale it, or convert it to mode L",
        )
    grey = Image.fromarray(np.rint(values * np.float32(255 / limit)).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    grey.getexif().update(image.getexif())
    return grey


def _tensor_to_array(tensor: torch.Tensor) -> Array:
    with _foreign_errors("the tensor", hint="give a dense tensor"):
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
    _check_size(array.shape[1], array.shape[0], max_pixels, None)
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
        hint = "divide by 255" if scale_255 else "scale it; pass images that are already normalised as pixel_values"
        raise ImageDecodeError(f"{array.dtype} values from {low:.6g} to {high:.6g}, not 0 to {limit}", hint=hint)
    scaled: Array = array if limit == 255 else np.rint(array * np.float32(255 / limit))
    return scaled.astype(np.uint8)
