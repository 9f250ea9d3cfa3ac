"""Pictures, files of them, and their refusals."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from vedcore.errors import ImageError
from vedcore.processing.images import load_image

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 14, 3), np.uint8))


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int = 8, colour: int = 0, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


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
