"""Sections of transformers' config.json, read as a family and its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from vedcore.config import TOKEN_ID_FIELDS
from vedcore.config_files.plain import short
from vedcore.errors import ConfigSchemaError, UnknownComponentError, warn_caller
from vedcore.plugins import load_component, registry
from vedcore.registry import Kind
from vedcore.transformers_class import TransformersClass, class_for

__all__ = ["WHOLE", "Section", "read_section"]

WHOLE = "vision-encoder-decoder"
"""The ``model_type`` of a whole model, whose config.json has a section for each part."""


class Section(NamedTuple):
    """The family and the settings that a section of transformers' config.json means."""

    name: str
    """Name of the family."""
    transformers_class: TransformersClass
    """The class of transformers that the section is of."""
    fields: dict[str, Any]
    """Fields of the family's config."""


def read_section(kind: Kind, data: object, *, path: object, whole: bool) -> Section:
    """Read a section of transformers' config.json.

    Args:
        kind: ``"encoder"`` or ``"decoder"``.
        data: the section.
        path: the file, for messages.
        whole: True for a section of a VisionEncoderDecoder, False for the file of an encoder or decoder alone.

    Raises:
        ConfigSchemaError: not an object, or a setting that cannot be honoured.
        UnknownComponentError: a ``model_type`` that no family opens.

    Warns:
        UserWarning: fields that the class does not have; token ids outside of the vocabulary.
    """
    prefix = f"{kind}." if whole else ""
    if not isinstance(data, Mapping):
        what = "is missing" if data is None else f"object expected, got {type(data).__name__}"
        raise ConfigSchemaError(what, path=path, field=kind, hint="put the config.json of the whole model there")
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
    transformers_class = class_for(load_component(kind, name)[0].transformers, model_type)
    if transformers_class is None:
        raise UnknownComponentError(
            f"{kind} {name!r} lists model_type {short(model_type)}, but has no class to open it",
            path=path,
            field=f"{prefix}model_type",
            hint=f"tell the authors of {entry.owner}",
        )
    for flag in transformers_class.flags if whole and kind == "decoder" else ():
        if data.get(flag) is not True:
            raise ConfigSchemaError(
                f"{short(data.get(flag))}, but then the decoder ignores the image, or sees later tokens",
                path=path,
                field=prefix + flag,
                hint="set it to true if the weights have cross-attention",
            )
    fields = transformers_class.read(data, path=path, prefix=prefix)
    return Section(name, transformers_class, _within_vocabulary(fields, path, prefix) if kind == "decoder" else fields)


def _within_vocabulary(fields: dict[str, Any], path: object, prefix: str) -> dict[str, Any]:
    """The fields without token ids outside of the vocabulary: defaults of a larger one, left in the file."""
    size = fields.get("vocab_size")
    if not isinstance(size, int):
        return fields
    for field in TOKEN_ID_FIELDS:
        value = fields.get(field)
        ids = value if isinstance(value, (tuple, list)) else (value,)
        if any(isinstance(i, int) and i >= size for i in ids):
            warn_caller(
                f"{path}: {prefix}{field} {short(value)} is outside of the vocabulary of {size}, and is ignored"
            )
            fields = {**fields, field: None}
    return fields
