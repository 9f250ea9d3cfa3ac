"""Layers: products, norms, attention, the loss, and chance. Images are (N, C, H, W), as in torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from vedcore_tensorflow.operations.filled import full
from vedcore_tensorflow.operations.shapes import moved
from vedcore_tensorflow.operations.sizes import cast, shape, shape_of, size

__all__ = ["TABLE"]

EPSILON = {
    tf.float64: 2.220446049250313e-16,
    tf.float32: 1.1920928955078125e-07,
    tf.float16: 0.0009765625,
    tf.bfloat16: 0.0078125,
}
"""Of each type: torch's default for ``rms_norm``."""


def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    rows = tf.reshape(x, shape([-1, size(x, -1)]))  # one product of matrices, and not one an image
    rows = tf.matmul(rows, weight, transpose_b=True)
    rows = rows if bias is None else tf.nn.bias_add(rows, bias)
    return tf.reshape(rows, shape([*shape_of(x)[:-1], size(weight, 0)]))


def matmul(x: Any, y: Any) -> Any:
    if len(x.shape) == 1 or len(y.shape) == 1:
        left, right = len(x.shape) == 1, len(y.shape) == 1
        found = tf.matmul(x[None] if left else x, y[:, None] if right else y)
        found = tf.squeeze(found, -1) if right else found
        return tf.squeeze(found, -1 if right else -2) if left else found
    return tf.matmul(x, y)


def addmm(bias: Any, x: Any, y: Any, beta: float = 1, alpha: float = 1) -> Any:
    return beta * bias + alpha * tf.matmul(x, y)


def einsum(equation: str, tensors: Sequence[Any], path: Any = None) -> Any:
    del path
    return tf.einsum(equation, *tensors)


def embedding(weight: Any, ids: Any, padding: int = -1, scale: bool = False, sparse: bool = False) -> Any:
    del scale, sparse
    found = tf.gather(weight, ids)
    if padding < 0:
        return found
    return tf.where((ids == padding)[..., None], tf.stop_gradient(found), found)


def _normalised(x: Any, axes: Sequence[int], epsilon: float) -> Any:
    centered = x - tf.reduce_mean(x, axes, keepdims=True)
    variance = tf.reduce_mean(tf.square(centered), axes, keepdims=True)
    return centered * tf.math.rsqrt(variance + tf.cast(epsilon, x.dtype))


def _wide(x: Any) -> Any:
    """Numbers of 16 bits as float32, in which torch sums too."""
    return tf.cast(x, tf.float32) if x.dtype.size < 4 else x


def _scaled(x: Any, weight: Any, bias: Any) -> Any:
    x = x if weight is None else x * cast(weight, x.dtype)
    return x if bias is None else x + cast(bias, x.dtype)


def layer_norm(
    x: Any, sizes: Sequence[int], weight: Any = None, bias: Any = None, epsilon: float = 1e-5, cudnn: bool = True
) -> Any:
    del cudnn
    found = _normalised(_wide(x), [-1 - i for i in range(len(sizes))], epsilon)
    return cast(_scaled(found, weight, bias), x.dtype)


def rms_norm(x: Any, sizes: Sequence[int], weight: Any = None, epsilon: float | None = None) -> Any:
    axes = [-1 - i for i in range(len(sizes))]
    epsilon = EPSILON[x.dtype] if epsilon is None else epsilon
    wide = _wide(x)
    square = tf.reduce_mean(tf.square(wide), axes, keepdims=True)
    return cast(_scaled(wide * tf.math.rsqrt(square + tf.cast(epsilon, wide.dtype)), weight, None), x.dtype)


def _by_channel(tensor: Any, rank: int) -> Any:
    """(C,) as it is multiplied with (N, C, ...)."""
    return None if tensor is None else tf.reshape(tensor, [-1] + [1] * (rank - 2))


def group_norm(
    x: Any, groups: int, weight: Any = None, bias: Any = None, epsilon: float = 1e-5, cudnn: bool = True
) -> Any:
    del cudnn
    sizes = shape_of(x)
    found = _normalised(tf.reshape(_wide(x), shape([sizes[0], groups, -1])), [2], epsilon)
    found = tf.reshape(found, shape(sizes))
    return cast(_scaled(found, _by_channel(weight, len(sizes)), _by_channel(bias, len(sizes))), x.dtype)


