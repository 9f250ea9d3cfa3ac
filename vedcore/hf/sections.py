"""Sections of transformers' config.json, as a family of ours and its settings."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

from vedcore.config import TOKEN_ID_FIELDS
from vedcore.config_files.plain import short
from vedcore.errors import ConfigSchemaError, UnknownComponentError
from vedcore.plugins import load_component, registry
from vedcore.registry import Kind
from vedcore.transformers_class import TransformersClass, class_for

__all__ = ["WHOLE", "Section", "read_section"]

WHOLE = "vision-encoder-decoder"
"""The ``model_type`` of a whole model, whose config.json has a section for each part."""


class Section(NamedTuple):
    """A section of transformers' config.json in our words."""

    name: str
    """The family."""
    theirs: TransformersClass
    """Its class in transformers."""
    fields: dict[str, Any]
    """Its settings."""


def read_section(kind: Kind, data: object, *, path: object, whole: bool) -> Section:
    """The family and the settings that a section of transformers' config.json means.

    Args:
        kind: ``"encoder"`` or ``"decoder"``.
        data: the section.
        path: the file, for messages.
        whole: True for a half of a VisionEncoderDecoder, False for a checkpoint of its own.

    Raises:
        ConfigSchemaError: not an object, or a setting that cannot be honoured.
        UnknownComponentError: a ``model_type`` that no family opens.
    """
    prefix = f"{kind}." if whole else ""
    if not isinstance(data, Mapping):
        what = "is missing" if data is None else f"object expected, got {type(data).__name__}"
        raise ConfigSchemaError(what, path=path, field=kind, hint="is it the config.json of this model?")
    model_type = data.get("model_type")
    if not isinstance(model_type, str):
        raise ConfigSchemaError(
            f"text expected, got {short(model_type)}",
            path=path,
            field=f"{prefix}model_type",
            hint="name the architecture, such as 'vit' or 'gpt2'",
        )
    try:
        entry = registry().find_model_type(kind, model_type)
    except UnknownComponentError as error:
        raise error.at(path, f"{prefix}model_type") from None
    name = registry().shown_name(kind, entry)
    theirs = class_for(load_component(kind, name)[0].transformers, model_type)
    if theirs is None:
        raise UnknownComponentError(
            f"{kind} {name!r} does not say how it opens {short(model_type)}",
            path=path,
            field=f"{prefix}model_type",
            hint=f"tell the authors of {entry.owner}",
        )
    for flag in theirs.flags if whole and kind == "decoder" else ():
        if data.get(flag) is not True:
            raise ConfigSchemaError(
                f"{short(data.get(flag))}: such a decoder does not look at the image, or sees the words to come",
                path=path,
                field=prefix + flag,
                hint="set it to true if the weights have cross-attention",
            )
    fields = theirs.read(data, path=path, prefix=prefix)
    return Section(name, theirs, _within_vocabulary(fields, path, prefix) if kind == "decoder" else fields)


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
                UserWarning,
                stacklevel=2,
            )
            fields = {**fields, field: None}
    return fields
