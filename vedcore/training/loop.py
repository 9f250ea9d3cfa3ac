"""The loop of training: optimizer steps over batches, evaluations, saves, and a stop that can be resumed to the bit.

accelerate runs it on one process or several, in mixed precision, and under FSDP by its own config.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from vedcore.data import Data
from vedcore.data.loader import Loader
from vedcore.errors import ConfigSchemaError, DataError, NonFiniteError
from vedcore.model import VisionEncoderDecoder
from vedcore.training.adapting import with_adapters, without_adapters
from vedcore.training.config import TrainingConfig
from vedcore.training.judging import Judge
from vedcore.training.log import RunLog, draw_curves
from vedcore.training.parameters import AverageWeights, parameter_groups
from vedcore.training.progress import Display
from vedcore.training.schedule import rate_factor
from vedcore.training.states import Position, load_newest_state, save_state
from vedcore.training.stopping import Stop

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Loss", "TrainingLoop", "loss_of_text"]

Loss: TypeAlias = Callable[..., Tensor]
"""The loss of a batch: called with the model, the mapping of its arguments, and the further arguments of the loss."""

MEASURED_STEPS = 20
"""Optimizer steps after which the time of the whole run is told."""


def loss_of_text(model: nn.Module, batch: Mapping[str, Any], **options: Any) -> Tensor:
    """The model's own loss."""
    loss: Tensor = model(**batch, **options).loss
    return loss


