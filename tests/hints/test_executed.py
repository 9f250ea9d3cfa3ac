"""Each hint is given, and followed, in a test of this folder: its template stands there, as an argument of `told`."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.hints.templates import hints

HERE = Path(__file__).parent


def test_each_hint_is_executed() -> None:
    executed = {
        node.value
        for path in HERE.glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    missing = [f"{where}: {hint}" for where, hint in hints() if hint not in executed]
    assert not missing, "\n".join(missing)
