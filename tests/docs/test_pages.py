"""Every page of the manual does what it shows.

On each page, in order and in an empty folder, with every plugin of this repository: a block below a line with nothing
but a file name is that file; python runs, all in one namespace; vedcore's commands in sh run and must succeed. Text is
text. A block that includes a file of a plugin has the file's text, and runs where the page imports it. A recipe has the
scripts and configs of its folder beside it, and runs them.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("plugins/*/README.md"))]
TUTORIALS = ROOT / "docs/from-transformers"
"""Pages that test_tutorials.py runs."""
RECIPES = ROOT / "docs/recipes"
RUN = """
def _script(name, *words):
    import runpy, sys
    sys.argv[:] = [name, *words]
    runpy.run_path(name, run_name="__main__")

def _run(*words):
    import contextlib, os
    from vedcore import plugins
    from vedcore.cli import main
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            main(words)
        except SystemExit as end:
            assert not end.code, words
        finally:
            plugins.configure()  # the next command finds plugins anew
"""
"""Runs scripts, and commands of vedcore, in the process of their page, as torch takes seconds to import."""
RUNS = {"vedcore": "_run", "python": "_script"}


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.parent != TUTORIALS], ids=lambda page: str(page.relative_to(ROOT))
)
def test_page(
    page: Path,
    lay_out: Callable[[Path, Path], list[Any]],
    path_with_plugins: Callable[[Path], str],
    tmp_path: Path,
) -> None:
    for name in re.findall(
        r"^(?:import|from) (transformers|accelerate|peft|lightning)\b", page.read_text(), re.MULTILINE
    ):
        pytest.importorskip(name)  # the oldest versions are tested without them
    for name in re.findall(r"^(?:import|from) vedcore_(jax|tensorflow)\b", page.read_text(), re.MULTILINE):
        pytest.importorskip(name)  # not among what the tests install
    if "vedcore[train]" in page.read_text():
        pytest.importorskip("jiwer")
    shutil.copy(ROOT / "plugins/vedcore-printed/demo/line.png", tmp_path / "line.png")
    for file in (*RECIPES.glob("*.py"), *RECIPES.glob("*.yaml")) if page.parent == RECIPES else ():
        shutil.copy(file, tmp_path)
    script = [RUN]
    for block in lay_out(page, tmp_path):
        where = f"{page}:{block.line}"
        if block.included:
            continue
        if block.language == "python":
            padded = "\n" * (block.line - 1) + block.text  # so that a traceback names the page's own line
            script.append(f"exec(compile({padded!r}, {str(page)!r}, 'exec'))")
        elif block.language == "sh":
            commands = [shlex.split(line, comments=True) for line in block.text.splitlines()]
            script += [
                f"{RUNS[words[0]]}(*{words[1:]})"
                for words in commands
                if words and words[0] in RUNS  # pip and the like change the machine
            ]
        else:
            assert block.language == "text" or block.file, f"{where}: a block of {block.language} that nothing tests"
    (tmp_path / "page.py").write_text("\n".join(script))
    env = {**os.environ, "PYTHONPATH": path_with_plugins(tmp_path), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [sys.executable, "page.py"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"
