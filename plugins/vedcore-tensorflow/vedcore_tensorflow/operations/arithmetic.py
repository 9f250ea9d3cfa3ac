"""Operations number by number, comparisons and reductions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from vedcore_tensorflow.operations.sizes import axis_of, cast, pair, size

__all__ = ["TABLE"]


def add(x: Any, y: Any, alpha: float = 1) -> Any:
    x, y = pair(x, y)
    return x + (y if alpha == 1 else y * tf.cast(alpha, y.dtype))


def sub(x: Any, y: Any, alpha: float = 1) -> Any:
    x, y = pair(x, y)
    return x - (y if alpha == 1 else y * tf.cast(alpha, y.dtype))


def rsub(x: Any, y: Any, alpha: float = 1) -> Any:
    return sub(y, x, alpha)


def mul(x: Any, y: Any) -> Any:
    x, y = pair(x, y)
    return tf.logical_and(x, y) if x.dtype.is_bool else x * y


def addcmul(x: Any, y: Any, z: Any, value: float = 1) -> Any:
    return add(x, mul(y, z), value)


def div(x: Any, y: Any) -> Any:
    x, y = (_real(each) for each in pair(x, y))
    return x / y


def power(x: Any, y: Any) -> Any:
    if isinstance(y, (int, float)) and y == 2 and not x.dtype.is_integer:
        return tf.square(x)
    return tf.pow(*pair(x, y))


def neg(x: Any) -> Any:
    return -x


def elu(x: Any, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Any:
    return scale * tf.where(x > 0, x, alpha * tf.math.expm1(tf.minimum(x, 0) * input_scale))


def gelu(x: Any, approximate: str = "none") -> Any:
    return tf.nn.gelu(x, approximate=approximate == "tanh")


def hardswish(x: Any) -> Any:
    return x * tf.nn.relu6(x + 3) / 6


def hardsigmoid(x: Any) -> Any:
    return tf.nn.relu6(x + 3) / 6


def hardtanh(x: Any, least: float = -1, greatest: float = 1) -> Any:
    return tf.clip_by_value(x, least, greatest)


def leaky_relu(x: Any, slope: float = 0.01) -> Any:
    return tf.nn.leaky_relu(x, slope)


def silu(x: Any) -> Any:
    return x * tf.sigmoid(x)


def softmax(x: Any, axis: int, dtype: Any = None) -> Any:
    return tf.nn.softmax(cast(x, dtype), axis)


def log_softmax(x: Any, axis: int, dtype: Any = None) -> Any:
    return tf.nn.log_softmax(cast(x, dtype), axis)


def clamp(x: Any, least: Any = None, greatest: Any = None) -> Any:
    x = x if least is None else tf.maximum(*pair(x, least))
    return x if greatest is None else tf.minimum(*pair(x, greatest))


def clamp_max(x: Any, greatest: Any) -> Any:
    return clamp(x, None, greatest)


def minimum(x: Any, y: Any) -> Any:
    return tf.minimum(*pair(x, y))


def maximum(x: Any, y: Any) -> Any:
    return tf.maximum(*pair(x, y))


def where(condition: Any, x: Any, y: Any) -> Any:
    return tf.where(condition, *pair(x, y))


def masked_fill(x: Any, mask: Any, value: Any) -> Any:
    return tf.where(mask, cast(tf.convert_to_tensor(value), x.dtype), x)


def _compared(compare: Callable[..., Any]) -> Callable[..., Any]:
    def compared(x: Any, y: Any) -> Any:
        x, y = pair(x, y)
        if x.dtype.is_bool and compare not in (tf.equal, tf.not_equal):
            x, y = tf.cast(x, tf.int32), tf.cast(y, tf.int32)
        return compare(x, y)

    return compared


def both(x: Any, y: Any) -> Any:
    x, y = pair(x, y)
    return tf.logical_and(x, y) if x.dtype.is_bool else tf.bitwise.bitwise_and(x, y)


def either(x: Any, y: Any) -> Any:
    x, y = pair(x, y)
    return tf.logical_or(x, y) if x.dtype.is_bool else tf.bitwise.bitwise_or(x, y)


def bitwise_not(x: Any) -> Any:
    return tf.logical_not(x) if x.dtype.is_bool else tf.bitwise.invert(x)


def logical_and(x: Any, y: Any) -> Any:
    return tf.logical_and(tf.cast(x, tf.bool), tf.cast(y, tf.bool))


def logical_or(x: Any, y: Any) -> Any:
    return tf.logical_or(tf.cast(x, tf.bool), tf.cast(y, tf.bool))


def logical_not(x: Any) -> Any:
    return tf.logical_not(tf.cast(x, tf.bool))


def _real(x: Any) -> Any:
    return x if x.dtype.is_floating else tf.cast(x, tf.float32)


def _axes(axes: int | Sequence[int] | None) -> Any:
    """None for all axes, which torch says by an empty list too."""
    return None if axes is None or axes == [] else axes


def mean(x: Any, axes: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    return tf.reduce_mean(cast(x, dtype), _axes(axes), keepdims=keepdim)


def mean_of_all(x: Any, dtype: Any = None) -> Any:
    return mean(x, dtype=dtype)


def total(x: Any, axes: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    dtype = tf.int64 if dtype is None and not x.dtype.is_floating else dtype
    return tf.reduce_sum(cast(x, dtype), _axes(axes), keepdims=keepdim)


def total_of_all(x: Any, dtype: Any = None) -> Any:
    return total(x, dtype=dtype)


def amax(x: Any, axes: Any = None, keepdim: bool = False) -> Any:
    return tf.reduce_max(x, _axes(axes), keepdims=keepdim)


def amin(x: Any, axes: Any = None, keepdim: bool = False) -> Any:
    return tf.reduce_min(x, _axes(axes), keepdims=keepdim)


def argmax(x: Any, axis: int | None = None, keepdim: bool = False) -> Any:
    if axis is None:
        found = tf.argmax(tf.reshape(x, [-1]), 0)
        return tf.reshape(found, [1] * len(x.shape)) if keepdim else found
    found = tf.argmax(x, axis)
    return tf.expand_dims(found, axis_of(x, axis)) if keepdim else found


def any_(x: Any, axis: int, keepdim: bool = False) -> Any:
    return tf.reduce_any(tf.cast(x, tf.bool), axis, keepdims=keepdim)


def all_(x: Any, axis: int, keepdim: bool = False) -> Any:
    return tf.reduce_all(tf.cast(x, tf.bool), axis, keepdims=keepdim)


def var_mean(x: Any, axes: Any = None, correction: float | None = None, keepdim: bool = False) -> tuple[Any, Any]:
    axes = [axes] if isinstance(axes, int) else _axes(axes) or list(range(len(x.shape)))
    average = tf.reduce_mean(x, axes, keepdims=True)
    count = tf.cast(1, x.dtype)
    for axis in axes:
        count *= tf.cast(size(x, axis), x.dtype)
    less = tf.cast(1 if correction is None else correction, x.dtype)
    variance = tf.reduce_sum(tf.square(x - average), axes, keepdims=keepdim) / tf.maximum(count - less, 0)
    return variance, average if keepdim else tf.squeeze(average, axes)


def var(x: Any, axes: Any = None, correction: float | None = None, keepdim: bool = False) -> Any:
    return var_mean(x, axes, correction, keepdim)[0]


def norm(x: Any, order: float = 2, axes: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    x, axes = tf.abs(cast(x, dtype)), _axes(axes)
    if order == float("inf"):
        return tf.reduce_max(x, axes, keepdims=keepdim)
    if order == 2:
        return tf.sqrt(tf.reduce_sum(tf.square(x), axes, keepdims=keepdim))
    if order == 1:
        return tf.reduce_sum(x, axes, keepdims=keepdim)
    return tf.pow(tf.reduce_sum(tf.pow(x, order), axes, keepdims=keepdim), 1 / order)


def cumsum(x: Any, axis: int, dtype: Any = None) -> Any:
    return tf.cumsum(cast(x, tf.int64 if dtype is None and not x.dtype.is_floating else dtype), axis)


TABLE: dict[str, Callable[..., Any]] = {
    "relu": tf.nn.relu,
    "relu_": tf.nn.relu,
    "gelu": gelu,
    "silu": silu,
    "hardswish": hardswish,
    "hardsigmoid": hardsigmoid,
    "hardtanh": hardtanh,
    "leaky_relu": leaky_relu,
    "elu": elu,
    "sigmoid": tf.sigmoid,
    "tanh": tf.tanh,
    "softmax.int": softmax,
    "log_softmax.int": log_softmax,
    "add.Tensor": add,
    "sub.Tensor": sub,
    "rsub.Scalar": rsub,
    "mul.Tensor": mul,
    "div.Tensor": div,
    "addcmul": addcmul,
    "pow.Tensor_Scalar": power,
    "pow.Tensor_Tensor": power,
    "neg": neg,
    "abs": tf.abs,
    "exp": tf.exp,
    "log": tf.math.log,
    "sqrt": tf.sqrt,
    "rsqrt": tf.math.rsqrt,
    "sin": tf.sin,
    "cos": tf.cos,
    "erf": tf.math.erf,
    "clamp": clamp,
    "clamp_min": clamp,
    "clamp_max": clamp_max,
    "minimum": minimum,
    "maximum": maximum,
    "reciprocal": tf.math.reciprocal,
    "floor": tf.floor,
    "round": tf.round,
    "where.self": where,
    "where.ScalarOther": where,
    "where.ScalarSelf": where,
    "where.Scalar": where,
    "masked_fill.Scalar": masked_fill,
    "masked_fill.Tensor": masked_fill,
    **{f"eq.{kind}": _compared(tf.equal) for kind in ("Scalar", "Tensor")},
    **{f"ne.{kind}": _compared(tf.not_equal) for kind in ("Scalar", "Tensor")},
    **{f"lt.{kind}": _compared(tf.less) for kind in ("Scalar", "Tensor")},
    **{f"le.{kind}": _compared(tf.less_equal) for kind in ("Scalar", "Tensor")},
    **{f"gt.{kind}": _compared(tf.greater) for kind in ("Scalar", "Tensor")},
    **{f"ge.{kind}": _compared(tf.greater_equal) for kind in ("Scalar", "Tensor")},
    "__and__.Tensor": both,
    "__or__.Tensor": either,
    "bitwise_and.Tensor": both,
    "bitwise_or.Tensor": either,
    "bitwise_not": bitwise_not,
    "logical_and": logical_and,
    "logical_or": logical_or,
    "logical_not": logical_not,
    "mean.dim": mean,
    "mean": mean_of_all,
    "sum.dim_IntList": total,
    "sum": total_of_all,
    "amax": amax,
    "amin": amin,
    "argmax": argmax,
    "any.dim": any_,
    "all.dim": all_,
    "var.correction": var,
    "var_mean.correction": var_mean,
    "linalg_vector_norm": norm,
    "cumsum": cumsum,
}
