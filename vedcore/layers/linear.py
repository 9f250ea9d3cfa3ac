"""The one seam where the kernel of a layer is chosen, and the initialisation that language models use.

Every linear layer of a model is a `SeamLinear`. Without gradients it runs on the fastest kernel of the machine
(`vedcore.layers.onednn`), else on ``F.linear``. `pack` makes copies of the weights, reordered for generation.

Shape letters: M rows, I input width, O output width, D width, V vocabulary size.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vedcore.layers import onednn
from vedcore.layers.tracing import is_traced

__all__ = [
    "PACKING_LOCK",
    "Embedding",
    "Linear",
    "SeamConv2d",
    "SeamLinear",
    "Stamp",
    "activated",
    "apply_together",
    "is_plain",
    "output_layer",
    "pack",
    "refresh",
    "use_seam",
]


MAX_EXACT_ROWS = 8
"""Numbers of rows that a layer takes as they are, before it rounds others: most programs have no more."""
USUAL_ROWS = 8
"""Rows of a step by which weights are packed, whatever the first text has: else its history would show in last bits."""
MAX_SAMPLES = 8
"""Rows, and columns, of the grid of values by which a change of a weight shows that torch does not count."""

PACKING_LOCK = threading.Lock()
"""Held by the thread that packs, so that no other packs the same."""


class Stamp(NamedTuple):
    """A parameter of a layer as it was when it was packed."""

    of_layer: Mapping[str, Tensor | None]
    """The layer's parameters, by name."""
    name: str
    parameter: Tensor
    version: int | None
    """None where torch counts none."""
    address: int
    sample: Tensor

    @classmethod
    def of(cls, layer: nn.Module, name: str) -> Stamp:
        parameter: Tensor = getattr(layer, name)
        version = None if parameter.is_inference() else parameter._version
        return cls(layer._parameters, name, parameter, version, parameter.data_ptr(), _sample(parameter).clone())

    @property
    def is_equal(self) -> bool:
        """Whether the parameter is unchanged, by a look at some of its values too."""
        of_layer, name, parameter, version, address, sample = self
        same = of_layer.get(name) is parameter and parameter.data_ptr() == address
        counted = version is None or parameter._version == version
        return same and counted and torch.equal(_sample(parameter), sample)


class _Packed(NamedTuple):
    """The packed weight of one layer, or of several with the same input, concatenated along the output width."""

    blocks: Tensor
    """The weight in oneDNN's blocked layout."""
    bias: Tensor | None
    """The concatenated biases; None where the layer is alone."""
    layers: tuple[SeamLinear, ...]
    stamps: tuple[Stamp, ...]
    """Of each layer's weight, and of its bias where biases are concatenated."""

    @property
    def is_current(self) -> bool:
        """Whether the plain weights are unchanged, as far as torch counts changes: not those through ``.data``."""
        for of_layer, name, parameter, version, address, _ in self.stamps:  # in each product: nothing is called twice
            if of_layer.get(name) is not parameter or parameter.data_ptr() != address:
                return False
            if version is not None and parameter._version != version:
                return False
        return True

    @property
    def is_equal(self) -> bool:
        """Whether the plain weights are unchanged, by a look at some of their values too."""
        return all(stamp.is_equal for stamp in self.stamps)


