"""Wheels of pure Python, as the standard has them: the same files give the same bytes.

https://packaging.python.org/en/latest/specifications/binary-distribution-format/
"""

from __future__ import annotations

import base64
import contextlib
import csv
import hashlib
import io
import os
import secrets
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import vedcore
from vedcore.errors import UsageError
from vedcore.registry import canonical

__all__ = ["Wheel", "write_wheel"]

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The date of each file, the earliest that an archive can hold."""
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Wheel:
    """Name, version and metadata of a wheel."""

    distribution: str
    version: str
    metadata: str
    entry_points: str

    @property
    def stem(self) -> str:
        """The beginning of the names of the wheel and of its metadata's folder."""
        return f"{canonical(self.distribution).replace('-', '_')}-{self.version}"


def write_wheel(wheel: Wheel, files: Mapping[str, bytes | io.FileIO], output: Path) -> Path:
    """Write a wheel to a folder; large files are copied in pieces, and none is compressed.

    Args:
        wheel: its name and metadata.
        files: paths in the wheel to contents, or to opened files.
        output: the folder, created where it is missing.

    Returns:
        The wheel's path.

    Raises:
        UsageError: the wheel exists, or cannot be written.
    """
    path = output / f"{wheel.stem}-py3-none-any.whl"
    if os.path.lexists(path):
        raise UsageError(f"{str(path)!r} exists already", field="--output", hint="remove it, or give another --version")
    info = f"{wheel.stem}.dist-info"
    tags = f"Wheel-Version: 1.0\nGenerator: vedcore {vedcore.__version__}\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    described = {"METADATA": wheel.metadata, "WHEEL": tags, "entry_points.txt": wheel.entry_points}
    everything = dict(files) | {f"{info}/{name}": text.encode() for name, text in described.items()}
    with _new_file(path) as stage, zipfile.ZipFile(stage, "x") as archive:
        record = io.StringIO()
        rows = csv.writer(record, lineterminator="\n")
        for name, content in everything.items():
            rows.writerow([name, *_add(archive, name, content)])
        rows.writerow([f"{info}/RECORD", "", ""])
        _add(archive, f"{info}/RECORD", record.getvalue().encode())
    return path


def _add(archive: zipfile.ZipFile, name: str, content: bytes | io.FileIO) -> tuple[str, int]:
    """Add a file; its hash and size as RECORD has them."""
    info = zipfile.ZipInfo(name, _EPOCH)
    info.create_system, info.external_attr = 3, 0o100644 << 16  # of Unix, on any system
    source = io.BytesIO(content) if isinstance(content, bytes) else content
    info.file_size = len(content) if isinstance(content, bytes) else os.fstat(content.fileno()).st_size
    digest, size = hashlib.sha256(), 0
    source.seek(0)
    with archive.open(info, "w") as target:
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += target.write(chunk)
    return "sha256=" + base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode(), size


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """A path beside ``path``, whose file gets that name once it is complete."""
    stage = path.with_name(f".vedcore-tmp-{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield stage
        os.replace(stage, path)
    except OSError as error:
        message = f"{str(path)!r} cannot be written: {(error.strerror or str(error)).lower()}"
        raise UsageError(message, field="--output", hint="name a folder to write to") from None
    finally:
        with contextlib.suppress(OSError):
            stage.unlink(missing_ok=True)
