"""Running statistics of batch norms that are not trained.

A batch norm in training mode normalises by the statistics of the batch, and moves its running ones towards them. Where
its weight is frozen (a frozen encoder, or adapters beside it), the layers after it were trained with the running
statistics: so it keeps and uses those.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["batch_norms", "keep_statistics"]


def keep_statistics(module: nn.Module) -> None:
    """Let each batch norm in ``module`` run in eval mode while its weight is frozen; a second call changes nothing."""
    for norm in batch_norms(module):
        if _before not in norm._forward_pre_hooks.values():
            norm._keeps_statistics = False  # during a call
            norm.register_forward_pre_hook(_before)
            norm.register_forward_hook(_after, always_call=True)


def batch_norms(module: nn.Module) -> list[Any]:
    """The batch norms in ``module``, by which the rows of a batch change each other's states in training."""
    return [part for part in module.modules() if isinstance(part, _BatchNorm)]


def _before(norm: Any, _: object) -> None:
    """Set eval mode for this call where the weight is frozen; hooks survive copies, pickles and recomputation."""
    weight = norm.weight
    if norm.training and weight is not None and not weight.requires_grad:
        norm.training, norm._keeps_statistics = False, True


def _after(norm: Any, *_: object) -> None:
    if norm._keeps_statistics:
        norm.training, norm._keeps_statistics = True, False
