"""The format `npz`: a model as numpy arrays.

``model.npz``: the tensors by name. ``vedcore-npz.json``: the settings of the model and of ``generate``.
``tokenizer.json``: the tokenizer, if there is one. ``manifest.json``: sizes and sha256 of the other files.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

from vedcore import CheckpointCorruptError, ConfigSchemaError, GenerationConfig, ModelConfig, UsageError
from vedcore import VisionEncoderDecoder as Model
from vedcore.formats import (
    MODEL_FILES,
    FileWriter,
    Format,
    LoadOptions,
    Snapshot,
    TensorsInMemory,
    Weights,
    json_bytes,
    load_model,
    parse_tokenizer,
    read_folder,
    read_json,
    save_folder,
)
from vedcore_npz.arrays import read_arrays, write_arrays

__all__ = ["NpzFormat"]

SETTINGS = "vedcore-npz.json"
"""The file that no other format has, by which a folder is recognised."""
WEIGHTS = "model.npz"
TOKENIZER = "tokenizer.json"
MANIFEST = "manifest.json"
MAX_TOKENIZER_BYTES = 200_000_000


class NpzFormat(Format):
    """A folder with the weights in one .npz file."""

    def recognises(self, folder: Path) -> bool:
        """True for a folder with a ``vedcore-npz.json``."""
        return (folder / SETTINGS).is_file()

    def load(self, folder: Path, options: LoadOptions) -> Model:
        """The model in the folder; see `vedcore.load`."""
        return read_folder(folder, partial(_load, options=options))

    def save(self, model: Model, folder: str | os.PathLike[str], **options: Any) -> None:
        """Write the model to a folder, which is created, or replaced as a whole.

        Raises:
            CheckpointWriteError: the folder cannot be written; its earlier contents are unchanged.
            UsageError: an option; this format has none.
        """
        for name in options:
            raise UsageError("the format npz has no options", field=name, hint="leave it out")
        changes = {"preprocessing": model.processor.preprocessing, "tokenizer": None, "pretrained": False}
        settings = {
            "model": model.config.model_copy(update=changes).to_dict(),
            "generation": model.generation_config.model_dump(mode="json", exclude_none=True),
        }
        files: dict[str, bytes | FileWriter] = {SETTINGS: json_bytes(settings)}
        if model.processor.tokenizer is not None:
            files[TOKENIZER] = model.processor.tokenizer.to_str().encode()
        tensors = model.state_dict()
        size = sum(tensor.nbytes for tensor in tensors.values())
        files[WEIGHTS] = FileWriter(size, partial(write_arrays, tensors))
        save_folder(folder, files, replaces=MODEL_FILES)


def _load(snapshot: Snapshot, options: LoadOptions) -> Model:
    path = snapshot.path / SETTINGS
    settings = read_json(snapshot, SETTINGS)
    if settings.keys() != {"model", "generation"}:
        raise ConfigSchemaError("the keys model and generation expected", path=path, hint="save the model again")
    config = ModelConfig.parse(settings["model"], path=path, prefix="model.")
    generation_config = GenerationConfig.parse(settings["generation"], path=path, prefix="generation.")
    if options["preprocessing"] is not None:
        config = config.model_copy(update={"preprocessing": options["preprocessing"]})
    tokenizer = None
    if options["tokenizer"] is None and snapshot.has(TOKENIZER):
        tokenizer = parse_tokenizer(snapshot.read(TOKENIZER, MAX_TOKENIZER_BYTES), path=snapshot.path / TOKENIZER)
    if options["verify"]:
        _verify(snapshot)
    tensors = read_arrays(snapshot.open(WEIGHTS), snapshot.path / WEIGHTS)
    weights = Weights(TensorsInMemory(tensors, snapshot.path / WEIGHTS))
    model = load_model(config, weights, options, path=path, tokenizer=tokenizer)
    model.generation_config = generation_config
    return model


def _verify(snapshot: Snapshot) -> None:
    """Compare the weights with the manifest; a folder that numpy wrote has none."""
    record = snapshot.manifest().get(WEIGHTS) if snapshot.has(MANIFEST) else None
    difference = record.difference(snapshot.open(WEIGHTS)) if record else ""
    if difference:
        hint = "get it from its source again, or load with verify=False if you changed it"
        raise CheckpointCorruptError(difference, path=snapshot.path / WEIGHTS, hint=hint)
