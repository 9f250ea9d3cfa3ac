"""The settings under ``data.`` of a config of training."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, field_validator

from vedcore.config import Config
from vedcore.errors import ConfigSchemaError

__all__ = ["Augment", "DataConfig"]

Augment: TypeAlias = Literal["none", "line", "photo"]
"""Kinds of augmentation: of text lines, of photographs, or none."""


class DataConfig(Config):
    """The data of a training."""

    train: str | tuple[str, ...] | None = None
    """Folder, file, or pattern of tar shards with the rows; several are read one after the other."""
    validation: str | tuple[str, ...] | None = None
    """Source of the rows that are held back; None takes those of ``train`` that it puts in that split, or a share."""
    validation_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """About the share of ``train`` to hold back, by a hash of each row's name; 0 holds back none."""
    also: dict[str, str | tuple[str, ...]] = Field(default_factory=dict)
    """Names to other data, evaluated beside the rows that are held back, so that forgetting is seen; a source or a list
    of them have the names of their files or folders."""
    letters: str = ""
    """Letters that get tokens, beside those that the labels of ``train`` show; of a stream, only the first rows do."""
    text_column: str | None = None
    """Column of the labels; None takes ``text``, or the only other usual name."""
    image_column: str | None = None
    """Column of the images; None takes ``file_name``, ``image``, or the only other usual name."""
    max_label_length: Annotated[int, Field(ge=1)] | None = None
    """Limit of a label in tokens, its end included; a longer one is cut, and its end kept. None takes the model's."""
    augment: Augment = "none"
    """``line`` changes text lines at random, ``photo`` photographs, ``none`` nothing."""
    bucket: bool = True
    """Put images of similar sizes into one batch, and labels of similar lengths for a model without batch norms."""
    cache_encoder: bool = False
    """Keep the states of a frozen encoder on disk; not with augmentation."""
    workers: Annotated[int, Field(ge=0, le=256)] = 0
    """Processes that decode images; 0 decodes in the training's own. Batches are the same for any number."""
    seed: int = 0
    """Of the split; ``train.seed`` is that of the order and of augmentation."""

    @field_validator("also", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        if isinstance(value, Mapping):
            named = dict(value)
        else:
            sources = [] if value is None else value if isinstance(value, list | tuple) else [value]
            named = {Path(os.path.abspath(each)).name if isinstance(each, str) else "": each for each in sources}
            if len(named) < len(sources):
                hint = "give names: data.also={one: …, other: …}"
                raise ConfigSchemaError("two sources have one name", field="also", hint=hint)
        if "validation" in named:
            hint = "give another name: data.also={other: …}"
            raise ConfigSchemaError("validation is the name of the rows that are held back", field="also", hint=hint)
        return named
