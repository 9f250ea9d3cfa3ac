"""The operations of graphs in `jax.numpy`, with torch's arguments, by the names in `vedcore.export.OPERATIONS`.

Those on sizes are the interpreter's own, and those that draw numbers are made for each run, with a key.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from vedcore_jax.images import IMAGES
from vedcore_jax.layers import LAYERS, by_chance

__all__ = ["OPERATIONS", "operations"]

Axes = int | Sequence[int] | None
Operation = Callable[..., Any]


def _axes(axes: Axes) -> int | tuple[int, ...] | None:
    """Axes as NumPy names them; torch's empty list is all."""
    return axes if isinstance(axes, int) or axes is None else tuple(axes) or None


def _floats(x: Array) -> Array:
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(jnp.float32)


def mean(x: Array, axes: Axes = None, keepdim: bool = False, *, dtype: Any = None) -> Array:
    """Mean over axes."""
    return x.mean(_axes(axes), keepdims=keepdim, dtype=dtype)


def total(x: Array, axes: Axes = None, keepdim: bool = False, *, dtype: Any = None) -> Array:
    """Sum over axes."""
    return x.sum(_axes(axes), keepdims=keepdim, dtype=dtype)


def over(reduce: Operation) -> Operation:
    """A reduction with torch's names."""

    def reduced(x: Array, axes: Axes = None, keepdim: bool = False) -> Array:
        return reduce(x, _axes(axes), keepdims=keepdim)  # type: ignore[no-any-return]

    return reduced


def var(x: Array, axes: Axes = None, *, correction: float | None = None, keepdim: bool = False) -> Array:
    """Variance over axes."""
    return jnp.var(x, _axes(axes), correction=1 if correction is None else correction, keepdims=keepdim)


def var_mean(x: Array, axes: Axes = None, *, correction: float | None = None, keepdim: bool = False) -> Any:
    """Variance and mean over axes."""
    return var(x, axes, correction=correction, keepdim=keepdim), x.mean(_axes(axes), keepdims=keepdim)


def norm(x: Array, order: float = 2, axes: Axes = None, keepdim: bool = False, *, dtype: Any = None) -> Array:
    """Norm over axes."""
    x = abs(x if dtype is None else x.astype(dtype))
    if order in (float("inf"), float("-inf")):
        return (jnp.max if order > 0 else jnp.min)(x, _axes(axes), keepdims=keepdim)
    if order == 2:
        return jnp.sqrt(jnp.square(x).sum(_axes(axes), keepdims=keepdim))
    if order == 0:
        return (x != 0).sum(_axes(axes), keepdims=keepdim).astype(x.dtype)
    return (x**order).sum(_axes(axes), keepdims=keepdim) ** (1 / order)


def clamp(x: Array, low: Any = None, high: Any = None) -> Array:
    """x between two bounds."""
    x = x if low is None else jnp.maximum(x, low)
    return x if high is None else jnp.minimum(x, high)


