"""Matrix products through oneDNN, on CPUs where they are faster.

``F.linear`` runs float32 products on MKL, which on AMD reaches less than half of the speed of oneDNN with the same
weights, and on Intel is slower for 4 to 63 rows. For few rows, as in generation, oneDNN is fastest with weights in its
blocked layout; in bfloat16 it is so for any number of rows. The operation is private to torch, so it is tried, checked
and, for each magnitude of rows and weights, timed once before it is used. ``torch.backends.mkldnn.enabled = False``
turns it off.

Shape letters: M rows, I input width, O output width.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vedcore.layers.tracing import is_traced

__all__ = [
    "fused",
    "is_faster",
    "is_on",
    "is_right",
    "one_of_few",
    "packed",
    "product",
    "suits",
]

_PACKED_ROWS = 128
"""Rows that weights are packed for: these blocks are fast for one row and for many."""
_ROWS_OF_AN_IMAGE = 577
"""Rows of the timed product that stands for 64 rows and more, with plain weights, as encoders have them."""
_BITS_OF_MANY, _BITS_OF_FEW = 7, 4
"""Binary digits of 64 rows, from which on all count as many, and of the 8 that stand for all rows in bfloat16."""
_MAX_SMALL_WEIGHTS = 1 << 18
"""Weights of a small layer: the core's cache holds them, and a call may take longer than the product itself."""
MAX_SMALL_SIZE = 16
"""Sizes up to this are never rounded."""
_DTYPES = (torch.float32, torch.bfloat16)
_FUSED = {F.gelu: ("gelu", "none"), F.relu: ("relu", ""), F.silu: ("swish", ""), torch.tanh: ("tanh", "")}


def product(x: Tensor, weight: Tensor, bias: Tensor | None, activation: tuple[str, str] = ("none", "")) -> Tensor:
    """A linear layer and an activation, without gradient.

    Args:
        x: (…, I).
        weight: (O, I), plain or `packed`.
        bias: (O,).
        activation: as `fused` returns it; the default is none.

    Returns:
        (…, O).
    """
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation[0], [], activation[1])
    return out


def fused(activation: object) -> tuple[str, str] | None:
    """The arguments of `product` for an activation, a module or function; None where it cannot fuse it."""
    if isinstance(activation, nn.GELU):
        return "gelu", activation.approximate
    if isinstance(activation, partial) and activation.func is F.gelu:
        return "gelu", activation.keywords.get("approximate", "none")
    return _FUSED.get(activation)  # type: ignore[call-overload, no-any-return]


def packed(weight: Tensor) -> Tensor:
    """The (O, I) weight in oneDNN's blocked layout; ``.to_dense()`` restores it bit for bit."""
    out: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), _PACKED_ROWS)
    return out


def is_on() -> bool:
    """Whether oneDNN is enabled and autocast is off."""
    enabled = torch._C._get_mkldnn_enabled()  # what `mkldnn.enabled` asks too, by way of more Python: a step asks often
    return enabled and not torch.is_autocast_enabled("cpu")


def suits(x: Tensor, weights: int) -> bool:
    """Whether `product` is the kernel for ``x`` and a layer of so many weights, under torch's current modes."""
    return (
        not is_traced()
        and not torch.is_grad_enabled()
        and x.is_cpu
        and x.dtype in _DTYPES
        and x.ndim > 1
        and x.numel() > 0
        and is_on()
        and is_faster(x.dtype, x.numel() // x.shape[-1], weights)
    )


def one_of_few(size: int) -> int:
    """The size of a tensor that oneDNN is to get in place of one of ``size``, so that it sees few.

    oneDNN and torch keep what they compile for each size, 0.3 MB a product. It is greater by at most an eighth, and
    the usual sizes of images, such as 224, 384 and 1920, stay as they are.
    """
    step = 1 << max(0, size.bit_length() - 4)
    return -(-size // step) * step


@functools.cache
def is_right(dtype: torch.dtype) -> bool:
    """Whether this build of torch has the product, with the results of ``F.linear``."""
    if dtype not in _DTYPES or not torch._C._has_mkldnn:
        return False
    x, weight = _sample(dtype)
    tolerance = 1e-3 if dtype == torch.float32 else 0.5  # of numbers around 28
    with torch.no_grad():
        plain = F.linear(x, weight)
        try:
            return all(bool((product(x, w, None) - plain).abs().max() < tolerance) for w in (weight, packed(weight)))
        except (AttributeError, RuntimeError):  # missing in this build; NotImplementedError is a RuntimeError
            return False


def is_faster(dtype: torch.dtype, rows: int, weights: int) -> bool:
    """Whether `product` is right and faster than ``F.linear`` on this machine, for so many rows and weights.

    A product of each kind is timed once, in milliseconds. Kinds are small and large layers, and in float32 rows: 1, 2
    to 3, 4 to 7, 8 to 15, 16 to 31, 32 to 63, and more.
    """
    bits = min(max(rows, 1).bit_length(), _BITS_OF_MANY) if dtype == torch.float32 else _BITS_OF_FEW
    return _is_faster(dtype, bits, weights <= _MAX_SMALL_WEIGHTS)


@functools.cache
def _is_faster(dtype: torch.dtype, bits: int, small: bool) -> bool:
    if not is_right(dtype):
        return False
    many = bits == _BITS_OF_MANY
    width = 256 if small else 768
    x = torch.ones(_ROWS_OF_AN_IMAGE if many else 1 << bits - 1, width, dtype=dtype)
    weight = torch.ones(width if many or small else 3072, width, dtype=dtype)
    ours = plain = math.inf  # the minimum over alternating runs, as other programs disturb single ones
    with torch.no_grad():
        blocks = weight if many else packed(weight)
        for turn in range(10):
            ours = min(ours, _seconds(lambda: product(x, blocks, None)))
            plain = min(plain, _seconds(lambda: F.linear(x, weight)))
            if turn > 2 and not 0.8 * plain < ours < 1.25 * plain:  # clear enough to stop
                break
    return ours < plain


def _sample(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Four rows and a weight, (4, 768) and (768, 768)."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, 768, generator=generator).to(dtype) for n in (4, 768))
    return x, weight


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
