"""The results of a model on labelled images: scores, rows, confidence, and the comparison with another model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from vedcore.errors import printable
from vedcore.evaluation.confidence import Confidence
from vedcore.evaluation.failures import KINDS

if TYPE_CHECKING:
    from vedcore.data import Problem

__all__ = [
    "METRICS",
    "Case",
    "Comparison",
    "Difference",
    "Findings",
    "RowResult",
    "is_better",
    "shown_score",
]

METRICS = {
    "cer": "CER: wrong characters",
    "wer": "WER: wrong words",
    "exact_match": "exact rows",
    "bleu": "BLEU",
    "chrf": "chrF",
    "field_f1": "F1 of fields",
    "tree_accuracy": "accuracy of trees",
}
"""Scores, and how they are told. Those of fields are there where labels have tags."""
_LOWER_IS_BETTER = ("cer", "wer")
_OUT_OF_100 = ("bleu", "chrf")


@dataclass(frozen=True)
class RowResult:
    """A row that was read."""

    name: str
    source: str
    """Where it stands, such as ``lines/metadata.jsonl:12``."""
    page: int | None
    label: str
    text: str
    """Generated."""
    confidence: float
    finish_reason: str
    kind: str
    """A key of `vedcore.evaluation.failures.KINDS`."""
    edits: int
    """Wrong characters."""
    characters: int
    """Those of the label."""

    @property
    def badness(self) -> tuple[float, int, float]:
        """By which rows are ordered, the worst last: share of wrong characters, their number, confidence."""
        share = min(1.0, self.edits / max(1, self.characters))
        return (share, self.edits + (self.text != self.label), self.confidence)


@dataclass(frozen=True)
class Case:
    """A row to show, with its pictures."""

    row: int
    """Its index in ``rows``."""
    picture: bytes | None
    """The image, made small; PNG or JPEG. None where it can no longer be read."""
    explanation: bytes | None = None
    """A picture of how the model came to its text; PNG or JPEG."""


@dataclass(frozen=True)
class Difference:
    """A score of two models on the same rows."""

    value: float
    other: float
    low: float | None = None
    """Bounds of the interval, at 95 %, of ``value - other``; None of a score without one."""
    high: float | None = None

    @property
    def difference(self) -> float:
        """``value - other``."""
        return self.value - self.other


@dataclass(frozen=True)
class Comparison:
    """A model against another one, on the rows that both have read."""

    other: Findings
    rows: int
    differences: Mapping[str, Difference]
    better: tuple[tuple[int, int], ...]
    """Indices of a row in both evaluations, where the model has fewer wrong characters, or is exact at last."""
    worse: tuple[tuple[int, int], ...]
    samples: int
    """Of the bootstrap."""
    seed: int


@dataclass(frozen=True)
class Findings:
    """The results of a model on labelled images; ``str()`` is a table."""

    model: str
    data: str
    metrics: Mapping[str, float]
    """``cer``, ``wer`` and ``exact_match`` as shares, ``bleu`` and ``chrf`` out of 100; where labels have tags,
    ``field_f1`` and ``tree_accuracy`` from 0 to 1."""
    rows: tuple[RowResult, ...]
    confidence: Confidence
    not_read: tuple[Problem, ...] = ()
    """Rows that could not be read, and are in no score."""
    cases: tuple[Case, ...] = field(default=(), repr=False)
    """The worst rows, the worst first."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    comparison: Comparison | None = None

    @property
    def kinds(self) -> dict[str, int]:
        """The number of rows of each kind of `vedcore.evaluation.failures.KINDS`."""
        found = Counter(row.kind for row in self.rows)
        return {kind: len(self.not_read) if kind == "not_read" else found[kind] for kind in KINDS}

    def to_dict(self) -> dict[str, Any]:
        """All but the pictures, as JSON takes it."""
        found = {
            "model": self.model,
            "data": self.data,
            "settings": dict(self.settings),
            "metrics": dict(self.metrics),
            "kinds": self.kinds,
            "confidence": asdict(self.confidence),
            "not_read": [asdict(each) for each in self.not_read],
            "rows": [asdict(row) for row in self.rows],
        }
        if (comparison := self.comparison) is not None:
            found["comparison"] = {
                "other": comparison.other.to_dict(),
                "rows": comparison.rows,
                "differences": {
                    name: {**asdict(each), "difference": each.difference}
                    for name, each in comparison.differences.items()
                },
                "better": [row for row, _ in comparison.better],  # indices in "rows"
                "worse": [row for row, _ in comparison.worse],
                "samples": comparison.samples,
                "seed": comparison.seed,
            }
        return found

    def to_json(self) -> str:
        """`to_dict` as text, in ASCII: a name that is not valid Unicode keeps its bytes as ``\\udcXX``."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False, default=str)

    def __str__(self) -> str:
        lines = [f"{printable(self.model)} on {printable(self.data)}: {len(self.rows):,} rows"]
        if (comparison := self.comparison) is not None:
            lines[0] = f"{printable(self.model)} against {printable(comparison.other.model)} on {printable(self.data)}"
            lines[0] += f": {comparison.rows:,} rows"
            lines.append(f"{'':24}{'model':>10}{'other':>10}{'difference':>12}   95 % interval")
        for name, value in self.metrics.items():
            line = f"{METRICS[name]:24}{shown_score(name, value):>10}"
            if comparison is not None:
                each = comparison.differences[name]
                line = f"{METRICS[name]:24}{shown_score(name, each.value):>10}{shown_score(name, each.other):>10}"
                line += f"{shown_score(name, each.difference, signed=True):>12}"
                if each.low is not None and each.high is not None:
                    bounds = [shown_score(name, bound, signed=True) for bound in (each.low, each.high)]
                    line += f"   {bounds[0]} to {bounds[1]}"
            lines.append(line)
        lines += [f"{KINDS[kind]:40}{count:>10,}" for kind, count in self.kinds.items() if count]
        if comparison is not None:
            lines.append(f"{len(comparison.better):,} rows are better, {len(comparison.worse):,} worse")
        gap = self.confidence.expected_calibration_error
        return "\n".join([*lines, f"{'expected calibration error':40}{gap:>10.3f}", self.advice])

    @property
    def advice(self) -> str:
        """The rows to reject for the wanted error, in a sentence."""
        wanted, kept = self.confidence.target_error, self.confidence.reject
        if kept is None:
            return f"no threshold of confidence gives an error (CER) of {wanted:.2%}"
        if kept.rows == len(self.rows):
            return f"an error (CER) of {wanted:.2%} needs no rejection"
        return (
            f"for an error (CER) of {wanted:.2%}, reject below confidence {kept.threshold:.6g}: "
            f"{1 - kept.share:.1%} of rows; of the others {kept.cer:.2%} of characters are wrong"
        )


def shown_score(name: str, value: float, *, signed: bool = False) -> str:
    """A score for a person: in per cent, or out of 100."""
    sign = "+" if signed else ""
    return format(value, f"{sign}.1f") if name in _OUT_OF_100 else format(100 * value, f"{sign}.2f") + " %"


def is_better(name: str, difference: float) -> bool:
    """Whether a difference of that score is an improvement."""
    return difference < 0 if name in _LOWER_IS_BETTER else difference > 0
