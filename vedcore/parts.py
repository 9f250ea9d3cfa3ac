"""Parts from checkpoints: ``compose("hub:google/vit-base-patch16-224-in21k", "hub:openai-community/gpt2")``.

A part is named by a folder, or by ``hub:`` and a repository (``hub:org/name@revision``). It may hold the part alone,
or a larger model that has it as a half: a language model with its head, a sequence-to-sequence model, a classifier, a
whole VisionEncoderDecoder. What the part needs is taken; what else is there is left behind.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vedcore.config import TOKEN_ID_FIELDS, Preprocessing
from vedcore.config_files import parse_json
from vedcore.config_files.plain import short
from vedcore.errors import CheckpointError, ConfigSchemaError, UnknownComponentError
from vedcore.hf.classes import TransformersClass, class_for
from vedcore.hf.image_processors import read_image_processor
from vedcore.hf.tokenizers import TOKENIZER_FILES, read_tokenizer
from vedcore.hub import expected_hashes, from_hub, is_hub_name
from vedcore.model_files import CONFIG, MANIFEST, PREPROCESSOR_CONFIG, PROCESSOR_CONFIG
from vedcore.plugins import load_component, registry
from vedcore.processing.processor import Processor
from vedcore.registry import Kind
from vedcore.weights.hashing import FileRecord
from vedcore.weights.keymap import Row
from vedcore.weights.loading import LoadReport, Select, Weights
from vedcore.weights.snapshot import Snapshot, read_folder

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = [
    "MAX_CONFIG_BYTES", "MAX_TOKENIZER_BYTES", "WHOLE", "PartCheckpoint", "Section", "find_part", "known_hashes",
    "open_part", "read_json", "read_preprocessing", "read_section", "read_tokenizer_of",
]  # fmt: skip

WHOLE = "vision-encoder-decoder"
MAX_CONFIG_BYTES = 1_000_000
MAX_TOKENIZER_BYTES = 200_000_000


class Section(NamedTuple):
    """What a section of transformers' config.json means here."""

    name: str
    """The family."""
    cls: Any
    """Its class."""
    theirs: TransformersClass
    """What it is in transformers."""
    fields: dict[str, Any]
    """Its settings in our words."""


def read_section(kind: Kind, data: object, *, path: object, whole: bool) -> Section:
    """The family and the settings that a section of transformers' config.json means.

    Args:
        kind: ``"encoder"`` or ``"decoder"``.
        data: the section.
        path: the file, for messages.
        whole: whether it is a half of a VisionEncoderDecoder, and not a checkpoint of its own.

    Raises:
        ConfigSchemaError: no object, or a setting that cannot be honoured.
        UnknownComponentError: a ``model_type`` that no family opens.
    """
    prefix = f"{kind}." if whole else ""
    if not isinstance(data, Mapping):
        what = "is missing" if data is None else f"object expected, got {type(data).__name__}"
        raise ConfigSchemaError(what, path=path, field=kind, hint="is it the config.json of this model?")
    model_type = data.get("model_type")
    if not isinstance(model_type, str):
        raise ConfigSchemaError(
            f"text expected, got {short(model_type)}", path=path, field=f"{prefix}model_type",
            hint="name the architecture, such as 'vit' or 'gpt2'",
        )  # fmt: skip
    try:
        entry = registry().find_model_type(kind, model_type)
    except UnknownComponentError as error:
        raise error.at(path, f"{prefix}model_type") from None
    name = registry().shown_name(kind, entry)
    cls, _ = load_component(kind, name)
    theirs = class_for(cls.transformers, model_type)
    if theirs is None:
        raise UnknownComponentError(
            f"{kind} {name!r} does not say how it opens {short(model_type)}", path=path, field=f"{prefix}model_type",
            hint=f"tell the authors of {entry.owner}",
        )  # fmt: skip
    for flag in theirs.flags if whole and kind == "decoder" else ():
        if data.get(flag) is not True:
            raise ConfigSchemaError(
                f"{short(data.get(flag))}: such a decoder does not look at the image, or sees the words to come",
                path=path, field=prefix + flag, hint="set it to true if the weights have cross-attention",
            )  # fmt: skip
    fields = theirs.read(data, path=path, prefix=prefix)
    return Section(name, cls, theirs, _within_vocabulary(fields, path, prefix) if kind == "decoder" else fields)


def _within_vocabulary(fields: dict[str, Any], path: object, prefix: str) -> dict[str, Any]:
    """The settings, without token ids that the vocabulary has not: defaults that a small vocabulary left behind."""
    size = fields.get("vocab_size")
    if not isinstance(size, int):
        return fields
    for field in TOKEN_ID_FIELDS:
        value = fields.get(field)
        ids = value if isinstance(value, (tuple, list)) else (value,)
        if any(isinstance(i, int) and i >= size for i in ids):
            warnings.warn(
                f"{path}: {prefix}{field} {short(value)} is outside the vocabulary of {size} and passed over",
                UserWarning, stacklevel=2,
            )  # fmt: skip
            fields = {**fields, field: None}
    return fields