class TrainingLoop:
    """One run.

    Args:
        model: trained in place.
        config: settings of training.
        loader: batches of the training data.
        judge: evaluates the model on held-back data.
        output: folder of the run.
        accelerator: places model and batches.
        display: tells a person how it goes.
        loss: of a batch.
    """

    def __init__(
        self,
        model: VisionEncoderDecoder,
        config: TrainingConfig,
        loader: Loader,
        judge: Judge,
        output: Path,
        accelerator: Accelerator,
        display: Display,
        loss: Loss = loss_of_text,
    ) -> None:
        self.model, self.config, self.loader, self.judge, self.loss = model, config, loader, judge, loss
        self.output, self.accelerator, self.display = output, accelerator, display
        self.log = RunLog(output / "log.jsonl")
        self.position = Position()
        if config.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        trained = model if config.lora is None else with_adapters(model, config.lora)
        optimizer = torch.optim.AdamW(
            parameter_groups(trained, config), betas=(config.adam_beta1, config.adam_beta2), eps=config.adam_epsilon
        )
        for group in optimizer.param_groups:
            group["full_rate"] = group["lr"]
        self.skeleton = copy.deepcopy(trained) if accelerator.distributed_type.value == "FSDP" else None
        self.prepared, self.optimizer = accelerator.prepare(trained.train(), optimizer)
        self.average = None if config.ema_decay is None else AverageWeights(self._bare(), config.ema_decay)
        accelerator.register_for_checkpointing(self.position)
        if self.average is not None:
            accelerator.register_for_checkpointing(self.average)
        self.batches_per_epoch = None if loader.data.is_stream else len(loader)
        self.total_steps = self._total_steps()

    def _bare(self) -> Any:
        return self.accelerator.unwrap_model(self.prepared)

    def _total_steps(self) -> int:
        if self.config.max_steps is not None:
            return self.config.max_steps
        if self.batches_per_epoch is None:
            raise ConfigSchemaError(
                "a stream has no length", field="train.max_steps", hint="set it, such as train.max_steps=10000"
            )
        each = math.ceil(self.batches_per_epoch / self.config.gradient_accumulation_steps)
        return max(1, math.ceil(self.config.num_train_epochs * each))

    def run(self) -> Position:
        """Train until the last step, an early stop or a signal; resumes where an earlier call was stopped.

        Raises:
            NonFiniteError: the loss is NaN or infinite; nothing is saved after that step.
            KeyboardInterrupt: Ctrl-C, once the state is saved.
        """
        if load_newest_state(self.accelerator, self.output):
            if self.accelerator.is_main_process:
                self.log.cut_after(self.position.step)
            self.display.say(f"resumed at step {self.position.step} of {self.total_steps}")
        with Stop() as stop, self.display.bar(self.total_steps, self.position.step) as bar:
            started, first = time.perf_counter(), self.position.step
            groups = self._groups()
            while not self._is_over():
                batches, last_of_epoch = next(groups)
                values = self._step(batches)
                bar.step(values)
                if self.position.step - first == MEASURED_STEPS:
                    seconds = (time.perf_counter() - started) / MEASURED_STEPS
                    self.display.cost_of_step(seconds, self.total_steps - self.position.step)
                if self._is_due(self.config.eval_steps, last_of_epoch):
                    self._evaluate()
                if stop.is_asked(self.accelerator) or self._is_due_to_save():
                    self._save()
                stop.check()
            if self.position.evaluated != self.position.step:
                self._evaluate()
            self._save()
        return self.position

    def _is_over(self) -> bool:
        patience = self.config.early_stopping_patience
        tired = patience is not None and self.position.without_better >= patience
        return tired or self.position.step >= self.total_steps

    def _is_due(self, every: int | None, last_of_epoch: bool) -> bool:
        """Whether something is done after this step: every so many, or after each epoch."""
        return last_of_epoch if every is None else self.position.step % every == 0

    def _is_due_to_save(self) -> bool:
        if self.config.save_steps is None:
            return self.position.evaluated == self.position.step
        return self.position.step % self.config.save_steps == 0

    def _groups(self) -> Iterator[tuple[list[Any], bool]]:
        """The batches of each optimizer step, and whether an epoch ends with them; from the position on."""
        while True:
            loaded, group = self.loader.epoch(self.position.epoch, self.position.data), []
            following = next(loaded, None)
            if following is None and self.position.data is None:
                raise DataError(
                    "no row can be used", path=self.loader.data.source, hint=_first_problem(self.loader.data)
                )
            while following is not None:
                group.append(following)
                following = next(loaded, None)
                if len(group) == self.config.gradient_accumulation_steps or following is None:
                    ends = following is None
                    self.position.data = None if ends else group[-1].state
                    self.position.epoch += ends
                    yield [each.to(self.accelerator.device).inputs for each in group], ends
                    group = []

    def _step(self, batches: list[Any]) -> dict[str, Any]:
        """One optimizer step; the loss is the mean over all tokens of its batches, on all processes."""
        config, accelerator, began = self.config, self.accelerator, time.perf_counter()
        self._unfreeze()
        factor = rate_factor(config, self.position.step, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["full_rate"] * factor
        own = sum(int((batch["labels"] != -100).sum()) for batch in batches)
        tokens = int(accelerator.reduce(torch.tensor(own, device=accelerator.device)))
        smoothing = {"label_smoothing": config.label_smoothing_factor} if config.label_smoothing_factor else {}
        loss = 0.0
        for i, batch in enumerate(batches):
            rests = contextlib.nullcontext() if i == len(batches) - 1 else accelerator.no_sync(self.prepared)
            with rests, accelerator.autocast():
                out = self.loss(self.prepared, batch, num_items_in_batch=tokens, **smoothing)
                accelerator.backward(out * accelerator.num_processes)  # which DDP divides by
            loss += float(out.detach())
        if accelerator.num_processes > 1:
            loss = float(accelerator.reduce(torch.tensor(loss, device=accelerator.device)))
        if not math.isfinite(loss):
            raise NonFiniteError(
                f"the loss is {loss} in step {self.position.step + 1}",
                field="train.learning_rate",
                hint="lower it, or set train.max_grad_norm=1.0; the last save is kept",
            )
        limit = config.max_grad_norm or math.inf
        norm = float(accelerator.clip_grad_norm_(self.prepared.parameters(), limit))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update()
        self.position.step += 1
        values = {
            "step": self.position.step,
            "epoch": self._epochs_done(),
            "loss": loss,
            "learning_rate": config.learning_rate * factor,
            "grad_norm": norm,
            "tokens": tokens,
            "seconds": round(time.perf_counter() - began, 4),
        }
        if accelerator.is_main_process and self.position.step % config.logging_steps == 0:
            self.log.write(values)
            if config.report_to:
                accelerator.log({k: v for k, v in values.items() if k != "step"}, step=self.position.step)
        return values

    def _epochs_done(self) -> float:
        if not self.batches_per_epoch or self.position.data is None:
            return float(self.position.epoch)
        return round(self.position.epoch + int(self.position.data["batch"]) / self.batches_per_epoch, 4)

    def _unfreeze(self) -> None:
        for part, step in self.config.unfreeze_at.items():
            if self.position.step >= step and part in self.model.frozen_parts:
                self.model.unfreeze(part)
                self.display.say(f"step {self.position.step}: the {part} is trained from now on")

    @contextlib.contextmanager
    def _model_to_judge(self) -> Iterator[VisionEncoderDecoder]:
        """The model as it is evaluated and saved: with averaged weights and merged adapters, where there are some."""
        with contextlib.nullcontext() if self.average is None else self.average.applied(), self._whole() as whole:
            yield whole if self.config.lora is None else without_adapters(whole)

    @contextlib.contextmanager
    def _whole(self) -> Iterator[Any]:
        """The model with all its weights on the device of this process; under FSDP a copy, as long as it is used."""
        if self.skeleton is None:
            yield self._bare()
            return
        options = StateDictOptions(full_state_dict=True)  # on each process: accelerate gives them to the first alone
        self.skeleton.to(self.accelerator.device).load_state_dict(get_model_state_dict(self.prepared, options=options))
        try:
            yield self.skeleton.eval()
        finally:
            self.skeleton.to("cpu")

    def _evaluate(self) -> None:
        """Generate texts of the held-back rows, log the errors, and keep the best model."""
        config, position = self.config, self.position
        with self._model_to_judge() as model:
            scores = self.judge.evaluate(model, position.step)
            metric = scores[config.metric_for_best_model]
            position.evaluated = position.step
            if config.better(metric, position.best):
                position.best, position.best_step, position.without_better = metric, position.step, 0
                if self.accelerator.is_main_process:
                    model.save_pretrained(self.output / "best")
            else:
                position.without_better += 1
        if self.accelerator.is_main_process:
            for line in self.judge.lines(position.step):
                self.log.write(line)
            if config.report_to:
                self.accelerator.log(self.judge.named(), step=position.step)
            draw_curves(self.log, self.output / "curves.png")
        self.prepared.train()

    def _save(self) -> None:
        """Write the state to resume from, and the model as it is now."""
        save_state(self.accelerator, self.output, self.position.step)
        with self._model_to_judge() as model:
            if self.accelerator.is_main_process:
                model.save_pretrained(self.output / "last")
        self.prepared.train()


def _first_problem(data: Data) -> str:
    return str(data.problems[0]) if data.problems else "are there rows for training?"
