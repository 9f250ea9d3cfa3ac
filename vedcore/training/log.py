"""The log of a run: a line of JSON for each optimizer step and for each evaluation; and its curves."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

__all__ = ["RunLog", "draw_curves"]

SMOOTHED_STEPS = 20
"""Steps that a point of the smoothed curve of losses averages."""


class RunLog:
    """``log.jsonl`` of a run.

    Args:
        path: of the file; it is continued where it exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def cut_after(self, step: int) -> None:
        """Drop what was logged after an optimizer step, and a torn last line."""
        if not self.path.exists():
            return
        kept = [line for line in self.lines() if line["step"] <= step]
        beside = self.path.with_suffix(".tmp")
        beside.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        os.replace(beside, self.path)

    def write(self, line: Mapping[str, Any]) -> None:
        """Add a line; NaN and Inf, which JSON does not have, become null."""
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(plain, ensure_ascii=False) + "\n")

    def lines(self) -> Iterator[dict[str, Any]]:
        """All whole lines."""
        if not self.path.exists():
            return
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                return


def draw_curves(log: RunLog, path: Path) -> None:
    """Draw losses, rate and the errors of all evaluations over the steps, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = list(log.lines())
    steps = [line for line in lines if line.get("loss") is not None]
    evaluations = [line for line in lines if "evaluation" in line]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    x, y = [line["step"] for line in steps], [line["loss"] for line in steps]
    smooth = [fmean(y[max(0, i + 1 - SMOOTHED_STEPS) : i + 1]) for i in range(len(y))]
    left.plot(x, y, color="tab:blue", alpha=0.3, label="loss")
    left.plot(x, smooth, color="tab:blue", label=f"mean of {SMOOTHED_STEPS} steps")
    left.set(xlabel="optimizer step", ylabel="loss", yscale="log" if y and min(y) > 0 else "linear")
    rate = left.twinx()
    rate.plot(x, [line["learning_rate"] for line in steps], color="grey", linestyle=":", label="learning rate")
    rate.set_ylabel("learning rate")
    if steps:
        left.legend(loc="upper right")
    for name in dict.fromkeys(line["evaluation"] for line in evaluations):
        of_data = [line for line in evaluations if line["evaluation"] == name]
        for metric, style in (("cer", "-"), ("wer", "--")):
            right.plot(
                [e["step"] for e in of_data], [e[metric] for e in of_data], style, marker=".", label=f"{metric}, {name}"
            )
    right.set(xlabel="optimizer step", ylabel="error of generated text", ylim=(0, None))
    if evaluations:
        right.legend()
    beside = path.with_name(f".{path.name}.tmp")
    figure.savefig(beside, format="png", dpi=110)
    pyplot.close(figure)
    os.replace(beside, path)
