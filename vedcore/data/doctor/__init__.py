"""The doctor: labelled images, and how a model and they fit, examined before training."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from tqdm import tqdm

from vedcore.data.doctor.findings import CHECKS, Examination, Finding, Sample, shown
from vedcore.data.doctor.labels import Labels
from vedcore.data.doctor.overfitting import overfit as overfitted
from vedcore.data.doctor.overfitting import overfit_finding
from vedcore.data.doctor.rows import Seen, blank_finding, picked, see, shared_finding, size_finding
from vedcore.data.doctor.sheet import draw
from vedcore.data.opening import open_data
from vedcore.data.rows import Data, Problem
from vedcore.data.settings import DataConfig
from vedcore.data.splitting import split
from vedcore.errors import UsageError, VedcoreError
from vedcore.model import VisionEncoderDecoder

__all__ = ["Examination", "Finding", "Sample", "draw", "examine"]

MAX_ROWS = 2_000
"""Rows of each side of the split that are looked at by default."""
SAMPLES = 8
"""Rows of the batch that is decoded back and drawn."""
OVERFIT_STEPS = 500
OVERFIT_SECONDS = 300.0


def examine(
    model: VisionEncoderDecoder,
    data: Any = None,
    validation: Any = None,
    *,
    settings: DataConfig | None = None,
    max_rows: int = MAX_ROWS,
    overfit: int = 0,
    overfit_steps: int = OVERFIT_STEPS,
    overfit_seconds: float = OVERFIT_SECONDS,
    progress: bool = False,
) -> Examination:
    """Look for faults in labelled images, and in how a model and they fit. The model is left as it was.

    Args:
        model: a composed or loaded model.
        data: the rows, as `open_data` takes them; None takes ``settings.train``.
        validation: the rows that are held back; None takes ``settings.validation``, else a share of ``data``.
        settings: columns, split and limit of labels, as training takes them.
        max_rows: rows for training to look at, and rows that are held back: evenly spread, the first of a stream.
        overfit: rows that a copy of the model learns until it reads them back; 0 leaves it out.
        overfit_steps: limit of its steps.
        overfit_seconds: limit of its time.
        progress: show a bar on stderr.

    Raises:
        UsageError: not a model, no data, numbers below 0.
        DataError: data that cannot be used as a whole.
    """
    if not isinstance(model, VisionEncoderDecoder):
        hint = "give what vedcore.compose or vedcore.load gave"
        raise UsageError(f"{type(model).__name__} is not a composed model", field="model", hint=hint)
    if max_rows < 1 or overfit < 0:
        raise UsageError("no rows", field="max_rows" if max_rows < 1 else "overfit", hint="give 1 or more")
    settings = settings or DataConfig()
    sides = _sides(data, validation, settings)
    problems = list({id(problem): problem for side in sides for problem in side.problems}.values())
    total = None if any(side.is_stream for side in sides) else sum(map(len, sides)) + len(problems)
    seen, kept = _seen(model, sides, max_rows, max(SAMPLES, overfit), problems, progress)
    examined = len(seen) + len(problems)
    labels = Labels(model, seen, settings.max_label_length)
    problems += [Problem(each.name, each.source, reason) for each, reason in labels.refused]
    results: dict[str, Finding | None] = {"rows_open": _unopened(problems), **labels.findings()}
    if seen:
        results["images_show_something"] = blank_finding(seen)
        results["sizes_are_near"] = size_finding(seen, model.processor.preprocessing)
        results |= {"splits_share_nothing": shared_finding(seen)} if any(each.held for each in seen) else {}
    refused = {id(each) for each, _ in labels.refused}
    samples = [_sample(each, pixels, labels) for each, pixels in kept if id(each) not in refused]
    learnt = None
    if overfit and samples and samples[0].ids:
        try:
            learnt = overfitted(model, samples[:overfit], "".join(labels.letters), overfit_steps, overfit_seconds)
            results["overfits"] = overfit_finding(learnt)
        except VedcoreError as error:
            results["overfits"] = Finding("overfits", error.message, error.hint or "correct the other findings first")
    found = tuple(finding for name in CHECKS if (finding := results.get(name)) is not None)
    passed = tuple(name for name in CHECKS if name in results and results[name] is None)
    return Examination(sides[0].source, found, passed, total, examined, tuple(samples[:SAMPLES]), learnt)


def _sides(data: Any, validation: Any, settings: DataConfig) -> list[Data]:
    """The rows for training, and those that are held back, if any."""
    columns = {"text_column": settings.text_column, "image_column": settings.image_column}
    source = settings.train if data is None else data
    if source is None:
        raise UsageError("no data is given", field="data", hint="name a folder of labelled images")
    rows = open_data(source, **columns)
    held = settings.validation if validation is None else validation
    if held is not None:
        return [rows, open_data(held, **columns)]
    return [rows] if rows.is_stream else list(split(rows, settings.validation_fraction, settings.seed))


def _seen(
    model: Any, sides: list[Data], limit: int, samples: int, problems: list[Problem], progress: bool
) -> tuple[list[Seen], list[tuple[Seen, Tensor]]]:
    """The rows that are looked at, and the first with their images, which differ; ``problems`` gets the others."""
    seen: list[Seen] = []
    kept: dict[str, tuple[Seen, Tensor]] = {}
    with tqdm(unit="image", desc="examining", leave=False, disable=None if progress else True) as bar:
        for held, side in enumerate(sides):
            for row in picked(side, limit):
                bar.update()
                if isinstance(row, Problem):
                    problems.append(row)
                    continue
                try:
                    each, pixels = see(model.processor, row, bool(held))
                except VedcoreError as error:
                    problems.append(Problem(row.name, row.source, str(error)))
                    continue
                seen.append(each)
                if len(kept) < samples:
                    kept.setdefault(each.digest, (each, pixels))
    return seen, list(kept.values())


def _sample(each: Seen, pixels: Tensor, labels: Labels) -> Sample:
    ids = labels.ids(each.text) if labels.tokenizer is not None else []
    decoded = labels.decode(ids) if ids else ""
    return Sample(each.name, each.source, each.text, tuple(ids), decoded, pixels)


def _unopened(problems: list[Problem]) -> Finding | None:
    remedy = "correct each as its line says, or leave the row out; training goes on without it"
    message = "rows that cannot be opened"
    return Finding("rows_open", message, remedy, shown(list(map(str, problems))), len(problems)) if problems else None
