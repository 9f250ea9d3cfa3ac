"""From a config and stored tensors to a model: what reading a folder ends with, whatever its format."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vedcore.checkpoints.formats import LoadOptions
from vedcore.components import torch_dtype
from vedcore.composer.build import build
from vedcore.config import ModelConfig
from vedcore.errors import ConfigError
from vedcore.model import VisionEncoderDecoder
from vedcore.weights.loading import Weights
from vedcore.weights.manifest import FileRecord

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["filled"]


def filled(
    config: ModelConfig,
    weights: Weights,
    options: LoadOptions,
    *,
    path: Path,
    tokenizer: Tokenizer | None,
    manifest: Mapping[str, FileRecord] | None,
) -> VisionEncoderDecoder:
    """The model of ``config``, which was read from ``path``, with the tensors of ``weights``, in eval mode.

    Raises:
        ConfigError: settings that cannot be used.
        CheckpointError: tensors that are damaged or not those of the config; found before anything is allocated
            where names and shapes tell.
    """
    settings = _numbers(config)
    try:
        check = partial(weights.check, settings=settings) if options["strict"] else None
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
    device, dtype = options["device"], options["dtype"] or _own_dtype(model, config)
    if device is not None or dtype is not None:
        model.to(device=device, dtype=dtype)
    return model.eval()


def _own_dtype(model: VisionEncoderDecoder, config: ModelConfig) -> torch.dtype | None:
    """The config's type where all weights were stored in another; a model of mixed types stays mixed."""
    due, stored = torch_dtype(config.dtype), {p.dtype for p in model.parameters()}
    return due if len(stored) == 1 and due not in stored else None


def _numbers(config: ModelConfig) -> dict[str, int]:
    """Dotted names of the parts' fields to their whole numbers."""
    return {
        f"{kind}.{field}": value
        for kind in ("encoder", "projector", "decoder")
        for field, value in getattr(config, kind).fields.items()
        if type(value) is int
    }
