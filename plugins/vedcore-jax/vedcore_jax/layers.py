"""Operations of layers and of chance, with torch's arguments. Sums of half floats are taken in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

__all__ = ["LAYERS", "by_chance"]


def _wide(x: Array) -> Array:
    """Numbers to compute with: half floats as float32."""
    return x.astype(jnp.float32) if x.dtype in (jnp.bfloat16, jnp.float16) else x


def linear(x: Array, w: Array, b: Array | None = None) -> Array:
    """x W^T + b."""
    y = lax.dot_general(x, w, (((x.ndim - 1,), (w.ndim - 1,)), ((), ())))
    return y if b is None else y + b


def addmm(b: Array, x: Array, w: Array, *, beta: float = 1, alpha: float = 1) -> Array:
    """b + x W."""
    return beta * b + alpha * jnp.matmul(x, w)


def embedding(table: Array, ids: Array, padding_idx: int = -1, *_: bool) -> Array:
    """Rows of a table; that of padding gets no gradient."""
    rows = table.at[ids].get(mode="clip")
    return jnp.where((ids == padding_idx)[..., None], lax.stop_gradient(rows), rows) if padding_idx >= 0 else rows


def _normal(x: Array, axes: Sequence[int], eps: float) -> Array:
    """Numbers of mean 0 and variance 1 over axes."""
    x = _wide(x)
    centred = x - x.mean(axes, keepdims=True)
    return centred * lax.rsqrt(jnp.square(centred).mean(axes, keepdims=True) + eps)


def _scaled(x: Array, w: Array | None, b: Array | None, like: Array) -> Array:
    x = x if w is None else x * w
    return (x if b is None else x + b).astype(like.dtype)


def layer_norm(
    x: Array, shape: Sequence[int], w: Array | None = None, b: Array | None = None, eps: float = 1e-5, *_: bool
) -> Array:
    """Normalised over the last axes."""
    return _scaled(_normal(x, range(-len(shape), 0), eps), w, b, x)


def rms_norm(x: Array, shape: Sequence[int], w: Array | None = None, eps: float | None = None) -> Array:
    """Divided by the root mean square over the last axes."""
    wide = _wide(x)
    eps = float(jnp.finfo(x.dtype).eps) if eps is None else eps  # type: ignore[no-untyped-call]
    return _scaled(wide * lax.rsqrt(jnp.square(wide).mean(range(-len(shape), 0), keepdims=True) + eps), w, None, x)


def _channels(x: Array, numbers: Array) -> Array:
    """Numbers (C,) against images (N, C, ...)."""
    return numbers.reshape(1, -1, *(1,) * (x.ndim - 2))


def group_norm(
    x: Array, groups: int, w: Array | None = None, b: Array | None = None, eps: float = 1e-5, *_: bool
) -> Array:
    """Normalised over groups of channels."""
    parts = x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
    w, b = (None if each is None else _channels(x, each) for each in (w, b))
    return _scaled(_normal(parts, range(2, parts.ndim), eps).reshape(x.shape), w, b, x)


def batch_norm(
    x: Array, w: Array | None, b: Array | None, mean: Array, variance: Array, momentum: float, eps: float
) -> tuple[Array, Array, Array]:
    """Normalised by running statistics; and two tensors that are empty where nothing trains."""
    scale = lax.rsqrt(_wide(variance) + eps)
    scale = scale if w is None else scale * w
    shift = -mean * scale if b is None else b - mean * scale
    return (x * _channels(x, scale) + _channels(x, shift)).astype(x.dtype), jnp.zeros(0), jnp.zeros(0)


def softmax(x: Array, axis: int, dtype: Any = None) -> Array:
    """Softmax along an axis."""
    return jax.nn.softmax(_wide(x), axis).astype(dtype or x.dtype)


def log_softmax(x: Array, axis: int, dtype: Any = None) -> Array:
    """The logarithm of softmax."""
    return jax.nn.log_softmax(_wide(x), axis).astype(dtype or x.dtype)


def cross_entropy_loss(
    logits: Array,
    ids: Array,
    weight: Array | None = None,
    reduction: int = 1,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Array:
    """Of logits (N, V, ...) and ids (N, ...); 0, 1 and 2 reduce to each, their mean and their sum."""
    log_probs = jnp.moveaxis(jax.nn.log_softmax(_wide(logits), 1), 1, -1)  # (N, ..., V)
    counts = ids != ignore_index
    at = jnp.where(counts, ids, 0)
    weights = jnp.ones(log_probs.shape[-1], log_probs.dtype) if weight is None else weight
    share = jnp.where(counts, weights[at], 0)
    losses = -jnp.take_along_axis(log_probs, at[..., None], -1)[..., 0] * share
    if label_smoothing:
        even = jnp.where(counts, -(log_probs * weights).sum(-1), 0) / log_probs.shape[-1]
        losses = (1 - label_smoothing) * losses + label_smoothing * even
    whole = losses if reduction == 0 else losses.sum()
    return (whole / share.sum() if reduction == 1 else whole).astype(logits.dtype)


def _attention_weights(q: Array, k: Array, mask: Array | None, is_causal: bool, scale: float | None) -> Array:
    """(..., T, L) weights, in float32 at least."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = jnp.einsum("...td,...ld->...tl", q * jnp.asarray(scale, q.dtype), k)
    scores = _wide(scores)
    if is_causal:
        mask = jnp.tril(jnp.ones(scores.shape[-2:], bool))
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf) if mask.dtype == jnp.bool_ else scores + mask
    return jax.nn.softmax(scores, -1)


