"""The arguments of `compose` and `plan`, as one frozen object."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any, Self, TypeAlias

import torch

from vedcore.config import TOKEN_ID_FIELDS, ComponentConfig, ModelConfig, Preprocessing
from vedcore.config_files import ConfigSource, read_config_text
from vedcore.errors import ConfigError, ConfigSchemaError, UsageError, did_you_mean

__all__ = ["NOT_GIVEN", "AnyModel", "AnyPart", "Request", "placed", "with_image_size"]

AnyPart: TypeAlias = str | Mapping[str, Any] | ComponentConfig
"""A part by its name, or a mapping of a ``name`` and fields."""
AnyModel: TypeAlias = str | os.PathLike[str] | Mapping[str, Any] | ModelConfig
"""A whole model: the path of a .yaml, .toml or .json file, a mapping of its parts, or a config."""
NOT_GIVEN: Any = ...
"""The default of keywords for which None is a value."""

_SIDES = ("encoder", "decoder", "projector")
_NAME = (str, os.PathLike, NoneType)
"""Types of a tokenizer that the config can hold."""


@dataclass(frozen=True)
class Request:
    """A model that is asked for; nothing that it names is looked up yet."""

    config: ModelConfig
    """Names and settings as they were given, keywords included."""
    tokenizer: Any = None
    """A tokenizer in place of the one that the config names."""
    source: ConfigSource | None = None
    """The file that the config was read from."""
    keywords: frozenset[str] = frozenset()
    """Those that were given beside the file."""

    @classmethod
    def of(cls, encoder: Any, decoder: Any, **keywords: Any) -> Self:
        """The request of arguments of `compose`; keywords that are `NOT_GIVEN` are left out.

        Raises:
            ConfigError: a file that cannot be read, no decoder or two, an unknown keyword, a bad value.
        """
        given = {k: v for k, v in keywords.items() if v is not (None if k == "image_size" else NOT_GIVEN)}
        data, source = _settings(encoder, decoder)
        with placed(source, given):
            config = ModelConfig.parse(_merged(data, given))
        tokenizer = given.get("tokenizer")
        return cls(config, None if isinstance(tokenizer, _NAME) else tokenizer, source, frozenset(given))


@contextlib.contextmanager
def placed(source: ConfigSource | None, keywords: Collection[str]) -> Iterator[None]:
    """Name file and line in an error about a key of a config file, unless a keyword is to blame."""
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
    """The fields of a `ModelConfig` that the two arguments hold, and the file that they come from."""
    source, data = None, {"encoder": encoder}
    if isinstance(encoder, ModelConfig):
        data = encoder.model_dump(exclude_unset=True)
    elif isinstance(encoder, Mapping) and ("encoder" in encoder or decoder is None):
        data = {**encoder}
    elif decoder is None and isinstance(encoder, (str, os.PathLike)):
        if isinstance(encoder, str) and not encoder.lower().endswith((".yaml", ".yml", ".toml", ".json")):
            raise UsageError(
                f"compose({encoder!r}) names no decoder",
                field="decoder",
                hint=f"write compose({encoder!r}, 'gpt2'), or give a .yaml, .toml or .json file",
            )
        source = read_config_text(encoder)
        data = {**source.data}
        if isinstance(name := data.get("tokenizer"), str) and name.endswith(".json"):  # meant from the file's folder
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
    """The fields of a `ModelConfig`: settings with keywords on top."""
    merged = {**data}
    sections: dict[str, dict[str, Any]] = {kind: _section(data[kind], kind) for kind in _SIDES if kind in data}
    if keywords.get("tokenizer") is not None and merged.pop("token_ids", None):  # they were another tokenizer's
        for field in TOKEN_ID_FIELDS:
            sections.get("decoder", {}).pop(field, None)
    for key, value in keywords.items():
        side, _, field = key.partition("_")
        if key == "projector":
            sections[key] = _section(value, key)
        elif side in _SIDES and field:
            sections.setdefault(side, {"name": "auto"} if side == "projector" else {})[field] = value
        elif key == "image_size":
            sections.setdefault("encoder", {})[key] = value
        elif key not in ModelConfig.model_fields:
            known = [*ModelConfig.model_fields, "image_size", "device", "encoder_<field>", "decoder_<field>"]
            raise UsageError(
                "unknown argument", field=key, hint=did_you_mean(key, known) or f"there are: {', '.join(known)}"
            )
        elif key != "tokenizer" or isinstance(value, _NAME):
            merged[key] = os.fspath(value) if isinstance(value, os.PathLike) else value
    if isinstance(merged.get("dtype"), torch.dtype):
        merged["dtype"] = str(merged["dtype"]).removeprefix("torch.")
    if "image_size" in keywords:
        merged["preprocessing"] = with_image_size(merged.get("preprocessing"), keywords["image_size"])
    return {**merged, **sections}


def _section(value: Any, kind: str) -> dict[str, Any]:
    """A part's section as a mapping; a bare name stands for its name."""
    if isinstance(value, ComponentConfig):
        return {"name": value.name, **value.fields}
    if isinstance(value, Mapping):
        return {**value}
    if isinstance(value, str):
        return {"name": value}
    raise ConfigSchemaError(
        f"a name or a mapping expected, got {type(value).__name__}", field=kind, hint="see `vedcore list`"
    )


def with_image_size(preprocessing: Any, size: Any) -> Any:
    """Settings of preprocessing that a config brought, for images of another size."""
    if isinstance(preprocessing, Preprocessing):
        preprocessing = preprocessing.model_dump()
    if not isinstance(preprocessing, Mapping):
        return preprocessing
    size = (size, size) if isinstance(size, int) else size
    before, aim = preprocessing.get("image_size"), preprocessing.get("resize_size")
    if before is not None and aim is not None:  # what is cut away around stays in proportion
        with contextlib.suppress(TypeError, ValueError, ArithmeticError):  # not sizes, as the schema says later
            aim = tuple(round(a * new / old) for a, new, old in zip(aim, size, before, strict=True))
    return {**preprocessing, "image_size": size, **({} if aim is None else {"resize_size": aim})}
