"""Scores of generated texts over a whole set, by jiwer and sacrebleu (extra ``train``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from vedcore.extras import need

__all__ = ["Edits", "bleu", "edits", "error_rates", "similarities"]


def error_rates(texts: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """Error rates of texts against their labels, counted over all together and not averaged by row.

    White space at the ends of a text counts only for ``exact_match``. Words are separated by any white space.

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
        "cer": float(jiwer.cer(list(labels), list(texts))),
        "wer": float(jiwer.wer(_spaced(labels), _spaced(texts))),
        "exact_match": sum(a == b for a, b in zip(texts, labels, strict=True)) / len(labels),
    }


class Edits(NamedTuple):
    """The counts of a row whose sums give the error rates."""

    edits: int
    """Characters to substitute, insert or delete."""
    characters: int
    """Characters of the label."""
    word_edits: int
    words: int


def edits(texts: Sequence[str], labels: Sequence[str]) -> list[Edits]:
    """The counts of each row, by jiwer's alignments.

    Raises:
        MissingExtraError: jiwer is not installed.
    """
    jiwer = need("jiwer", "train", "an error rate")
    if not labels:
        return []
    characters = jiwer.process_characters(list(labels), list(texts))
    words = jiwer.process_words(_spaced(labels), _spaced(texts))
    counts = [
        (sum(max(c.ref_end_idx - c.ref_start_idx, c.hyp_end_idx - c.hyp_start_idx) for c in row if c.type != "equal"))
        for out in (characters, words)
        for row in out.alignments
    ]
    lengths = [len(reference) for out in (characters, words) for reference in out.references]
    n = len(labels)
    return [Edits(counts[i], lengths[i], counts[n + i], lengths[n + i]) for i in range(n)]


def _spaced(texts: Sequence[str]) -> list[str]:
    """The texts with one space between words, where jiwer takes a single tab or line break for a letter."""
    return [" ".join(text.split()) for text in texts]


def bleu() -> Any:
    """sacrebleu's BLEU. Where no text has four words, it counts the n-grams that there are, in place of giving 0.

    Raises:
        MissingExtraError: sacrebleu is not installed.
    """
    return need("sacrebleu.metrics", "train", "BLEU").BLEU(effective_order=True, force=True)


def similarities(texts: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """``bleu`` and ``chrf`` of all texts together, as sacrebleu gives them, from 0 to 100.

    Raises:
        MissingExtraError: sacrebleu is not installed.
    """
    chrf = need("sacrebleu.metrics", "train", "chrF").CHRF()
    return {
        name: min(100.0, float(metric.corpus_score(list(texts), [list(labels)]).score))  # rounding exceeds 100
        for name, metric in (("bleu", bleu()), ("chrf", chrf))
    }
