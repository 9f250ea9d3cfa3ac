"""Whether torch records operations for a program instead of running them, and what may be asked of a size then.

A recorded program takes other sizes than those it was made with. A condition on a size in Python restricts the sizes
that it takes, or is frozen as it was: ask `holds` where it need not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["holds", "is_traced"]


def is_traced() -> bool:
    """Whether operations are recorded, as by ``torch.export``, ``torch.compile`` or ``torch.jit.trace``.

    No value of a tensor can be read then. A dispatch mode, as of ``make_fx`` or a counter of operations, counts too.
    """
    return torch.compiler.is_compiling() or torch._C._is_tracing() or torch._C._len_torch_dispatch_stack() > 0


def holds(condition: Any) -> bool:
    """Whether a condition on sizes is true, in a recorded program for all sizes that it takes.

    Args:
        condition: a comparison of sizes: a bool, or what stands for one while operations are recorded.
    """
    if condition is True or condition is False:
        return condition
    if isinstance(condition, Tensor):  # a size in `torch.jit.trace`, which may be any
        return False
    return torch.fx.experimental.symbolic_shapes.statically_known_true(condition)
