"""Packed weights, seen from outside: by the products that a module runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from vedcore.layers import onednn


def packed_products(run: Callable[[], object]) -> list[bool]:
    """One item for each product of oneDNN that ``run`` makes, without gradients: whether its weight is packed."""
    product, seen = onednn.product, []

    def watched(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
        seen.append(weight.is_mkldnn)
        return product(x, weight, *rest)

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(onednn, "product", watched)
        run()
    return seen
