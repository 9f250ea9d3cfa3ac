"""Gradient checkpointing: activations are computed again in the backward pass, and not kept for it."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

from vedcore.errors import UsageError, did_you_mean, warn_caller
from vedcore.layers.cache import DecoderCache
from vedcore.layers.context import LayerContext, run_again

__all__ = ["Checkpointing", "without_cache"]

_OPTIONS = {"preserve_rng_state"} | {
    name for name, each in inspect.signature(checkpoint).parameters.items() if each.kind is each.KEYWORD_ONLY
}
"""The keyword arguments of ``torch.utils.checkpoint.checkpoint``."""


@dataclass(frozen=True)
class Checkpointing:
    """Which layers of a part compute their activations again, and how.

    Raises:
        UsageError: options that torch does not have, or a number of layers below 1.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    """Of ``torch.utils.checkpoint.checkpoint``; ``use_reentrant`` is False by default."""
    every_n_layers: int = 1
    """Layers from one that computes again to the next; 1 means all do."""
    offload: bool = False
    """Whether the inputs of these layers wait in the CPU's memory."""

    def __post_init__(self) -> None:
        if not isinstance(self.options, Mapping):
            raise UsageError(
                f"{self.options!r} is not a mapping",
                field="gradient_checkpointing_kwargs",
                hint="give {'use_reentrant': False}, or call gradient_checkpointing_disable()",
            )
        for name in self.options.keys() - _OPTIONS:
            raise UsageError(
                "not an option of torch.utils.checkpoint.checkpoint",
                field=f"gradient_checkpointing_kwargs.{name}",
                hint=did_you_mean(str(name), _OPTIONS) or f"there are {', '.join(sorted(_OPTIONS))}",
            )
        if type(self.every_n_layers) is not int or self.every_n_layers < 1:
            raise UsageError(f"{self.every_n_layers!r} layers", field="every_n_layers", hint="give 1 or more")

    @property
    def reentrant(self) -> bool:
        """Whether torch's older implementation runs, which passes gradients on only to inputs that require them."""
        return bool(self.options.get("use_reentrant", False))

    def run(self, layer: int, module: Callable[..., Any], *arguments: Any) -> Any:
        """The output of a layer, by its number."""
        if layer % self.every_n_layers:
            return module(*arguments)
        return self._again(module, *arguments)

    def run_layer(self, number: int, layer: Callable[..., Any], hidden_states: Tensor, context: LayerContext) -> Tensor:
        """The output of a decoder's layer, by its number."""
        if number % self.every_n_layers:
            out: Tensor = layer(hidden_states, context)
            return out
        return run_again(self._again, layer, hidden_states, context)

    def _again(self, module: Callable[..., Any], *arguments: Any) -> Any:
        with save_on_cpu(pin_memory=True) if self.offload else nullcontext():
            return checkpoint(module, *arguments, **{"use_reentrant": False, **self.options})

    def runner(self) -> Callable[..., Any]:
        """`run` for the layers of one forward pass, which it counts."""
        layers = itertools.count()
        return lambda module, *arguments: self.run(next(layers), module, *arguments)


def without_cache(use_cache: bool, cache: DecoderCache | None) -> tuple[bool, None]:
    """No cache for a step with gradient checkpointing, which would extend it twice.

    Raises:
        UsageError: a cache that holds the beginning of the text.

    Warns:
        UserWarning: a cache is asked for.
    """
    if cache is not None and cache.length:
        raise UsageError(
            "gradient checkpointing reads no cache",
            field="past_key_values",
            hint="leave it out and give the whole text, or call gradient_checkpointing_disable()",
        )
    if use_cache or cache is not None:
        warn_caller("use_cache=True is incompatible with gradient checkpointing: use_cache=False is taken")
    return False, None
