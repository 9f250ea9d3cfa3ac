"""The one seam for linear layers, and how language models draw theirs.

Every linear layer of a model is a `SeamLinear`: without gradients it runs on whatever product is the fastest here
(`vedcore.layers.onednn`), else on ``F.linear``. `pack` lays the weights of a decoder out for writing text.

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
    "output_layer",
    "pack",
    "packed",
    "together",
    "unpacked",
    "use_seam",
]


_LAYING_OUT = threading.RLock()
"""Held by the thread that packs or unpacks."""


class _Packed(NamedTuple):
    """The weights of one layer, or of several on the same input one below the other, in blocks."""

    blocks: Tensor
    bias: Tensor | None
    layers: tuple[SeamLinear, ...]
    plain: tuple[tuple[Tensor, Tensor | None], ...]
    """The layers' own weights and biases, empty meanwhile; a tied weight, and the bias of a layer alone, are not."""
    version: tuple[int, int] | None
    """Of a tied weight, which another module has too: changes when its numbers do."""

    @property
    def is_current(self) -> bool:
        """Whether a tied weight is still what was packed."""
        return self.version is None or self.version == _version(self.plain[0][0])


class SeamLinear(nn.Linear):
    """``nn.Linear`` that takes the fastest product there is, and may hold its weight packed.

    While it is packed the plain weight is let go. It comes back, and the packed one goes, as soon as anyone looks at
    it: by name, ``parameters()``, ``state_dict()``, ``to()``, ``train()``, a copy. So no weight is held twice or out of
    date, but for a tied one: it stays, and a change through its ``.data``, which torch does not count, is not noticed.
    """

    _packed: _Packed | None = None
    _is_read = False
    """Whether the module around it reads the weight by itself, so that it is not to be packed."""

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) to (…, O)."""
        out = self.fast(x)
        return F.linear(x, self.weight, self.bias) if out is None else out

    def fast(self, x: Tensor, activation: tuple[str, str] = ("none", "")) -> Tensor | None:
        """(…, I) to (…, O), with an activation of `onednn.fused`; None where ``F.linear`` is the one to take."""
        if not onednn.suits(x):
            return None
        found = self._packed
        if found is not None and len(found.layers) == 1 and found.blocks.dtype == x.dtype and found.is_current:
            return onednn.product(x, found.blocks, found.bias, activation)
        weight, bias = self.weight, self.bias
        if weight.dtype != x.dtype or not _is_plain(weight):
            return None
        if not (weight.is_contiguous() or weight.t().is_contiguous()):
            return None  # a weight that is part of another would be a hundred times slower there
        return onednn.product(x, weight, bias, activation)

    def unpack(self) -> None:
        """Hold the weight plainly again, and so those that were packed with it."""
        if self._packed is None:
            return
        # what inference mode makes could not be trained; other threads may be computing with the layer
        with _LAYING_OUT, torch.inference_mode(False), torch.no_grad():
            if (found := self._packed) is None:
                return
            alone = len(found.layers) == 1
            dense = None if found.version else _cut(found.blocks.to_dense(), found.layers, 0)
            biases = None if found.bias is None else _cut(found.bias, found.layers, 0)
            for i, (layer, (weight, bias)) in enumerate(zip(found.layers, found.plain, strict=True)):
                if dense is not None:
                    weight.data = dense[i] if alone else dense[i].clone()
                if bias is not None and biases is not None and not alone:
                    bias.data = biases[i].clone()
                layer.__dict__["_parameters"] = dict(dict.items(layer._parameters))
                layer._packed = None

    def train(self, mode: bool = True) -> Self:
        """As every module; training is on plain weights."""
        if mode:
            self.unpack()
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        self.unpack()
        return super().__getstate__()  # type: ignore[no-untyped-call, no-any-return]


def together(x: Tensor, *layers: SeamLinear) -> tuple[Tensor, ...]:
    """What each of the layers makes of the same (…, I): one product where they are packed together."""
    found: Any = getattr(layers[0], "_packed", None)  # an adapter may stand in a layer's place
    joined = found is not None and found.layers == layers and found.blocks.dtype == x.dtype
    if joined and onednn.suits(x) and not _is_hooked(*layers):
        return _cut(onednn.product(x, found.blocks, found.bias), layers, -1)
    return tuple(layer(x) for layer in layers)


def activated(x: Tensor, layer: nn.Module, act: Callable[[Tensor], Tensor]) -> Tensor:
    """``act(layer(x))``, in one pass over memory where that can be done."""
    fused = onednn.fused(act)
    if fused is not None and isinstance(layer, SeamLinear) and not _is_hooked(layer, act):
        out = layer.fast(x, fused)
        if out is not None:
            return out
    return act(layer(x))


def _is_hooked(*modules: object) -> bool:
    """Whether somebody watches the modules, who would see nothing if they were not called."""
    return any(getattr(m, "_forward_hooks", None) or getattr(m, "_forward_pre_hooks", None) for m in modules)


def _cut(whole: Tensor, layers: tuple[SeamLinear, ...], dim: int) -> tuple[Tensor, ...]:
    """The layers' own parts of what they have as one."""
    return torch.split_with_sizes(whole, [layer.out_features for layer in layers], dim)


