"""Operations on images (N, C, H, W): convolutions, pools and other sizes.

On a CPU TensorFlow convolves (N, H, W, C) alone, so images are transposed before and after.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from vedcore_tensorflow.operations.shapes import pad_constant
from vedcore_tensorflow.operations.sizes import shape, shape_of, size

__all__ = ["TABLE"]


def _two(given: Any) -> list[Any]:
    sizes: list[Any] = [given] if isinstance(given, int) else list(given)
    return sizes * 2 if len(sizes) == 1 else sizes


def _last(x: Any) -> Any:
    return tf.transpose(x, [0, 2, 3, 1])


def _first(x: Any) -> Any:
    return tf.transpose(x, [0, 3, 1, 2])


def conv2d(
    x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    stride, dilation, (above, left) = _two(stride), _two(dilation), _two(padding)
    x = _last(pad_constant(x, [left, left, above, above]))
    out, inner = weight.shape[0], weight.shape[1]
    kernel = tf.transpose(weight, [2, 3, 1, 0])  # (H, W, C / groups, out)
    if groups > 1 and inner == 1 and stride[0] == stride[1] and (stride[0] == 1 or dilation == [1, 1]):
        kernel = tf.reshape(kernel, [*kernel.shape[:2], groups, out // groups])
        x = tf.nn.depthwise_conv2d(x, kernel, [1, *stride, 1], "VALID", dilations=dilation)
    else:
        pairs = zip(tf.split(x, groups, 3), tf.split(kernel, groups, 3), strict=True)
        parts = [tf.nn.conv2d(each, part, stride, "VALID", dilations=dilation) for each, part in pairs]
        x = tf.concat(parts, 3) if groups > 1 else parts[0]
    return _first(x if bias is None else tf.nn.bias_add(x, bias))


def conv1d(
    x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    (stride, padding, dilation) = (each if isinstance(each, int) else each[0] for each in (stride, padding, dilation))
    found = conv2d(x[:, :, None], weight[:, :, None], bias, [1, stride], [0, padding], [1, dilation], groups)
    return tf.squeeze(found, 2)


def _pooled_size(length: Any, kernel: int, stride: int, padding: int, dilation: int, ceil: bool) -> tuple[Any, Any]:
    """Windows along an axis, and the places that they reach beyond the border at the end."""
    reach = dilation * (kernel - 1) + 1
    if not ceil:
        return (length + 2 * padding - reach) // stride + 1, 0
    count = -(-(length + 2 * padding - reach) // stride) + 1
    if (count - 1) * stride >= length + padding:  # no window begins behind the image
        count -= 1
    return count, max((count - 1) * stride + reach - length - 2 * padding, 0)


def _beyond(
    x: Any, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int], ceil: bool
) -> list[Any]:
    """How far windows reach beyond the border, below and at the right."""
    return [
        _pooled_size(x.shape[2 + i], kernel[i], stride[i], padding[i], dilation[i], True)[1] if ceil else 0
        for i in (0, 1)
    ]


def avg_pool2d(
    x: Any,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    kernel, padding = _two(kernel), _two(padding)
    stride = _two(stride) if stride not in ((), []) else kernel
    below, right = _beyond(x, kernel, stride, padding, [1, 1], ceil_mode)
    above, left = padding
    border = [left, left + right, above, above + below]
    means = tf.nn.avg_pool2d(_last(pad_constant(x, border)), kernel, stride, "VALID")
    area = kernel[0] * kernel[1]
    if divisor_override:
        return _first(means * (area / divisor_override))
    if not any(border) or (count_include_pad and not below and not right):
        return _first(means)
    counted = tf.ones_like(x[:1, :1])
    if count_include_pad:
        counted = pad_constant(pad_constant(counted, [left, left, above, above], 1), [0, right, 0, below])
    else:
        counted = pad_constant(counted, border)
    return _first(means / tf.nn.avg_pool2d(_last(counted), kernel, stride, "VALID"))


def max_pool2d(
    x: Any, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> Any:
    kernel, padding, dilation = _two(kernel), _two(padding), _two(dilation)
    stride = _two(stride) if stride not in ((), []) else kernel
    below, right = _beyond(x, kernel, stride, padding, dilation, ceil_mode)
    above, left = padding
    x = pad_constant(x, [left, left + right, above, above + below], x.dtype.min)
    if dilation == [1, 1]:
        return _first(tf.nn.max_pool2d(_last(x), kernel, stride, "VALID"))
    return tf.reduce_max(_windows(x, kernel, stride, dilation), 2)


def _windows(x: Any, kernel: list[int], stride: list[int], dilation: list[int]) -> Any:
    """(N, C, kernel, H', W') the pixels of each window."""
    found = tf.image.extract_patches(_last(x), [1, *kernel, 1], [1, *stride, 1], [1, *dilation, 1], "VALID")
    n, h, w, _ = shape_of(found)
    found = tf.reshape(found, shape([n, h, w, kernel[0] * kernel[1], x.shape[1]]))
    return tf.transpose(found, [0, 4, 3, 1, 2])


def im2col(x: Any, kernel: Any, dilation: Any, padding: Any, stride: Any) -> Any:
    above, left = _two(padding)
    found = _windows(pad_constant(x, [left, left, above, above]), _two(kernel), _two(stride), _two(dilation))
    return tf.reshape(found, shape([size(x, 0), found.shape[1] * found.shape[2], -1]))


def _apply(x: Any, rows: Any, columns: Any) -> Any:
    """Images as sums of their rows and columns, by (H', H) and (W', W) weights."""
    return tf.matmul(tf.matmul(tf.cast(rows, x.dtype), x), tf.cast(columns, x.dtype), transpose_b=True)


def adaptive_avg_pool2d(x: Any, sizes: Sequence[Any]) -> Any:
    """Means of windows, for an output of given sizes; None keeps one."""

    def means(length: Any, given: Any) -> Any:
        given = length if given is None else given
        place, number = tf.range(length)[None], tf.range(given)[:, None]
        first, end = number * length // given, -(-((number + 1) * length) // given)
        return tf.cast((place >= first) & (place < end), tf.float64) / tf.cast(end - first, tf.float64)

    high, wide = _two(sizes)
    return _apply(x, means(size(x, 2), high), means(size(x, 3), wide))


def _cubic(distance: Any, a: float) -> Any:
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = (((distance - 5) * distance + 8) * distance - 4) * a
    return tf.where(distance <= 1, near, tf.where(distance < 2, far, tf.zeros_like(distance)))


def _scale(length: Any, given: Any, factor: float | None, aligned: bool) -> Any:
    """Pixels before for one after."""
    one = tf.cast(1, tf.float64)
    length, given = tf.cast(length, tf.float64), tf.cast(given, tf.float64)
    if aligned:
        return tf.where(given > 1, (length - 1) / tf.maximum(given - 1, 1), one * 0)
    return one / factor if factor else length / given


def _taps(length: Any, given: Any, factor: float | None, aligned: bool, cubic: bool) -> Any:
    """(given, length) weights of pixels by the two or four around each place."""
    scale, number = _scale(length, given, factor, aligned), tf.cast(tf.range(given), tf.float64)
    place = number * scale if aligned else (number + 0.5) * scale - 0.5
    place = place if cubic else tf.maximum(place, 0)
    first = tf.floor(place)
    weights = 0.0
    for tap in (-1, 0, 1, 2) if cubic else (0, 1):
        away = tf.abs(place - first - tap)
        weight = _cubic(away, -0.75) if cubic else 1 - away
        index = tf.clip_by_value(tf.cast(first, tf.int32) + tap, 0, length - 1)
        weights += weight[:, None] * tf.one_hot(index, length, dtype=tf.float64)
    return weights


def _filtered(length: Any, given: Any, factor: float | None, aligned: bool, cubic: bool) -> Any:
    """(given, length) weights of pixels by a filter that is as wide as a new pixel."""
    scale = _scale(length, given, factor, aligned)
    wide = tf.maximum(scale, 1)
    support = (2 if cubic else 1) * wide
    center = scale * (tf.cast(tf.range(given), tf.float64) + 0.5)[:, None]
    place = tf.cast(tf.range(length), tf.float64)[None]
    there = (place >= tf.floor(center - support + 0.5)) & (place < tf.floor(center + support + 0.5))
    away = tf.abs(place - center + 0.5) / wide
    weights = _cubic(away, -0.5) if cubic else tf.maximum(1 - away, 0)
    weights = tf.where(there, weights, tf.zeros_like(weights))
    return weights / tf.reduce_sum(weights, 1, keepdims=True)


def _resized(x: Any, sizes: Any, factors: Any, aligned: bool, weights: Callable[..., Any], cubic: bool) -> Any:
    factors = [None, None] if factors is None else list(factors)
    if sizes is None:
        lengths = [size(x, 2), size(x, 3)]
        sizes = [
            int(each * factor)
            if isinstance(each, int)
            else tf.cast(tf.floor(tf.cast(each, tf.float64) * factor), tf.int32)
            for each, factor in zip(lengths, factors, strict=True)
        ]
    made = [weights(size(x, 2 + i), sizes[i], factors[i], aligned, cubic) for i in (0, 1)]
    return _apply(x, *made)


def bilinear(x: Any, sizes: Any, aligned: bool, factors: Any = None) -> Any:
    return _resized(x, sizes, factors, aligned, _taps, False)


def bicubic(x: Any, sizes: Any, aligned: bool, factors: Any = None) -> Any:
    return _resized(x, sizes, factors, aligned, _taps, True)


def filtered_bilinear(x: Any, sizes: Any, aligned: bool, factors: Any = None) -> Any:
    return _resized(x, sizes, factors, aligned, _filtered, False)


def filtered_bicubic(x: Any, sizes: Any, aligned: bool, factors: Any = None) -> Any:
    return _resized(x, sizes, factors, aligned, _filtered, True)


def _nearest(length: Any, given: Any, factor: float | None, aligned: bool, cubic: bool) -> Any:
    del aligned, cubic
    place = tf.floor(tf.cast(tf.range(given), tf.float64) * _scale(length, given, factor, False))
    return tf.one_hot(tf.minimum(tf.cast(place, tf.int32), length - 1), length, dtype=tf.float64)


def nearest(x: Any, sizes: Any, factors: Any = None) -> Any:
    return _resized(x, sizes, factors, False, _nearest, False)


def pixel_shuffle(x: Any, factor: int) -> Any:
    n, c, h, w = shape_of(x)
    x = tf.reshape(x, shape([n, c // factor**2, factor, factor, h, w]))
    return tf.reshape(tf.transpose(x, [0, 1, 4, 2, 5, 3]), shape([n, c // factor**2, h * factor, w * factor]))


TABLE: dict[str, Callable[..., Any]] = {
    "conv2d": conv2d,
    "conv1d": conv1d,
    "avg_pool2d": avg_pool2d,
    "adaptive_avg_pool2d": adaptive_avg_pool2d,
    "max_pool2d": max_pool2d,
    "upsample_bilinear2d.vec": bilinear,
    "upsample_bicubic2d.vec": bicubic,
    "upsample_nearest2d.vec": nearest,
    "_upsample_bilinear2d_aa.vec": filtered_bilinear,
    "_upsample_bicubic2d_aa.vec": filtered_bicubic,
    "pixel_shuffle": pixel_shuffle,
    "im2col": im2col,
}
