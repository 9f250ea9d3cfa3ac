"""The worth of a model's confidence: how often a text of each confidence is right, and the rows to reject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["BINS", "Bin", "Confidence", "Kept", "judge_confidence"]

BINS = 10
"""Equal parts of the range from 0 to 1."""
MAX_POINTS = 200
"""Points of the curve of errors."""


@dataclass(frozen=True)
class Bin:
    """The rows whose confidence lies between two bounds."""

    low: float
    high: float
    """Belongs to the next bin, but for 1."""
    rows: int
    confidence: float
    """Mean."""
    exact: float
    """Share of the rows that are exactly right."""
    cer: float
    """Wrong characters for each character of their labels."""


@dataclass(frozen=True)
class Kept:
    """The rows that a threshold keeps."""

    threshold: float
    """Rows of a lower confidence are rejected."""
    rows: int
    share: float
    """Of all rows."""
    cer: float
    wrong: float
    """Share of the kept rows that are not exactly right."""


@dataclass(frozen=True)
class Confidence:
    """The confidence of a model against its errors."""

    bins: tuple[Bin, ...]
    """Those that hold rows."""
    expected_calibration_error: float
    """Mean distance of confidence and share of exact rows in the bins, weighted by their rows."""
    curve: tuple[Kept, ...]
    """At thresholds from the highest down."""
    target_error: float
    """The wanted ``cer`` of the rows that are kept."""
    reject: Kept | None
    """The threshold that keeps most rows at that error; None where none does."""


def judge_confidence(
    confidences: Sequence[float], exact: Sequence[bool], edits: Sequence[int], characters: Sequence[int], target: float
) -> Confidence:
    """Compare the confidence of rows, at least one, with their errors.

    Args:
        confidences: from 0 to 1.
        exact: whether each row is exactly right.
        edits: wrong characters of each row.
        characters: those of each label.
        target: the wanted error of rows that are kept, as edits for each character of their labels.
    """
    order = np.argsort(-np.asarray(confidences), kind="stable")
    values = np.asarray(confidences, dtype=np.float64)[order]
    right, wrong, length = (np.asarray(each, dtype=np.float64)[order] for each in (exact, edits, characters))
    bins = _bins(values, right, wrong, length)
    gap = sum(each.rows * abs(each.confidence - each.exact) for each in bins) / len(values)
    kept = _thresholds(values, right, wrong, length)
    good = [each for each in kept if each.cer <= target]
    points = {round(i) for i in np.linspace(0, len(kept) - 1, min(MAX_POINTS, len(kept)))}
    curve = tuple(kept[i] for i in sorted(points))
    return Confidence(bins, float(gap), curve, target, good[-1] if good else None)


def _bins(values: Any, right: Any, wrong: Any, length: Any) -> tuple[Bin, ...]:
    numbers = np.minimum((values * BINS).astype(int), BINS - 1)
    found = []
    for number in range(BINS):
        if (inside := numbers == number).any():
            cer = float(wrong[inside].sum() / max(1.0, length[inside].sum()))
            mean, exact = float(values[inside].mean()), float(right[inside].mean())
            found.append(Bin(number / BINS, (number + 1) / BINS, int(inside.sum()), mean, exact, cer))
    return tuple(found)


def _thresholds(values: Any, right: Any, wrong: Any, length: Any) -> list[Kept]:
    """All that a threshold can keep, few rows first; rows of one confidence stay together."""
    ends = np.flatnonzero(np.append(values[:-1] > values[1:], True))
    exact, edits, characters = (np.cumsum(each) for each in (right, wrong, length))
    found = []
    for end in ends.tolist():
        rows = end + 1
        threshold = float((values[end] + values[rows]) / 2) if rows < len(values) else 0.0
        if rows < len(values) and threshold <= values[rows]:  # the two are neighbours among floats
            threshold = float(values[end])
        cer = float(edits[end] / max(1.0, characters[end]))
        found.append(Kept(threshold, rows, rows / len(values), cer, float(1 - exact[end] / rows)))
    return found
