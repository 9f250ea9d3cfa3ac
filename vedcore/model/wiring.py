"""The proof that a composed model is wired: the outcomes of checks of its behaviour, as an object and as JSON data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

from torch import nn

from vedcore.errors import CheckpointCorruptError, printable

__all__ = ["MAX_BYTES", "Outcome", "Result", "WiringReport", "structure_of"]

Outcome = Literal["passed", "failed", "expected", "not applicable"]

VERSION = 1
"""Of the layout of wiring.json."""
MAX_BYTES = 65_536
"""Largest wiring.json that is read."""
MAX_RESULTS = 100
"""Results in a report."""
MAX_TEXT = 400
"""Characters of a name, a behaviour or a message."""
MARKS = {"passed": "✓", "failed": "✗", "not applicable": "-", "expected": "x"}


@dataclass(frozen=True)
class Result:
    """The outcome of one check."""

    check: str
    behaviour: str
    outcome: Outcome
    message: str = ""
    """The failure, the reason of an expected one, or the reason why there is nothing to check."""

    def __str__(self) -> str:
        said = self.message if self.outcome == "failed" else self.behaviour
        return printable(f"{MARKS[self.outcome]} {self.check}: {said}")


@dataclass(frozen=True)
class WiringReport:
    """The results of `vedcore.check_wiring`; ``str(report)`` is a table, `to_data` the JSON data."""

    results: tuple[Result, ...]
    dtype: str
    """Type of the parameters when they were checked, such as ``"float32"``."""
    structure: str
    """Hash of the model's settings, and of the names and shapes of its tensors; see `structure_of`."""

    @property
    def failed(self) -> tuple[Result, ...]:
        """The results of checks that failed."""
        return tuple(each for each in self.results if each.outcome == "failed")

    @property
    def summary(self) -> str:
        """One line: the number of checks, and the names of those that failed."""
        said = "none failed" if not self.failed else f"failed: {', '.join(each.check for each in self.failed)}"
        return f"{len(self.results)} checks in {self.dtype}, {said}"

    def __str__(self) -> str:
        return "\n".join(map(str, self.results))

    def to_data(self) -> dict[str, Any]:
        """The report as JSON data, with the version of its layout."""
        results = [
            {name: text[:MAX_TEXT] for name, text in asdict(each).items()} for each in self.results[:MAX_RESULTS]
        ]
        return {"version": VERSION, "structure": self.structure, "dtype": self.dtype, "checks": results}

    @classmethod
    def parse(cls, data: Mapping[str, Any], *, path: object = None) -> Self:
        """The report that `to_data` gave.

        Args:
            data: the content of a wiring.json.
            path: the file, for messages.

        Raises:
            CheckpointCorruptError: another version, or anything but such a report.
        """

        def refuse(message: str, field: str) -> CheckpointCorruptError:
            return CheckpointCorruptError(message, path=path, field=field, hint="delete it, and run `vedcore check`")

        if data.get("version") != VERSION:
            raise refuse(f"{str(data.get('version'))[:20]} is not a version that is read, {VERSION}", "version")
        texts = [data.get("structure"), data.get("dtype")]
        if not all(isinstance(text, str) and len(text) <= MAX_TEXT for text in texts):
            raise refuse("text expected", "structure and dtype")
        rows = data.get("checks")
        if not isinstance(rows, list) or not 0 < len(rows) <= MAX_RESULTS:
            raise refuse(f"a list of 1 to {MAX_RESULTS} results expected", "checks")
        for row in rows:
            fields = {"check", "behaviour", "outcome", "message"}
            if not isinstance(row, Mapping) or row.keys() != fields or row["outcome"] not in get_args(Outcome):
                raise refuse("a result has check, behaviour, outcome and message", "checks")
            if not all(isinstance(text, str) and len(text) <= MAX_TEXT for text in row.values()):
                raise refuse(f"texts of at most {MAX_TEXT} characters expected", "checks")
        return cls(tuple(Result(**row) for row in rows), str(data["dtype"]), str(data["structure"]))


def structure_of(model: nn.Module) -> str:
    """The sha256 of what a report is true for: the settings of the parts, and the names and shapes of the tensors.

    Weights may change: training does not.
    """
    sections = [
        [type(part).__module__, type(part).__qualname__, _settings(part)]
        for part in (getattr(model, name) for name in ("encoder", "projector", "decoder"))
    ]
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict(keep_vars=True).items()}
    text = json.dumps([sections, shapes], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _settings(part: Any) -> Any:
    """All settings of a part, those that its variant gives too."""
    settings = getattr(part, "settings", None)
    return settings() if callable(settings) else part.config.model_dump(mode="json")