@dataclass(frozen=True)
class PartCheckpoint:
    """A checkpoint that a part is taken from."""

    kind: Kind
    folder: Path
    name: str
    """The family."""
    fields: Mapping[str, Any]
    """Its settings."""
    model_type: str | None
    """What transformers calls it; None where the folder is one of ours."""
    rows: tuple[Row, ...] | None
    """The key map; None where the names are ours."""
    select: Select | None
    """Which of the tensors are the part's."""

    def load_into(self, part: Any) -> LoadReport:
        """Fill the part; what it declares as fresh stays as it is where the checkpoint has none of it.

        Raises:
            CheckpointError: weights that are missing, damaged or not those of the part.
        """
        fresh = part.fresh_parameters() if self.kind == "decoder" else ()

        def load(snapshot: Snapshot) -> LoadReport:
            weights = Weights(snapshot, self.rows, select=self.select, pickles=self.rows is not None)
            settings = {field: value for field, value in part.settings().items() if type(value) is int}
            return weights.load_into(part, fresh=fresh, manifest=known_hashes(snapshot), settings=settings)

        return read_folder(self.folder, load)

    def tokenizer(self) -> Tokenizer | None:
        """That of the folder, if there is one.

        Raises:
            TokenizerError: it cannot be read.
        """
        return read_folder(self.folder, partial(read_tokenizer_of, model_type=self.model_type))

    def preprocessing(self) -> Preprocessing | None:
        """That of the folder, if there is one.

        Raises:
            ConfigSchemaError: settings that cannot be honoured.
        """
        return read_folder(self.folder, partial(read_preprocessing, model_type=self.model_type))


def find_part(name: str) -> Path | None:
    """The folder that ``name`` means, if it means one: a repository, or the path of a folder with a config.json.

    Raises:
        HubError: the hub does not give it.
    """
    if is_hub_name(name):
        return from_hub(name)
    return Path(name) if "/" in name.replace(os.sep, "/") and os.path.isfile(os.path.join(name, CONFIG)) else None


def open_part(kind: Kind, folder: Path) -> PartCheckpoint:
    """The part of that kind in a folder; its weights are not looked at.

    Raises:
        CheckpointError: no config.json, or a model that has no such part.
        ConfigError: settings that cannot be honoured.
    """
    data = read_folder(folder, partial(read_json, name=CONFIG))
    path = folder / CONFIG
    if "model_type" not in data:
        section = data.get(kind)
        if not isinstance(section, Mapping) or not isinstance(section.get("name"), str):
            raise CheckpointError(f"no {kind} in it", path=path, hint="name a checkpoint of one, or of a whole model")
        fields = {key: value for key, value in section.items() if key != "name"}
        return PartCheckpoint(kind, folder, section["name"], fields, None, None, _below(f"{kind}."))
    whole = data["model_type"] == WHOLE
    section = read_section(kind, data.get(kind) if whole else data, path=path, whole=whole)
    base = section.theirs.base_prefix
    select = _below(f"{kind}.") if whole else _below(f"{base}.", or_all=True) if base else None
    return PartCheckpoint(
        kind, folder, section.name, section.fields, section.theirs.model_type, section.theirs.key_map, select
    )


def known_hashes(snapshot: Snapshot) -> dict[str, FileRecord] | None:
    """What the files of an opened folder should be: as its manifest says, else as the hub's cache names them.

    Raises:
        CheckpointCorruptError: a damaged manifest.
    """
    if snapshot.has(MANIFEST):
        return snapshot.manifest()
    hashes = expected_hashes(snapshot.path).items()
    found = [(snapshot.path / name, sha256) for name, sha256 in hashes]  # a link of the cache may lead nowhere
    sizes = [(path.name, path.stat().st_size, sha256) for path, sha256 in found if path.exists()]
    records = {name: FileRecord(size, (sha256,), max(1, size)) for name, size, sha256 in sizes}
    return records if any(name.endswith((".safetensors", ".bin")) for name in records) else None


def read_tokenizer_of(snapshot: Snapshot, model_type: str | None) -> Tokenizer | None:
    """The tokenizer of an opened folder, if there is one; ``model_type`` is that of its decoder."""
    files = {name: snapshot.read(name, MAX_TOKENIZER_BYTES) for name in TOKENIZER_FILES if snapshot.has(name)}
    return read_tokenizer(files, folder=snapshot.path, model_type=model_type)


def read_preprocessing(snapshot: Snapshot, model_type: str | None) -> Preprocessing | None:
    """How images are prepared, as an opened folder says, if it does.

    Args:
        snapshot: the folder.
        model_type: what transformers calls the encoder; None where the folder is one of ours.
    """
    if model_type is None:
        files = {PREPROCESSOR_CONFIG: snapshot.read(PREPROCESSOR_CONFIG, MAX_CONFIG_BYTES)}
        return Processor.from_files(files, folder=snapshot.path).preprocessing
    for name in (PREPROCESSOR_CONFIG, PROCESSOR_CONFIG):
        data: Any = read_json(snapshot, name) if snapshot.has(name) else None
        if name == PROCESSOR_CONFIG and data is not None:  # as transformers 5 keeps it
            data = data.get("image_processor")
        if data is not None:
            return read_image_processor(data, path=snapshot.path / name, model_type=model_type)
    return None


def read_json(snapshot: Snapshot, name: str) -> dict[str, Any]:
    """The settings in a file of an opened folder.

    Raises:
        ConfigParseError: it is no JSON object.
        CheckpointError: it is not there, unsafe, or larger than settings are.
    """
    return parse_json(snapshot.read(name, MAX_CONFIG_BYTES), snapshot.path / name)


def _below(prefix: str, *, or_all: bool = False) -> Select:
    """The names below ``prefix``, without it; where there are none of them and ``or_all``, all names."""

    def select(names: Sequence[str]) -> dict[str, str]:
        found = {name: name.removeprefix(prefix) for name in names if name.startswith(prefix)}
        return found if found or not or_all else {name: name for name in names}

    return select
