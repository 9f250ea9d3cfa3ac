"""Models, images and their pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.model.tiny import IMAGE, spread, tiny


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randn(3, 3, *IMAGE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> Any:
    return tiny("bert")


@pytest.fixture(scope="module")
def reader() -> Any:
    """A model with a tokenizer; its weights are spread widely, so that images have different texts."""
    model = tiny("bert", tokenizer="char", token_ids=None, decoder_vocab_size=98)
    spread(model, seed=5)
    return model


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 255, (20 + 9 * i, 41, 3), dtype=np.uint8)) for i in range(5)]
