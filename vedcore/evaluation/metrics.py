"""Errors of generated texts over a whole set, by jiwer (extra ``train``)."""

from __future__ import annotations

from collections.abc import Sequence

from vedcore.extras import need

__all__ = ["error_rates"]


def error_rates(texts: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """Error rates of texts against their labels, counted over all together and not averaged by row.

    Args:
        texts: generated.
        labels: as many.

    Returns:
        ``cer`` and ``wer``, edits for each character and word of the labels, 0 or more; ``exact_match``, the share of
        texts that equal their label. Of no rows, rates are 0 and ``exact_match`` is 1.

    Raises:
        MissingExtraError: jiwer is not installed.
    """
    jiwer = need("jiwer", "train", "an error rate")
    if not labels:
        return {"cer": 0.0, "wer": 0.0, "exact_match": 1.0}
    return {
        "cer": jiwer.cer(list(labels), list(texts)),
        "wer": jiwer.wer(list(labels), list(texts)),
        "exact_match": sum(a == b for a, b in zip(texts, labels, strict=True)) / len(labels),
    }
