"""Every page of the manual does what it shows.

On each page, in order and in an empty folder: a block below a line with nothing but a file name becomes that file;
other python runs, all in one namespace; vedcore's commands in sh run and must succeed. Text is text.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"(?:^`([\w./-]+)`\n\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUNNABLE = {"python", "sh", "yaml", "toml"}


def blocks(page: Path) -> list[tuple[str | None, str, str, int]]:
    """File name if any, language, text and first line of each block."""
    text = page.read_text()
    return [(m[1], m[2], m[3], text[: m.start(3)].count("\n") + 1) for m in BLOCK.finditer(text)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page(page: Path, tmp_path: Path) -> None:
    shutil.copy(ROOT / "plugins/vedcore-printed/demo/line.png", tmp_path / "line.png")
    script = ["import os, shlex, subprocess, sys"]
    for named, language, text, line in blocks(page):
        assert language in {*RUNNABLE, "text"}, f"{page}:{line}: a block of {language}"
        if language == "text":
            continue
        if named:
            target = tmp_path / named
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        elif language == "python":
            script.append(f"exec(compile({chr(10) * (line - 1) + text!r}, {str(page)!r}, 'exec'))")
        elif language == "sh":
            for command in filter(None, (part.split("#")[0].strip() for part in text.splitlines())):
                words = shlex.split(command)
                if words[0] != "vedcore":  # pip, say
                    continue
                script.append(
                    f"subprocess.run([sys.executable, '-m', *{words}], check=True, stdout=subprocess.DEVNULL)"
                )
        else:
            pytest.fail(f"{page}:{line}: a block of {language} without a file name above it")
    (tmp_path / "page.py").write_text("\n".join(script))
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [sys.executable, "page.py"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"
