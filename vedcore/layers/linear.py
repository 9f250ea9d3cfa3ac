"""The one seam where the kernel of a linear layer is chosen, and the initialisation that language models use.

Every linear layer of a model is a `SeamLinear`. Without gradients it runs on the fastest kernel of the machine
(`vedcore.layers.onednn`), else on ``F.linear``. `pack` reorders the weights of a decoder for generation.

Shape letters: M rows, I input width, O output width, D width, V vocabulary size.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vedcore.layers import onednn

__all__ = [
    "Embedding",
    "Linear",
    "SeamLinear",
    "activated",
    "apply_together",
    "output_layer",
    "pack",
    "packed",
    "unpacked",
    "use_seam",
]


_PACKING_LOCK = threading.RLock()
"""Serialises packing and unpacking, which swap the parameters of layers."""


class _Packed(NamedTuple):
    """The packed weight of one layer, or of several with the same input, concatenated along the output width."""

    blocks: Tensor
    """The weight in oneDNN's blocked layout."""
    bias: Tensor | None
    layers: tuple[SeamLinear, ...]
    plain: tuple[tuple[Tensor, Tensor | None], ...]
    """Weight and bias parameters of each layer, emptied while packed, but for a tied weight and for the bias of a layer
    that is packed alone."""
    version: tuple[int, int] | None
    """Version of a tied weight, which changes with its values; None where the weight is not tied."""

    @property
    def is_current(self) -> bool:
        """Whether a tied weight is unchanged since it was packed."""
        return self.version is None or self.version == _version(self.plain[0][0])


