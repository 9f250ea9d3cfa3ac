"""A function of TensorFlow for each operation that a graph may hold, with torch's arguments and meaning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vedcore_tensorflow.operations import arithmetic, filled, images, layers, shapes

__all__ = ["OPERATIONS"]

OPERATIONS: Mapping[str, Callable[..., Any]] = {
    **arithmetic.TABLE,
    **shapes.TABLE,
    **filled.TABLE,
    **layers.TABLE,
    **images.TABLE,
}
"""By the names of `vedcore.export.OPERATIONS`."""
