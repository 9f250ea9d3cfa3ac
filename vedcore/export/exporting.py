"""`vedcore.export`: record, write for a target, prove, and put into place."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import platform
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from vedcore.errors import CheckpointWriteError, IncompatibleError, MissingExtraError, UsageError
from vedcore.export.exporter import ABILITIES, Exporter, Runtime
from vedcore.export.fitting import TEXTS, fitted, some_images
from vedcore.export.graphs import GRAPH, Graphs
from vedcore.export.interpreter import refuse_missing
from vedcore.export.programs import shared_copy
from vedcore.export.proof import Check, fitted_checks, model_checks
from vedcore.export.recording import record
from vedcore.model import VisionEncoderDecoder
from vedcore.model_files import WEIGHTS
from vedcore.plugins import load_component
from vedcore.weights.atomic_swap import replace_folder
from vedcore.weights.snapshot import TEMPORARY_PREFIX, backup_path

__all__ = ["REPORT", "export", "make_exporter"]

REPORT = "export_report.json"


def make_exporter(to: str) -> Exporter:
    """The exporter of that name.

    Raises:
        UnknownComponentError, PluginConflictError, PluginLoadError: as `vedcore.plugins.load_component`.
        MissingExtraError: a package that it needs is not installed.
    """
    target, _ = load_component("exporter", to)
    for module in target.needs:
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError(f"{to} needs {module}, which is not installed", hint=target.install)
    exporter: Exporter = target()
    return exporter


def export(
    model: VisionEncoderDecoder,
    output: str | os.PathLike[str],
    to: str = "graph",
    *,
    tell: Callable[[str], None] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Write a model for another framework, with the proof that it gives the same.

    The folder holds the model in vedcore's own format too, its graphs (``graph.json``), and ``export_report.json``.
    Nothing of the model changes.

    Args:
        model: any model, also one that is frozen, trains, or has generated.
        output: created, or replaced as a whole where it is an earlier export.
        to: a name of ``vedcore export --list``.
        tell: gets a line at the beginning of each of the three steps.
        **options: of the target.

    Returns:
        The report: checks, sizes in bytes, seconds.

    Raises:
        IncompatibleError: a part that cannot be exported, with its place in the source; a proof that does not hold.
        UsageError: a folder that is not an export, an unknown option.
        MissingExtraError: a package that the target needs is not installed.
        CheckpointWriteError: the folder cannot be written.
    """
    exporter = make_exporter(to)
    module, _, name = exporter.runtime.partition(":")
    runtime: type[Runtime] = getattr(importlib.import_module(module), name)
    with _staged(Path(os.path.abspath(output))) as stage:
        tell = tell or _silent
        tell("recording the graphs")
        began = time.perf_counter()
        graphs = record(model, stage)
        if exporter.operations is not None:
            refuse_missing(graphs, exporter.operations, to)
        recorded, base = time.perf_counter(), set(_files(stage))
        tell(f"writing for {to}")
        exporter.write(stage, graphs, **options)
        written = time.perf_counter()
        tell("proving that it gives the same")
        checks = _proved(model, stage, base, graphs, exporter, runtime, options)
        proved = time.perf_counter()
        report = {
            "target": to,
            "holds": all(check.holds for check in checks),
            "checks": [{**asdict(check), "holds": check.holds} for check in checks],
            "left_out": [each for each in ABILITIES if each not in runtime.abilities],
            "bytes": {str(file.relative_to(stage)): file.stat().st_size for file in _files(stage)},
            "seconds": {
                "record": round(recorded - began, 2),
                "write": round(written - recorded, 2),
                "prove": round(proved - written, 2),
            },
            "versions": {
                **graphs.made_by,
                "python": platform.python_version(),
                **{each: importlib.import_module(each).__version__ for each in exporter.needs},
            },
        }
        failed = next((check for check in checks if not check.holds), None)
        if failed is not None:
            message = f"{failed.name}: a difference of {failed.difference:.2g}, more than {failed.tolerance:.2g}"
            hint = "nothing was written; report it with the name of the model"
            raise IncompatibleError(f"the export to {to} does not give the same: {message}", field="export", hint=hint)
        (stage / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def _proved(
    model: VisionEncoderDecoder,
    stage: Path,
    base: set[Path],
    graphs: Graphs,
    exporter: Exporter,
    runtime: type[Runtime],
    options: dict[str, Any],
) -> list[Check]:
    """All checks: of the model's numbers, and of the ids of a fitted copy, which is exported like the model."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        evaluated = shared_copy(model).eval()
        checks = model_checks(evaluated, stage, exporter, runtime)
        if "generate" not in runtime.abilities:
            return checks
        images = some_images(model, TEXTS)
        made = fitted(evaluated, images)
        with tempfile.TemporaryDirectory(dir=stage.parent, prefix=TEMPORARY_PREFIX) as place:
            for file in base - {stage / WEIGHTS}:
                shutil.copy(file, place)
            _copy_weights(made, stage / WEIGHTS, Path(place, WEIGHTS))
            exporter.write(Path(place), graphs, **options)
            return checks + fitted_checks(made, images, Path(place), exporter, runtime)


def _copy_weights(model: VisionEncoderDecoder, source: Path, target: Path) -> None:
    """Write the tensors of a model as a file that has the names of another."""
    state = model.state_dict()
    with safe_open(source, framework="pt") as file:
        save_file({name: state[name].contiguous() for name in file.keys()}, target, file.metadata())  # noqa: SIM118


def _silent(text: str) -> None:
    """Say nothing."""


def _files(folder: Path) -> list[Path]:
    return sorted(each for each in folder.rglob("*") if each.is_file())


@contextlib.contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """A new folder that takes the place of ``target`` at the end; after an error nothing is left of it."""
    if target.is_dir() and os.listdir(target) and not (target / GRAPH).exists():
        raise UsageError(f"{target} is not an export", field="output", hint="name a new folder, or an empty one")
    stage = target.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}")
    try:
        stage.mkdir()
        yield stage
        replace_folder(stage, target, backup_path(target))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        hint = "check the path, its permissions and the disk"
        raise CheckpointWriteError(f"cannot be written: {reason}", path=target, hint=hint) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
