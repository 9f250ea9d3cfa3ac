"""`flax.linen` and `flax.nnx` modules of a model, over the same functions."""

from __future__ import annotations

import flax.linen as nn
from flax import nnx
from jax import Array

from vedcore_jax.model import JaxModel, Output

__all__ = ["LinenModel", "NnxModel", "linen_module", "nnx_module"]


class LinenModel(nn.Module):
    """A model as a module of linen: ``init`` gives the parameters of the export, and ``apply`` takes others.

    Dropout takes the key ``rngs={"dropout": key}``.
    """

    model: JaxModel

    @nn.compact
    def __call__(
        self,
        pixel_values: Array,
        decoder_input_ids: Array | None = None,
        decoder_attention_mask: Array | None = None,
        decoder_position_ids: Array | None = None,
        labels: Array | None = None,
        train: bool = False,
    ) -> Output:
        """As `JaxModel.apply`."""
        params = {name: self.param(name, lambda _, each=each: each) for name, each in self.model.params.items()}
        return self.model.apply(
            params,
            pixel_values,
            decoder_input_ids,
            decoder_attention_mask,
            decoder_position_ids,
            labels,
            train,
            self.make_rng("dropout") if train else None,
        )


class NnxModel(nnx.Module):
    """A model as a module of nnx, whose parameters are ``nnx.Param`` by the names of the weights in ``params``.

    Args:
        model: of the functions and the first parameters.
        rngs: of dropout.
    """

    def __init__(self, model: JaxModel, rngs: nnx.Rngs | None = None) -> None:
        self.params = nnx.Dict({_joined(name): nnx.Param(each) for name, each in model.params.items()})
        self.rngs = nnx.Rngs(0) if rngs is None else rngs
        self._model = nnx.static(model)

    def __call__(
        self,
        pixel_values: Array,
        decoder_input_ids: Array | None = None,
        decoder_attention_mask: Array | None = None,
        decoder_position_ids: Array | None = None,
        labels: Array | None = None,
        train: bool = False,
    ) -> Output:
        """As `JaxModel.apply`."""
        params = {name: self.params[_joined(name)][...] for name in self._model.params}
        return self._model.apply(
            params,
            pixel_values,
            decoder_input_ids,
            decoder_attention_mask,
            decoder_position_ids,
            labels,
            train,
            self.rngs.dropout() if train else None,
        )


def _joined(name: str) -> str:
    """A name without dots, which are steps of a path in nnx."""
    return name.replace(".", "__")


def linen_module(model: JaxModel) -> LinenModel:
    """The model as a module of linen."""
    return LinenModel(model)


def nnx_module(model: JaxModel) -> NnxModel:
    """The model as a module of nnx."""
    return NnxModel(model)
