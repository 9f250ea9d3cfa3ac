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


def several(pages: list[Image.Image], format: str, **options: object) -> bytes:
    """A file of several pages, or an animation."""
    first, *others = [page.copy() for page in pages]  # Pillow leaves options of a format in the image
    return encoded(first, format, save_all=True, append_images=others, **options)


def pdf(
    pages: int = 1, *objects: str, box: str = "0 0 100 50", page: str = "", root: str = "", trailer: str = ""
) -> bytes:
    """A PDF of empty pages; ``objects`` are numbered from ``pages + 3`` on."""
    kids = " ".join(f"{3 + i} 0 R" for i in range(pages))
    tree = f"<</Type/Pages/Kids[{kids}]/Count {pages}/MediaBox[{box}]>>"
    leaf = f"<</Type/Page/Parent 2 0 R{page}>>"
    every = [f"<</Type/Catalog/Pages 2 0 R{root}>>", tree, *[leaf] * pages, *objects]
    out, starts = b"%PDF-1.4\n", []
    for number, content in enumerate(every, 1):
        starts.append(len(out))
        out += f"{number} 0 obj{content}endobj\n".encode()
    table = b"".join(b"%010d 00000 n \n" % start for start in starts)
    end = f"trailer<</Size {len(every) + 1}/Root 1 0 R{trailer}>>\nstartxref\n{len(out)}\n%%EOF"
    return out + f"xref\n0 {len(every) + 1}\n0000000000 65535 f \n".encode() + table + end.encode()


def encrypted_pdf() -> bytes:
    """A PDF with a password that is not empty."""
    lock = f"<</Filter/Standard/V 1/R 2/O<{'11' * 32}>/U<{'22' * 32}>/P -4>>"
    return pdf(1, lock, trailer="/Encrypt 4 0 R/ID[<01><01>]")


def check_message(error: ImageError) -> None:
    message = str(error)
    assert len(message) <= 300
    assert message.isprintable()
    assert "0x7" not in message
    assert error.hint


def refused(error: type[ImageError], source: object, *words: str, **options: object) -> ImageError:
    with pytest.raises(error) as caught:
        load_image(source, **options)
    check_message(caught.value)
    assert type(caught.value) is error
    for word in words:
        assert word in str(caught.value)
    return caught.value