class SeamLinear(nn.Linear):
    """``nn.Linear`` that takes the fastest kernel, and may hold its weight packed.

    While a layer is packed, its plain weight is freed. Any access restores the plain weight and frees the packed one:
    by name, ``parameters()``, ``state_dict()``, ``to()``, ``train()``, a copy. So no weight is held twice, and none is
    out of date. A tied weight is the exception: it is kept, and a change through its ``.data``, which torch does not
    count, goes unnoticed.
    """

    _packed: _Packed | None = None
    _is_read = False
    """Whether the module around the layer reads the weight itself: then it must not be packed."""

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) to (…, O)."""
        out = self.fast(x)
        return F.linear(x, self.weight, self.bias) if out is None else out

    def fast(self, x: Tensor, activation: tuple[str, str] = ("none", "")) -> Tensor | None:
        """(…, I) to (…, O), with an activation of `onednn.fused`; None where ``F.linear`` has to do it."""
        if not onednn.suits(x):
            return None
        found = self._packed
        if found is not None and len(found.layers) == 1 and found.blocks.dtype == x.dtype and found.is_current:
            return onednn.product(x, found.blocks, found.bias, activation)
        weight, bias = self.weight, self.bias
        if weight.dtype != x.dtype or not _is_plain(weight):
            return None
        if not (weight.is_contiguous() or weight.t().is_contiguous()):
            return None  # oneDNN is a hundred times slower with a strided view of a larger weight
        return onednn.product(x, weight, bias, activation)

    def unpack(self) -> None:
        """Restore the plain weight, and those of the layers that were packed with this one."""
        if self._packed is None:
            return
        # tensors made in inference mode could not be trained; another thread may have unpacked the layer meanwhile
        with _PACKING_LOCK, torch.inference_mode(False), torch.no_grad():
            if (found := self._packed) is None:
                return
            alone = len(found.layers) == 1
            dense = None if found.version else _split(found.blocks.to_dense(), found.layers, 0)
            biases = None if found.bias is None else _split(found.bias, found.layers, 0)
            for i, (layer, (weight, bias)) in enumerate(zip(found.layers, found.plain, strict=True)):
                if dense is not None:
                    weight.data = dense[i] if alone else dense[i].clone()
                if bias is not None and biases is not None and not alone:
                    bias.data = biases[i].clone()
                layer.__dict__["_parameters"] = dict(dict.items(layer._parameters))
                layer._packed = None

    def train(self, mode: bool = True) -> Self:
        """As ``nn.Module.train``; training works on plain weights."""
        if mode:
            self.unpack()
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        self.unpack()
        return super().__getstate__()  # type: ignore[no-untyped-call, no-any-return]


def apply_together(x: Tensor, *layers: SeamLinear) -> tuple[Tensor, ...]:
    """The outputs (…, O) of layers with the same input (…, I), in one product where they are packed together."""
    found: Any = getattr(layers[0], "_packed", None)  # an adapter may have replaced the layer
    joined = found is not None and found.layers == layers and found.blocks.dtype == x.dtype
    if joined and onednn.suits(x) and not _is_hooked(*layers):
        return _split(onednn.product(x, found.blocks, found.bias), layers, -1)
    return tuple(layer(x) for layer in layers)


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


def _split(whole: Tensor, layers: tuple[SeamLinear, ...], dim: int) -> tuple[Tensor, ...]:
    """The parts of a concatenated tensor that belong to each layer."""
    return torch.split_with_sizes(whole, [layer.out_features for layer in layers], dim)


@torch.inference_mode(False)
@torch.no_grad()
def _pack(layers: tuple[SeamLinear, ...], *, tied: bool) -> None:
    """Pack layers with the same input into one weight, unless they are packed or one has a gradient."""
    found = layers[0]._packed
    if found is not None and found.layers == layers and found.is_current:
        return
    plain: tuple[tuple[Tensor, Tensor | None], ...]
    plain = tuple((layer.weight, layer.bias) for layer in layers)  # the access unpacks what is out of date
    if any(tensor is not None and tensor.grad is not None for pair in plain for tensor in pair):
        return
    joint_weight, joint_bias = plain[0]
    if len(layers) > 1:
        joint_weight = torch.cat([weight for weight, _ in plain])
        joint_bias = None if joint_bias is None else torch.cat([bias for _, bias in plain if bias is not None])
    version = _version(joint_weight) if tied else None
    packed = _Packed(onednn.packed(joint_weight), joint_bias, layers, plain, version)
    for layer, (weight, bias) in zip(layers, plain, strict=True):
        if not tied:
            weight.data = weight.data.new_empty(0)
        if bias is not None and len(layers) > 1:
            bias.data = bias.data.new_empty(0)
        layer._packed = packed
        layer.__dict__["_parameters"] = _UnpackingParameters(layer._parameters, layer)


class _UnpackingParameters(dict[str, Any]):
    """The parameters of a packed layer, which any access unpacks first.

    torch reaches parameters through this dictionary alone: by attribute, ``named_parameters``, ``state_dict``,
    ``load_state_dict``, ``_apply`` and copies.
    """

    def __init__(self, parameters: dict[str, Any], layer: SeamLinear) -> None:
        super().__init__(dict.items(parameters))
        self.layer = layer

    def _plain(self) -> dict[str, Any]:
        self.layer.unpack()
        return self.layer._parameters

    def __getitem__(self, name: str) -> Any:
        return self._plain()[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._plain()[name] = value

    def __delitem__(self, name: str) -> None:
        del self._plain()[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self._plain().get(name, default)

    def items(self) -> Any:
        return self._plain().items()

    def values(self) -> Any:
        return self._plain().values()


def _version(weight: Tensor) -> tuple[int, int]:
    """Numbers that change when the weight is written to or replaced."""
    return 0 if weight.is_inference() else weight._version, weight.data_ptr()  # inference tensors count no versions


def use_seam(module: nn.Module) -> None:
    """Make every plain ``nn.Linear`` in ``module`` a `SeamLinear`; nothing else about it changes."""
    for part in module.modules():
        if type(part) is nn.Linear:
            part.__class__ = SeamLinear


@contextlib.contextmanager
def unpacked(module: nn.Module) -> Iterator[None]:
    """Run with plain weights, as ``torch.compile`` needs them."""
    for part in module.modules():
        if isinstance(part, SeamLinear):
            part.unpack()
    yield


@contextlib.contextmanager
def packed(module: nn.Module) -> Iterator[None]:
    """Run with packed layers, which stay packed; a layer whose weight is read meanwhile is never packed again."""
    if not onednn.is_on():  # every forward reads the plain weights, which says nothing about the modules
        yield
        return
    pack(module)
    layers = [part for part in module.modules() if isinstance(part, SeamLinear) and part._packed is not None]
    yield
    for layer in layers:
        layer._is_read = layer._packed is None


def pack(module: nn.Module) -> None:
    """Pack the linear layers in ``module`` where that makes products faster; a second call costs nothing.

    Layers that a module names in ``on_the_same_input`` are packed together. Threads may call this at once, but no other
    thread may be computing with the plain weights meanwhile.
    """
    if onednn.is_on():
        with _PACKING_LOCK:
            _pack_all(module)


def _pack_all(module: nn.Module) -> None:
    parts = list(module.modules())
    layers = [part for part in parts if isinstance(part, SeamLinear) and not part._is_read]
    if all(layer._packed is not None and layer._packed.is_current for layer in layers):
        return
    owners = Counter(id(parameter) for part in parts for parameter in dict.values(part._parameters))
    done: set[int] = set()
    for part in parts:
        group = tuple(getattr(part, name) for name in getattr(part, "on_the_same_input", ()))
        able = all(isinstance(layer, SeamLinear) and _num_owners(layer, owners) == 1 for layer in group)
        if group and able and len({layer.bias is None for layer in group}) == 1:
            _pack(group, tied=False)
            done |= {id(layer) for layer in group}
    for layer in layers:
        if id(layer) not in done and (times := _num_owners(layer, owners)):
            _pack((layer,), tied=times > 1)


def _num_owners(layer: SeamLinear, owners: Counter[int]) -> int:
    """Number of modules that have the layer's weight; 0 where it must not be packed."""
    weight: Any = dict.get(layer._parameters, "weight")  # None where weight_norm or the like computes it
    able = not layer._is_read and _is_plain(weight) and weight.device.type == "cpu" and onednn.is_faster(weight.dtype)
    return owners[id(weight)] if able else 0


def _is_plain(weight: object) -> bool:
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
