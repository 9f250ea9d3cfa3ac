"""vedcore's own folder.

``config.json`` is the `ModelConfig`; ``model.safetensors``, or shards with an index, the weights; ``tokenizer.json``
the tokenizer, if there is one; ``preprocessor_config.json`` how images are prepared; ``generation_config.json`` the
defaults of ``generate``; ``README.md`` the model card; ``manifest.json`` the sizes and sha256 of them all.

The settings may be edited by hand: they are checked for what they say. The weights must be what the manifest says.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vedcore.checkpoints.card import model_card
from vedcore.checkpoints.formats import CONFIG, Format, LoadOptions, torch_dtype
from vedcore.composer import build
from vedcore.config import ModelConfig
from vedcore.config_files import parse_json
from vedcore.errors import ConfigError, ConfigSchemaError, TokenizerError, UsageError
from vedcore.generation.config import GenerationConfig
from vedcore.model import VisionEncoderDecoder
from vedcore.processing import PREPROCESSING_FILE, TOKENIZER_FILE, Processor, make_tokenizer
from vedcore.weights.folder import CARD, Written, save_folder
from vedcore.weights.loading import Weights
from vedcore.weights.saving import weight_files
from vedcore.weights.snapshot import Snapshot, read_folder

__all__ = ["NativeFormat"]

GENERATION = "generation_config.json"
_NAMES = re.compile(
    r"(config|generation_config|preprocessor_config|tokenizer|model\.safetensors\.index)\.json"
    r"|model(-\d{5}-of-\d{5})?\.safetensors"
)
"""What a folder of this format may hold: files of these names are read, so none of an earlier model may stay."""
MAX_CONFIG_BYTES = 1_000_000
MAX_TOKENIZER_BYTES = 200_000_000


class NativeFormat(Format):
    """The format that ``save_pretrained`` writes unless it is told otherwise."""

    def recognises(self, folder: Path) -> bool:
        """A config.json without transformers' ``model_type``, or one that is damaged."""
        try:
            return "model_type" not in read_folder(folder, lambda snapshot: _read_json(snapshot, CONFIG))
        except ConfigError:
            return True

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
        **unknown: Any,
    ) -> None:
        """Write the model.

        Args:
            model: what to write.
            folder: made, or exchanged as a whole for the new one; see `vedcore.weights.folder`.
            max_shard_size: bytes, or text such as ``"500MB"``; larger weights become several files and an index.
            weights_dtype: store numbers in this type, such as ``"float16"``; what is loaded has the model's own again.

        Raises:
            CheckpointWriteError: it cannot be written; what was there before is unchanged.
        """
        if unknown:
            raise UsageError(
                "unknown option", field=next(iter(unknown)), hint="there are max_shard_size, weights_dtype"
            )
        config = model.config.model_copy(update={"tokenizer": _tokenizer_name(model), "pretrained": False})
        files: dict[str, bytes | Written] = {
            CONFIG: _json(config.model_dump(mode="json")),
            GENERATION: _json(model.generation_config.model_dump(mode="json", exclude_none=True)),
            CARD: model_card(model, config).encode(),
            **model.processor.to_files(),
            **weight_files(_stored(model, weights_dtype), max_shard_size),
        }
        save_folder(folder, files, replaces=_NAMES)


def _stored(model: VisionEncoderDecoder, dtype: str | torch.dtype | None) -> dict[str, Any]:
    """The state, its numbers in another type if asked for; what was one tensor stays one."""
    state = model.state_dict(keep_vars=True)
    type_ = torch_dtype(dtype)
    if type_ is not None:
        cast = {id(t): t.to(type_) if isinstance(t, Tensor) and t.is_floating_point() else t for t in state.values()}
        state = {name: cast[id(t)] for name, t in state.items()}
    return {name: t.detach() if isinstance(t, Tensor) else t for name, t in state.items()}


def _json(data: Mapping[str, Any]) -> bytes:
    return (json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _read_json(snapshot: Snapshot, name: str) -> dict[str, Any]:
    return parse_json(snapshot.read(name, MAX_CONFIG_BYTES), snapshot.path / name)


def _load(snapshot: Snapshot, options: LoadOptions) -> VisionEncoderDecoder:
    config = ModelConfig.parse(_read_json(snapshot, CONFIG), path=snapshot.path / CONFIG)
    generation_config = GenerationConfig.parse(_read_json(snapshot, GENERATION), path=snapshot.path / GENERATION)
    processor = _read_processor(snapshot, config)
    manifest = snapshot.manifest() if options["verify"] else None
    weights = Weights(snapshot)
    changes = {"preprocessing": processor.preprocessing, "pretrained": False}
    if config.tokenizer == TOKENIZER_FILE:  # so that the config means the same from any folder
        changes["tokenizer"] = os.path.abspath(snapshot.path / TOKENIZER_FILE)
    config = config.model_copy(update=changes)
    settings = _numbers(config)
    if options["strict"]:
        with torch.device("meta"):
            weights.check(build(config, tokenizer=processor.tokenizer, draw=False), settings=settings)
    model = build(config, tokenizer=processor.tokenizer, draw=not options["strict"])
    weights.load_into(
        model, strict=options["strict"], check_finite=options["check_finite"], manifest=manifest, settings=settings
    )
    model.generation_config = generation_config
    return model.to(device=options["device"], dtype=options["dtype"] or _own_dtype(model, config)).eval()


def _own_dtype(model: VisionEncoderDecoder, config: ModelConfig) -> torch.dtype | None:
    """The config's type where all weights were stored in another; a model of mixed types stays mixed."""
    return torch_dtype(config.dtype) if len({p.dtype for p in model.parameters()}) == 1 else None


def _tokenizer_name(model: VisionEncoderDecoder) -> str | None:
    """``char`` or ``byte`` where that still is the tokenizer, else its file."""
    tokenizer, name = model.processor.tokenizer, model.config.tokenizer
    if tokenizer is None:
        return None
    built_in = name if name in ("char", "byte") else None
    return built_in if built_in and make_tokenizer(built_in).to_str() == tokenizer.to_str() else TOKENIZER_FILE


def _read_processor(snapshot: Snapshot, config: ModelConfig) -> Processor:
    """Preprocessing and tokenizer, as their own files have them."""
    files = {PREPROCESSING_FILE: snapshot.read(PREPROCESSING_FILE, MAX_CONFIG_BYTES)}
    if snapshot.has(TOKENIZER_FILE):
        files[TOKENIZER_FILE] = snapshot.read(TOKENIZER_FILE, MAX_TOKENIZER_BYTES)
    elif config.tokenizer is not None:
        raise TokenizerError("no such file", path=snapshot.path / TOKENIZER_FILE, hint=snapshot.listing())
    processor = Processor.from_files(files, folder=snapshot.path)
    if config.preprocessing not in (None, processor.preprocessing):
        raise ConfigSchemaError(
            f"is not what {PREPROCESSING_FILE} says", path=snapshot.path / CONFIG, field="preprocessing",
            hint="make them equal, or leave it out here",
        )  # fmt: skip
    return processor


def _numbers(config: ModelConfig) -> dict[str, int]:
    """Dotted names of the parts' fields to their whole numbers."""
    return {
        f"{kind}.{field}": value
        for kind in ("encoder", "projector", "decoder")
        for field, value in getattr(config, kind).fields.items()
        if type(value) is int
    }
