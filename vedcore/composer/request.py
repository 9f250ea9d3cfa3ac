"""The arguments of `compose` and `plan` as one frozen object."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, Self, TypeAlias

import torch

from vedcore.config import TOKEN_ID_FIELDS, ComponentConfig, ModelConfig, Preprocessing
from vedcore.config_files import ConfigSource, read_config_text
from vedcore.errors import ConfigError, ConfigSchemaError, UsageError, did_you_mean
from vedcore.hub import is_hub_name

__all__ = ["PART_KINDS", "UNSET", "AnyModel", "AnyPart", "ModelRequest", "locate_errors", "with_image_size"]

AnyPart: TypeAlias = str | os.PathLike[str] | Mapping[str, Any] | ComponentConfig
"""A part: its name, or a mapping of a ``name`` and fields."""
AnyModel: TypeAlias = str | os.PathLike[str] | Mapping[str, Any] | ModelConfig
"""A whole model: the path of a .yaml, .toml or .json file, a mapping of its parts, or a `ModelConfig`."""
UNSET: Any = ...
"""The default of keyword arguments that accept None as a value."""
PART_KINDS: tuple[Literal["encoder", "projector", "decoder"], ...] = ("encoder", "projector", "decoder")
"""The parts of a model, in the order of the data."""

_TOKENIZER_NAME_TYPES = (str, os.PathLike, NoneType)
"""Types of ``tokenizer=`` that a config can hold; any other value is the tokenizer itself."""


@dataclass(frozen=True)
class ModelRequest:
    """The arguments of `compose`, with names that are not looked up yet."""

    config: ModelConfig
    """Names and settings as the user gave them, keyword arguments included."""
    tokenizer: Any = None
    """A tokenizer in place of the one that the config names."""
    source: ConfigSource | None = None
    """The file that the config was read from."""
    keywords: frozenset[str] = frozenset()
    """Names of the keyword arguments."""

    @classmethod
    def of(cls, encoder: Any, decoder: Any, **keywords: Any) -> Self:
        """Make a request from the arguments of `compose`; keyword arguments that are `UNSET` are left out.

        Raises:
            ConfigError: an unreadable file, no decoder or two, an unknown keyword argument, a bad value.
        """
        given = {k: v for k, v in keywords.items() if v is not (None if k == "image_size" else UNSET)}
        data, source = _settings(encoder, decoder)
        with locate_errors(source, given):
            config = ModelConfig.parse(_merged(data, given))
        tokenizer = given.get("tokenizer")
        return cls(
            config, None if isinstance(tokenizer, _TOKENIZER_NAME_TYPES) else tokenizer, source, frozenset(given)
        )


@contextlib.contextmanager
def locate_errors(source: ConfigSource | None, keywords: Collection[str]) -> Iterator[None]:
    """Add file and line to an error about a key of a config file, unless a keyword argument set that key."""
    try:
        yield
    except ConfigError as error:
        keys = tuple(int(key) if key.isdecimal() else key for key in (error.field or "").split("."))
        if source is None or error.path is not None or {"_".join(map(str, keys[:2])), str(keys[-1])} & {*keywords}:
            raise
        path, line = source.where(keys) or (source.path, None)
        at_line = error.at(path if line is None else f"{path}:{line}")
        at_line.path = str(path)
        raise at_line from error.__cause__


def _settings(encoder: Any, decoder: Any) -> tuple[Mapping[str, Any], ConfigSource | None]:
    """The fields of a `ModelConfig` in the two arguments, and the file that they were read from."""
    source, data = None, {"encoder": encoder}
    if isinstance(encoder, ModelConfig):
        data = encoder.model_dump(exclude_unset=True)
    elif isinstance(encoder, Mapping) and ("encoder" in encoder or decoder is None):
        data = {**encoder}
    elif decoder is None and isinstance(encoder, (str, os.PathLike)):
        if isinstance(encoder, str) and not encoder.lower().endswith((".yaml", ".yml", ".toml", ".json")):
            hint = f"write compose({encoder!r}, 'gpt2'), or give a .yaml, .toml or .json file"
            if is_hub_name(encoder) or os.path.isdir(encoder):
                hint = f"write vedcore.load({encoder!r}) for the whole model, or compose({encoder!r}, 'gpt2')"
            raise UsageError(f"compose({encoder!r}) names no decoder", field="decoder", hint=hint)
        source = read_config_text(encoder)
        data = {**source.data}
        if isinstance(name := data.get("tokenizer"), str) and name.endswith(".json"):  # relative to the config file
            data["tokenizer"] = os.path.join(os.path.dirname(encoder), name)
    elif decoder is None:
        raise UsageError("no decoder is named", field="decoder", hint="name one, such as 'gpt2'")
    if decoder is None:
        return data, source
    if "decoder" in data:
        raise UsageError(
            "the config has a decoder already", field="decoder", hint="change it with decoder_<field> keywords"
        )
    return {**data, "decoder": decoder}, source


def _merged(data: Mapping[str, Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `ModelConfig`: settings overridden by keyword arguments."""
    merged = {**data}
    sections: dict[str, dict[str, Any]] = {kind: _section(data[kind], kind) for kind in PART_KINDS if kind in data}
    if keywords.get("tokenizer") is not None and merged.pop("token_ids", None):  # ids of another tokenizer
        for field in TOKEN_ID_FIELDS:
            sections.get("decoder", {}).pop(field, None)
    for key, value in keywords.items():
        kind, _, field = key.partition("_")
        if key == "projector":
            sections[key] = _section(value, key)
        elif kind in PART_KINDS and field:
            sections.setdefault(kind, {"name": "auto"} if kind == "projector" else {})[field] = value
        elif key == "image_size":
            sections.setdefault("encoder", {})[key] = value
        elif key not in ModelConfig.model_fields:
            known = [*ModelConfig.model_fields, "image_size", "device", "encoder_<field>", "decoder_<field>"]
            raise UsageError(
                "unknown argument", field=key, hint=did_you_mean(key, known) or f"there are: {', '.join(known)}"
            )
        elif key != "tokenizer" or isinstance(value, _TOKENIZER_NAME_TYPES):
            merged[key] = os.fspath(value) if isinstance(value, os.PathLike) else value
    if isinstance(merged.get("dtype"), torch.dtype):
        merged["dtype"] = str(merged["dtype"]).removeprefix("torch.")
    if "image_size" in keywords:
        merged["preprocessing"] = with_image_size(merged.get("preprocessing"), keywords["image_size"])
    return {**merged, **sections}


