"""All scores of texts against their labels, and the numbers of each row that they are sums of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from vedcore.evaluation.metrics import bleu, edits, error_rates, similarities
from vedcore.evaluation.tagged import field_counts, has_fields

__all__ = ["Columns", "columns_of", "scores_of"]

Columns: TypeAlias = "dict[str, list[tuple[float, ...]]]"
"""For a score the numbers of each row, as `vedcore.evaluation.comparison.compare` takes them."""


def scores_of(
    texts: Sequence[str], labels: Sequence[str], columns: Mapping[str, Sequence[Sequence[float]]]
) -> dict[str, float]:
    """The scores of all rows together.

    Args:
        texts: generated.
        labels: as many.
        columns: of these texts, by `columns_of`.

    Raises:
        MissingExtraError: jiwer or sacrebleu is not installed.
    """
    scores = error_rates(texts, labels) | similarities(texts, labels)
    if "field_f1" in columns:
        right, wrong = (sum(column) for column in zip(*columns["field_f1"], strict=True))
        scores["field_f1"] = right / (right + wrong / 2) if right + wrong else 1.0
        scores["tree_accuracy"] = sum(value for value, _ in columns["tree_accuracy"]) / len(texts)
    return scores


def columns_of(texts: Sequence[str], labels: Sequence[str], *, ngrams: bool = False) -> Columns:
    """The numbers of each row, those of fields where a label has some.

    Args:
        texts: generated.
        labels: as many.
        ngrams: count those of BLEU, too.

    Raises:
        MissingExtraError: jiwer, rapidfuzz or sacrebleu is not installed.
    """
    counts = edits(texts, labels)
    columns: Columns = {
        "cer": [(each.edits, each.characters) for each in counts],
        "wer": [(each.word_edits, each.words) for each in counts],
        "exact_match": [(text == label, 1) for text, label in zip(texts, labels, strict=True)],
    }
    if any(map(has_fields, labels)):
        fields = [field_counts(text, label) for text, label in zip(texts, labels, strict=True)]
        columns["field_f1"] = [(each.right, each.wrong) for each in fields]
        columns["tree_accuracy"] = [(each.accuracy, 1) for each in fields]
    if ngrams:
        metric = bleu()
        found = [metric.sentence_score(text, [label]) for text, label in zip(texts, labels, strict=True)]
        columns["bleu"] = [(*each.counts, *each.totals, each.sys_len, each.ref_len) for each in found]
    return columns
