"""Readers of the files beside the weights in an opened folder: settings, tokenizer, preprocessing, manifest."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vedcore.config import Preprocessing, TokenIds
from vedcore.config_files import parse_json
from vedcore.config_files.plain import short
from vedcore.errors import VedcoreError, warn_caller
from vedcore.generation.options.config import GenerationConfig
from vedcore.hf.generation import read_generation
from vedcore.hf.image_processors import read_image_processor
from vedcore.hf.tokenizers import TOKENIZER_FILES, read_tokenizer
from vedcore.hub import expected_hashes
from vedcore.model_files import CONFIG, GENERATION_CONFIG, MANIFEST, PREPROCESSOR_CONFIG, PROCESSOR_CONFIG
from vedcore.processing.processor import Processor
from vedcore.processing.tokenizers import vocab_size_of
from vedcore.weights.loading import Weights
from vedcore.weights.manifest import FileRecord
from vedcore.weights.snapshot import Snapshot

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = [
    "MAX_CONFIG_BYTES",
    "MAX_TOKENIZER_BYTES",
    "assumed_preprocessing",
    "likely_place",
    "manifest_of",
    "preprocessing_in",
    "read_generation_of",
    "read_json",
    "read_preprocessing",
    "read_tokenizer_of",
    "replaceable",
    "tokenizer_in",
]

MAX_CONFIG_BYTES = 1_000_000
MAX_TOKENIZER_BYTES = 200_000_000


def manifest_of(snapshot: Snapshot, weights: Weights) -> dict[str, FileRecord] | None:
    """The manifest, with whose hashes the loader compares each tensor; None where the folder has none.

    Without a manifest, the files are compared here with the hashes that the hub gave for them.

    Raises:
        CheckpointCorruptError: the manifest is damaged, or a file differs from the hub's.
    """
    if snapshot.has(MANIFEST):
        return snapshot.manifest()
    weights.compare_files(expected_hashes(snapshot.path))
    return None


@contextlib.contextmanager
def replaceable(argument: str) -> Iterator[None]:
    """Name, in the hint of an error about files of a folder, the argument that takes their place."""
    try:
        yield
    except VedcoreError as error:
        ways = [error.hint, f"or give {argument}= to vedcore.load or compose, which do not read it then"]
        raise error.with_hint(", ".join(filter(None, ways))) from error.__cause__


def read_tokenizer_of(snapshot: Snapshot, model_type: str | None) -> Tokenizer | None:
    """The tokenizer of an opened folder, or None where it has none; errors name the argument in its place.

    Args:
        snapshot: the folder.
        model_type: the decoder's name in transformers; None in a vedcore folder.
    """
    with replaceable("tokenizer"):
        return tokenizer_in(snapshot, model_type)


def tokenizer_in(snapshot: Snapshot, model_type: str | None) -> Tokenizer | None:
    """As `read_tokenizer_of`, for a folder that need not hold a model."""
    files = {name: snapshot.read(name, MAX_TOKENIZER_BYTES) for name in TOKENIZER_FILES if snapshot.has(name)}
    return read_tokenizer(files, folder=snapshot.path, model_type=model_type)


def read_preprocessing(snapshot: Snapshot, model_type: str | None) -> Preprocessing | None:
    """The image preprocessing of an opened folder, or None where no file describes it; errors as the tokenizer's.

    Args:
        snapshot: the folder.
        model_type: the encoder's name in transformers; None in a vedcore folder.
    """
    with replaceable("preprocessing"):
        return preprocessing_in(snapshot, model_type)


def preprocessing_in(snapshot: Snapshot, model_type: str | None) -> Preprocessing | None:
    """As `read_preprocessing`, for a folder that need not hold a model."""
    if model_type is None:
        files = {PREPROCESSOR_CONFIG: snapshot.read(PREPROCESSOR_CONFIG, MAX_CONFIG_BYTES)}
        return Processor.from_files(files, folder=snapshot.path).preprocessing
    for name in (PREPROCESSOR_CONFIG, PROCESSOR_CONFIG):
        data: Any = read_json(snapshot, name) if snapshot.has(name) else None
        # transformers 5 nests it in the second
        if data is not None and (name == PREPROCESSOR_CONFIG or data.get("image_processor") is not None):
            return read_image_processor(data, path=snapshot.path / name, model_type=model_type)
    return None


def read_generation_of(
    snapshot: Snapshot, top: Mapping[str, Any], vocab_size: Any, tokenizer: Tokenizer | None = None
) -> tuple[TokenIds, GenerationConfig]:
    """The token ids and the generation options of an opened transformers folder.

    Args:
        snapshot: the folder.
        top: its config.json.
        vocab_size: token ids of the decoder; ids outside of them are left out.
        tokenizer: the folder's; ids of tokens that were added to it alone are left out without a warning, as composing
            warns of these tokens.

    Raises:
        ConfigError: a value of a wrong type or out of bounds, with file and field.

    Warns:
        UserWarning: ids outside of the vocabulary, and options that vedcore does not have.
    """
    stored = read_json(snapshot, GENERATION_CONFIG) if snapshot.has(GENERATION_CONFIG) else None
    ids, options = read_generation(stored, top, top["decoder"], path=snapshot.path)
    if type(vocab_size) is not int:  # building the part refuses it
        return ids, options
    known = vocab_size if tokenizer is None else max(vocab_size, vocab_size_of(tokenizer))
    if ids.below(known) != ids:
        warn_caller(
            f"{snapshot.path / CONFIG}: token ids {ids} exceed the vocabulary of {vocab_size}; set model.token_ids"
        )
    return ids.below(vocab_size), options


def assumed_preprocessing(snapshot: Snapshot, preprocessing: Preprocessing, *sections: Mapping[str, Any]) -> str:
    """A warning that a folder has no settings of images, and that ``preprocessing`` is taken.

    Args:
        snapshot: the folder.
        preprocessing: the encoder's own.
        sections: as `likely_place` takes them.
    """
    height, width = preprocessing.image_size
    place = likely_place(snapshot, (PREPROCESSOR_CONFIG, PROCESSOR_CONFIG), *sections)
    return (
        f"{snapshot.path}: no {PREPROCESSOR_CONFIG}: images are stretched to {height} x {width}, with mean "
        f"{preprocessing.image_mean}; give preprocessing= if the model saw others{place}"
    )


def likely_place(snapshot: Snapshot, names: Collection[str], *sections: Mapping[str, Any]) -> str:
    """The end of a message of missing files: where a Trainer's checkpoint has them; empty where nothing tells.

    That is the folder above, one beside a ``checkpoint-500``, or the model that training began with.

    Args:
        snapshot: the folder that lacks the files.
        names: names of the files.
        sections: of config.json, whose ``_name_or_path`` may name the model that training began with.
    """
    here = Path(os.path.abspath(snapshot.path))
    beside = sorted(here.parent.iterdir()) if re.fullmatch(r"checkpoint-\d+", here.name) else []
    for folder in (here.parent, *(each for each in beside if each != here)):
        if any((folder / name).is_file() for name in names):
            return f"; {folder} has it: copy it from there"
    models = (section.get("_name_or_path") for section in sections)
    name = next((name for name in models if isinstance(name, str) and name), None)
    if name is None or Path(os.path.abspath(name)) == here:
        return ""
    return f"; {short(name)}, which training began with, is likely to have it: copy it from there"


def read_json(snapshot: Snapshot, name: str) -> dict[str, Any]:
    """The JSON object in a file of an opened folder.

    Raises:
        ConfigParseError: the file is not a JSON object.
        CheckpointError: the file is missing, unsafe, or larger than `MAX_CONFIG_BYTES`.
    """
    return parse_json(snapshot.read(name, MAX_CONFIG_BYTES), snapshot.path / name)
