"""Small models, recorded once each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch

import vedcore_jax
from tests.export.conftest import images, tiny
from vedcore.export import recording
from vedcore.export.programs import Program, programs
from vedcore_jax.model import JaxModel

jax.config.update("jax_disable_most_optimizations", True)  # what is compiled here runs once


@dataclass(frozen=True)
class Pair:
    """A model in torch, and its export."""

    model: Any
    folder: Path

    def load(self, dtype: Any = None) -> JaxModel:
        """It in JAX."""
        return vedcore_jax.load(self.folder, dtype)

    def images(self, rows: int, seed: int = 0) -> Any:
        """(N, C, H, W) in NumPy."""
        return images(self.model, rows, seed).numpy()


def text(rows: int = 2, length: int = 6) -> Any:
    """(B, T) ids, none of which is special."""
    ids = torch.randint(4, 50, (rows, length), generator=torch.Generator().manual_seed(length))
    return ids.numpy().astype(np.int32)


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Pair]:
    """Makes a pair of an encoder and a decoder by their names in tests/export/conftest.py."""
    made: dict[tuple[str, str], Pair] = {}

    def evaluated(model: Any) -> Iterator[Program]:
        return (each for each in programs(model) if not each.name.endswith(".train"))

    def make(encoder: str = "vit", decoder: str = "gpt2") -> Pair:
        if (encoder, decoder) not in made:
            model = tiny(encoder, decoder)
            folder = tmp_path_factory.mktemp("exports") / "model"
            with pytest.MonkeyPatch.context() as patch:
                if (encoder, decoder) != ("vit", "gpt2"):  # the others are not trained here, and recording takes long
                    patch.setattr(recording, "programs", evaluated)
                recording.record(model, folder)
            made[encoder, decoder] = Pair(model, folder)
        return made[encoder, decoder]

    return make


@pytest.fixture(scope="session")
def vit(pair: Callable[..., Pair]) -> Pair:
    """A ViT with GPT2."""
    return pair()
