"""A copy of a module whose linear layers compute with int8 weights, a quarter of the bytes: for drafts, not for texts.

Weights are rounded per output, inputs per call (``torch.ops.quantized``). torch means to drop that one day, and not
every CPU is faster with it, so the product is tried, checked and timed once before it is used.

Shape letters: M rows, I input width, O output width.
"""

from __future__ import annotations

import functools
import math
import time
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vedcore.layers import linear
from vedcore.layers.attention import CrossAttention
from vedcore.layers.linear import SeamLinear, Stamp, is_plain
from vedcore.layers.tracing import is_traced

__all__ = ["Int8Copy", "int8_bytes", "int8_copy", "int8_product"]

MAX_SHARE_OF_TIME = 0.8
"""Share of the time of a product in float32 above which one in int8 is of no use."""
MAX_ERROR = 0.03
"""Most that a product may differ from that in float32, in parts of its mean size."""
MAX_WEIGHT = 127
"""A weight is a whole number from -127 to 127 times the scale of its output."""


@dataclass(frozen=True)
class Product:
    """One of torch's int8 products, which have the same arguments."""

    engine: str
    """Lays the weights out."""
    reduce_range: bool
    """Whether inputs have 7 bits, as sums would overflow otherwise on CPUs without VNNI."""

    def packed(self, weight: Tensor, bias: Tensor | None) -> Any:
        """The (O, I) weight and the bias (O,) as the product takes them."""
        weight = weight.detach().float()
        scales = weight.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / MAX_WEIGHT
        zeros = torch.zeros(len(weight), dtype=torch.long)
        rounded = torch.quantize_per_channel(weight, scales.double(), zeros, 0, torch.qint8)
        before, torch.backends.quantized.engine = torch.backends.quantized.engine, self.engine
        try:
            return torch.ops.quantized.linear_prepack(rounded, None if bias is None else bias.detach().float())
        finally:
            torch.backends.quantized.engine = before

    def __call__(self, x: Tensor, packed: Any) -> Tensor:
        """(…, I) to (…, O), in float32."""
        out: Tensor = torch.ops.quantized.linear_dynamic(x, packed, self.reduce_range)
        return out