def attention(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    drop: Callable[[Array, float], Array] | None = None,
) -> Array:
    """softmax(q k^T scale + mask) v; with ``enable_gqa`` a head of keys serves several of queries."""
    if enable_gqa and q.shape[-3] != k.shape[-3]:
        k, v = (jnp.repeat(each, q.shape[-3] // each.shape[-3], -3) for each in (k, v))
    weights = _attention_weights(q, k, mask, is_causal, scale)
    if dropout_p and drop is not None:
        weights = drop(weights, dropout_p)
    return jnp.einsum("...tl,...ld->...td", weights.astype(v.dtype), v)


LAYERS: dict[str, Callable[..., Any]] = {
    "linear": linear,
    "matmul": jnp.matmul,
    "bmm": jnp.matmul,
    "mm": jnp.matmul,
    "addmm": addmm,
    "embedding": embedding,
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "group_norm": group_norm,
    "_native_batch_norm_legit_no_training": batch_norm,
    "softmax.int": softmax,
    "log_softmax.int": log_softmax,
    "cross_entropy_loss": cross_entropy_loss,
}


def by_chance(key: Array | None) -> dict[str, Callable[..., Any]]:
    """Operations that draw numbers, each call with a key of its own.

    Args:
        key: of `jax.random`; None drops nothing, and refuses to draw.
    """
    counted = iter(range(1 << 30))

    def following() -> Array:
        if key is None:
            raise ValueError("a key of jax.random is needed")
        return jax.random.fold_in(key, next(counted))

    def kept(x: Array, p: float) -> tuple[Array, Array]:
        """Numbers of which a share ``p`` is 0 and the others scaled up, and which are not."""
        mask = jax.random.bernoulli(following(), 1 - p, x.shape)
        return jnp.where(mask, x / (1 - p), 0).astype(x.dtype) if p < 1 else jnp.zeros_like(x), mask

    def native_dropout(x: Array, p: float, train: bool | None = True) -> tuple[Array, Array]:
        return kept(x, p) if train and p and key is not None else (x, jnp.ones(x.shape, bool))

    def dropout(x: Array, p: float, train: bool) -> Array:
        return native_dropout(x, p, train)[0]

    def bernoulli(x: Array, p: float) -> Array:
        if key is None:  # layers are left out by it: with no key, none is
            return jnp.ones_like(x)
        return jax.random.bernoulli(following(), p, x.shape).astype(x.dtype)

    def rand(size: Sequence[int], dtype: Any = None) -> Array:
        return jax.random.uniform(following(), tuple(size), dtype or jnp.float32)

    def scaled_dot_product_attention(*args: Any, **kwargs: Any) -> Array:
        return attention(*args, **kwargs, drop=None if key is None else lambda x, p: kept(x, p)[0])

    return {
        "native_dropout": native_dropout,
        "dropout": dropout,
        "bernoulli.p": bernoulli,
        "rand": rand,
        "scaled_dot_product_attention": scaled_dot_product_attention,
    }
