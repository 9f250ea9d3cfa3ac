"""From a config and stored tensors to a model, the last step of loading a folder of any format; and back.

A model is written only if that step would make it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vedcore.checkpoints.formats import LoadOptions
from vedcore.components import fit_to, torch_dtype
from vedcore.composer.build import build, outline
from vedcore.composer.request import PART_KINDS, with_image_size
from vedcore.config import ComponentConfig, ModelConfig, Preprocessing
from vedcore.config_files.plain import short
from vedcore.errors import CheckpointWriteError, ConfigError, VedcoreError
from vedcore.model import VisionEncoderDecoder
from vedcore.weights.loading import Fit, Weights
from vedcore.weights.manifest import FileRecord
from vedcore.weights.origins import Origin
from vedcore.weights.unwrapping import adapter_names

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["check_loadable", "load_model", "refuse_adapted"]

LOOSE_HINT = "strict=False takes what fits"


def load_model(
    config: ModelConfig,
    weights: Weights,
    options: LoadOptions,
    *,
    path: Path,
    tokenizer: Tokenizer | None = None,
    manifest: Mapping[str, FileRecord] | None = None,
) -> VisionEncoderDecoder:
    """Build the model of a config and load its tensors; in eval mode.

    Args:
        config: the settings of the model.
        weights: the stored tensors.
        options: the arguments of `vedcore.load`.
        path: the file that the config was read from, for messages.
        tokenizer: the tokenizer of the folder, if it has one and ``options`` have none.
        manifest: hashes to compare each tensor with; None compares none.

    Raises:
        ConfigError: settings that cannot be used.
        CheckpointError: tensors that are damaged or do not fit the config. Wrong names and shapes are found before
            anything is allocated.
    """
    size, stored_size = options["image_size"], config.encoder.fields.get("image_size")
    if size is not None:
        config = _with_image_size(config, size)
    if options["tokenizer"] is not None:
        config, tokenizer = config.model_copy(update={"tokenizer": None}), options["tokenizer"]
    settings = _integer_settings(config)

    def fit(module: Any) -> Fit | None:
        return None if size is None else fit_to(module.encoder, stored_size, "encoder.")

    def check(module: nn.Module) -> None:
        weights.check(module, settings=settings, loose_hint=LOOSE_HINT, fit=fit(module))

    try:
        strict = options["strict"]
        model = build(config, tokenizer=tokenizer, draw=not strict, check=check if strict else None)
    except ConfigError as error:
        if size is not None and (error.field or "").endswith("image_size"):
            raise error.at(None, "image_size") from None  # the caller's, not the file's
        raise error if error.path else error.at(path) from None
    report = weights.load_into(
        model,
        strict=options["strict"],
        check_finite=options["check_finite"],
        manifest=manifest,
        settings=settings,
        mmap=options["mmap"],
        fit=fit(model),
    )
    device, dtype = options["device"], options["dtype"] or _uniform_dtype(model, config)
    if device is not None or dtype is not None:
        model.to(device=device, dtype=dtype)
    model.origin_record.begin(model, report.origins, Origin("random", seed=config.seed))
    return model.eval()


def refuse_adapted(model: nn.Module, error: type[VedcoreError], path: object = None) -> None:
    """Raise the error for a model in which peft has layers, naming one of their tensors."""
    found = adapter_names(model.state_dict())
    if found:
        raise error(
            f"the model has adapters that were not merged, such as {short(found[0])} ({len(found)} tensors)",
            path=path,
            hint="merge them: merge_and_unload() of the peft model; or save them alone: its save_pretrained, or "
            "peft.get_peft_model_state_dict",
            details="\n".join(found),
        )


def check_loadable(model: VisionEncoderDecoder, state: Mapping[str, Tensor], folder: object) -> None:
    """Refuse to write a model whose tensors are not those that its config builds: its folder could not be loaded.

    Args:
        model: the model.
        state: its tensors, by name.
        folder: where it is to be written, for messages.

    Raises:
        CheckpointWriteError: adapters that were not merged, or other layers in the place of the config's.
    """
    refuse_adapted(model, CheckpointWriteError, folder)
    config = model.config.model_copy(update={"tokenizer": None, "pretrained": False})
    built = outline(config, model.processor.tokenizer).state_dict(keep_vars=True)
    due = {name: tensor.shape for name, tensor in built.items()}
    found = {name: tensor.shape for name, tensor in state.items()}
    wrong = [name for name in {**found, **due} if found.get(name) != due.get(name)]
    if wrong:
        raise CheckpointWriteError(
            f"the folder would not load: {len(wrong)} tensors are not the config's, such as {short(wrong[0])}",
            path=folder,
            hint="put the config's layers back: parametrize.remove_parametrizations or prune.remove of torch does so",
            details="\n".join(wrong),
        )


def _with_image_size(config: ModelConfig, size: tuple[int, int]) -> ModelConfig:
    """The config for images of another size, in the encoder and in the preprocessing."""
    encoder = ComponentConfig(name=config.encoder.name, **{**config.encoder.fields, "image_size": size})
    resized = with_image_size(config.preprocessing, size)
    preprocessing = None if resized is None else Preprocessing.parse(resized, prefix="preprocessing.")
    return config.model_copy(update={"encoder": encoder, "preprocessing": preprocessing})


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
