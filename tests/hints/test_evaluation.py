"""Hints of evaluations."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("jiwer")
pytest.importorskip("sacrebleu")
pytest.importorskip("matplotlib")

from tests.evaluation.models import reader, rows
from tests.hints.templates import told
from vedcore.evaluation import evaluate

ROWS = rows({"a": "one", "b": "two"})


def test_settings() -> None:
    model = reader({"a": "one", "b": "one"})
    told("leave it out", evaluate, model, ROWS, num_return_sequences=3)
    told("leave it out", evaluate, model, ROWS, pages=1)
    told("give 1 or more", evaluate, model, ROWS, limit=0)
    told("give 1 or more", evaluate, model, ROWS, batch_size=0)
    told("30 is the default", evaluate, model, ROWS, cases=1000)
    told("0.01 is one wrong character in a hundred", evaluate, model, ROWS, target_error=2)
    told("give train, validation or test", evaluate, model, ROWS, split="mine")
    assert evaluate(model, ROWS, limit=1, batch_size=1, cases=30, target_error=0.01).metrics["cer"] == 0
    with pytest.warns(UserWarning, match="no splits"):
        assert evaluate(model, ROWS, split="train").rows


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    found = evaluate(reader({"a": "one", "b": "one"}), ROWS)
    (tmp_path / "taken").write_text("")
    told("name another folder", found.save, tmp_path / "taken")
    assert found.save(tmp_path / "free").exists()
