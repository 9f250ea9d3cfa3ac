"""`train`: from a model or a config, and labelled images, to a folder with the best model."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vedcore.config_files.yaml import write_yaml
from vedcore.data import Data, open_data, split
from vedcore.data.loader import Loader
from vedcore.errors import DataError, ResumeError, UsageError
from vedcore.extras import need
from vedcore.model import VisionEncoderDecoder
from vedcore.training.judging import Judge
from vedcore.training.loop import TrainingLoop
from vedcore.training.progress import Display
from vedcore.training.run import Run

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["TrainingResult", "train"]

RUN = "run.json"
"""File of a run's folder by which a later call knows that it is the same run."""
CONFIG = "config.yaml"


@dataclass(frozen=True)
class TrainingResult:
    """What a run has left."""

    best: Path
    """Folder of the best model; `vedcore.load` opens it."""
    last: Path
    """Folder of the model after the last step."""
    steps: int
    """Optimizer steps done, those of earlier calls included."""
    best_step: int | None
    metric: float | None
    """``metric_for_best_model`` of the best model."""
    scores: Mapping[str, Mapping[str, Any]]
    """Names of the evaluated data to the scores of the last evaluation."""


def train(
    model_or_config: Any,
    data: Any = None,
    output: str | os.PathLike[str] = "",
    *,
    overrides: Iterable[str] = (),
    **settings: Any,
) -> TrainingResult:
    """Train a model on labelled images; the same call again goes on where it was stopped.

    Args:
        model_or_config: a name or folder of a model, a config file or a mapping (with ``train``, ``data`` and either
            ``model`` or what `vedcore.compose` takes), or a model, which is trained in place.
        data: source of the rows, as `vedcore.data.open_data` takes it, in place of ``data.train``.
        output: folder of the run: ``best``, ``last``, ``log.jsonl``, ``curves.png``, ``config.yaml``, ``samples``.
        overrides: texts such as ``train.max_steps=200``, over the config.
        settings: fields of `TrainingConfig`; with ``data_`` before them, those of `vedcore.data.DataConfig`.

    Raises:
        ConfigError: an unknown setting, with the nearest; a bad value.
        DataError: data that cannot be used.
        ResumeError: the folder holds another run; names the difference.
        MissingExtraError: accelerate, jiwer or matplotlib is not installed.
        NonFiniteError: the loss is NaN or infinite.
    """
    for module in ("accelerate", "jiwer", "matplotlib"):
        need(module, "train", "training")
    if not os.fspath(output):
        raise UsageError("no folder is named", field="output", hint="name a folder for the trained model")
    named = data if isinstance(data, str | os.PathLike) or data is None else None
    run = Run.of(model_or_config, None if named is None else os.fspath(named), overrides, has_data=data is not None, **settings)
    source = run.data.train if named is not None or data is None else data
    accelerator = _accelerator(run, Path(output))
    display = Display(Path(output), shown=accelerator.is_main_process)
    torch.manual_seed(run.train.seed)
    rows = _open(run, source)
    training, held_back = _split(run, rows)
    model = run.make_model()
    begun = _begin(run, model, training, Path(output), accelerator)
    if begun:
        display.say(begun)
    loader = _loader(run, training, model, accelerator)
    sets = {"validation": held_back}
    if run.data.also is not None:
        sets["also"] = open_data(run.data.also, text_column=run.data.text_column, image_column=run.data.image_column)
    judge = Judge(sets, run.train, accelerator, display)
    if run.train.optimize:
        torch.set_float32_matmul_precision("medium")
    loop = TrainingLoop(model, run.train, loader, judge, Path(output), accelerator, display)
    display.cost(
        model,
        rows=None if training.is_stream else len(training),
        steps=loop.total_steps,
        average=run.train.ema_decay is not None,
    )
    position = loop.run()
    for data_ in (training, held_back):
        for problem in data_.problems[:MAX_PROBLEMS]:
            display.say(f"not used: {problem}")
    accelerator.end_training()
    output = Path(output)
    return TrainingResult(
        output / "best", output / "last", position.step, position.best_step, position.best, judge.scores
    )
