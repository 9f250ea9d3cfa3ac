"""New tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from vedcore_tensorflow.operations.sizes import cast

__all__ = ["TABLE", "full"]


def arange(end: Any, dtype: Any = None) -> Any:
    return arange_step(0, end, 1, dtype)


def arange_start(start: Any, end: Any, dtype: Any = None) -> Any:
    return arange_step(start, end, 1, dtype)


def arange_step(start: Any, end: Any, step: Any = 1, dtype: Any = None) -> Any:
    real = any(isinstance(each, float) for each in (start, end, step))
    given = tf.float64 if real else tf.int64  # 64 bits, so that no step is rounded away
    return tf.cast(
        tf.range(*(tf.cast(each, given) for each in (start, end, step))), dtype or (tf.float32 if real else tf.int64)
    )


def full(sizes: Sequence[Any], value: Any, dtype: Any = None) -> Any:
    if dtype is None and not tf.is_tensor(value):
        dtype = tf.bool if isinstance(value, bool) else tf.int64 if isinstance(value, int) else tf.float32
    return tf.fill(_sizes(sizes), cast(tf.convert_to_tensor(value), dtype))


def _sizes(sizes: Sequence[Any]) -> Any:
    return tf.stack([tf.cast(each, tf.int32) for each in sizes]) if len(sizes) else tf.zeros(0, tf.int32)


def full_like(x: Any, value: Any, dtype: Any = None) -> Any:
    return tf.fill(tf.shape(x), cast(tf.convert_to_tensor(value), dtype or x.dtype))


def zeros(sizes: Sequence[Any], dtype: Any = None) -> Any:
    return full(sizes, 0, dtype or tf.float32)


def ones(sizes: Sequence[Any], dtype: Any = None) -> Any:
    return full(sizes, 1, dtype or tf.float32)


def zeros_like(x: Any, dtype: Any = None) -> Any:
    return full_like(x, 0, dtype)


def ones_like(x: Any, dtype: Any = None) -> Any:
    return full_like(x, 1, dtype)


def new_full(x: Any, sizes: Sequence[Any], value: Any, dtype: Any = None) -> Any:
    return full(sizes, value, dtype or x.dtype)


def new_zeros(x: Any, sizes: Sequence[Any], dtype: Any = None) -> Any:
    return full(sizes, 0, dtype or x.dtype)


def new_ones(x: Any, sizes: Sequence[Any], dtype: Any = None) -> Any:
    return full(sizes, 1, dtype or x.dtype)


def scalar_tensor(value: Any, dtype: Any = None) -> Any:
    return cast(tf.convert_to_tensor(value), dtype or tf.float32)


TABLE: dict[str, Callable[..., Any]] = {
    "arange": arange,
    "arange.start": arange_start,
    "arange.start_step": arange_step,
    "full": full,
    "full_like": full_like,
    "zeros": zeros,
    "zeros_like": zeros_like,
    "ones": ones,
    "ones_like": ones_like,
    "new_zeros": new_zeros,
    "new_ones": new_ones,
    "new_full": new_full,
    "empty.memory_format": zeros,
    "empty_like": zeros_like,
    "new_empty": new_zeros,
    "scalar_tensor": scalar_tensor,
}
