"""The table of docs/speed.md is the one that the committed results give."""

from __future__ import annotations

import runpy
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def test_the_page_has_the_table_of_the_results() -> None:
    plot = runpy.run_path(str(HERE / "plot.py"))
    page = (ROOT / "docs/speed.md").read_text(encoding="utf-8")
    between = page.partition(plot["BEGIN"])[2].partition(plot["END"])[0]
    assert between.strip() == plot["part_of_page"](plot["read"](HERE / "results"))