class SeamLinear(nn.Linear):
    """``nn.Linear`` that takes the fastest kernel, and may have a packed copy of its weight.

    The copy is a cache: products use it while the plain weight is as it was. Changes through ``.data``, which torch
    does not count, are found by `refresh` and `pack`. Moving, training and copying the layer drop the copy.
    """

    _packed: _Packed | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) to (…, O)."""
        out = self.fast(x)
        return F.linear(x, self.weight, self.bias) if out is None else out

    def fast(self, x: Tensor, activation: tuple[str, str] = ("none", "")) -> Tensor | None:
        """(…, I) to (…, O), with an activation of `onednn.fused`; None where ``F.linear`` has to do it."""
        if not onednn.suits(x, self.in_features * self.out_features):
            return None
        found = self._packed
        if found is not None and len(found.layers) == 1 and found.blocks.dtype == x.dtype and found.is_current:
            return self.product(x, found.blocks, self.bias, activation)
        weight, bias = self.weight, self.bias
        if weight.dtype != x.dtype or not is_plain(weight):
            return None
        if not (weight.is_contiguous() or weight.t().is_contiguous()):
            return None  # oneDNN is a hundred times slower with a strided view of a larger weight
        return self.product(x, weight, bias, activation)

    def joined(self, x: Tensor, layers: tuple[SeamLinear, ...]) -> Tensor | None:
        """(…, I) to the outputs of all ``layers`` side by side; None where they are not packed together."""
        if not onednn.suits(x, self.in_features * self.out_features * len(layers)):
            return None
        found = self._packed
        if found is None or found.layers != layers or found.blocks.dtype != x.dtype:
            return None
        if not found.is_current or _is_hooked(*layers):
            return None
        return self.product(x, found.blocks, found.bias)

    def product(self, x: Tensor, *rest: Any) -> Tensor:
        """`onednn.product`, with zeros behind the rows of ``x`` where that spares it a new number of rows.

        The result is the same bit for bit, so it does not matter which numbers were first.
        """
        rows = x.numel() // self.in_features
        if rows <= onednn.MAX_SMALL_SIZE:
            return onednn.product(x, *rest)
        seen: set[int] = self.__dict__.setdefault("_rows", set())
        if len(seen) < MAX_EXACT_ROWS:
            seen.add(rows)
        padding = 0 if rows in seen else onednn.one_of_few(rows) - rows
        if not padding:
            return onednn.product(x, *rest)
        out = onednn.product(F.pad(x.reshape(rows, -1), (0, 0, 0, padding)), *rest)
        return out[:rows].view(*x.shape[:-1], -1)

    def train(self, mode: bool = True) -> Self:
        """As ``nn.Module.train``; the weights that are about to change are not kept twice."""
        if mode:
            self._packed = None
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        self._packed = None
        return super()._apply(*args, **kwargs)  # type: ignore[no-any-return, no-untyped-call]

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]
        return {name: value for name, value in state.items() if name not in ("_packed", "_rows")}


class SeamConv2d(nn.Conv2d):
    """``nn.Conv2d`` that computes images of many sizes in a few sizes: without gradients, on a CPU.

    A size alone decides which it becomes: the last bits of a result depend on it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H', W')."""
        plain = not is_traced() and not torch.is_grad_enabled() and x.is_cpu and x.numel() > 0
        if not plain or self.padding_mode != "zeros" or isinstance(self.padding, str):
            return super().forward(x)
        more = [onednn.one_of_few(size) - size for size in x.shape[-2:]]
        if not any(more):
            return super().forward(x)
        out = super().forward(F.pad(x, (0, more[1], 0, more[0])))  # as the zeros that a convolution puts there itself
        sizes = zip(x.shape[-2:], self.padding, self.dilation, self.kernel_size, self.stride, strict=True)
        height, width = ((size + 2 * p - d * (k - 1) - 1) // s + 1 for size, p, d, k, s in sizes)
        return out[..., :height, :width]


def apply_together(x: Tensor, *layers: SeamLinear) -> tuple[Tensor, ...]:
    """The outputs (…, O) of layers with the same input (…, I), in one product where they are packed together."""
    joined = getattr(layers[0], "joined", None)  # an adapter may have replaced the layer
    whole = None if joined is None else joined(x, layers)
    if whole is None:
        return tuple(layer(x) for layer in layers)
    return torch.split_with_sizes(whole, [layer.out_features for layer in layers], -1)


def activated(x: Tensor, layer: nn.Module, act: Callable[[Tensor], Tensor]) -> Tensor:
    """``act(layer(x))``, in one pass over memory where the kernel can fuse them."""
    fused = onednn.fused(act)
    if fused is not None and isinstance(layer, SeamLinear) and not _is_hooked(layer, act):
        out = layer.fast(x, fused)
        if out is not None:
            return out
    return act(layer(x))


def _is_hooked(*modules: object) -> bool:
    """Whether a module has forward hooks, which only run when the module itself is called."""
    return any(getattr(m, "_forward_hooks", None) or getattr(m, "_forward_pre_hooks", None) for m in modules)


def _sample(parameter: Tensor) -> Tensor:
    """Values at a grid over the parameter, as a view of it."""
    return parameter.detach()[tuple(slice(None, None, -(-size // MAX_SAMPLES)) for size in parameter.shape)]


def use_seam(module: nn.Module) -> None:
    """Make every plain ``nn.Linear`` in ``module`` a `SeamLinear`, and convolutions likewise; nothing else changes."""
    for part in module.modules():
        if type(part) is nn.Linear:
            part.__class__ = SeamLinear
        elif type(part) is nn.Conv2d:
            part.__class__ = SeamConv2d


def pack(module: nn.Module) -> None:
    """Pack the linear layers in ``module`` where that makes beams or a batch faster; a second call looks for changes.

    Layers that a module names in ``on_the_same_input`` are packed together. Others may compute with the module
    meanwhile, but not change it.
    """
    if not onednn.is_on():
        return
    with PACKING_LOCK, torch.inference_mode(False), torch.no_grad():
        refresh(module)
        done: set[nn.Module] = set()
        for part in module.modules():
            group = tuple(getattr(part, name) for name in getattr(type(part), "on_the_same_input", ()))
            able = group and done.isdisjoint(group) and _can_be_packed(group)
            if able and len({layer.bias is None for layer in group}) == 1:
                _pack(group)
                done.update(group)
            elif part not in done and _can_be_packed((part,)):
                _pack((part,))


def _renew_lock() -> None:
    """In a forked process: another thread, which is not there, may have held it."""
    global PACKING_LOCK
    PACKING_LOCK = threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_renew_lock)


def _can_be_packed(layers: tuple[nn.Module, ...]) -> bool:
    weights: list[Any] = [layer._parameters.get("weight") for layer in layers]  # None where weight_norm computes it
    if not all(isinstance(layer, SeamLinear) for layer in layers) or not all(map(is_plain, weights)):
        return False
    size = sum(weight.numel() for weight in weights)
    able = all(weight.device.type == "cpu" and weight.numel() > 0 for weight in weights)
    return able and all(onednn.is_faster(weight.dtype, USUAL_ROWS, size) for weight in weights)


def _pack(layers: tuple[Any, ...]) -> None:
    """Pack layers with the same input into one weight, unless they are."""
    found = layers[0]._packed
    if found is not None and found.layers == layers:
        return
    alone, has_bias = len(layers) == 1, layers[0].bias is not None
    names = ("weight", "bias") if has_bias and not alone else ("weight",)
    stamps = tuple(Stamp.of(layer, name) for layer in layers for name in names)
    weight = layers[0].weight if alone else torch.cat([layer.weight for layer in layers])
    bias = torch.cat([layer.bias for layer in layers]) if has_bias and not alone else None
    packed = _Packed(onednn.packed(weight), bias, layers, stamps)
    for layer in layers:
        layer._packed = packed


def refresh(module: nn.Module) -> None:
    """Drop the packed copies in ``module`` whose weights have changed, through ``.data`` too."""
    for part in module.modules():
        found = part.__dict__.get("_packed")
        if found is not None and not found.is_equal:
            part._packed = None  # type: ignore[assignment]


def is_plain(weight: object) -> bool:
    """Whether it is torch's own tensor class: subclasses, as for quantization, hold their values otherwise."""
    return type(weight) in (Tensor, nn.Parameter)


