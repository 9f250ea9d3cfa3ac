"""The parameters that an optimizer gets: in groups by decay and rate; and the running average of weights."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from vedcore.training.config import TrainingConfig

__all__ = ["AverageWeights", "parameter_groups"]

_LAYER = re.compile(r"(encoder|decoder)\..*\.blocks\.\d+\.|(encoder|decoder)\..*?\.\d+\.")
"""The beginning of a name, up to the number of the layer; stages of a pyramid have blocks of their own."""
_BEFORE_LAYERS = re.compile(r"embed|patch|stem|pos|cls_token|conv1")
"""Names of what stands before the first layer."""


def parameter_groups(model: nn.Module, config: TrainingConfig) -> list[dict[str, Any]]:
    """The trainable parameters as groups with ``lr`` and ``weight_decay`` each, for an optimizer of torch.

    Parameters that start frozen and are trained later are in too: an optimizer leaves out what has no gradient.

    Args:
        model: with parts ``encoder``, ``projector`` and ``decoder``.
        config: says the rate, the decay, and the factor between layers.
    """
    depths = _depths(model)
    groups: dict[tuple[float, float], list[Tensor]] = {}
    late = tuple(f"{part}." for part in config.unfreeze_at)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad and not name.startswith(late or ("\0",)):
            continue
        decay = config.weight_decay if parameter.ndim >= 2 else 0.0
        rate = config.learning_rate * config.layer_decay ** depths[name]
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": each, "lr": rate, "weight_decay": decay} for (rate, decay), each in groups.items()]


def _depths(model: nn.Module) -> dict[str, int]:
    """Layers between each parameter and the end of its part; 0 for the last layer, heads and projectors."""
    names = {name: name.removeprefix("base_model.model.") for name, _ in model.named_parameters()}
    layers: dict[str, list[str]] = {}  # of each part, in the order in which they run
    found = {name: _LAYER.match(plain) for name, plain in names.items()}
    for name, match in found.items():
        of_part = layers.setdefault(names[name].partition(".")[0], [])
        if match and match[0] not in of_part:
            of_part.append(match[0])
    depths = {}
    for name, match in found.items():
        of_part = layers[names[name].partition(".")[0]]
        before = not match and bool(_BEFORE_LAYERS.search(names[name]))
        depths[name] = len(of_part) - 1 - of_part.index(match[0]) if match else len(of_part) if before else 0
    return depths


class AverageWeights:
    """A running average of the trainable weights, in float32.

    Args:
        model: whose weights are averaged.
        decay: share that the average keeps at each update.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay, self.updates = model, decay, 0
        self.shadow = {name: p.detach().float().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights as they are; early updates count more, as in TensorFlow's average."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, parameter in self.model.named_parameters():
            self.shadow[name].lerp_(parameter.detach().float(), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model with the average in place of its weights."""
        kept = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        try:
            self._set(self.shadow)
            yield
        finally:
            self._set(kept)

    @torch.no_grad()
    def _set(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self.model.named_parameters():
            parameter.copy_(values[name])

    def state_dict(self) -> dict[str, Any]:
        """The average, whole also where FSDP shares it among processes, and the number of updates."""
        whole = {name: v.full_tensor() if isinstance(v, DTensor) else v for name, v in self.shadow.items()}
        return {"updates": self.updates, **{f"shadow.{name}": value for name, value in whole.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.updates = state["updates"]
        for name, value in self.shadow.items():
            whole = state[f"shadow.{name}"].to(value.device)
            if isinstance(value, DTensor):
                whole = distribute_tensor(whole, value.device_mesh, value.placements)
            self.shadow[name] = whole
