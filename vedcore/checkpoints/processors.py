"""A processor without its model: written to a folder, and read from one of vedcore or transformers."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Unpack

from vedcore.checkpoints.formats import json_bytes, resolve_folder
from vedcore.composer.snapshot_files import MAX_TOKENIZER_BYTES, preprocessing_in, read_json, tokenizer_in
from vedcore.config import ModelConfig, TokenIds
from vedcore.errors import CheckpointError, CheckpointNotFoundError, CheckpointWriteError, IncompatibleError
from vedcore.generation.options.config import GenerationConfig
from vedcore.hf.generation import read_generation
from vedcore.hf.image_processors import write_image_processor
from vedcore.hf.tokenizers import write_tokenizer
from vedcore.hub import FetchOptions
from vedcore.model_files import (
    CONFIG,
    GENERATION_CONFIG,
    MANIFEST,
    PREPROCESSOR_CONFIG,
    PROCESSOR_CONFIG,
    TOKENIZER,
)
from vedcore.processing.processor import Processor, make_tokenizer, token_ids_of
from vedcore.processing.text_tokenizer import TextTokenizer
from vedcore.processing.tokenizers import parse_tokenizer
from vedcore.weights.manifest import FileRecord
from vedcore.weights.opening import open_weights
from vedcore.weights.safetensors_file import TensorFile
from vedcore.weights.snapshot import TEMPORARY_PREFIX, Snapshot, read_folder

__all__ = ["load_processor", "save_processor", "save_tokenizer", "settings_files"]

TOKENIZER_CONFIG = "tokenizer_config.json"


def save_processor(processor: Processor, folder: str | os.PathLike[str]) -> None:
    """Write the preprocessing and the tokenizer to a folder, beside whatever is in it.

    New weights of another library without settings get those of the model. In a folder of transformers the settings of
    images are written as transformers has them.

    Raises:
        CheckpointWriteError: the folder cannot be written.
        IncompatibleError: settings that transformers does not have, in a folder of transformers.
    """
    target = Path(folder)
    with _as_write_errors(folder):
        target.mkdir(parents=True, exist_ok=True)
        with Snapshot(target) as snapshot:
            foreign = snapshot.has(CONFIG) and "model_type" in read_json(snapshot, CONFIG)
            weights = {} if foreign or processor.settings_of_model is None else _foreign_weights(snapshot)
        files = processor.to_files()
        if foreign:
            try:
                files = {PREPROCESSOR_CONFIG: json_bytes(write_image_processor(processor.preprocessing))}
            except IncompatibleError as error:
                raise error.with_hint("save it to a folder without a model of transformers") from None
        if processor.tokenizer is not None:
            length = processor.model_max_length
            files |= write_tokenizer(processor.tokenizer, processor.token_ids, model_max_length=length)
        if weights and processor.settings_of_model is not None:
            files |= settings_files(processor, *processor.settings_of_model)
            records = {name: FileRecord.of(content) for name, content in files.items()} | weights
            files[MANIFEST] = json_bytes({"files": {name: record.as_json() for name, record in records.items()}})
        _write(files, target)


def save_tokenizer(tokenizer: TextTokenizer, folder: str | os.PathLike[str]) -> None:
    """Write a tokenizer to a folder, beside whatever is in it.

    Raises:
        CheckpointWriteError: the folder cannot be written.
    """
    with _as_write_errors(folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
        length = tokenizer.model_max_length
        _write(write_tokenizer(tokenizer, tokenizer.token_ids, model_max_length=length), Path(folder))


def _write(files: Mapping[str, bytes], folder: Path) -> None:
    """Write files in order, each as a whole."""
    for name, content in files.items():
        temporary = folder / f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}"
        temporary.write_bytes(content)
        os.replace(temporary, folder / name)


@contextlib.contextmanager
def _as_write_errors(folder: object) -> Iterator[None]:
    """The system's errors as one of ours."""
    try:
        yield
    except OSError as error:
        raise CheckpointWriteError(
            error.strerror or str(error), path=folder, hint="name a folder to write to"
        ) from None


