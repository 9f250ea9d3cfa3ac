"""Pages of the manual as blocks of code, some of which are files.

A block below a line with nothing but a file name in backquotes is that file. Where the file is in `plugins/`, the page
includes it: the block is the text of the file on disk, or, below ``From `plugins/…`:``, a part of it.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PLUGINS = sorted(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml"))
BLOCK = re.compile(r"(?:^(From )?`([\w./-]+)`:?\n\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block; ``file`` is the name that stands alone in the line above it, or None."""

    file: str | None
    language: str
    text: str
    line: int
    included: bool = False
    """Whether the file is one of a plugin in this repository."""


def lay_out(page: Path, folder: Path) -> list[Block]:
    """All blocks of ``page``; those that are files are written, or compared with the file that they include."""
    source, blocks = page.read_text(encoding="utf-8"), []
    for found in BLOCK.finditer(source):
        _, file, language, text = found.groups()
        included = (file or "").startswith("plugins/")
        line = source[: found.start(4)].count("\n") + 1
        blocks.append(Block(file, language, text, line, included))
        if included:
            on_disk = (ROOT / file).read_text(encoding="utf-8")
            same = is_excerpt(text, on_disk) if found[1] else text == on_disk
            assert same, f"{page}:{line}: not the lines of {file}; python -m tests.docs.includes copies whole files"
        elif file:
            target = folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
    return blocks


def is_excerpt(text: str, source: str) -> bool:
    """Whether a text is a part of a source; the formatter indents and breaks the lines of both as it likes."""
    return "".join(text.split()) in "".join(source.split())


def install(plugin: Path, folder: Path) -> None:
    """Write the metadata that pip makes of a project to a folder of the path."""
    project = tomllib.loads((plugin / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name, version = project["name"], project["version"]
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    points = "".join(f"{key} = {value}\n" for key, value in project["entry-points"]["vedcore"].items())
    (info / "entry_points.txt").write_text("[vedcore]\n" + points)


def path_with_plugins(folder: Path) -> str:
    """A PYTHONPATH by which every plugin of this repository is installed; their metadata is written to ``folder``."""
    for plugin in PLUGINS:
        install(plugin, folder)
    return os.pathsep.join(map(str, [folder, *PLUGINS]))


@pytest.fixture(scope="session", name="lay_out")
def _lay_out() -> Callable[[Path, Path], list[Block]]:
    return lay_out


@pytest.fixture(scope="session", name="install")
def _install() -> Callable[[Path, Path], None]:
    return install


@pytest.fixture(scope="session", name="path_with_plugins")
def _path_with_plugins() -> Callable[[Path], str]:
    return path_with_plugins
