"""Pages of the manual as blocks of code, some of which are files."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

BLOCK = re.compile(r"(?:^`([\w./-]+)`\n\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block; ``file`` is the name that stands alone in the line above it, or None."""

    file: str | None
    language: str
    text: str
    line: int


def lay_out(page: Path, folder: Path) -> list[Block]:
    """All blocks of ``page``; those that are files are written, with the metadata that pip makes of a project."""
    source = page.read_text(encoding="utf-8")
    blocks = [Block(m[1], m[2], m[3], source[: m.start(3)].count("\n") + 1) for m in BLOCK.finditer(source)]
    for block in blocks:
        if block.file:
            target = folder / block.file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text, encoding="utf-8")
    if (folder / "pyproject.toml").exists():
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        name, version = project["name"], project["version"]
        info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        points = "".join(f"{key} = {value}\n" for key, value in project["entry-points"]["vedcore"].items())
        (info / "entry_points.txt").write_text("[vedcore]\n" + points)
    return blocks


@pytest.fixture(scope="session", name="lay_out")
def _lay_out() -> Callable[[Path, Path], list[Block]]:
    return lay_out
