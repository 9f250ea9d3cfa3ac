"""Our outputs and the cache as pytrees: how torch takes them apart and puts them together.

``torch.export`` needs it of all that a program takes and gives; ``torch.export.load`` needs this module imported.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree  # torch's documentation of export names it as the place to register a class

from vedcore.layers.cache import DecoderCache, LayerCache
from vedcore.outputs import DecoderOutput, EncoderOutput, VisionEncoderDecoderOutput

__all__: list[str] = []

_OF_LAYER = ("keys", "values", "cross_keys", "cross_values")
_OF_CACHE = ("attention_mask", "positions", "encoder_mask", "key_positions")


def _tensors(cache: DecoderCache) -> dict[str, Tensor]:
    """The tensors of a cache, by name: layer by layer the text's keys and values, then the images'; then the masks.

    Keys and values are (B, H, L, K); the spare room of their buffers is given up. What is None is left out.
    """
    named: dict[str, Tensor | None] = {}
    for i, layer in enumerate(cache.layers):
        layer.trim()  # not a slice made here: export knows a tensor again by its identity
        of_layer = (layer.keys, layer.values, *(layer.cross or (None, None)))
        named |= {f"{i}.{name}": tensor for name, tensor in zip(_OF_LAYER, of_layer, strict=True)}
    named |= {name: getattr(cache, name) for name in _OF_CACHE}
    return {name: tensor for name, tensor in named.items() if tensor is not None}


def _flatten(cache: DecoderCache) -> tuple[list[Tensor], list[Any]]:
    named = _tensors(cache)
    return list(named.values()), [len(cache.layers), *named]


def _flatten_with_keys(cache: DecoderCache) -> tuple[list[tuple[Any, Tensor]], list[Any]]:
    tensors, context = _flatten(cache)
    return [(pytree.MappingKey(name), tensor) for name, tensor in zip(context[1:], tensors, strict=True)], context


def _unflatten(tensors: Iterable[Any], context: list[Any]) -> DecoderCache:
    named = dict(zip(context[1:], tensors, strict=True))
    cache = DecoderCache(context[0])
    for i, layer in enumerate(cache.layers):
        layer.keys, layer.values, *cross = (named.get(f"{i}.{name}") for name in _OF_LAYER)
        layer.cross = (cross[0], cross[1]) if None not in cross else None  # type: ignore[assignment]
        if isinstance(layer.keys, Tensor):  # a map over the cache may put anything in a tensor's place
            layer.length = layer.keys.shape[2]
    for name in _OF_CACHE:
        setattr(cache, name, named.get(name))
    return cache


_OUTPUTS = (EncoderOutput, DecoderOutput, VisionEncoderDecoderOutput)
for _output in _OUTPUTS:
    torch.export.register_dataclass(_output, serialized_type_name=f"vedcore.{_output.__name__}")
pytree.register_pytree_node(
    DecoderCache,
    _flatten,
    _unflatten,
    serialized_type_name="vedcore.DecoderCache",
    flatten_with_keys_fn=_flatten_with_keys,
)
# a saved program holds the inputs that it was made with
torch.serialization.add_safe_globals([DecoderCache, LayerCache, *_OUTPUTS])
