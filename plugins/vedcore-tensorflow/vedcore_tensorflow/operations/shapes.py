"""Operations on shapes and places."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from vedcore_tensorflow.operations.arithmetic import masked_fill
from vedcore_tensorflow.operations.sizes import INT32_MAX, axis_of, cast, shape, shape_of, size

__all__ = ["TABLE", "moved", "pad_constant"]


def view(x: Any, sizes: Sequence[Any]) -> Any:
    return tf.reshape(x, shape(sizes))


def flatten(x: Any, first: int = 0, last: int = -1) -> Any:
    first, last, sizes = axis_of(x, first), axis_of(x, last), shape_of(x)
    return view(x, [*sizes[:first], -1, *sizes[last + 1 :]])


def unflatten(x: Any, axis: int, sizes: Sequence[Any]) -> Any:
    axis, before = axis_of(x, axis), shape_of(x)
    return view(x, [*before[:axis], *sizes, *before[axis + 1 :]])


def expand(x: Any, sizes: Sequence[Any]) -> Any:
    new = len(sizes) - len(x.shape)
    sizes = [size(x, i - new) if isinstance(each, int) and each == -1 else each for i, each in enumerate(sizes)]
    unknown = any(not isinstance(each, int) for each in sizes)
    return tf.broadcast_to(x, tf.stack([tf.cast(each, tf.int32) for each in sizes]) if unknown else sizes)


def permute(x: Any, order: Sequence[int]) -> Any:
    return tf.transpose(x, [axis_of(x, axis) for axis in order])


def transpose(x: Any, one: int, other: int) -> Any:
    order = list(range(len(x.shape)))
    one, other = axis_of(x, one), axis_of(x, other)
    order[one], order[other] = other, one
    return tf.transpose(x, order)


def moved(x: Any, axis: int, to: int) -> Any:
    """A tensor with an axis in another place."""
    order = [each for each in range(len(x.shape)) if each != axis]
    order.insert(to, axis)
    return tf.transpose(x, order)


def t(x: Any) -> Any:
    return transpose(x, 0, 1) if len(x.shape) == 2 else x


def unsqueeze(x: Any, axis: int) -> Any:
    return tf.expand_dims(x, axis)


def squeeze(x: Any, axes: int | Sequence[int]) -> Any:
    axes = [axis_of(x, each) for each in ([axes] if isinstance(axes, int) else axes)]
    return tf.squeeze(x, [axis for axis in axes if x.shape[axis] == 1]) if any(x.shape[a] == 1 for a in axes) else x


def cat(parts: Sequence[Any], axis: int = 0) -> Any:
    parts = [part for part in parts if part.shape != (0,)]  # torch's empty list
    dtype = max((part.dtype for part in parts), key=lambda each: (each.is_floating, each.size))
    return tf.concat([cast(part, dtype) for part in parts], axis) if len(parts) > 1 else parts[0]


def stack(parts: Sequence[Any], axis: int = 0) -> Any:
    return tf.stack(parts, axis)


def split(x: Any, width: int, axis: int = 0) -> Any:
    length = x.shape[axis]
    return tf.split(x, [min(width, length - i) for i in range(0, length, width)], axis)


def split_with_sizes(x: Any, sizes: Sequence[int], axis: int = 0) -> Any:
    return tf.split(x, list(sizes), axis)


def chunk(x: Any, parts: int, axis: int = 0) -> Any:
    return split(x, -(-x.shape[axis] // parts), axis)


def unbind(x: Any, axis: int = 0) -> Any:
    return tf.unstack(x, axis=axis)


def select(x: Any, axis: int, index: Any) -> Any:
    return x[(slice(None),) * axis_of(x, axis) + (index,)]


def part(x: Any, axis: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    """A slice of an axis."""
    start = None if isinstance(start, int) and start == 0 else start
    end = None if isinstance(end, int) and end >= INT32_MAX else end
    if start is None and end is None and step == 1:
        return x
    return x[(slice(None),) * axis_of(x, axis) + (slice(start, end, step),)]


def _from_front(index: Any, length: Any) -> Any:
    """Places that may count from the end, counted from the front."""
    return tf.where(index < 0, index + tf.cast(length, index.dtype), index)


def index(x: Any, places: Sequence[Any]) -> Any:
    """By one tensor of places or several, or by masks, as numpy's advanced indexing."""
    found = list[tuple[int, Any]]()
    axis = 0
    for each in places:
        if each is None:
            axis += 1
        elif each.dtype.is_bool:
            there = tf.where(each)
            found += [(axis + i, there[:, i]) for i in range(len(each.shape))]
            axis += len(each.shape)
        else:
            found.append((axis, _from_front(each, size(x, axis))))
            axis += 1
    axes = [each for each, _ in found]
    if len(found) == 1:
        return tf.gather(x, found[0][1], axis=axes[0])
    kept = [each for each in range(len(x.shape)) if each not in axes]
    together = tf.zeros_like(found[0][1])
    for _, each in found[1:]:
        together = together + tf.zeros_like(cast(each, together.dtype))
    where = tf.stack([cast(each, together.dtype) + together for _, each in found], -1)
    given = tf.gather_nd(tf.transpose(x, [*axes, *kept]), where)
    adjacent = axes == list(range(axes[0], axes[0] + len(axes)))
    if not adjacent or axes[0] == 0:
        return given
    rank, first = len(where.shape) - 1, axes[0]
    order = [*range(rank, rank + first), *range(rank), *range(rank + first, rank + len(kept))]
    return tf.transpose(given, order)


