"""The tutorials of docs/from-transformers: the same program for transformers and for vedcore, run and compared.

Run as a module it rewrites the tables of the pages, which show the lines that differ.
"""

from __future__ import annotations

import ast
import difflib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import vedcore

PAGES = sorted((Path(__file__).parents[2] / "docs" / "from-transformers").glob("*.md"))
THEIRS, OURS = "with_transformers.py", "with_vedcore.py"
MAX_LINES = 5
"""Lines of vedcore's program, imports aside, that transformers' lacks."""
READ = {
    "trocr": "accuracy: 1.0",
    "vit-gpt2": "'eval_exact': 1.0",
    "donut": "{'total': '5.70', 'menu': [{'price': '2.50', 'nm': 'tea'}, {'price': '3.20', 'nm': 'cake'}]}",
}
"""The end of what each program prints."""


def scripts(page: Path) -> dict[str, str]:
    """The programs on a page by their names."""
    found = re.findall(r"^`(\w+\.py)`\n\n```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
    return dict(found)


def imports(script: str) -> set[int]:
    """Numbers of the lines, from 0, that import something."""
    nodes = [node for node in ast.parse(script).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    return {line for node in nodes for line in range(node.lineno - 1, node.end_lineno or node.lineno)}


def changes(page: Path) -> Iterator[tuple[list[str], list[str]]]:
    """The runs of lines that differ, imports aside: transformers', and ours."""
    theirs, ours = scripts(page)[THEIRS], scripts(page)[OURS]
    old, new = theirs.splitlines(), ours.splitlines()
    hidden_old, hidden_new = imports(theirs), imports(ours)
    for kind, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        left = [old[i] for i in range(a, b) if i not in hidden_old and old[i].strip()]
        right = [new[i] for i in range(c, d) if i not in hidden_new and new[i].strip()]
        if kind != "equal" and (left or right):
            yield left, right


def table(page: Path) -> str:
    """The lines that differ, side by side, in Markdown."""
    rows = ["| transformers | vedcore |", "|---|---|"]
    for sides in changes(page):
        left, right = ("<br>".join(f"`{line.strip()}`" for line in side) for side in sides)
        rows.append(f"| {left} | {right} |")
    return "\n".join(rows) + "\n"


def with_table(page: Path) -> str:
    """The page with its table as it should be."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^\| transformers \| vedcore \|\n(\|.*\n)*", lambda _: table(page), text, flags=re.M)


@pytest.fixture(params=PAGES, ids=lambda page: page.stem)
def page(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


def test_there_are_three_pages() -> None:
    assert [page.stem for page in PAGES] == sorted(READ)


def test_few_lines_differ(page: Path) -> None:
    ours = [line.strip() for _, right in changes(page) for line in right]
    assert 0 < len(ours) <= MAX_LINES
    assert not [line for line in ours if line.startswith(("def ", "class ", "lambda "))]


def test_the_page_shows_them_side_by_side(page: Path) -> None:
    assert page.read_text(encoding="utf-8") == with_table(page), "run python -m tests.docs.test_tutorials"


def run(name: str, folder: Path) -> str:
    """The output of a program of the page."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run([sys.executable, name], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def losses(output: str) -> list[float]:
    return [float(value) for value in re.findall(r"(?<!_)loss'?:? '?([\d.]+)", output)]


def test_both_programs_learn_the_same(page: Path, lay_out: Callable[[Path, Path], list[Any]], tmp_path: Path) -> None:
    pytest.importorskip("transformers")  # the oldest versions are tested without it
    lay_out(page, tmp_path / OURS)
    run("start.py", tmp_path / OURS)
    shutil.copytree(tmp_path / OURS, tmp_path / THEIRS)
    outputs = {name: run(name, tmp_path / name) for name in (THEIRS, OURS)}
    theirs, ours = losses(outputs[THEIRS]), losses(outputs[OURS])
    assert len(ours) == len(theirs) > 20
    if page.stem != "donut":  # the rows of new tokens are drawn otherwise
        assert ours[:10] == pytest.approx(theirs[:10], abs=2e-3)
    assert ours[-1] < ours[0] / 5
    assert READ[page.stem] in outputs[OURS]
    image = next(tmp_path.joinpath(OURS).glob("*.png"))
    (text,) = vedcore.load(tmp_path / OURS / "fine-tuned").generate_text([image])
    assert text.finish_reason == "eos"


if __name__ == "__main__":
    for each in PAGES:
        each.write_text(with_table(each), encoding="utf-8")
