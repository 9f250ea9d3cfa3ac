"""The results of an examination, as objects, as a table and as JSON data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from vedcore.errors import printable

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CHECKS", "Examination", "Finding", "Overfit", "Sample", "shown"]

CHECKS = {
    "rows_open": "each row can be opened, and its image decoded",
    "tokenizer_is_the_decoders": "the tokenizer has the ids that the decoder starts, ends and fills texts with",
    "ids_in_vocabulary": "the decoder has each id of the labels",
    "characters_have_tokens": "the tokenizer can spell each character",
    "labels_end": "each label ends once",
    "start_comes_once": "no label begins with the start token",
    "labels_fit": "each label fits the decoder's positions",
    "labels_read_back": "each label is the same text when its ids are decoded, but for spaces",
    "images_show_something": "no image is of one colour",
    "sizes_are_near": "no image is far from the size and proportions that the model gets",
    "splits_share_nothing": "no image is both trained on and held back",
    "overfits": "a few rows are read back once a copy of the model has learnt them",
}
"""Names of the checks, and their meaning."""
MAX_SHOWN = 5
"""Rows, letters and pairs that a finding names."""


@dataclass(frozen=True)
class Finding:
    """A fault of the data, or of how model and data fit."""

    check: str
    """Its name in `CHECKS`."""
    message: str
    remedy: str
    """The next step, in one line."""
    rows: tuple[str, ...] = ()
    """Where the rows stand, the first five: ``lines/metadata.jsonl:12``."""
    count: int = 0
    """Number of rows; 0 where it is not about rows."""

    def __str__(self) -> str:
        rows = f" ({self.count:,} {'row' if self.count == 1 else 'rows'})" if self.count else ""
        lines = [f"✗ {self.check}{rows}: {printable(self.message)}", f"    remedy: {printable(self.remedy)}"]
        more = [f"    and {self.count - len(self.rows):,} more"] if self.count > len(self.rows) > 0 else []
        return "\n".join([*lines, *(f"    {printable(row)}" for row in self.rows), *more])


@dataclass(frozen=True)
class Sample:
    """A row as the model gets it."""

    name: str
    source: str
    text: str
    """The label as it stands in the data."""
    ids: tuple[int, ...]
    """Of the label, its end included; empty without a tokenizer."""
    decoded: str
    """The text of ``ids``."""
    pixels: Tensor
    """(C, H, W)."""


@dataclass(frozen=True)
class Overfit:
    """A few rows, learnt by a copy of the model."""

    rows: int
    read_back: int
    """Rows whose text the copy writes exactly."""
    steps: int
    seconds: float
    loss: float
    """Of the last step."""
    reason: str
    """``read back``, ``steps``, ``time`` or ``loss``: it is not finite."""

    def __str__(self) -> str:
        count, time = (
            f"{self.read_back} of {self.rows} rows are read back",
            f"{self.steps} steps in {self.seconds:.0f} s",
        )
        return f"{count} after {time}, at a loss of {self.loss:.3g}"


@dataclass(frozen=True)
class Examination:
    """All findings; ``str(examination)`` is a table, `to_data` JSON data."""

    source: str
    findings: tuple[Finding, ...]
    passed: tuple[str, ...]
    """Names of the checks that found nothing; those with nothing to check are in neither."""
    total: int | None
    """Rows of the data; None of a stream."""
    examined: int
    """Rows that were looked at."""
    samples: tuple[Sample, ...]
    """The first rows, which `draw` of `vedcore.data.doctor` puts on a sheet."""
    overfit: Overfit | None = None

    def __str__(self) -> str:
        some = "" if self.total == self.examined else f", {self.examined:,} of them examined"
        lines = [f"{printable(self.source)}: {'a stream' if self.total is None else f'{self.total:,} rows'}{some}"]
        found = {name: [each for each in self.findings if each.check == name] for name in CHECKS}
        for name, meaning in CHECKS.items():
            lines += [line for each in found[name] for line in str(each).splitlines()]
            said = str(self.overfit) if name == "overfits" else meaning
            lines += [f"✓ {name}: {said}"] if name in self.passed else []
        return "\n".join([lines[0], *(f"  {line}" for line in lines[1:])])

    def to_data(self) -> dict[str, Any]:
        """JSON data, without the pixels."""
        return {
            "data": self.source,
            "rows": self.total,
            "examined": self.examined,
            "findings": [asdict(each) for each in self.findings],
            "passed": list(self.passed),
            "batch": [
                {"name": each.name, "source": each.source, "text": each.text, "ids": each.ids, "decoded": each.decoded}
                for each in self.samples
            ],
            "overfit": None if self.overfit is None else asdict(self.overfit),
        }


def shown(names: Sequence[str]) -> tuple[str, ...]:
    """The first few."""
    return tuple(names[:MAX_SHOWN])
