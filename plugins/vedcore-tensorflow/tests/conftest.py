"""torch comes first: its triton cannot be imported after TensorFlow."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch._dynamo  # noqa: F401

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
sys.path.insert(0, str(Path(__file__).parent))

from models import tiny

from vedcore.export.recording import record


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Any, Path]]:
    """A tiny model of a pair, and the folder of its graphs."""
    made = dict[tuple[str, str], tuple[Any, Path]]()

    def get(encoder: str = "vit", decoder: str = "gpt2") -> tuple[Any, Path]:
        if (encoder, decoder) not in made:
            model, folder = tiny(encoder, decoder), tmp_path_factory.mktemp("recorded") / "model"
            record(model, folder)
            made[encoder, decoder] = model, folder
        return made[encoder, decoder]

    return get
