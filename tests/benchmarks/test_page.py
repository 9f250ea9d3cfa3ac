"""The tables of docs/speed.md are those that the committed results give."""

from __future__ import annotations

import runpy
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def test_the_page_has_the_tables_of_the_results() -> None:
    plot = runpy.run_path(str(HERE / "plot.py"))
    page = (ROOT / "docs/speed.md").read_text(encoding="utf-8")
    between = [each.partition(plot["END"])[0].strip() for each in page.split(plot["BEGIN"])[1:]]
    assert between == plot["parts_of_page"](plot["read"](HERE / "results"))
