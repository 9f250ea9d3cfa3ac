"""vedcore's native folder format.

``config.json``: the `ModelConfig`. ``model.safetensors``, or shards with an index: the weights. ``tokenizer.json``: the
tokenizer, if there is one. ``preprocessor_config.json``: the image preprocessing. ``generation_config.json``: the
defaults of ``generate``. ``provenance.json``: where each tensor came from. ``README.md``: the model card.
``wiring.json``: the last result of `vedcore.check_wiring`, if there was one. ``manifest.json``: sizes and sha256 of the
other files.

Settings may be edited by hand: their values are checked, not their hashes. The weights must match the manifest.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vedcore.checkpoints.card import model_card
from vedcore.checkpoints.formats import Format, LoadOptions, json_bytes
from vedcore.checkpoints.model_loading import check_loadable, load_model
from vedcore.checkpoints.processors import load_processor, save_processor, save_tokenizer, settings_files
from vedcore.checkpoints.wiring import read_wiring
from vedcore.components import torch_dtype
from vedcore.composer.snapshot_files import (
    MAX_TOKENIZER_BYTES,
    likely_place,
    read_json,
    read_preprocessing,
    replaceable,
)
from vedcore.config import ModelConfig, Preprocessing
from vedcore.errors import CheckpointError, ConfigError, ConfigSchemaError, TokenizerError, UsageError, warn_caller
from vedcore.generation.options.config import GenerationConfig
from vedcore.model import VisionEncoderDecoder
from vedcore.model.wiring import WiringReport, structure_of
from vedcore.model_files import (
    CARD,
    CONFIG,
    GENERATION_CONFIG,
    MODEL_FILES,
    PREPROCESSOR_CONFIG,
    PROVENANCE,
    TOKENIZER,
    WIRING,
)
from vedcore.processing.tokenizers import parse_tokenizer
from vedcore.weights.folder import FileWriter, save_folder
from vedcore.weights.loading import Weights
from vedcore.weights.saving import weight_files
from vedcore.weights.snapshot import Snapshot, read_folder

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["NativeFormat"]


class NativeFormat(Format):
    """The default format of ``save_pretrained``."""

    def recognises(self, folder: Path) -> bool:
        """True for a config.json without transformers' ``model_type``, and for a damaged one."""
        try:
            return "model_type" not in read_folder(folder, lambda snapshot: read_json(snapshot, CONFIG))
        except ConfigError:
            return True
        except CheckpointError:  # none
            return False

    def load(self, folder: Path, options: LoadOptions) -> VisionEncoderDecoder:
        """The model in the folder; see `vedcore.load`."""
        return read_folder(folder, partial(_load, options=options))

    def save(
        self,
        model: VisionEncoderDecoder,
        folder: str | os.PathLike[str],
        *,
        max_shard_size: int | str = "5GB",
        weights_dtype: str | torch.dtype | None = None,
        hashes: bool = True,
        **unknown: Any,
    ) -> None:
        """Write the model to a folder.

        Args:
            model: the model.
            folder: created, or replaced as a whole; see `vedcore.weights.folder`.
            max_shard_size: bytes, or text such as ``"500MB"``; larger weights become several files and an index.
            weights_dtype: type to store floating-point tensors in, such as ``"float16"``; loading restores the model's.
            hashes: False leaves the sha256 of each tensor out of the manifest, which makes saving faster.

        Raises:
            CheckpointWriteError: the folder cannot be written, or could not be loaded (adapters that were not merged);
                its earlier contents are unchanged.
        """
        if unknown:
            raise UsageError(
                "unknown option", field=next(iter(unknown)), hint="there are max_shard_size, weights_dtype, hashes"
            )
        state = model.state_dict(keep_vars=True)
        check_loadable(model, state, folder)
        files: dict[str, bytes | FileWriter] = {
            **settings_files(model.processor, model.config, model.generation_config),
            PROVENANCE: model.provenance.to_bytes(),
            CARD: model_card(model, model.config).encode(),
            **model.processor.to_files(),
            **weight_files(state, max_shard_size, torch_dtype(weights_dtype), hashes=hashes),
        }
        if model.wiring is not None and model.wiring.structure == structure_of(model):
            files[WIRING] = json_bytes(model.wiring.to_data())
        save_folder(folder, files, replaces=MODEL_FILES)

    save_processor = staticmethod(save_processor)
    save_tokenizer = staticmethod(save_tokenizer)
    load_processor = staticmethod(load_processor)


def _load(snapshot: Snapshot, options: LoadOptions) -> VisionEncoderDecoder:
    config = ModelConfig.parse(read_json(snapshot, CONFIG), path=snapshot.path / CONFIG)
    generation_config = GenerationConfig.parse(
        read_json(snapshot, GENERATION_CONFIG), path=snapshot.path / GENERATION_CONFIG
    )
    tokenizer = _read_tokenizer(snapshot, config) if options["tokenizer"] is None else None
    preprocessing = options["preprocessing"] or _read_preprocessing(snapshot, config)
    manifest = snapshot.manifest() if options["verify"] else None
    weights = Weights(snapshot)
    changes: dict[str, Any] = {"preprocessing": preprocessing, "pretrained": False}
    if config.tokenizer == TOKENIZER:  # absolute: the config then means the same in any working directory
        changes["tokenizer"] = os.path.abspath(snapshot.path / TOKENIZER)
    config = config.model_copy(update=changes)
    model = load_model(config, weights, options, path=snapshot.path / CONFIG, tokenizer=tokenizer, manifest=manifest)
    model.generation_config = generation_config
    model.wiring = _read_wiring(snapshot)
    return model


def _read_wiring(snapshot: Snapshot) -> WiringReport | None:
    """The report of the folder, if it has one; a damaged one keeps no model from loading."""
    try:
        return read_wiring(snapshot)
    except CheckpointError as error:
        if snapshot.replaced():
            raise
        warn_caller(f"left out: {error}")
        return None


def _read_tokenizer(snapshot: Snapshot, config: ModelConfig) -> Tokenizer | None:
    """The tokenizer of the folder, if it has one."""
    with replaceable("tokenizer"):
        if snapshot.has(TOKENIZER):
            return parse_tokenizer(snapshot.read(TOKENIZER, MAX_TOKENIZER_BYTES), path=snapshot.path / TOKENIZER)
        if config.tokenizer is not None:
            hint = likely_place(snapshot, [TOKENIZER]).removeprefix("; ") or snapshot.listing()
            raise TokenizerError("no such file", path=snapshot.path / TOKENIZER, hint=hint)
    return None


def _read_preprocessing(snapshot: Snapshot, config: ModelConfig) -> Preprocessing | None:
    """The preprocessing of the folder."""
    found = read_preprocessing(snapshot, None)
    if config.preprocessing not in (None, found):
        raise ConfigSchemaError(
            f"differs from {PREPROCESSOR_CONFIG}",
            path=snapshot.path / CONFIG,
            field="preprocessing",
            hint=f"make them equal, or delete it from {CONFIG}",
        )
    return found
