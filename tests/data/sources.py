"""Sources of labelled images for tests."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw


def png(text: str = "a", width: int = 40) -> bytes:
    """A file of an image, different for each text."""
    image = Image.new("RGB", (width, 20), "white")
    ImageDraw.Draw(image).text((2, 4), text, fill="black")
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def write(folder: Path, files: Mapping[str, bytes | str]) -> Path:
    """A folder with files."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def labelled(folder: Path, count: int = 10) -> Path:
    """A folder of images of different widths and texts of different lengths."""
    rows = [{"file_name": f"{n}.png", "text": f"{n} " + "ab" * (n % 4)} for n in range(count)]
    return write(folder, {f"{n}.png": png(str(n), 30 + 4 * n) for n in range(count)} | {"metadata.jsonl": lines(rows)})


def shards(folder: Path, count: int = 3, samples: int = 4) -> str:
    """The pattern of shards in WebDataset's layout, whose samples are numbered throughout."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(count):
        with tarfile.open(folder / f"{shard:02d}.tar", "w") as archive:
            for number in range(shard * samples, (shard + 1) * samples):
                members = {f"{number}.png": png(str(number)), f"{number}.txt": f"text {number}".encode()}
                add_members(archive, members)
    return f"{folder}/{{00..{count - 1:02d}}}.tar"


def add_members(archive: tarfile.TarFile, members: Mapping[str, bytes]) -> None:
    """Add files to an archive."""
    for name, content in members.items():
        header = tarfile.TarInfo(name)
        header.size = len(content)
        archive.addfile(header, io.BytesIO(content))