def _section(value: Any, kind: str) -> dict[str, Any]:
    """The section of a part as a mapping; a bare name becomes its ``name``."""
    if isinstance(value, ComponentConfig):
        return {"name": value.name, **value.fields}
    if isinstance(value, Mapping):
        return {**value}
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, os.PathLike):
        return {"name": os.path.abspath(os.fsdecode(value))}
    raise ConfigSchemaError(
        f"a name or a mapping expected, got {type(value).__name__}", field=kind, hint=f"see `vedcore list {kind}s`"
    )


def with_image_size(preprocessing: Any, size: Any) -> Any:
    """Preprocessing settings changed to another image size; ``resize_size`` is scaled in proportion."""
    if isinstance(preprocessing, Preprocessing):
        preprocessing = preprocessing.model_dump()
    if not isinstance(preprocessing, Mapping):
        return preprocessing
    size = (size, size) if isinstance(size, int) else size
    old_size, resize_size = preprocessing.get("image_size"), preprocessing.get("resize_size")
    if old_size is not None and resize_size is not None:  # the margin that is cropped keeps its proportion
        with contextlib.suppress(TypeError, ValueError, ArithmeticError):  # the schema refuses such sizes later
            resize_size = tuple(round(r * new / old) for r, new, old in zip(resize_size, size, old_size, strict=True))
    return {**preprocessing, "image_size": size, **({} if resize_size is None else {"resize_size": resize_size})}
