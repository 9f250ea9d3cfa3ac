"""How a run goes, for a person: its cost, a bar with the time left, scores and sample predictions."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from vedcore.errors import printable

if TYPE_CHECKING:
    from torch import nn

    from vedcore.data import Problem
    from vedcore.evaluation.reading import Reading

__all__ = ["Display", "bytes_of_training"]

SAMPLES = 3
"""Predictions that are shown at each evaluation."""
MAX_PROBLEMS = 10
"""Rows that could not be used which are named at the end."""
FLOAT_BYTES = 4
"""Bytes of a gradient or of a state of AdamW."""


def bytes_of_training(model: nn.Module, *, average: bool) -> int:
    """Bytes of weights, gradients, the two states of AdamW and a running average; activations come on top."""
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    copies = sum(p.numel() for p in model.parameters()) * FLOAT_BYTES if average else 0
    return weights + 3 * trained * FLOAT_BYTES + copies


class Display:
    """Messages of a run on stderr, and drawn samples in its folder.

    Args:
        output: folder of the run.
        shown: whether this process says anything; the first of several does.
    """

    def __init__(self, output: Path, *, shown: bool = True) -> None:
        self.output, self.shown = output, shown

    def say(self, text: str) -> None:
        """One line on stderr."""
        if self.shown:
            tqdm.write(printable(text), file=sys.stderr)

    @contextmanager
    def bar(self, total: int, done: int) -> Iterator[_Bar]:
        """A bar over the optimizer steps, with the time left."""
        with tqdm(total=total, initial=done, unit="step", file=sys.stderr, disable=not self.shown) as shown:
            yield _Bar(shown)

    def cost(self, model: nn.Module, *, rows: int | None, steps: int, average: bool) -> None:
        """The cost of a run: parameters, memory, rows and steps."""
        every = sum(p.numel() for p in model.parameters())
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        size = bytes_of_training(model, average=average) / 2**20
        self.say(f"{every:,} parameters, {trained:,} of them trained; {size:,.0f} MB without activations")
        self.say(f"{'a stream' if rows is None else f'{rows:,} rows'}; {steps:,} steps")

    def cost_of_step(self, seconds: float, left: int) -> None:
        """The time of a step as measured, and that of all steps that are left."""
        peak = _peak_memory()
        memory = f"; {peak / 2**20:,.0f} MB of memory at most so far" if peak else ""
        self.say(f"{seconds:.2f} s a step: {_duration(seconds * left)} for the {left:,} steps left{memory}")

    def evaluation(self, name: str, step: int, scores: Mapping[str, Any]) -> None:
        """The scores of an evaluation."""
        failed = f", {scores['failed']} not read" if scores["failed"] else ""
        self.say(
            f"step {step}, {name}: {scores['cer']:.2%} of characters and {scores['wer']:.2%} of words wrong, "
            f"{scores['exact_match']:.1%} of {scores['rows']} rows exact{failed}"
        )

    def problems(self, problems: Sequence[Problem]) -> None:
        """The rows that were not used."""
        for problem in problems[:MAX_PROBLEMS]:
            self.say(f"not used: {problem}")
        if len(problems) > MAX_PROBLEMS:
            self.say(f"and {len(problems) - MAX_PROBLEMS:,} more; vedcore check --data lists all")

    def samples(self, readings: Sequence[Reading], step: int) -> None:
        """Say some predictions beside their labels, and draw them beside their images."""
        chosen = readings[:: max(1, len(readings) // SAMPLES)][:SAMPLES]
        for reading in chosen:
            self.say(f"  read {reading.text[:80]!r} for {reading.row.text[:80]!r}")
        if chosen and self.shown:
            _draw_samples(chosen, self.output / "samples" / f"step-{step}.png")


class _Bar:
    def __init__(self, bar: tqdm[Any]) -> None:
        self._bar = bar

    def step(self, values: Mapping[str, Any]) -> None:
        """Move on by a step."""
        self._bar.set_postfix(loss=f"{values['loss']:.3f}", refresh=False)
        self._bar.update()


def _draw_samples(readings: Sequence[Reading], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from vedcore.processing.images import load_image

    path.parent.mkdir(exist_ok=True)
    figure, places = pyplot.subplots(
        len(readings), 1, figsize=(8, 2 * len(readings)), squeeze=False, layout="constrained"
    )
    for place, reading in zip(places[:, 0], readings, strict=True):
        place.imshow(load_image(reading.row.image), cmap="gray")
        place.set_title(
            f"read: {reading.text[:80]}\nlabel: {reading.row.text[:80]}", loc="left", fontsize=9, parse_math=False
        )
        place.axis("off")
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def _peak_memory() -> int:
    """Bytes of memory that this process has had at most; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
