"""Names and layouts of arrays in Flax and TensorFlow, and those of the same tensors in transformers' PyTorch classes.

The path of an array is the tensor's name but for its last component, which has a row in the framework's table::

    decoder/transformer/h/0/ln_1/scale                   decoder.transformer.h.0.ln_1.weight        Flax
    model/decoder/transformer/h_._0/ln_1/gamma:0         decoder.transformer.h.0.ln_1.weight        TensorFlow

A component without a row stays as it is, and so does the layout. No shape decides anything: a square matrix is turned
like any other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from vedcore.weights.keymap import SAME, Change

__all__ = ["Name", "flax_name", "index_name", "keras_name", "to_flax"]


class Name(NamedTuple):
    """The name of a tensor, and the change of layout from the file's array to it."""

    name: str
    change: Change = SAME


def _from_kernel(kernel: Tensor) -> Tensor:
    """(*sizes, inputs, outputs) to (outputs, inputs, *sizes)."""
    sizes = kernel.ndim - 2
    return kernel if sizes < 0 else kernel.permute(sizes + 1, sizes, *range(sizes))


def _to_kernel(weight: Tensor) -> Tensor:
    """(outputs, inputs, *sizes) to (*sizes, inputs, outputs)."""
    return weight if weight.ndim < 2 else weight.permute(*range(2, weight.ndim), 1, 0)


def _from_row(bias: Tensor) -> Tensor:
    """(1, outputs) to (outputs,)."""
    return bias.flatten() if bias.ndim == 2 else bias


def _to_row(bias: Tensor) -> Tensor:
    """(outputs,) to (1, outputs)."""
    return bias[None]


_KERNEL = Change("kernel", _from_kernel, _to_kernel)
"""The matrix of a dense layer, and the kernel of a convolution."""
_ROW = Change("row", _from_row, _to_row)
"""A bias of TensorFlow's ``Conv1D``."""
_FLAX = {
    "kernel":    Name("weight", _KERNEL),
    "scale":     Name("weight"),
    "embedding": Name("weight"),
    "mean":      Name("running_mean"),
    "var":       Name("running_var"),
}  # fmt: skip
_FLAX_STATISTICS = {"running_mean": "mean", "running_var": "var"}
_KERAS = {
    "kernel":          Name("weight", _KERNEL),
    "gamma":           Name("weight"),
    "beta":            Name("bias"),
    "embeddings":      Name("weight"),
    "moving_mean":     Name("running_mean"),
    "moving_variance": Name("running_var"),
}  # fmt: skip
_CONV1D = ("c_attn", "q_attn", "c_proj", "c_fc")
"""GPT2's layers of the class ``Conv1D``, whose ``weight`` is PyTorch's in TensorFlow, and whose bias is a row."""
_EMBEDDINGS = (
    *("wte", "wpe", "word_embeddings", "position_embeddings", "token_type_embeddings"),
    *("shared", "embed_tokens", "embed_positions"),
)
"""Embeddings, by the last component of their module; the other matrices are those of dense layers."""


def flax_name(path: str) -> Name:
    """The tensor for a path in ``flax_model.msgpack``: ``encoder/layer/0/output/dense/kernel``."""
    return _renamed(path.split("/"), _FLAX)


def keras_name(path: str) -> Name:
    """The tensor for the name of a weight in ``tf_model.h5``: ``tf_bert_model/bert/encoder/layer_._0/dense/kernel:0``.

    The first component is the model's own scope, and is left out where others follow.
    """
    path = re.sub(r"(?<=/)[^/]*___(?=[^/]*/)", "", path.removesuffix(":0"))  # mlm___cls: TensorFlow's name, PyTorch's
    components = path.replace("_._", "/").split("/")
    components = [part for part in components[len(components) > 1 :] if part]
    if components[-1:] == ["bias"] and components[-2:-1] and components[-2] in _CONV1D:
        return Name(".".join(components), _ROW)
    return _renamed(components, _KERAS)


def index_name(name: str, index: str) -> str:
    """The tensor for a name in an index of shards.

    Args:
        name: a key of its ``weight_map``.
        index: the index's file name, which says the framework.
    """
    if ".msgpack." in index:
        return flax_name(name).name
    return keras_name(name).name if ".h5." in index else name


def to_flax(name: str, ndim: int) -> tuple[tuple[str, ...], Change]:
    """The path in ``flax_model.msgpack`` for a tensor, and the change whose ``to_theirs`` gives the array.

    Args:
        name: transformers' PyTorch name of the tensor.
        ndim: its number of axes: a ``weight`` of one is a norm's.
    """
    *module, last = name.split(".")
    if last == "weight":
        is_embedding = bool(module) and module[-1] in _EMBEDDINGS
        last = "scale" if ndim < 2 else "embedding" if is_embedding else "kernel"
    last = _FLAX_STATISTICS.get(last, last)
    return (*module, last), _FLAX.get(last, Name(last)).change


def _renamed(components: list[str], table: Mapping[str, Name]) -> Name:
    last = components[-1] if components else ""
    row = table.get(last, Name(last))
    return Name(".".join([*components[:-1], row.name]), row.change)
