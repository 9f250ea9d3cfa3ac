"""The tables by which a part opens and writes transformers' checkpoints; docs/stability.md lists them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vedcore.deprecated_names import getattr_for
from vedcore.transformers_class import ConfigField, TransformersClass, restricted_field, unused_fields
from vedcore.weights.keymap import SAME, TRANSPOSED, Change, Row, ignored, never_theirs, to_ours, to_theirs, under

__all__ = [
    "SAME",
    "TRANSPOSED",
    "Change",
    "ConfigField",
    "Row",
    "TransformersClass",
    "ignored",
    "never_theirs",
    "restricted_field",
    "to_ours",
    "to_theirs",
    "under",
    "unused_fields",
]

if not TYPE_CHECKING:  # a type checker would take any name for one of this module
    __getattr__ = getattr_for(__name__)