def batch_norm(
    x: Any,
    weight: Any,
    bias: Any,
    mean: Any,
    variance: Any,
    training: bool,
    momentum: float,
    epsilon: float,
    cudnn: bool,
) -> Any:
    """By the running statistics; a graph that was recorded with those of the batch has them, and changes none."""
    del momentum, cudnn
    rank = len(x.shape)
    if training or mean is None:
        axes = [axis for axis in range(rank) if axis != 1]
        return _scaled(_normalised(x, axes, epsilon), _by_channel(weight, rank), _by_channel(bias, rank))
    scale = tf.math.rsqrt(variance + tf.cast(epsilon, variance.dtype))
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    return x * _by_channel(scale, rank) + _by_channel(shift, rank)


def batch_norm_inference(
    x: Any, weight: Any, bias: Any, mean: Any, variance: Any, momentum: float, epsilon: float
) -> tuple[Any, Any, Any]:
    """By the running statistics; two results that are empty then come with it."""
    found = batch_norm(x, weight, bias, mean, variance, False, momentum, epsilon, False)
    return found, tf.zeros([0], x.dtype), tf.zeros([0], x.dtype)


def attention(
    queries: Any,
    keys: Any,
    values: Any,
    mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """(..., G, T, K) queries, (..., G', L, K) keys and values; a mask is True where a token attends, or is added."""
    dtype, width = queries.dtype, queries.shape[-1]
    if enable_gqa:
        times = queries.shape[-3] // keys.shape[-3]
        keys, values = (tf.repeat(each, times, axis=len(each.shape) - 3) for each in (keys, values))
    scores = tf.matmul(queries * tf.cast(width**-0.5 if scale is None else scale, dtype), keys, transpose_b=True)
    if is_causal:
        mask = tf.range(size(keys, -2))[None] <= tf.range(size(queries, -2))[:, None]
    if mask is not None and mask.dtype.is_bool:
        scores = tf.where(mask, scores, tf.cast(dtype.min, dtype))
    elif mask is not None:
        scores = scores + cast(mask, dtype)
    weights = cast(tf.nn.softmax(_wide(scores)), dtype)
    return tf.matmul(dropout(weights, dropout_p, True), values)


def cross_entropy(
    logits: Any, labels: Any, weight: Any = None, reduction: int = 1, ignored: int = -100, smoothing: float = 0.0
) -> Any:
    """Of logits (N, V, ...) and ids (N, ...); ``reduction`` is 0 for each, 1 for the mean, 2 for the sum."""
    if len(logits.shape) > 1:
        logits = moved(logits, 1, len(logits.shape) - 1)
    log_probs, counts = tf.nn.log_softmax(logits), labels != ignored
    ids = tf.where(counts, labels, tf.zeros_like(labels))
    shares = tf.cast(counts, logits.dtype)
    shares = shares if weight is None else shares * tf.gather(weight, ids)
    losses = -tf.gather(log_probs, ids, batch_dims=len(ids.shape)) * shares
    if smoothing:
        weighted = log_probs if weight is None else log_probs * weight
        even = -tf.reduce_sum(weighted, -1) * tf.cast(counts, logits.dtype)
        losses = (1 - smoothing) * losses + smoothing / logits.shape[-1] * even
    if reduction == 0:
        return losses
    return tf.reduce_sum(losses) / tf.reduce_sum(shares) if reduction == 1 else tf.reduce_sum(losses)


def native_dropout(x: Any, p: float, train: bool | None = True) -> tuple[Any, Any]:
    if not train or not p:
        return x, tf.ones_like(x, tf.bool)
    kept = tf.random.uniform(tf.shape(x), dtype=x.dtype) >= tf.cast(p, x.dtype)
    return tf.where(kept, x / tf.cast(1 - p, x.dtype), tf.zeros_like(x)) if p < 1 else tf.zeros_like(x), kept


def dropout(x: Any, p: float, train: bool) -> Any:
    return native_dropout(x, p, train)[0]


def bernoulli(x: Any, p: float) -> Any:
    return tf.cast(tf.random.uniform(tf.shape(x), dtype=x.dtype) < tf.cast(p, x.dtype), x.dtype)


def rand(sizes: Sequence[Any], dtype: Any = None) -> Any:
    return tf.random.uniform(tf.shape(full(sizes, 0)), dtype=dtype or tf.float32)


TABLE: dict[str, Callable[..., Any]] = {
    "linear": linear,
    "matmul": matmul,
    "bmm": tf.matmul,
    "addmm": addmm,
    "mm": tf.matmul,
    "einsum": einsum,
    "embedding": embedding,
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "group_norm": group_norm,
    "batch_norm": batch_norm,
    "_native_batch_norm_legit_no_training": batch_norm_inference,
    "scaled_dot_product_attention": attention,
    "cross_entropy_loss": cross_entropy,
    "native_dropout": native_dropout,
    "dropout": dropout,
    "bernoulli.p": bernoulli,
    "rand": rand,
}
