"""Two models on the same rows: their scores, with a paired bootstrap over the rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vedcore.evaluation.findings import Difference
from vedcore.extras import need

__all__ = ["SAMPLES", "compare"]

SAMPLES = 1000
"""Times that rows are drawn."""
NGRAMS = 4
"""The longest of BLEU, in words."""

Sums = Any
"""An array of floats: the sums over rows of the columns that a score needs."""


def compare(
    scores: Mapping[str, float],
    others: Mapping[str, float],
    columns: Mapping[str, Sequence[Sequence[float]]],
    other_columns: Mapping[str, Sequence[Sequence[float]]],
    seed: int = 0,
) -> dict[str, Difference]:
    """The differences of scores, with intervals at 95 %: rows are drawn with replacement, the same for both models.

    Args:
        scores: of a model.
        others: of another one, on the same rows.
        columns: a row of numbers for each row, whose sums give the score: edits and length of ``cer`` and ``wer``; the
            value and 1 of a mean; right and wrong fields of ``field_f1``; n-grams and lengths of ``bleu``. A score that
            is not here has no interval.
        other_columns: of the other model.
        seed: of the draw.
    """
    names = list(columns)
    tables = [[np.asarray(each[name], dtype=np.float64) for name in names] for each in (columns, other_columns)]
    drawn: dict[str, list[float]] = {name: [] for name in names}
    rows = len(tables[0][0]) if names else 0
    draw = np.random.default_rng(seed)
    for _ in range(SAMPLES):
        times = np.bincount(draw.integers(0, rows, rows), minlength=rows)
        for name, first, second in zip(names, *tables, strict=True):
            drawn[name].append(_SCORES[name](times @ first) - _SCORES[name](times @ second))
    found = {}
    for name, value in scores.items():
        bounds = np.percentile(drawn[name], [2.5, 97.5]).tolist() if name in drawn else (None, None)
        found[name] = Difference(value, others[name], *bounds)
    return found


def _ratio(sums: Sums) -> float:
    return float(sums[0] / max(1.0, sums[1]))


def _f1(sums: Sums) -> float:
    right, wrong = sums
    return float(right / (right + wrong / 2)) if right + wrong else 1.0


def _bleu(sums: Sums) -> float:
    counts = [int(value) for value in sums]
    correct, total = counts[:NGRAMS], counts[NGRAMS : 2 * NGRAMS]
    made = need("sacrebleu.metrics", "train", "BLEU").BLEU.compute_bleu(
        correct, total, *counts[2 * NGRAMS :], smooth_method="exp", effective_order=True
    )
    return min(100.0, float(made.score))


_SCORES: dict[str, Callable[[Sums], float]] = {
    "cer": _ratio,
    "wer": _ratio,
    "exact_match": _ratio,
    "field_f1": _f1,
    "tree_accuracy": _ratio,
    "bleu": _bleu,
}
