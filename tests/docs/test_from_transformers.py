"""The table of transformers' names: each is looked up in both libraries."""

from __future__ import annotations

import re
from operator import attrgetter
from pathlib import Path

import pytest
import transformers

import vedcore

PAGE = Path(__file__).parents[2] / "docs" / "from-transformers.md"
NAMES = PAGE.read_text(encoding="utf-8").partition("## Names")[2].partition("\n## ")[0]
ROWS = re.findall(r"^\| `([\w.]+)` \| `([\w.]+)` \|$", NAMES, re.MULTILINE)


def test_the_table_has_rows() -> None:
    assert len(ROWS) == NAMES.count("\n| `") > 10


@pytest.mark.parametrize(("other", "ours"), ROWS)
def test_both_names_are_there(other: str, ours: str) -> None:
    assert attrgetter(other)(transformers) is not None
    assert attrgetter(ours)(vedcore) is not None
