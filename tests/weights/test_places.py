"""Memory for weights, and writing to it whatever its type and layout."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from vedcore.weights.places import Place, empty


@pytest.mark.parametrize("shape", [(), (0,), (3,), (700, 1000)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.bool])
def test_memory_is_as_any_other(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tensor = empty(shape, dtype)
    assert (tensor.shape, tensor.dtype, tensor.is_contiguous()) == (shape, dtype, True)
    assert tensor.untyped_storage().nbytes() == tensor.nbytes
    module = nn.Module()
    module.x = nn.Parameter(tensor.fill_(1), requires_grad=False)
    other = copy.deepcopy(module)
    module.share_memory()
    assert module.x.is_shared() or not tensor.numel()
    module.x.zero_()
    assert other.x.equal(torch.ones(shape, dtype=dtype))


def test_more_than_there_is() -> None:
    with pytest.raises(MemoryError, match="4,611,686,018,427,387,904 bytes"):
        empty((1 << 40, 1 << 20), torch.float32)


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
def test_rows_side_by_side(dim: int, dtype: torch.dtype) -> None:
    whole = torch.randn(6, 5, 4)
    sizes = [1, 2, whole.shape[dim] - 3]
    parts = [torch.empty(part.shape[::-1], dtype=dtype).permute(2, 1, 0) for part in whole.split(sizes, dim)]
    place = Place(tuple(parts), dim)
    assert place.memory(torch.float32) is None
    for first in (4, 0, 2):
        place.put(whole[first : first + 2], first)
    assert torch.cat(parts, dim).equal(whole.to(dtype))
