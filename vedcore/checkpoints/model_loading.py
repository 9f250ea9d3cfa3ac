"""From a config and stored tensors to a model: the last step of loading a folder of any format."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vedcore.checkpoints.formats import LoadOptions
from vedcore.components import torch_dtype
from vedcore.composer.build import build
from vedcore.composer.request import PART_KINDS
from vedcore.config import ModelConfig
from vedcore.errors import ConfigError
from vedcore.model import VisionEncoderDecoder
from vedcore.weights.loading import Weights
from vedcore.weights.manifest import FileRecord

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["load_model"]

LOOSE_HINT = "strict=False takes what fits"


def load_model(
    config: ModelConfig,
    weights: Weights,
    options: LoadOptions,
    *,
    path: Path,
    tokenizer: Tokenizer | None,
    manifest: Mapping[str, FileRecord] | None,
) -> VisionEncoderDecoder:
    """Build the model of a config and load its tensors; in eval mode.

    Args:
        config: the settings of the model.
        weights: the stored tensors.
        options: the arguments of `vedcore.load`.
        path: the file that the config was read from, for messages.
        tokenizer: the tokenizer of the folder, if it has one.
        manifest: hashes to compare each tensor with; None compares none.

    Raises:
        ConfigError: settings that cannot be used.
        CheckpointError: tensors that are damaged or do not fit the config. Wrong names and shapes are found before
            anything is allocated.
    """
    settings = _integer_settings(config)
    try:
        check = partial(weights.check, settings=settings, loose_hint=LOOSE_HINT) if options["strict"] else None
        model = build(config, tokenizer=tokenizer, draw=not options["strict"], check=check)
    except ConfigError as error:
        raise error if error.path else error.at(path) from None
    weights.load_into(
        model,
        strict=options["strict"],
        check_finite=options["check_finite"],
        manifest=manifest,
        settings=settings,
        mmap=options["mmap"],
    )
    device, dtype = options["device"], options["dtype"] or _uniform_dtype(model, config)
    if device is not None or dtype is not None:
        model.to(device=device, dtype=dtype)
    return model.eval()


def _uniform_dtype(model: VisionEncoderDecoder, config: ModelConfig) -> torch.dtype | None:
    """The config's type where all weights were stored in another; None keeps types, also those of a mixed model."""
    wanted, stored = torch_dtype(config.dtype), {p.dtype for p in model.parameters()}
    return wanted if len(stored) == 1 and wanted not in stored else None


def _integer_settings(config: ModelConfig) -> dict[str, int]:
    """The parts' fields that are integers, by dotted name."""
    return {
        f"{kind}.{field}": value
        for kind in PART_KINDS
        for field, value in getattr(config, kind).fields.items()
        if type(value) is int
    }
