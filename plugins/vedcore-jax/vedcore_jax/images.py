"""Operations on images (N, C, H, W): convolutions, windows, and other sizes, with torch's arguments.

A change of size is a matrix for each axis, which NumPy computes from the sizes alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

__all__ = ["IMAGES"]

Size = int | Sequence[int]
Weigh = Callable[[Any], Any]
"""The weight of a pixel by its distance."""


def _each(value: Size, axes: int) -> tuple[int, ...]:
    """A value for each axis; torch lets one stand for all."""
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return values * axes if len(values) == 1 else values


def _convolution(
    x: Array, w: Array, b: Array | None, stride: Size, padding: Size, dilation: Size, groups: int
) -> Array:
    axes = w.ndim - 2
    y = lax.conv_general_dilated(
        x,
        w,
        _each(stride, axes),
        [(each, each) for each in _each(padding, axes)],
        rhs_dilation=_each(dilation, axes),
        feature_group_count=groups,
    )
    return y if b is None else y + b.reshape(1, -1, *(1,) * axes)


def conv(
    x: Array,
    w: Array,
    b: Array | None = None,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Array:
    """Convolution of sequences or images."""
    return _convolution(x, w, b, stride, padding, dilation, groups)


def _windows(
    x: Array, kernel: Size, stride: Size | None, padding: Size, dilation: Size, ceil: bool
) -> tuple[dict[str, Any], tuple[int, ...], list[tuple[int, int]]]:
    """Arguments of `lax.reduce_window`, its window, and the padding at both ends of H and W."""
    kernels, paddings, dilations = _each(kernel, 2), _each(padding, 2), _each(dilation, 2)
    strides = _each(stride, 2) if stride else kernels
    ends = []
    for size, k, s, p, d in zip(x.shape[-2:], kernels, strides, paddings, dilations, strict=True):
        spare = size + 2 * p - d * (k - 1) - 1
        count = (-(-spare // s) if ceil else spare // s) + 1
        if ceil and (count - 1) * s >= size + p:  # the last window begins within the image or before it
            count -= 1
        ends.append((p, (count - 1) * s + d * (k - 1) + 1 - size - p))
    lead = (1,) * (x.ndim - 2)
    arguments = {
        "window_strides": (*lead, *strides),
        "padding": [(0, 0)] * (x.ndim - 2) + ends,
        "window_dilation": (*lead, *dilations),
    }
    return arguments, (*lead, *kernels), ends


def max_pool2d(
    x: Array, kernel: Size, stride: Size | None = None, padding: Size = 0, dilation: Size = 1, ceil_mode: bool = False
) -> Array:
    """Maxima of windows."""
    arguments, window, _ = _windows(x, kernel, stride, padding, dilation, ceil_mode)
    found: Array = lax.reduce_window(x, -jnp.inf, lax.max, window, **arguments)
    return found


def avg_pool2d(
    x: Array,
    kernel: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    """Means of windows."""
    arguments, window, ends = _windows(x, kernel, stride, padding, 1, ceil_mode)
    total: Array = lax.reduce_window(x, 0.0, lax.add, window, **arguments)
    if divisor_override:
        return total / divisor_override
    counted = np.ones(x.shape[-2:], np.float32)
    if count_include_pad:  # but not what ceil_mode adds behind it
        behind = [(p, p) for p in _each(padding, 2)]
        counted = np.pad(counted, behind, constant_values=1)
        rest = [(0, high - p) for (p, high) in ends]
        arguments["padding"] = [(0, 0)] * 2 + rest
    else:
        arguments["padding"] = [(0, 0)] * 2 + ends
    lead = {name: (1, 1, *value[-2:]) for name, value in arguments.items() if name != "padding"}
    counts: Array = lax.reduce_window(
        jnp.asarray(counted)[None, None], 0.0, lax.add, (1, 1, *window[-2:]), **lead, padding=arguments["padding"]
    )
    return total / counts.reshape(counts.shape[-2:]).astype(x.dtype)


def adaptive_avg_pool2d(x: Array, size: Size) -> Array:
    """Means of windows, for an output of a given size."""
    tables = []
    for given, wanted in zip(x.shape[-2:], _each(size, 2), strict=True):
        table = np.zeros((wanted, given))
        for i in range(wanted):
            low, high = i * given // wanted, -(-(i + 1) * given // wanted)
            table[i, low:high] = 1 / (high - low)
        tables.append(table)
    return _by_tables(x, tables)


def _by_tables(x: Array, tables: Sequence[Any]) -> Array:
    """An image (..., H, W) times a table (H', H) and one (W', W)."""
    high, wide = (jnp.asarray(table, x.dtype) for table in tables)
    return jnp.einsum("...hw,ih,jw->...ij", x, high, wide)


def _linear(distance: Any) -> Any:
    return np.maximum(1 - np.abs(distance), 0)


def _cubic(a: float) -> Weigh:
    def weigh(distance: Any) -> Any:
        d = np.abs(distance)
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        return np.where(d <= 1, near, np.where(d < 2, far, 0.0))

    return weigh


def _table(given: int, wanted: int, scale: float, align: bool, weigh: Weigh, taps: int) -> Any:
    """(wanted, given) weights of the pixels about each place, those beyond the edges at the edge."""
    place = np.arange(wanted) * scale if align else (np.arange(wanted) + 0.5) * scale - 0.5
    if taps == 2:
        place = np.maximum(place, 0)
    first = np.floor(place).astype(int) - taps // 2 + 1
    table = np.zeros((wanted, given))
    for tap in range(taps):
        np.add.at(table, (np.arange(wanted), np.clip(first + tap, 0, given - 1)), weigh(place - first - tap))
    return table


def _filter(given: int, wanted: int, scale: float, weigh: Weigh, taps: int) -> Any:
    """(wanted, given) weights of the pixels that a place covers."""
    wide = max(scale, 1.0)
    table = np.zeros((wanted, given))
    for i in range(wanted):
        centre = scale * (i + 0.5)
        low = max(int(centre - taps / 2 * wide + 0.5), 0)
        high = min(int(centre + taps / 2 * wide + 0.5), given)
        weights = weigh((np.arange(low, high) - centre + 0.5) / wide)
        table[i, low:high] = weights / weights.sum()
    return table


def _sizes(x: Array, size: Sequence[int] | None, scales: Sequence[float] | None) -> list[tuple[int, int, float | None]]:
    """Given and wanted size of H and W, and the step of a pixel where the scale says it."""
    if size is not None:
        return [(given, wanted, None) for given, wanted in zip(x.shape[-2:], size, strict=True)]
    assert scales is not None
    return [(given, math.floor(given * scale), 1 / scale) for given, scale in zip(x.shape[-2:], scales, strict=True)]


def _step(given: int, wanted: int, step: float | None, align: bool) -> float:
    if align:
        return (given - 1) / (wanted - 1) if wanted > 1 else 0.0
    return given / wanted if step is None else step


def _upsample(weigh: Weigh, taps: int, filtered: bool) -> Callable[..., Array]:
    def upsample(
        x: Array,
        output_size: Sequence[int] | None,
        align_corners: bool,
        scale_factors: Sequence[float] | None = None,
    ) -> Array:
        tables = []
        for given, wanted, step in _sizes(x, output_size, scale_factors):
            scale = _step(given, wanted, step, align_corners)
            make = _filter(given, wanted, scale, weigh, taps) if filtered else None
            tables.append(_table(given, wanted, scale, align_corners, weigh, taps) if make is None else make)
        return _by_tables(x, tables)

    return upsample


def upsample_nearest2d(
    x: Array, output_size: Sequence[int] | None, scale_factors: Sequence[float] | None = None
) -> Array:
    """Images of another size, the nearest pixel."""
    for axis, (given, wanted, step) in enumerate(_sizes(x, output_size, scale_factors), x.ndim - 2):
        places = np.floor(np.arange(wanted, dtype=np.float32) * np.float32(_step(given, wanted, step, False)))
        x = jnp.take(x, np.minimum(places.astype(int), given - 1), axis)
    return x


def pixel_shuffle(x: Array, factor: int) -> Array:
    """Channels to pixels."""
    *lead, channels, high, wide = x.shape
    x = x.reshape(*lead, channels // factor**2, factor, factor, high, wide)
    x = jnp.moveaxis(x, (-4, -3), (-3, -1))
    return x.reshape(*lead, channels // factor**2, high * factor, wide * factor)


def im2col(x: Array, kernel: Size, dilation: Size, padding: Size, stride: Size) -> Array:
    """(N, C, H, W) to the pixels of each window (N, C * kernel, windows)."""
    patches = lax.conv_general_dilated_patches(
        x,
        _each(kernel, 2),
        _each(stride, 2),
        [(each, each) for each in _each(padding, 2)],
        rhs_dilation=_each(dilation, 2),
    )
    return patches.reshape(*patches.shape[:2], -1)


IMAGES: dict[str, Callable[..., Any]] = {
    "conv1d": conv,
    "conv2d": conv,
    "max_pool2d": max_pool2d,
    "avg_pool2d": avg_pool2d,
    "adaptive_avg_pool2d": adaptive_avg_pool2d,
    "upsample_bilinear2d.vec": _upsample(_linear, 2, False),
    "upsample_bicubic2d.vec": _upsample(_cubic(-0.75), 4, False),
    "upsample_nearest2d.vec": upsample_nearest2d,
    "_upsample_bilinear2d_aa.vec": _upsample(_linear, 2, True),
    "_upsample_bicubic2d_aa.vec": _upsample(_cubic(-0.5), 4, True),
    "pixel_shuffle": pixel_shuffle,
    "im2col": im2col,
}