class Int8Linear(SeamLinear):
    """A `SeamLinear` that shares its parameters with another, and computes with an int8 copy of them."""

    int8: Product
    blocks: Any
    """None where ``group_blocks`` holds its weights."""
    group: tuple[SeamLinear, ...] = ()
    """It and others with the same input, if ``group_blocks`` holds the weights of all."""
    group_blocks: Any

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) to (…, O)."""
        if self.blocks is None or not _suits(x):
            return F.linear(x, self.weight, self.bias)
        return self.int8(x, self.blocks)

    def fast(self, x: Tensor, activation: tuple[str, str] = ("none", "")) -> Tensor | None:
        """None: there is no other kernel, and none with an activation."""
        return None

    def joined(self, x: Tensor, layers: tuple[SeamLinear, ...]) -> Tensor | None:
        """As `SeamLinear.joined`."""
        return self.int8(x, self.group_blocks) if self.group == layers and _suits(x) else None


class Int8Copy(NamedTuple):
    """A module with int8 weights, and what it was made of."""

    module: nn.Module
    sources: tuple[nn.Module, ...]
    """The module of which it is a copy, with all its parts."""
    stamps: tuple[Stamp, ...]

    def is_of(self, module: nn.Module) -> bool:
        """Whether it is a copy of the module as this is now."""
        parts = tuple(module.modules())
        return self.sources == parts and all(stamp.is_equal for stamp in self.stamps)


def int8_copy(module: nn.Module) -> nn.Module | None:
    """A copy of ``module`` in eval mode, with int8 weights in its linear layers; all else is shared with it.

    It is made once, and anew when the weights have changed. The keys and values of images are left out, as they are
    not computed again. None where no product in int8 is right and faster on this machine, or no layer has weights of
    float32 on a CPU.
    """
    product = int8_product()
    if product is None:
        return None
    with linear.PACKING_LOCK, torch.inference_mode(False), torch.no_grad():
        found: Int8Copy | None = module.__dict__.get("_int8_copy")
        if found is None or not found.is_of(module):
            found = module.__dict__["_int8_copy"] = _made(module, product)
    return found.module if found.stamps else None


def int8_bytes(module: nn.Module) -> int:
    """Bytes of the weights in int8 that `int8_copy` makes, whatever type the weights have now."""
    kept = _kept(module)
    layers = {part for part in module.modules() if isinstance(part, nn.Linear) and part not in kept}
    return sum(layer.weight.numel() for layer in layers)


def _kept(module: nn.Module) -> set[nn.Module]:
    """The layers that make keys and values of images."""
    crossing = (part for part in module.modules() if isinstance(part, CrossAttention))
    return {getattr(part, name) for part in crossing for name in part.on_the_same_input}


def _made(module: nn.Module, product: Product) -> Int8Copy:
    stamps: list[Stamp] = []
    copies: dict[nn.Module, nn.Module] = {}
    kept = _kept(module)

    def copied(part: nn.Module) -> nn.Module:
        if part in copies:
            return copies[part]
        new = copies[part] = object.__new__(type(part))
        hooks: dict[str, Any] = {name: OrderedDict() for name in part.__dict__ if "_hooks" in name}
        new.__dict__.update(part.__dict__, **hooks, training=False)
        for name in ("_int8_copy", "_compiled", "_packed"):
            new.__dict__.pop(name, None)
        new.__dict__["_modules"] = {k: None if v is None else copied(v) for k, v in part._modules.items()}
        if _is_able(part) and part not in kept:
            new.__class__ = Int8Linear
            stamps.extend(Stamp.of(part, name) for name in ("weight", "bias") if getattr(part, name) is not None)
            new.__dict__.update(int8=product, blocks=None)
        return new

    whole = copied(module)
    for part in whole.modules():
        group: Any = tuple(getattr(part, name, None) for name in getattr(type(part), "on_the_same_input", ()))
        has_bias = {getattr(layer, "bias", None) is not None for layer in group}
        if len(group) > 1 and all(type(layer) is Int8Linear for layer in group) and len(has_bias) == 1:
            bias = torch.cat([layer.bias for layer in group]) if True in has_bias else None
            blocks = product.packed(torch.cat([layer.weight for layer in group]), bias)
            for layer in group:
                layer.group, layer.group_blocks = group, blocks
    for part in whole.modules():
        if isinstance(part, Int8Linear) and not part.group:
            part.blocks = product.packed(part.weight, part.bias)
    return Int8Copy(whole, tuple(module.modules()), tuple(stamps))


def _is_able(part: nn.Module) -> bool:
    weight: Any = part._parameters.get("weight")  # None where weight_norm or the like computes it
    able = isinstance(part, SeamLinear) and is_plain(weight) and weight.device.type == "cpu"
    return able and weight.dtype == torch.float32 and weight.numel() > 0


def _suits(x: Tensor) -> bool:
    return x.dtype == torch.float32 and x.is_cpu and not torch.is_grad_enabled() and not is_traced()


@functools.cache
def int8_product() -> Product | None:
    """The fastest of torch's products in int8 that is right on this machine; None where none is worth it."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(1, 1024, generator=generator), torch.randn(2048, 1024, generator=generator)
    engines = [name for name in torch.backends.quantized.supported_engines if name != "none"]
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says, once, that weights of this kind are to go
        plain = F.linear(x, weight)
        able: dict[Product, Any] = {}
        for engine in engines:
            for product in (Product(engine, False), Product(engine, True)):
                try:
                    blocks = product.packed(weight, None)
                    right = (product(x, blocks) - plain).abs().mean() < MAX_ERROR * plain.abs().mean()
                    if right and _never_overflows(product):
                        able[product] = blocks
                        break
                except (AttributeError, RuntimeError):  # missing in this build
                    continue
        seconds, best = dict.fromkeys(able, math.inf), math.inf
        for _ in range(20):  # the minimum over alternating runs, as other programs disturb single ones
            best = min(best, _seconds(lambda: F.linear(x, weight)))
            for product, blocks in able.items():
                seconds[product] = min(seconds[product], _seconds(functools.partial(product, x, blocks)))
    fastest = min(able, key=lambda product: seconds[product], default=None)
    return fastest if fastest is not None and seconds[fastest] < MAX_SHARE_OF_TIME * best else None


def _never_overflows(product: Product) -> bool:
    """Whether the largest inputs times the largest weights are right."""
    ones = torch.ones(1, 256)
    return bool((product(ones, product.packed(ones, None)) - 256).abs().max() < MAX_ERROR * 256)


def _seconds(run: Any) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
