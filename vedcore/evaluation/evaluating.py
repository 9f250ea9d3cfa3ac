"""`evaluate`: a model, labelled images, and how well the one reads the other."""

from __future__ import annotations

import heapq
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, TypeAlias

from tqdm import tqdm

from vedcore.checkpoints import load
from vedcore.data import Data, DataConfig, Problem, Row, open_data
from vedcore.data import split as split_rows
from vedcore.data.splitting import split_named
from vedcore.errors import DataError, GenerationError, IncompatibleError, UsageError, VedcoreError, warn_caller
from vedcore.evaluation.comparison import SAMPLES, compare
from vedcore.evaluation.confidence import judge_confidence
from vedcore.evaluation.evaluation import Evaluation
from vedcore.evaluation.failures import kind_of
from vedcore.evaluation.findings import Case, Comparison, RowResult
from vedcore.evaluation.metrics import edits
from vedcore.evaluation.pictures import picture_of
from vedcore.evaluation.reading import Reading, read_rows
from vedcore.evaluation.scoring import Columns, columns_of, scores_of
from vedcore.extras import need
from vedcore.model import VisionEncoderDecoder

__all__ = ["Explain", "evaluate"]

Explain: TypeAlias = Callable[[Row], "bytes | None"]
"""Draws how a model came to the text of a row, as PNG or JPEG; None draws nothing."""
MAX_CASES = 200
"""Most rows that a page shows with their images."""


def evaluate(
    model: VisionEncoderDecoder | str | os.PathLike[str],
    data: Any,
    *,
    against: VisionEncoderDecoder | str | os.PathLike[str] | None = None,
    split: str | None = None,
    limit: int | None = None,
    batch_size: int = 16,
    target_error: float = 0.01,
    cases: int = 30,
    bootstrap_seed: int = 0,
    device: str | None = None,
    explain: Explain | bool = False,
    progress: bool = False,
    **options: Any,
) -> Evaluation:
    """Read labelled images with a model and compare the texts with the labels.

    A row that cannot be read stops nothing: it is in ``not_read``, and in no score.

    Args:
        model: a model, or what `vedcore.load` takes.
        data: a source of rows, as `vedcore.data.open_data` takes it.
        against: another model, which reads the same rows.
        split: ``train``, ``validation`` or ``test`` of the source; of one without splits, ``validation`` is the part
            that `vedcore.training.train` holds back by default, and a warning says so.
        limit: read the first rows only.
        batch_size: images read together.
        target_error: the wanted ``cer`` of texts whose confidence is high enough, for the threshold that is sought.
        cases: wrong rows to keep with their pictures, the worst ones; at most 200.
        bootstrap_seed: of the draw of rows behind the intervals of a comparison.
        device: to load models to that are given by name.
        explain: draws an explanation of each case; True draws that of ``model.explain``.
        progress: show a bar with the time left on stderr, where that is a terminal.
        options: of ``generate_text``, for both models.

    Raises:
        DataError: data that cannot be used, or of which no row can be read.
        UsageError: an option that cannot be used.
        GenerationError: the model can read no image, such as for NaN in its weights.
        MissingExtraError: jiwer or sacrebleu is not installed.
    """
    for module in ("jiwer", "sacrebleu"):
        need(module, "train", "an evaluation")
    _check(options, limit, batch_size, target_error, cases)
    rows = _part(open_data(data), split)
    own = _Sheet("model", model, device, cases)
    sheets = [own] if against is None else [own, _Sheet("other", against, device, 0)]
    total = None if rows.is_stream else len(rows)
    if limit is not None:
        total = limit if total is None else min(limit, total)
    given, number = islice(rows, limit), 0
    with tqdm(total=total, unit="row", file=sys.stderr, disable=None if progress else True) as bar:
        while batch := list(islice(given, batch_size)):
            for sheet in sheets:
                sheet.read(Data(rows.source, batch), number, batch_size, options)
            number += len(batch)
            bar.update(len(batch))
    settings = {"split": split, "limit": limit, "batch_size": batch_size, "generation": options}
    found, *others = [sheet.evaluation(rows, settings, target_error, ngrams=len(sheets) > 1) for sheet in sheets]
    found = replace(found, cases=own.cases(partial(_drawn, own.model, options) if explain is True else explain or None))
    if not others:
        return found
    return replace(found, comparison=_compared(sheets, (found, others[0]), bootstrap_seed))