@torch.inference_mode(False)
@torch.no_grad()
def _pack(layers: tuple[SeamLinear, ...], *, tied: bool) -> None:
    found = layers[0]._packed
    if found is not None and found.layers == layers and found.is_current:
        return
    plain: tuple[tuple[Tensor, Tensor | None], ...]
    plain = tuple((layer.weight, layer.bias) for layer in layers)  # looking at them unpacks what is out of date
    if any(tensor is not None and tensor.grad is not None for pair in plain for tensor in pair):
        return
    whole, shift = plain[0]
    if len(layers) > 1:
        whole = torch.cat([weight for weight, _ in plain])
        shift = None if shift is None else torch.cat([bias for _, bias in plain if bias is not None])
    packed = _Packed(onednn.packed(whole), shift, layers, plain, _version(whole) if tied else None)
    for layer, (weight, bias) in zip(layers, plain, strict=True):
        if not tied:
            weight.data = weight.data.new_empty(0)
        if bias is not None and len(layers) > 1:
            bias.data = bias.data.new_empty(0)
        layer._packed = packed
        layer.__dict__["_parameters"] = _Watched(layer._parameters, layer)


class _Watched(dict[str, Any]):
    """The parameters of a packed layer: whoever looks at them finds the plain weight.

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
    return 0 if weight.is_inference() else weight._version, weight.data_ptr()  # those of inference mode have none


def use_seam(module: nn.Module) -> None:
    """Make every plain ``nn.Linear`` in ``module`` a `SeamLinear`; nothing else about it changes."""
    for part in module.modules():
        if type(part) is nn.Linear:
            part.__class__ = SeamLinear


@contextlib.contextmanager
def unpacked(module: nn.Module) -> Iterator[None]:
    """Work with plain weights, as ``torch.compile`` needs them."""
    for part in module.modules():
        if isinstance(part, SeamLinear):
            part.unpack()
    yield


@contextlib.contextmanager
def packed(module: nn.Module) -> Iterator[None]:
    """Work with packed layers, which stay so; those whose weight is read meanwhile are left plain for good."""
    if not onednn.is_on():  # all weights are going to be read, this once
        yield
        return
    pack(module)
    layers = [part for part in module.modules() if isinstance(part, SeamLinear) and part._packed is not None]
    yield
    for layer in layers:
        layer._is_read = layer._packed is None


def pack(module: nn.Module) -> None:
    """Pack the linear layers in ``module`` where that makes products faster; done again, it costs nothing.

    Layers on the same input that a module names in ``on_the_same_input`` are packed together. Threads wait for each
    other here, but nobody else may be computing with plain weights that are about to be packed.
    """
    if onednn.is_on():
        with _LAYING_OUT:
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
        able = all(isinstance(layer, SeamLinear) and _suits(layer, owners) == 1 for layer in group)
        if group and able and len({layer.bias is None for layer in group}) == 1:
            _pack(group, tied=False)
            done |= {id(layer) for layer in group}
    for layer in layers:
        if id(layer) not in done and (times := _suits(layer, owners)):
            _pack((layer,), tied=times > 1)


def _suits(layer: SeamLinear, owners: Counter[int]) -> int:
    """How many modules have the layer's weight, or 0 where it is not to be packed."""
    weight: Any = dict.get(layer._parameters, "weight")  # None where it is computed from others, as by weight_norm
    able = not layer._is_read and _is_plain(weight) and weight.device.type == "cpu" and onednn.is_faster(weight.dtype)
    return owners[id(weight)] if able else 0


def _is_plain(weight: object) -> bool:
    """Whether it is a tensor of torch itself, and none that holds its numbers in another way, as quantized ones do."""
    return type(weight) in (Tensor, nn.Parameter)


class Linear(SeamLinear):
    """A linear layer whose fresh weight is normal with standard deviation ``std`` and whose bias is zero.

    torch's own initialisation would be drawn and thrown away: half of the time of building a model.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, std: float = 0.02) -> None:
        self.std = std
        super().__init__(in_features, out_features, bias)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Embedding(nn.Embedding):
    """``nn.Embedding`` whose fresh rows are normal with standard deviation ``std``."""

    def __init__(self, num_embeddings: int, embedding_dim: int, *, std: float = 0.02) -> None:
        self.std = std
        super().__init__(num_embeddings, embedding_dim)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.std)


def output_layer(embedding: nn.Embedding, *, tied: bool, bias: bool = False, std: float = 0.02) -> Linear:
    """The layer from the width D to the V scores of the vocabulary.

    Args:
        embedding: the input embedding, (V, D).
        tied: whether its weight is the layer's too; nothing is drawn then.
        bias: whether the layer has a bias, which starts at zero.
        std: spread of a fresh weight.
    """
    if not tied:
        return Linear(embedding.embedding_dim, embedding.num_embeddings, bias, std=std)
    with torch.device("meta"):  # allocates nothing for the weight that is replaced
        layer = Linear(embedding.embedding_dim, embedding.num_embeddings, bias)
    layer.weight = embedding.weight
    if bias:
        layer.bias = nn.Parameter(torch.zeros(embedding.num_embeddings))
    return layer