def _foreign_weights(snapshot: Snapshot) -> dict[str, FileRecord]:
    """Weights that another library has written, without settings or over those of an earlier save; often none."""
    try:
        found = {
            name: file for name, file in open_weights(snapshot, pickles=False).items() if isinstance(file, TensorFile)
        }
        if snapshot.has(CONFIG):
            known = snapshot.manifest()
            if not any(name in known and known[name].difference(snapshot.open(name), found[name]) for name in found):
                return {}
    except CheckpointError:  # no weights, or such as `vedcore.load` refuses
        return {}
    return {name: FileRecord(file.size, header=file.header_sha256) for name, file in found.items()}


def settings_files(processor: Processor, config: ModelConfig, generation_config: GenerationConfig) -> dict[str, bytes]:
    """The settings of a model as files, name to content; the tokenizer is the processor's."""
    config = config.model_copy(update={"tokenizer": _tokenizer_name(processor, config), "pretrained": False})
    return {
        CONFIG: json_bytes(config.to_dict()),
        GENERATION_CONFIG: json_bytes(generation_config.model_dump(mode="json", exclude_none=True)),
    }


def _tokenizer_name(processor: Processor, config: ModelConfig) -> str | None:
    """``char`` or ``byte`` where the processor still has that tokenizer, else the name of its file."""
    if processor.tokenizer is None:
        return None
    built_in = config.tokenizer if config.tokenizer in ("char", "byte") else None
    same = built_in and make_tokenizer(built_in).to_str() == processor.tokenizer.to_str()
    return built_in if same else TOKENIZER


def load_processor(
    folder_or_name: str | os.PathLike[str], revision: str | None = None, **options: Unpack[FetchOptions]
) -> Processor:
    """The processor in a folder or repository, of a model or alone; arguments as for `vedcore.load`."""
    return read_folder(resolve_folder(folder_or_name, revision, **options), _read)


def _read(snapshot: Snapshot) -> Processor:
    top = read_json(snapshot, CONFIG) if snapshot.has(CONFIG) else {}
    encoder, decoder = _section(top, "encoder"), _section(top, "decoder")
    own = snapshot.has(PREPROCESSOR_CONFIG) and "image_size" in read_json(snapshot, PREPROCESSOR_CONFIG)
    preprocessing = preprocessing_in(snapshot, None if own else encoder.get("model_type") or "")
    if preprocessing is None:
        raise CheckpointNotFoundError(
            f"no {PREPROCESSOR_CONFIG} or {PROCESSOR_CONFIG} in this folder",
            path=snapshot.path,
            hint=snapshot.listing(),
        )
    tokenizer = None
    if own and snapshot.has(TOKENIZER):
        tokenizer = parse_tokenizer(snapshot.read(TOKENIZER, MAX_TOKENIZER_BYTES), path=snapshot.path / TOKENIZER)
    elif not own:
        tokenizer = tokenizer_in(snapshot, decoder.get("model_type"))
    ids = TokenIds() if tokenizer is None else token_ids_of(tokenizer)
    if top.get("token_ids") is not None:
        ids = TokenIds.parse(top["token_ids"], path=snapshot.path / CONFIG)
    elif "model_type" in top:
        generation = read_json(snapshot, GENERATION_CONFIG) if snapshot.has(GENERATION_CONFIG) else None
        ids, _ = read_generation(generation, top, decoder, path=snapshot.path)
    elif tokenizer is not None and snapshot.has(TOKENIZER_CONFIG):
        declared: dict[str, Any] = read_json(snapshot, TOKENIZER_CONFIG)
        found = {
            role: tokenizer.token_to_id(declared[f"{role}_token"])
            for role in ("bos", "eos", "pad")
            if isinstance(declared.get(f"{role}_token"), str)
        }
        eos = found.get("eos")
        ids = TokenIds(
            start=found.get("bos", ids.start), eos=ids.eos if eos is None else (eos,), pad=found.get("pad", ids.pad)
        )
    processor = Processor(preprocessing, tokenizer, token_ids=ids)
    length = read_json(snapshot, TOKENIZER_CONFIG).get("model_max_length") if snapshot.has(TOKENIZER_CONFIG) else None
    processor.model_max_length = length if type(length) is int and 0 < length < 1 << 30 else None
    return processor


def _section(top: dict[str, Any], name: str) -> dict[str, Any]:
    section = top.get(name)
    return section if isinstance(section, dict) else {}
