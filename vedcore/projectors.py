"""The built-in projectors from encoder to decoder: identity, a linear layer, and a small perceptron.

Shape letters: N images, S encoder tokens, D_in width of the encoder, D_out width that cross-attention takes.
"""

from __future__ import annotations

import itertools
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, nn

from vedcore.components import Projector
from vedcore.config import Activation, ProjectorConfig, Rate, Size
from vedcore.errors import IncompatibleError
from vedcore.layers.linear import Linear
from vedcore.layers.mlp import activation

__all__ = ["IdentityProjector", "LinearProjector", "MLPProjector", "MLPProjectorConfig"]


class IdentityProjector(Projector):
    """Encoder states as they are.

    Raises:
        IncompatibleError: the widths differ.
    """

    config_class: ClassVar[type[ProjectorConfig]] = ProjectorConfig

    def __init__(self, config: ProjectorConfig, in_features: int, out_features: int) -> None:
        super().__init__()
        if in_features != out_features:
            raise IncompatibleError(
                f"'identity' between an encoder of width {in_features} and a decoder that takes {out_features}",
                field="projector",
                hint="set projector to 'auto' or 'linear', or decoder.cross_attention_hidden_size",
            )
        self.config, self.in_features, self.out_features = config, in_features, out_features

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(N, S, D_in) to (N, S, D_in), unchanged."""
        return hidden_states


class LinearProjector(Projector):
    """One linear layer with bias, as transformers' ``enc_to_dec_proj``; weights normal with deviation 0.02."""

    config_class: ClassVar[type[ProjectorConfig]] = ProjectorConfig

    def __init__(self, config: ProjectorConfig, in_features: int, out_features: int) -> None:
        super().__init__()
        self.config, self.in_features, self.out_features = config, in_features, out_features
        self.proj = Linear(in_features, out_features)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(N, S, D_in) to (N, S, D_out)."""
        out: Tensor = self.proj(hidden_states)
        return out


class MLPProjectorConfig(ProjectorConfig):
    """Settings of `MLPProjector`."""

    hidden_size: Size | None = None
    """Width of the hidden layers; None means the width of the decoder."""
    num_hidden_layers: Annotated[int, Field(ge=1, le=16)] = 1
    """Number of hidden layers."""
    hidden_act: Activation = "gelu"
    """Activation after each hidden layer."""
    dropout: Rate = 0.0
    """Dropout rate after each activation."""


class MLPProjector(Projector):
    """Linear layers with activations between them: two by default, as in LLaVA 1.5 (https://arxiv.org/abs/2310.03744)."""

    config_class: ClassVar[type[MLPProjectorConfig]] = MLPProjectorConfig

    def __init__(self, config: MLPProjectorConfig, in_features: int, out_features: int) -> None:
        super().__init__()
        self.config, self.in_features, self.out_features = config, in_features, out_features
        widths = [in_features, *[config.hidden_size or out_features] * config.num_hidden_layers, out_features]
        self.layers = nn.ModuleList(Linear(a, b) for a, b in itertools.pairwise(widths))
        self.act = activation(config.hidden_act)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(N, S, D_in) to (N, S, D_out)."""
        x: Tensor = self.layers[0](hidden_states)
        for layer in list(self.layers)[1:]:
            x = layer(self.dropout(self.act(x)))
        return x