def index_select(x: Any, axis: int, places: Any) -> Any:
    return tf.gather(x, places, axis=axis)


def gather(x: Any, axis: int, places: Any) -> Any:
    axis = axis_of(x, axis)
    for other in range(len(x.shape)):
        if other != axis:
            x = part(x, other, 0, size(places, other))
    last = len(x.shape) - 1
    found = tf.gather(moved(x, axis, last), moved(places, axis, last), batch_dims=last)
    return moved(found, last, axis)


def pad_constant(x: Any, widths: Sequence[Any], value: float | None = 0) -> Any:
    """A border of a number; a width below 0 cuts. The last axis comes first in ``widths``."""
    pairs = [(0, 0)] * (len(x.shape) - len(widths) // 2)
    pairs += [(widths[i], widths[i + 1]) for i in reversed(range(0, len(widths), 2))]
    for axis, (before, after) in enumerate(pairs):
        known = isinstance(before, int) and isinstance(after, int)
        if known and before >= 0 and after >= 0:
            continue
        first = max(-before, 0) if isinstance(before, int) else tf.maximum(-before, 0)
        less = max(-after, 0) if isinstance(after, int) else tf.maximum(-after, 0)
        x = part(x, axis, first, size(x, axis) - less)
    if all(isinstance(each, int) and each <= 0 for each in widths):
        return x
    added = [[max(w, 0) if isinstance(w, int) else tf.maximum(w, 0) for w in each] for each in pairs]
    if x.dtype.is_bool:
        return tf.cast(tf.pad(tf.cast(x, tf.int32), added, constant_values=int(value or 0)), tf.bool)
    return tf.pad(x, added, constant_values=tf.cast(value or 0, x.dtype))


def pad(x: Any, widths: Sequence[Any], mode: str = "constant", value: float | None = None) -> Any:
    if mode == "constant":
        return pad_constant(x, widths, value)
    for i in range(0, len(widths), 2):
        axis = len(x.shape) - 1 - i // 2
        length = size(x, axis)
        places = tf.range(-widths[i], length + widths[i + 1])
        if mode == "reflect":
            places = tf.abs(places)
            places = length - 1 - tf.abs(length - 1 - places)
        else:
            places = tf.clip_by_value(places, 0, length - 1) if mode == "replicate" else places % length
        x = tf.gather(x, places, axis=axis)
    return x


def roll(x: Any, shifts: Any, axes: Any = ()) -> Any:
    """In slices, which TensorFlow Lite has."""
    shifts, axes = ([each] if isinstance(each, int) else list(each) for each in (shifts, axes))
    if not axes:
        return tf.reshape(roll(tf.reshape(x, [-1]), shifts, [0]), tf.shape(x))
    for shift, axis in zip(shifts, axes, strict=True):
        length = size(x, axis)
        first = (-shift) % length
        if not isinstance(first, int) or first:
            x = tf.concat([part(x, axis, first, None), part(x, axis, 0, first)], axis)
    return x


def flip(x: Any, axes: Sequence[int]) -> Any:
    return tf.reverse(x, [axis_of(x, axis) for axis in axes])


def repeat(x: Any, times: Sequence[Any]) -> Any:
    x = tf.reshape(x, shape([1] * (len(times) - len(x.shape)) + shape_of(x)))
    return tf.tile(x, [tf.cast(each, tf.int32) for each in times])


def repeat_interleave(x: Any, times: Any, axis: int | None = None, output_size: Any = None) -> Any:
    del output_size
    return tf.repeat(tf.reshape(x, [-1]) if axis is None else x, times, 0 if axis is None else axis)


def _triangle(x: Any, diagonal: int, lower: bool) -> Any:
    ahead = tf.range(size(x, -1))[None] - tf.range(size(x, -2))[:, None]
    return masked_fill(x, ahead > diagonal if lower else ahead < diagonal, 0)


def tril(x: Any, diagonal: int = 0) -> Any:
    return _triangle(x, diagonal, True)


def triu(x: Any, diagonal: int = 0) -> Any:
    return _triangle(x, diagonal, False)


def to_copy(x: Any, dtype: Any = None) -> Any:
    return cast(x, dtype)


def type_as(x: Any, other: Any) -> Any:
    return cast(x, other.dtype)


def same(x: Any) -> Any:
    return x


TABLE: dict[str, Callable[..., Any]] = {
    "sym_size.int": size,
    "view": view,
    "_unsafe_view": view,
    "reshape": view,
    "flatten.using_ints": flatten,
    "unflatten.int": unflatten,
    "expand": expand,
    "permute": permute,
    "transpose.int": transpose,
    "t": t,
    "unsqueeze": unsqueeze,
    "squeeze.dim": squeeze,
    "squeeze.dims": squeeze,
    "cat": cat,
    "stack": stack,
    "split.Tensor": split,
    "split_with_sizes": split_with_sizes,
    "chunk": chunk,
    "unbind.int": unbind,
    "select.int": select,
    "slice.Tensor": part,
    "index.Tensor": index,
    "index_select": index_select,
    "gather": gather,
    "pad": pad,
    "constant_pad_nd": pad_constant,
    "roll": roll,
    "flip": flip,
    "repeat": repeat,
    "repeat_interleave.self_int": repeat_interleave,
    "tril": tril,
    "triu": triu,
    "lift_fresh_copy": same,
    "_to_copy": to_copy,
    "type_as": type_as,
    "clone": same,
    "contiguous": same,
    "detach": tf.stop_gradient,
    "detach_": tf.stop_gradient,
    "alias": same,
}
