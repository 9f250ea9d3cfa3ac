"""`train`: from a model or a config, and labelled images, to a folder with the best model."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vedcore.config_files.plain import short
from vedcore.config_files.yaml import read_yaml
from vedcore.data import Data
from vedcore.data.encoder_states import EncoderStates
from vedcore.data.keeping import keep_states
from vedcore.data.loader import Loader
from vedcore.errors import CheckpointWriteError, ResumeError, UsageError
from vedcore.extras import need
from vedcore.layers.norm_statistics import batch_norms
from vedcore.model import VisionEncoderDecoder
from vedcore.training.judging import Judge
from vedcore.training.letters import add_letters
from vedcore.training.loop import Loss, TrainingLoop, loss_of_text
from vedcore.training.processes import accelerator_for
from vedcore.training.progress import Display
from vedcore.training.run import Run
from vedcore.weights.manifest import tensor_sha256

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["TrainingResult", "train"]

RUN = "run.json"
"""File of a run's folder by which a later call knows that it is the same run."""
CONFIG = "config.yaml"
FREE_TO_CHANGE = {"train.report_to", "train.logging_steps", "data.workers"}
"""Settings that change nothing in the weights."""


@dataclass(frozen=True)
class TrainingResult:
    """The folders and scores that a run has left."""

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
    loss: Loss = loss_of_text,
    **settings: Any,
) -> TrainingResult:
    """Train a model on labelled images; the same call again goes on where it was stopped.

    Args:
        model_or_config: a name or folder of a model, a config file or a mapping (with ``train``, ``data`` and either
            ``model`` or what `vedcore.compose` takes), or a model, which is trained in place.
        data: source of the rows, as `vedcore.data.open_data` takes it, in place of ``data.train``.
        output: folder of the run: ``best``, ``last``, ``log.jsonl``, ``curves.png``, ``config.yaml``, ``samples``.
        overrides: texts such as ``train.max_steps=200``, over the config.
        loss: of a batch, in place of the model's own: called with the model, the mapping of its arguments, and
            ``num_items_in_batch``, the label tokens of the whole optimizer step, by which it divides its sum;
            ``label_smoothing`` too, where that is set.
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
    folder = Path(output)
    run = Run.of(model_or_config, data, overrides, **settings)
    accelerator = accelerator_for(run.train, folder)
    display = Display(folder, shown=accelerator.is_main_process)
    torch.manual_seed(run.train.seed)
    training, held_back = run.open_rows()
    sets = {"validation": held_back, **run.open_more()}
    model = run.make_model()
    _begin(run, model, training, held_back, folder, accelerator, loss)
    add_letters(model, training, sets, run.data.letters, display)
    for part in run.train.freeze:
        model.freeze(part)
    loader = _loader(run, training, model, accelerator, _encoder_states(run, model, training, folder, display))
    loop = TrainingLoop(
        model, run.train, loader, Judge(sets, run.train, accelerator, display), folder, accelerator, display, loss
    )
    rows, average = None if training.is_stream else len(training), run.train.ema_decay is not None
    display.cost(model, rows=rows, steps=loop.total_steps, average=average)
    precision = torch.get_float32_matmul_precision()
    try:
        if run.train.optimize:
            torch.set_float32_matmul_precision("medium")
        position = loop.run()
    finally:
        torch.set_float32_matmul_precision(precision)
    display.problems([problem for each in (training, held_back) for problem in each.problems])
    accelerator.end_training()
    model.eval()
    scores = {line.pop("evaluation"): line for line in loop.log.lines() if "evaluation" in line}
    return TrainingResult(folder / "best", folder / "last", position.step, position.best_step, position.best, scores)


def _encoder_states(
    run: Run, model: VisionEncoderDecoder, training: Data, output: Path, display: Display
) -> EncoderStates | None:
    """The kept states of a frozen encoder, where ``data.cache_encoder`` asks for them."""
    if not run.data.cache_encoder:
        return None
    if "encoder" in run.train.unfreeze_at or run.train.lora is not None:
        setting = "train.lora" if run.train.lora is not None else "train.unfreeze_at"
        hint = f"leave data.cache_encoder out, or {setting}"
        raise UsageError("states cannot be kept of an encoder that is trained", field="data.cache_encoder", hint=hint)
    return keep_states(
        model,
        training,
        output / "encoder-states",
        batch_size=run.train.per_device_train_batch_size,
        workers=run.data.workers,
        augment=run.data.augment,
        tell=display.say,
    )


def _loader(
    run: Run, training: Data, model: VisionEncoderDecoder, accelerator: Accelerator, states: EncoderStates | None
) -> Loader:
    return Loader(
        training,
        model.processor,
        run.train.per_device_train_batch_size,
        shuffle=True,
        seed=run.train.seed,
        max_label_length=run.data.max_label_length,
        augment=run.data.augment,
        bucket=run.data.bucket,
        bucket_labels=states is not None or not batch_norms(model),
        workers=run.data.workers,
        on_unknown="error" if training.is_stream else "warn",
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        states=states,
        pin_memory=accelerator.device.type == "cuda",
    )


def _begin(
    run: Run,
    model: VisionEncoderDecoder,
    training: Data,
    held_back: Data,
    output: Path,
    accelerator: Accelerator,
    loss: Loss,
) -> None:
    """Write what run this is into its folder, or see that the folder holds this very run.

    Raises:
        ResumeError: it holds another.
        CheckpointWriteError: it cannot be written.
    """
    config = run.resolved(model)
    this = {
        "config": config,
        "model": hash_of(model),
        "data": {"train": training.fingerprint(), "validation": held_back.fingerprint()},
        "processes": accelerator.num_processes,
        "loss": None if loss is loss_of_text else _described(loss),
    }
    path = output / RUN
    exists = path.exists()
    accelerator.wait_for_everyone()  # else one might read what another is writing
    if exists:
        _check_same(json.loads(path.read_bytes()), this, path)
    elif accelerator.is_main_process:
        try:
            output.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(this, indent=2) + "\n", encoding="utf-8")
            (output / CONFIG).write_text(yaml_text(config), encoding="utf-8")
        except OSError as error:
            raise CheckpointWriteError(str(error.strerror), path=output, hint="name another folder") from None
    accelerator.wait_for_everyone()


def _check_same(kept: dict[str, Any], this: dict[str, Any], path: Path) -> None:
    """Refuse to go on with another run.

    Raises:
        ResumeError: naming the first difference.
    """
    hint = "give what began it, or name another folder"
    for name in sorted({*kept["config"], *this["config"]}):
        before, now = kept["config"].get(name), this["config"].get(name)
        for field in sorted({*_fields(before), *_fields(now)}):
            old, new = _fields(before).get(field), _fields(now).get(field)
            full = f"{name}.{field}".rstrip(".")
            if old != new and full not in FREE_TO_CHANGE:
                raise ResumeError(f"the run there has {short(old)}, not {short(new)}", path=path, field=full, hint=hint)
    if kept["processes"] != this["processes"]:
        message = f"the run there has {kept['processes']} processes, not {this['processes']}"
        raise ResumeError(message, path=path, field="processes", hint=hint)
    if kept.get("loss") != this["loss"]:
        before, now = kept.get("loss") or {"name": "the model's own"}, this["loss"] or {"name": "the model's own"}
        same_name = before["name"] == now["name"]
        message = f"the code of {now['name']} is another" if same_name else f"{before['name']}, not {now['name']}"
        raise ResumeError(f"the loss of the run there: {message}", path=path, field="loss", hint=hint)
    for name in ("train", "validation"):
        if kept["data"][name] != this["data"][name]:
            raise ResumeError("the rows are others than when the run began", path=path, field=f"data.{name}", hint=hint)
    if kept["model"] != this["model"]:
        raise ResumeError("the weights are others than when the run began", path=path, field="model", hint=hint)


def _described(loss: Loss) -> dict[str, str]:
    """The name of a loss, and a hash of its code."""
    named: Any = loss if hasattr(loss, "__qualname__") else type(loss)
    try:
        code = inspect.getsource(named)
    except (OSError, TypeError):  # of a shell, or of C
        code = ""
    name = f"{named.__module__}.{named.__qualname__}"
    return {"name": name, "sha256": hashlib.sha256(code.encode()).hexdigest()}


def _fields(section: Any) -> dict[str, Any]:
    return section if isinstance(section, dict) else {"": section}


def hash_of(model: VisionEncoderDecoder) -> str:
    """A hash of the names, shapes and values of all weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(
            f"{name} {tuple(tensor.shape)} {tensor.dtype} {tensor_sha256(tensor.cpu().contiguous())}".encode()
        )
    return digest.hexdigest()


def yaml_text(config: Mapping[str, Any]) -> str:
    """A config as YAML that `read_config_text` reads back."""
    import yaml

    text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    # YAML 1.1, which PyYAML writes, leaves strings such as 1e-4 without quotes
    return text if read_yaml(text)[0] == config else json.dumps(config, indent=2) + "\n"
