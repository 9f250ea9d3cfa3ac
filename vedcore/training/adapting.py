"""Adapters of low rank around a model, by PEFT (extra ``lora``)."""

from __future__ import annotations

import copy
from typing import Any

from vedcore.errors import UsageError
from vedcore.extras import need
from vedcore.model import VisionEncoderDecoder
from vedcore.training.config import LoraSettings

__all__ = ["with_adapters", "without_adapters"]


def with_adapters(model: VisionEncoderDecoder, settings: LoraSettings) -> Any:
    """The model inside PEFT's, its weights frozen; a projector that has weights is trained whole.

    Raises:
        MissingExtraError: PEFT is not installed.
        UsageError: no layer has a name of ``target_modules``.
    """
    peft = need("peft", "lora", "train.lora")
    whole = ["projector"] if any(True for _ in model.projector.parameters()) else None
    fields = settings.to_dict()
    names = [name for name, _ in model.named_modules() if name.endswith(settings.target_modules)]
    targets = [name for name in names if not name.startswith("projector")]
    if not targets:
        message, hint = "no layer's name ends so", "leave it out, or give ends such as [query, value]"
        raise UsageError(message, field="train.lora.target_modules", hint=hint)
    config = peft.LoraConfig(task_type="SEQ_2_SEQ_LM", modules_to_save=whole, **{**fields, "target_modules": targets})
    return peft.get_peft_model(model, config)


def without_adapters(adapted: Any) -> VisionEncoderDecoder:
    """A copy of the model with its adapters merged into the weights."""
    merged: VisionEncoderDecoder = copy.deepcopy(adapted).merge_and_unload()
    return merged
