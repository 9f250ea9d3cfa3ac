"""The notebook runs from top to bottom, and what its cells end in shows itself."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).parents[2] / "docs" / "getting-started.ipynb"
CELLS: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
RUN = """
import ast, json, sys

shown, names = {}, {}
for name, source in json.load(sys.stdin).items():
    body = ast.parse(source).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), name, "exec"), names)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), name, "eval"), names)
        shown[name] = [repr(value), value._repr_html_() if hasattr(value, "_repr_html_") else None]
print(json.dumps(shown))
"""
"""Runs cells in one namespace, as Jupyter does, and prints what the last expression of each shows."""


def test_it_is_a_notebook_without_outputs() -> None:
    whole = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (whole["nbformat"], whole["nbformat_minor"]) == (4, 5)
    assert set(whole) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    ids = [cell["id"] for cell in CELLS]
    assert len(set(ids)) == len(ids)
    for cell in CELLS:
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", cell["id"])
        assert cell["cell_type"] in ("markdown", "code")
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)


def test_links_lead_somewhere() -> None:
    for cell in CELLS:
        for target in re.findall(r"\]\(([^)#:]+)\)", "".join(cell["source"])):
            assert cell["cell_type"] == "code" or (NOTEBOOK.parent / target).exists()


def test_the_cells_run(path_with_plugins: Callable[[Path], str], tmp_path: Path) -> None:
    sources = {cell["id"]: "".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"}
    env = {**os.environ, "PYTHONPATH": path_with_plugins(tmp_path), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=tmp_path,
        env=env,
        input=json.dumps(sources),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Warning" not in done.stderr
    shown = json.loads(done.stdout.splitlines()[-1])
    for name in ("load", "read", "explain", "compose"):
        assert shown[name][1].startswith("<div")
    assert "Images to text, and back" in shown["read"][1]
    assert "data:image/" in shown["explain"][1]
    assert [word for word, _ in eval(shown["words"][0])] == ["Images", "to", "text,", "and", "back"]
    losses = eval(shown["train"][0])
    assert losses[-1] < losses[0]
