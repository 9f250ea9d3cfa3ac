"""Sizes and types, which may be known while a graph is traced or only when it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

__all__ = ["INT32_MAX", "axis_of", "cast", "pair", "shape", "shape_of", "size"]

INT32_MAX = 2**31 - 1
"""An end of a slice from here on means the end of the axis; TensorFlow's ends have 32 bits."""


def size(x: Any, axis: int) -> Any:
    """Size of an axis: a number where it is known, else a tensor of one."""
    known = x.shape[axis]
    return tf.shape(x)[axis] if known is None else known


def shape_of(x: Any) -> list[Any]:
    """Sizes of all axes."""
    return [size(x, axis) for axis in range(len(x.shape))]


def shape(sizes: Sequence[Any]) -> Any:
    """Sizes as TensorFlow takes them for a shape; of several unknown ones a tensor is made."""
    unknown = [i for i, each in enumerate(sizes) if not isinstance(each, int)]
    if len(unknown) == 1 and not any(each in (0, -1) for each in sizes if isinstance(each, int)):
        return [-1 if i in unknown else each for i, each in enumerate(sizes)]  # spares an operation
    return tf.stack([tf.cast(each, tf.int32) for each in sizes]) if unknown else list(sizes)


def axis_of(x: Any, axis: int) -> int:
    """An axis counted from the first."""
    return int(axis % len(x.shape))


def cast(x: Any, dtype: Any) -> Any:
    """A tensor as another type, or as it is where ``dtype`` is None."""
    return x if dtype is None or x.dtype == dtype else tf.cast(x, dtype)


def _kind(dtype: Any) -> int:
    return 0 if dtype.is_bool else 1 if dtype.is_integer else 2


def pair(x: Any, y: Any) -> tuple[Any, Any]:
    """Two tensors or numbers as tensors of one type, by torch's rules.

    The kind (bool, whole, real) is the higher of both; the width that of the tensors of this kind, those with axes
    before single numbers.
    """
    given = [each if tf.is_tensor(each) or isinstance(each, tf.Variable) else None for each in (x, y)]
    tensors = [each for each in given if each is not None]
    numbers = [each for each, tensor in zip((x, y), given, strict=True) if tensor is None]
    kinds = [_kind(each.dtype) for each in tensors]
    kinds += [0 if isinstance(each, bool) else 1 if isinstance(each, int) else 2 for each in numbers]
    kind = max(kinds)
    of_kind = [each for each in tensors if _kind(each.dtype) == kind]
    wide = [each for each in of_kind if len(each.shape)] or of_kind
    if wide:
        dtype = max((each.dtype for each in wide), key=lambda each: each.size)
    else:
        dtype = (tf.bool, tf.int64, tf.float32)[kind]
    return tuple(
        tf.constant(each, dtype) if tensor is None else cast(tensor, dtype)
        for each, tensor in zip((x, y), given, strict=True)
    )
