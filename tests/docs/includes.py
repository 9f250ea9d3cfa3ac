"""Copies the files of plugins into the pages that include them whole: ``python -m tests.docs.includes``."""

from __future__ import annotations

import re
from pathlib import Path

from tests.docs.conftest import BLOCK, ROOT


def refreshed(source: str) -> str:
    """The text of a page with each file that it includes as it is on disk."""

    def block(found: re.Match[str]) -> str:
        part, file, _, text = found.groups()
        if part or not (file or "").startswith("plugins/"):
            return found[0]
        return found[0].removesuffix(text + "```") + (ROOT / file).read_text(encoding="utf-8") + "```"

    return BLOCK.sub(block, source)


if __name__ == "__main__":
    for page in sorted(Path(ROOT / "docs").rglob("*.md")):
        page.write_text(refreshed(page.read_text(encoding="utf-8")), encoding="utf-8")
