"""Confidence against errors, and kinds of failure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vedcore.evaluation.confidence import Confidence, judge_confidence
from vedcore.evaluation.failures import kind_of

ROW = st.tuples(st.floats(0, 1), st.integers(0, 3), st.integers(1, 9))


def judged(rows: list[tuple[float, int, int]], target: float) -> Confidence:
    confidences, edits, lengths = zip(*rows, strict=True)
    return judge_confidence(confidences, [wrong == 0 for wrong in edits], edits, lengths, target)


@given(st.lists(ROW, min_size=1, max_size=20), st.floats(0, 1))
def test_a_threshold_keeps_as_it_says(rows: list[tuple[float, int, int]], target: float) -> None:
    found = judged(rows, target)
    assert 0 <= found.expected_calibration_error <= 1
    assert sum(each.rows for each in found.bins) == len(rows) == found.curve[-1].rows
    for kept in found.curve:
        inside = [row for row in rows if row[0] >= kept.threshold]
        assert len(inside) == kept.rows
        assert kept.cer == pytest.approx(sum(row[1] for row in inside) / sum(row[2] for row in inside))
        assert kept.wrong == pytest.approx(sum(row[1] > 0 for row in inside) / len(inside))
    good = [kept.rows for kept in found.curve if kept.cer <= target]
    assert (found.reject.rows if found.reject else None) == max(good, default=None)


def test_a_model_that_knows_its_errors() -> None:
    found = judged([(0.95, 0, 10)] * 8 + [(0.5, 5, 10)] * 2, 0.01)
    assert found.reject is not None
    assert (found.reject.rows, found.reject.cer) == (8, 0)
    assert 0.5 < found.reject.threshold <= 0.95
    assert found.expected_calibration_error == pytest.approx(0.8 * 0.05 + 0.2 * 0.5)
    assert judged([(0.9, 1, 1)], 0.01).reject is None
    nothing = judged([(0.0, 0, 1)], 0.0).reject
    assert nothing is not None
    assert nothing.threshold == 0


@pytest.mark.parametrize(
    ("text", "label", "reason", "kind"),
    [
        ("abc", "abc", "length", "exact"),
        (" \n", "abc", "eos", "empty"),
        ("the the the the the", "the cat", "eos", "loop"),
        ("aaaaaaaaaa", "a", "length", "loop"),
        ("x", "abc", "repetition", "loop"),
        ("1,000,000,000,000", "1,000,000,000,001", "eos", "letters"),
        ("--------", "-------- 5", "length", "cut_off"),
        ("ab", "abc", "length", "cut_off"),
        ("Hello world", "hello, world!", "eos", "form"),
        ("cafe\u0301", "caf\u00e9", "eos", "form"),
        ("5 €", "5 $", "eos", "letters"),
        ("Hallo", "Hello", "eos", "letters"),
        ("", "", "eos", "exact"),
    ],
)
def test_kinds_of_failure(text: str, label: str, reason: str, kind: str) -> None:
    assert kind_of(text, label, reason) == kind