def elu(x: Array, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Array:
    """x, exponential below 0."""
    return scale * jnp.where(x > 0, x, alpha * jnp.expm1(jnp.where(x > 0, 0.0, x) * input_scale))


def expand(x: Array, sizes: Sequence[int], *, implicit: bool = False) -> Array:
    """Repeated along axes of size 1."""
    lead = len(sizes) - x.ndim
    shape = [x.shape[i - lead] if i >= lead and size == -1 else size for i, size in enumerate(sizes)]
    return jnp.broadcast_to(x, shape)


def unflatten(x: Array, axis: int, sizes: Sequence[int]) -> Array:
    """An axis split."""
    axis %= x.ndim
    return x.reshape(*x.shape[:axis], *sizes, *x.shape[axis + 1 :])


def flatten(x: Array, first: int = 0, last: int = -1) -> Array:
    """Axes joined."""
    first, last = first % x.ndim, last % x.ndim
    return x.reshape(*x.shape[:first], -1, *x.shape[last + 1 :])


def squeeze(x: Array, axes: int | Sequence[int]) -> Array:
    """Axes removed, those of size 1."""
    wanted = (axes,) if isinstance(axes, int) else axes
    return jnp.squeeze(x, tuple(axis for axis in wanted if x.shape[axis] == 1))


def split(x: Array, sizes: int | Sequence[int], axis: int = 0) -> list[Array]:
    """Parts along an axis, of a size or of several sizes."""
    if isinstance(sizes, int):
        ends = list(range(sizes, x.shape[axis], sizes))
    else:
        ends = list(itertools.accumulate(sizes))[:-1]
    return jnp.split(x, ends, axis)


def chunk(x: Array, count: int, axis: int = 0) -> list[Array]:
    """So many parts along an axis, or fewer."""
    return split(x, -(-x.shape[axis] // count), axis)


def unbind(x: Array, axis: int = 0) -> list[Array]:
    """Each along an axis, which goes."""
    return [lax.index_in_dim(x, i, axis, keepdims=False) for i in range(x.shape[axis])]


def select(x: Array, axis: int, place: int) -> Array:
    """One along an axis, which goes."""
    return lax.index_in_dim(x, place, axis, keepdims=False)


def slices(x: Array, axis: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Array:
    """From, to and by steps along an axis."""
    if isinstance(end, int) and end >= 1 << 62:  # the greatest number stands for the end of the axis
        end = None
    if isinstance(start, int) and start == 0:
        start = None
    if start is None and end is None and step == 1:
        return x
    return x[(slice(None),) * (axis % x.ndim) + (slice(start, end, step),)]


def index(x: Array, places: Sequence[Array | None]) -> Array:
    """By tensors of places, None for a whole axis."""
    return x[tuple(slice(None) if each is None else each for each in places)]


_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def pad(x: Array, sizes: Sequence[int], mode: str = "constant", value: float | None = None) -> Array:
    """A border; the last axis first, and a negative one cuts."""
    pairs = [(0, 0)] * (x.ndim - len(sizes) // 2) + list(zip(sizes[-2::-2], sizes[::-2], strict=True))
    if mode != "constant":
        return jnp.pad(x, pairs, mode=_MODES[mode])
    return lax.pad(x, jnp.asarray(value or 0, x.dtype), [(low, high, 0) for low, high in pairs])


def roll(x: Array, shifts: int | Sequence[int], axes: Axes = ()) -> Array:
    """Shifted around."""
    shift = shifts[0] if not isinstance(shifts, int) and len(shifts) == 1 else shifts
    if _axes(axes) is None:
        return jnp.roll(x, shift)
    return jnp.roll(x, shifts if isinstance(shifts, int) else tuple(shifts), _axes(axes))


def repeat(x: Array, times: Sequence[int]) -> Array:
    """Repeated along axes."""
    return jnp.tile(x, tuple(times))


def gather(x: Array, axis: int, places: Array, *, sparse_grad: bool = False) -> Array:
    """By places along an axis, number by number."""
    at = list(jnp.indices(places.shape, sparse=True))
    at[axis] = places
    return x[tuple(at)]


def full(size: Sequence[int], value: Any, *, dtype: Any = None) -> Array:
    """A number everywhere."""
    return jnp.full(tuple(size), value, dtype)


def filled(value: Any) -> Operation:
    """A new tensor of a size with a number everywhere."""
    return lambda size, *, dtype=None: jnp.full(tuple(size), value, dtype or jnp.float32)


def filled_like(value: Any) -> Operation:
    """A tensor like another with a number everywhere."""
    return lambda x, *, dtype=None: jnp.full(x.shape, value, dtype or x.dtype)


def newly_filled(value: Any) -> Operation:
    """A tensor of a size and of another's type with a number everywhere."""
    return lambda x, size, *, dtype=None: jnp.full(tuple(size), value, dtype or x.dtype)


def to_copy(x: Array, *, dtype: Any = None) -> Array:
    """As another type."""
    return x if dtype is None else x.astype(dtype)


def gelu(x: Array, *, approximate: str = "none") -> Array:
    """x Phi(x)."""
    return jax.nn.gelu(x, approximate=approximate == "tanh")


def same(x: Array, **_: Any) -> Array:
    """The same."""
    return x


def _view(x: Array, shape: Sequence[int]) -> Array:
    return x.reshape(tuple(shape))


def _where(condition: Array, x: Any, y: Any) -> Array:
    return jnp.where(condition, x, y)


def _masked_fill(x: Array, mask: Array, value: Any) -> Array:
    return jnp.where(mask, jnp.asarray(value, x.dtype), x)


_BOTH: dict[str, Operation] = {  # of two tensors, and of a tensor and a number
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}
_REPEATED: dict[str, Operation] = {  # under several names
    "relu relu_": jax.nn.relu,
    "pow.Tensor_Scalar pow.Tensor_Tensor": operator.pow,
    "where.self where.ScalarOther where.ScalarSelf where.Scalar": _where,
    "masked_fill.Scalar masked_fill.Tensor": _masked_fill,
    "__and__.Tensor bitwise_and.Tensor": jnp.bitwise_and,
    "__or__.Tensor bitwise_or.Tensor": jnp.bitwise_or,
    "mean mean.dim": mean,
    "sum sum.dim_IntList": total,
    "view _unsafe_view reshape": _view,
    "squeeze.dim squeeze.dims": squeeze,
    "split.Tensor split_with_sizes": split,
    "zeros empty.memory_format": filled(0),
    "ones": filled(1),
    "zeros_like empty_like": filled_like(0),
    "ones_like": filled_like(1),
    "new_zeros new_empty": newly_filled(0),
    "new_ones": newly_filled(1),
    "lift_fresh_copy clone contiguous alias": same,
    "detach detach_": lax.stop_gradient,
}
OPERATIONS: dict[str, Operation] = {
    **IMAGES,
    **LAYERS,
    **{f"{name}.{kind}": each for name, each in _BOTH.items() for kind in ("Tensor", "Scalar")},
    **{name: each for names, each in _REPEATED.items() for name in names.split()},
    "sym_size.int": lambda x, axis: x.shape[axis],
    "gelu": gelu,
    "silu": jax.nn.silu,
    "hardswish": jax.nn.hard_swish,
    "hardsigmoid": jax.nn.hard_sigmoid,
    "hardtanh": lambda x, low=-1.0, high=1.0: jnp.clip(x, low, high),
    "leaky_relu": lambda x, slope=0.01: jnp.where(x > 0, x, slope * x),
    "elu": elu,
    "sigmoid": lambda x: jax.nn.sigmoid(_floats(x)),
    "tanh": jnp.tanh,
    "add.Tensor": lambda x, y, *, alpha=1: jnp.add(x, y) if alpha == 1 else x + alpha * y,
    "sub.Tensor": lambda x, y, *, alpha=1: jnp.subtract(x, y) if alpha == 1 else x - alpha * y,
    "rsub.Scalar": lambda x, y, alpha=1: y - alpha * x,
    "mul.Tensor": jnp.multiply,
    "div.Tensor": jnp.true_divide,
    "neg": operator.neg,
    "abs": abs,
    "exp": jnp.exp,
    "log": jnp.log,
    "sqrt": jnp.sqrt,
    "rsqrt": lambda x: lax.rsqrt(_floats(x)),
    "sin": jnp.sin,
    "cos": jnp.cos,
    "erf": lambda x: lax.erf(_floats(x)),
    "clamp": clamp,
    "clamp_min": jnp.maximum,
    "clamp_max": jnp.minimum,
    "minimum": jnp.minimum,
    "maximum": jnp.maximum,
    "reciprocal": lambda x: 1 / x,
    "floor": jnp.floor,
    "round": jnp.round,
    "bitwise_not": jnp.bitwise_not,
    "logical_and": jnp.logical_and,
    "logical_or": jnp.logical_or,
    "logical_not": jnp.logical_not,
    "amax": over(jnp.max),
    "amin": over(jnp.min),
    "argmax": over(jnp.argmax),
    "any.dim": over(jnp.any),
    "all.dim": over(jnp.all),
    "var.correction": var,
    "var_mean.correction": var_mean,
    "linalg_vector_norm": norm,
    "cumsum": lambda x, axis, *, dtype=None: jnp.cumsum(x, axis, dtype or (int if x.dtype == bool else None)),
    "flatten.using_ints": flatten,
    "unflatten.int": unflatten,
    "expand": expand,
    "permute": lambda x, axes: jnp.transpose(x, tuple(axes)),
    "transpose.int": jnp.swapaxes,
    "t": lambda x: x.T,
    "unsqueeze": lambda x, axis: jnp.expand_dims(x, axis),
    "cat": lambda parts, axis=0: jnp.concatenate([each for each in parts if each.shape != (0,)], axis),
    "stack": lambda parts, axis=0: jnp.stack(parts, axis),
    "chunk": chunk,
    "unbind.int": unbind,
    "select.int": select,
    "slice.Tensor": slices,
    "index.Tensor": index,
    "index_select": lambda x, axis, places: jnp.take(x, places, axis),
    "gather": gather,
    "pad": pad,
    "constant_pad_nd": lambda x, sizes, value=0: pad(x, sizes, "constant", value),
    "roll": roll,
    "flip": lambda x, axes: jnp.flip(x, tuple(axes)),
    "repeat": repeat,
    "repeat_interleave.self_int": lambda x, times, axis=None, **_: jnp.repeat(x, times, axis),
    "tril": jnp.tril,
    "triu": jnp.triu,
    "arange": lambda end, *, dtype=None: jnp.arange(end, dtype=dtype),
    "arange.start": lambda start, end, *, dtype=None: jnp.arange(start, end, dtype=dtype),
    "arange.start_step": lambda start, end, step=1, *, dtype=None: jnp.arange(start, end, step, dtype=dtype),
    "full": full,
    "full_like": lambda x, value, *, dtype=None: jnp.full(x.shape, value, dtype or x.dtype),
    "new_full": lambda x, size, value, *, dtype=None: jnp.full(tuple(size), value, dtype or x.dtype),
    "scalar_tensor": lambda value, *, dtype=None: jnp.asarray(value, dtype),
    "_to_copy": to_copy,
    "type_as": lambda x, other: x.astype(other.dtype),
    "einsum": lambda equation, parts, **_: jnp.einsum(equation, *parts),
    "addcmul": lambda x, y, z, *, value=1: x + value * y * z,
}


def operations(key: Array | None = None) -> dict[str, Operation]:
    """All operations; those that draw numbers with a key of their own each, folded from ``key``."""
    return OPERATIONS | by_chance(key)
