"""The proof of an export: what it gives, beside what the model gives, in a process without the model's framework."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vedcore.errors import IncompatibleError, printable
from vedcore.export.exporter import Array, Exporter, Runtime
from vedcore.export.fitting import MAX_NEW_TOKENS
from vedcore.generation.options.config import GenerationConfig
from vedcore.model import VisionEncoderDecoder

__all__ = ["Check", "fitted_checks", "model_checks", "replayed"]

BATCHES = (3, 1, 5)
"""Numbers of images: that with which graphs are recorded, one, and another."""
LENGTH = 6
STEPS, LEARNING_RATE = 5, 1e-3
"""Of the optimizer."""
TIMEOUT_SECONDS = 3600
HALF_FACTOR = 1000.0
"""By which tolerances grow for a model in bfloat16 or float16."""


@dataclass(frozen=True)
class Check:
    """One comparison, as ``export_report.json`` has it."""

    name: str
    method: str
    tolerance: float
    """Greatest difference, relative to the greatest number of the model's; 0 for equal ids."""
    difference: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the difference is within the tolerance."""
        return self.difference is not None and self.difference <= self.tolerance


@dataclass(frozen=True)
class _Case:
    """A call of a runtime, and what is due."""

    name: str
    method: str
    arrays: Mapping[str, Array]
    due: Callable[[], Array | Mapping[str, Array]]
    arguments: Mapping[str, Any] = field(default_factory=dict)


def model_checks(model: VisionEncoderDecoder, folder: Path, exporter: Exporter, runtime: type[Runtime]) -> list[Check]:
    """Compare numbers: encoder states, logits in one pass and step by step, loss, gradients, training.

    Raises:
        IncompatibleError: the export cannot be run.
    """
    cases = [case for case in _numeric_cases(model) if case.method in runtime.abilities]
    factor = 1.0 if model.dtype == torch.float32 else HALF_FACTOR
    return _compared(cases, folder, exporter, runtime, factor)


def fitted_checks(
    model: VisionEncoderDecoder, images: Tensor, folder: Path, exporter: Exporter, runtime: type[Runtime]
) -> list[Check]:
    """Compare greedy ids of a model that has a text for each image: in one batch, alone, and in another.

    Raises:
        IncompatibleError: the export cannot be run.
    """
    config = GenerationConfig(max_new_tokens=MAX_NEW_TOKENS)
    cases = [
        _Case(
            f"greedy ids of {len(part)} images",
            "generate",
            {"pixel_values": part.numpy()},
            partial(_ids, model, part, config),
            {"max_new_tokens": MAX_NEW_TOKENS},
        )
        for part in (images, images[2:3], images[3:8])
    ]
    return _compared(cases, folder, exporter, runtime, 1.0)


def _numeric_cases(model: VisionEncoderDecoder) -> Iterator[_Case]:
    ids = model.token_ids
    height, width = model.encoder.preprocessing.image_size
    generator = torch.Generator().manual_seed(0)
    plain = torch.tensor([i for i in range(model.decoder.vocab_size) if i not in (ids.start, ids.pad)])

    def pixels(rows: int) -> Tensor:
        return torch.randn(rows, model.num_channels, height, width, generator=generator)

    def text(rows: int, length: int) -> Tensor:
        return plain[torch.randint(len(plain), (rows, length), generator=generator)]

    length = min(LENGTH, model.decoder.max_positions or LENGTH)
    for rows in BATCHES:
        images, tokens = pixels(rows), text(rows, length)
        both = {"pixel_values": images.numpy(), "input_ids": tokens.numpy()}
        yield _Case(f"encoder, {rows} images", "encode", {"pixel_values": images.numpy()}, _states(model, images))
        yield _Case(f"{length} tokens of {rows} texts in one pass", "logits", both, _logits(model, images, tokens))
        yield _Case(f"{length} tokens of {rows} texts, one by one", "steps", both, _logits(model, images, tokens))
    images, tokens = pixels(2), text(2, length)
    one = {"pixel_values": images.numpy(), "input_ids": tokens[:, :1].numpy()}
    yield _Case("one token without a past", "logits", one, _logits(model, images, tokens[:, :1]))
    if ids.pad is not None:
        mask = torch.ones(2, length, dtype=torch.bool)
        mask[0, :2] = False
        padded = torch.where(mask, tokens, ids.pad)
        given = {"pixel_values": images.numpy(), "input_ids": padded.numpy(), "attention_mask": mask.numpy()}
        yield _Case("a prompt padded at the left", "logits", given, _logits(model, images, padded, mask))
    labels = text(2, length)
    labels[1, -2:] = -100
    trained = {"pixel_values": images.numpy(), "labels": labels.numpy()}
    yield _Case("loss", "loss", trained, lambda: _as_array(model(images, labels=labels).loss))
    yield _Case("gradients in float64", "gradients", trained, lambda: _gradients(model, images, labels))
    arguments = {"learning_rate": LEARNING_RATE, "steps": STEPS}
    losses = lambda: np.asarray(_losses(model, images, labels))  # noqa: E731
    yield _Case(f"{STEPS} steps of AdamW", "train", trained, losses, arguments)


def _ids(model: VisionEncoderDecoder, images: Tensor, config: GenerationConfig) -> Array:
    found: Any = model.generate(images, generation_config=config)
    ids: Array = found.numpy()
    return ids


def _states(model: VisionEncoderDecoder, images: Tensor) -> Callable[[], Array]:
    return lambda: _as_array(model.project(model.encode(images))[0])


def _logits(
    model: VisionEncoderDecoder, images: Tensor, ids: Tensor, mask: Tensor | None = None
) -> Callable[[], Array]:
    return lambda: _as_array(model(images, decoder_input_ids=ids, decoder_attention_mask=mask).logits)


def _as_array(tensor: Tensor) -> Array:
    found: Array = tensor.detach().float().numpy()
    return found


def _gradients(model: VisionEncoderDecoder, images: Tensor, labels: Tensor) -> dict[str, Array]:
    made = copy.deepcopy(model).double().requires_grad_(True)
    with torch.enable_grad():
        made(images.double(), labels=labels).loss.backward()
    return {name: each.grad.numpy() for name, each in made.named_parameters() if each.grad is not None}


def _losses(model: VisionEncoderDecoder, images: Tensor, labels: Tensor) -> list[float]:
    made = copy.deepcopy(model).requires_grad_(True)
    optimizer = torch.optim.AdamW(made.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    losses = []
    with torch.enable_grad():
        for _ in range(STEPS):
            loss = made(images, labels=labels).loss
            losses.append(float(loss.detach()))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return losses


def _compared(
    cases: list[_Case], folder: Path, exporter: Exporter, runtime: type[Runtime], factor: float
) -> list[Check]:
    results = replayed(cases, folder, exporter)
    checks = []
    with torch.no_grad():
        for case, found in zip(cases, results, strict=True):
            tolerance = 0.0 if case.method == "generate" else runtime.tolerances[case.method] * factor
            checks.append(Check(case.name, case.method, tolerance, _difference(case.due(), found)))
    return checks


def replayed(cases: list[_Case], folder: Path, exporter: Exporter) -> list[Array | dict[str, Array]]:
    """The results of an export for each case, in a process of its own.

    Raises:
        IncompatibleError: the process fails, and its last line is told, or it takes too long.
    """
    with tempfile.TemporaryDirectory() as place:
        given, results = Path(place, "cases.npz"), Path(place, "results.npz")
        arrays = {f"{i}/{name}": each for i, case in enumerate(cases) for name, each in case.arrays.items()}
        calls = json.dumps([{"method": case.method, "arguments": dict(case.arguments)} for case in cases])
        np.savez(given, cases=np.asarray(calls), **arrays)  # type: ignore[arg-type]
        command = [sys.executable, "-m", "vedcore.export.replay", str(folder), exporter.runtime, str(given)]
        try:
            done = subprocess.run(
                [*command, str(results), *exporter.blocked],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            message = f"the export does not run: no result after {TIMEOUT_SECONDS:g} seconds"
            raise IncompatibleError(message, field="export") from error
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise IncompatibleError(f"the export does not run: {printable(lines[-1])}", field="export")
        with np.load(results) as found:
            return [_result(found, i) for i in range(len(cases))]


def _result(found: Any, number: int) -> Array | dict[str, Array]:
    if str(number) in found.files:
        one: Array = found[str(number)]
        return one
    return {name.partition("/")[2]: found[name] for name in found.files if name.startswith(f"{number}/")}


def _difference(due: Array | Mapping[str, Array], found: Array | Mapping[str, Array]) -> float:
    """The greatest difference relative to the greatest number due; infinite for other shapes or names."""
    if isinstance(due, Mapping) or isinstance(found, Mapping):
        if not isinstance(due, Mapping) or not isinstance(found, Mapping) or due.keys() != found.keys():
            return float("inf")
        scale = max((float(np.abs(each).max(initial=0.0)) for each in due.values()), default=0.0)
        return max((_greatest(each, found[name], scale) for name, each in due.items()), default=0.0)
    return _greatest(due, found, float(np.abs(due).max(initial=0.0)))


def _greatest(due: Array, found: Array, scale: float) -> float:
    if due.shape != found.shape:
        return float("inf")
    difference = np.abs(due.astype(np.float64) - found).max(initial=0.0) / (scale or 1.0)
    return float(difference) if np.isfinite(difference) else float("inf")
