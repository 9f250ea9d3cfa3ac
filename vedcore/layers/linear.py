"""The one seam for linear layers, and how language models draw theirs.

Every linear layer of a model is a `SeamLinear`: without gradients it runs on whatever product is the fastest here
(`vedcore.layers.onednn`), else on ``F.linear``. `pack` lays the weights of a decoder out for writing text.

Shape letters: M rows, I input width, O output width, D width, V vocabulary size.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vedcore.layers import onednn

__all__ = ["Embedding", "Linear", "SeamLinear", "output_layer", "pack", "use_seam"]


class _Packed(NamedTuple):
    """A layer's weight in blocks."""

    blocks: Tensor
    bias: Tensor | None
    weight: Tensor
    """The plain one: empty, or where another module has it too (a tied head), as it was."""
    version: tuple[int, int] | None
    """Of a plain one that is not empty: changes when its numbers do."""


class SeamLinear(nn.Linear):
    """``nn.Linear`` that takes the fastest product there is, and may hold its weight packed.

    While it is packed the plain weight is let go. It comes back, and the packed one goes, as soon as anyone looks at
    it: by name, ``parameters()``, ``state_dict()``, ``to()``, ``train()``, a copy. So no weight is held twice, and none
    is ever out of date.
    """

    _packed: _Packed | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) to (…, O)."""
        if not onednn.suits(x):
            return F.linear(x, self.weight, self.bias)
        found = self._packed
        if found is not None and found.blocks.dtype == x.dtype and found.version in (None, _version(found.weight)):
            return onednn.product(x, found.blocks, found.bias)
        weight, bias = self.weight, self.bias
        if weight.dtype != x.dtype or not (weight.is_contiguous() or weight.t().is_contiguous()):
            return F.linear(x, weight, bias)  # a weight that is part of another would be a hundred times slower there
        return onednn.product(x, weight, bias)

    def pack(self, *, shared: bool) -> None:
        """Hold the weight in blocks.

        Args:
            shared: another module has the weight as well; then it stays there too.
        """
        found = self._packed
        if found is not None and found.version in (None, _version(found.weight)):
            return
        weight, bias = self.weight, self.bias
        if weight.grad is not None:
            return
        blocks = onednn.packed(weight)
        if not shared:
            weight.data = weight.data.new_empty(0)
        self._packed = _Packed(blocks, bias, weight, _version(weight) if shared else None)
        self.__dict__["_parameters"] = _Watched(self._parameters, self)

    def unpack(self) -> None:
        """Hold the weight plainly again."""
        found = self._packed
        if found is None:
            return
        self._packed = None
        self.__dict__["_parameters"] = dict(dict.items(self._parameters))
        if found.version is None:
            found.weight.data = found.blocks.to_dense()

    def train(self, mode: bool = True) -> Self:
        """As every module; training is on plain weights."""
        if mode:
            self.unpack()
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        self.unpack()
        return super().__getstate__()  # type: ignore[no-untyped-call, no-any-return]


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
    return weight._version, weight.data_ptr()


def use_seam(module: nn.Module) -> None:
    """Make every plain ``nn.Linear`` in ``module`` a `SeamLinear`; nothing else about it changes."""
    for part in module.modules():
        if type(part) is nn.Linear:
            part.__class__ = SeamLinear


def pack(module: nn.Module) -> None:
    """Pack the linear layers in ``module`` where products of few rows are then faster; done again, it costs nothing."""
    layers = [part for part in module.modules() if isinstance(part, SeamLinear)]
    if all(layer._packed is not None and layer._packed.version is None for layer in layers):
        return
    owners: dict[int, int] = {}
    for part in module.modules():
        for parameter in dict.values(part._parameters):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    for layer in layers:
        weight: Any = dict.__getitem__(layer._parameters, "weight")
        if weight.device.type == "cpu" and onednn.is_on() and onednn.is_faster(weight.dtype):
            layer.pack(shared=owners[id(weight)] > 1)


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