def _check(options: Mapping[str, Any], limit: int | None, batch_size: int, target_error: float, cases: int) -> None:
    if options.get("num_return_sequences", 1) != 1:
        raise UsageError("one text is judged for each image", field="num_return_sequences", hint="leave it out")
    for name in ("pages", "on_error"):
        if name in options:
            raise UsageError("an evaluation sets it", field=name, hint="leave it out")
    for name, value in (("limit", 1 if limit is None else limit), ("batch_size", batch_size)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UsageError(f"{value!r} rows", field=name, hint="give 1 or more")
    if isinstance(cases, bool) or not isinstance(cases, int) or not 0 <= cases <= MAX_CASES:
        raise UsageError(f"{cases!r} is not a number from 0 to {MAX_CASES}", field="cases", hint="30 is the default")
    if isinstance(target_error, bool) or not isinstance(target_error, (int, float)) or not 0 <= target_error <= 1:
        message = f"{target_error!r} is not from 0 to 1"
        raise UsageError(message, field="target_error", hint="0.01 is one wrong character in a hundred")


def _part(data: Data, name: str | None) -> Data:
    """The rows of a split; those that training holds back by default, where the source has no splits."""
    if name is None:
        return data
    if (split := split_named(name)) is None:
        raise UsageError(f"{name!r} is not a split", field="split", hint="give train, validation or test")
    if split == "test" or data.rows is None or any(data.rows.splits):
        return data.only(split)
    fraction, seed = (DataConfig.model_fields[each].default for each in ("validation_fraction", "seed"))
    warn_caller(f"{data.source} has no splits; {split} is that of vedcore train with validation_fraction={fraction}")
    train, held_back = split_rows(data, fraction, seed)
    return train if split == "train" else held_back


class _Sheet:
    """The results of a model, row by row.

    Args:
        name: of a model that is not given by name.
        model: the model, or its name.
        device: of a model that is given by name.
        shown: wrong rows to keep with their images.
    """

    def __init__(
        self, name: str, model: VisionEncoderDecoder | str | os.PathLike[str], device: str | None, shown: int
    ) -> None:
        if isinstance(model, VisionEncoderDecoder):
            self.name, self.model = name, model
        else:
            self.name, self.model = os.fspath(model), load(model, device=device)
        self.results: list[RowResult] = []
        self.numbers: list[int] = []
        self.not_read: list[Problem] = []
        self.columns: Columns = {}
        self._shown = shown
        self._worst: list[tuple[tuple[float, int, float], int, Row]] = []

    def read(self, data: Data, first: int, batch_size: int, options: Mapping[str, Any]) -> None:
        """Read the rows of a batch, the first of which has that number.

        Raises:
            GenerationError: no row so far could be read, for a reason that is not its image.
        """
        readings = list(read_rows(self.model, data, batch_size, **options))
        if not self.results and all(isinstance(reading.error, GenerationError) for reading in readings):
            assert readings[0].error is not None
            raise readings[0].error  # the model's or the options' fault
        done = [(first + i, reading) for i, reading in enumerate(readings) if reading.error is None]
        counts = edits([reading.text for _, reading in done], [reading.row.text for _, reading in done])
        for (number, reading), count in zip(done, counts, strict=True):
            result = _result(reading, count.edits, count.characters)
            if result.kind != "exact" and self._shown:
                heapq.heappush(self._worst, (result.badness, -len(self.results), reading.row))
                if len(self._worst) > self._shown:
                    heapq.heappop(self._worst)
            self.numbers.append(number)
            self.results.append(result)
        for reading in readings:
            if reading.error is not None:
                self.not_read.append(Problem(reading.row.name, reading.row.source, str(reading.error)))

    def evaluation(self, data: Data, settings: Mapping[str, Any], target_error: float, *, ngrams: bool) -> Evaluation:
        """The scores of all rows.

        Raises:
            DataError: none could be read.
        """
        not_read = (*data.problems, *self.not_read)
        if not self.results:
            first = f"; the first: {not_read[0]}" if not_read else ""
            raise DataError(f"no row can be read{first}", path=data.source)
        texts, labels = [row.text for row in self.results], [row.label for row in self.results]
        self.columns = columns_of(texts, labels, ngrams=ngrams)
        confidence = judge_confidence(
            [row.confidence for row in self.results],
            [row.kind == "exact" for row in self.results],
            [row.edits for row in self.results],
            [row.characters for row in self.results],
            target_error,
        )
        scores = scores_of(texts, labels, self.columns)
        return Evaluation(
            self.name, data.source, scores, tuple(self.results), confidence, not_read, settings=dict(settings)
        )

    def cases(self, explain: Explain | None) -> tuple[Case, ...]:
        """The worst rows with their pictures, the worst first."""
        found = []
        for _, place, row in sorted(self._worst, key=lambda each: each[:2], reverse=True):
            explanation = None
            if explain is not None:
                try:
                    explanation = explain(row)
                except VedcoreError as error:
                    warn_caller(f"{row.source} is not explained: {error}")
                    if isinstance(error, IncompatibleError):
                        explain = None  # the model's fault, and so of all rows
            found.append(Case(-place, picture_of(row), explanation))
        return tuple(found)


def _drawn(model: VisionEncoderDecoder, options: Mapping[str, Any], row: Row) -> bytes:
    """The picture of where a model looked for the text of a row."""
    return model.explain(row.image, pages=row.page or 1, **options).to_bytes()


def _result(reading: Reading, wrong: int, characters: int) -> RowResult:
    row = reading.row
    kind = kind_of(reading.text, row.text, reading.finish_reason)
    return RowResult(
        row.name,
        row.source,
        row.page,
        row.text,
        reading.text,
        reading.confidence,
        reading.finish_reason,
        kind,
        wrong,
        characters,
    )


def _compared(sheets: Sequence[_Sheet], evaluations: tuple[Evaluation, Evaluation], seed: int) -> Comparison:
    """The first of two sheets against the second.

    Raises:
        DataError: no row could be read by both.
    """
    one, two = ({number: place for place, number in enumerate(sheet.numbers)} for sheet in sheets)
    pairs = [(place, two[number]) for number, place in one.items() if number in two]
    if not pairs:
        raise DataError("no row can be read by both models", path=evaluations[0].data)
    scores, columns = [], []
    for side, sheet in enumerate(sheets):
        names = [name for name in sheet.columns if all(name in each.columns for each in sheets)]
        columns.append({name: [sheet.columns[name][pair[side]] for pair in pairs] for name in names})
        results = [sheet.results[pair[side]] for pair in pairs]
        scores.append(scores_of([row.text for row in results], [row.label for row in results], columns[-1]))
    better: list[tuple[int, int]] = []
    worse: list[tuple[int, int]] = []
    for pair in pairs:
        rows = [sheet.results[place] for sheet, place in zip(sheets, pair, strict=True)]
        a, b = ((row.edits, row.text != row.label) for row in rows)
        if a != b:
            (better if a < b else worse).append(pair)
    differences = compare(scores[0], scores[1], columns[0], columns[1], seed)
    return Comparison(evaluations[1], len(pairs), differences, tuple(better), tuple(worse), SAMPLES, seed)
