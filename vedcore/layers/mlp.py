"""The feed-forward block and its activations, by transformers' names."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vedcore.errors import UnknownComponentError, did_you_mean
from vedcore.layers.linear import Linear, activated, apply_together

__all__ = ["ACTIVATIONS", "MLP", "GatedMLP", "activation"]

_gelu_tanh = partial(F.gelu, approximate="tanh")


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _gelu_10(x: Tensor) -> Tensor:
    return F.gelu(x).clamp(-10, 10)


def _laplace(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf((x - 0.707107) / (0.282095 * math.sqrt(2))))


def _linear(x: Tensor) -> Tensor:
    return x


def _relu2(x: Tensor) -> Tensor:
    return F.relu(x).square()


def _sqrtsoftplus(x: Tensor) -> Tensor:
    return F.softplus(x).sqrt()


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "quick_gelu": _quick_gelu,
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
    "gelu_python": F.gelu,
    "gelu_python_tanh": _gelu_tanh,
    "gelu_accurate": _gelu_tanh,
    "gelu_10": _gelu_10,
    "hardswish": F.hardswish,
    "laplace": _laplace,
    "leaky_relu": F.leaky_relu,
    "linear": _linear,
    "mish": F.mish,
    "relu2": _relu2,
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "sqrtsoftplus": _sqrtsoftplus,
}
"""Activations by name: all of transformers' but prelu and xielu, which have parameters."""


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The function of that name.

    Raises:
        UnknownComponentError: unknown; lists the names.
    """
    if name not in ACTIVATIONS:
        near = did_you_mean(name, ACTIVATIONS) or f"choose one of {', '.join(sorted(ACTIVATIONS))}"
        raise UnknownComponentError(f"no activation {name!r}", field="hidden_act", hint=near)
    return ACTIVATIONS[name]


class MLP(nn.Module):
    """Two linear layers with an activation between them: (B, T, D) to (B, T, D).

    Args:
        hidden_size: D.
        intermediate_size: width between the two layers.
        hidden_act: name of the activation.
        activation_dropout: dropout rate after the activation.
        std: standard deviation of the fresh weights.
        output_std: standard deviation of the second layer's fresh weights; None means ``std``.
    """

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        hidden_act: str,
        *,
        activation_dropout: float = 0.0,
        std: float = 0.02,
        output_std: float | None = None,
    ) -> None:
        super().__init__()
        self.input = Linear(hidden_size, intermediate_size, std=std)
        self.output = Linear(intermediate_size, hidden_size, std=std if output_std is None else output_std)
        self.act = activation(hidden_act)
        self.activation_dropout = nn.Dropout(activation_dropout)

    def forward(self, hidden_states: Tensor) -> Tensor:
        inner = activated(hidden_states, self.input, self.act)
        out: Tensor = self.output(self.activation_dropout(inner))
        return out


class GatedMLP(nn.Module):
    """A linear layer times the activation of another, and a third behind them (Shazeer 2020, "GLU Variants").

    Args:
        hidden_size: D.
        intermediate_size: width between the layers.
        hidden_act: name of the activation.
        bias: whether the three layers have biases.
        std: standard deviation of the fresh weights.
    """

    on_the_same_input = ("gate", "input")

    def __init__(
        self, hidden_size: int, intermediate_size: int, hidden_act: str, *, bias: bool = False, std: float = 0.02
    ) -> None:
        super().__init__()
        self.gate = Linear(hidden_size, intermediate_size, bias, std=std)
        self.input = Linear(hidden_size, intermediate_size, bias, std=std)
        self.output = Linear(intermediate_size, hidden_size, bias, std=std)
        self.act = activation(hidden_act)

    def forward(self, hidden_states: Tensor) -> Tensor:
        gate, inner = apply_together(hidden_states, self.gate, self.input)
        out: Tensor = self.output(self.act(gate) * inner)
        return out