class Linear(SeamLinear):
    """A linear layer whose fresh weight is normal with standard deviation ``std`` and whose bias is zero.

    It skips torch's own initialisation, which would be overwritten and takes half of the time of building a model.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, std: float = 0.02) -> None:
        self.std = std
        super().__init__(in_features, out_features, bias)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Embedding(nn.Embedding):
    """``nn.Embedding`` whose fresh weight is normal with standard deviation ``std``."""

    def __init__(self, num_embeddings: int, embedding_dim: int, *, std: float = 0.02) -> None:
        self.std = std
        super().__init__(num_embeddings, embedding_dim)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.std)


def output_layer(embedding: nn.Embedding, *, tied: bool, bias: bool = False, std: float = 0.02) -> Linear:
    """The layer from hidden states (…, D) to logits (…, V).

    Args:
        embedding: the input embedding, with a weight (V, D).
        tied: whether the layer shares that weight.
        bias: whether the layer has a bias, which starts at zero.
        std: standard deviation of a fresh weight.
    """
    if not tied:
        return Linear(embedding.embedding_dim, embedding.num_embeddings, bias, std=std)
    with torch.device("meta"):  # allocate nothing for the weight, which is replaced
        layer = Linear(embedding.embedding_dim, embedding.num_embeddings, bias)
    layer.weight = embedding.weight
    if bias:
        layer.bias = nn.Parameter(torch.zeros(embedding.num_embeddings))
    return layer
