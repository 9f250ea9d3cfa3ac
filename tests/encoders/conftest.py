"""Small encoders of each family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from vedcore.components import VisionEncoder

FIELDS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "patch_size": 8}
SMALL: dict[str, tuple[str | None, dict[str, Any]]] = {
    "vit": (None, {**FIELDS, "image_size": 32}),
    "deit": (None, {**FIELDS, "image_size": 32}),
    "deit distilled": ("deit_base_distilled_patch16_224", {**FIELDS, "image_size": 32}),
    "deit3": ("deit3_small_patch16_224", {**FIELDS, "image_size": 32}),
    "vit mean pooled": ("vit_base_patch16_gap_224", {**FIELDS, "image_size": 32}),
    "vit attention pooled": ("vit_base_patch16_siglip_224", {**FIELDS, "image_size": 32}),
    "beit": (None, {**FIELDS, "image_size": 32}),
    "beit all positions": (
        None,
        {
            **FIELDS,
            "image_size": 32,
            "use_absolute_position_embeddings": True,
            "use_relative_position_bias": True,
            "use_shared_relative_position_bias": True,
            "use_mean_pooling": False,
        },
    ),
    "swin": (
        None,
        {
            "embed_dim": 8,
            "depths": (2, 2),
            "num_heads": (2, 4),
            "window_size": 4,
            "image_size": 32,
            "patch_size": 2,
        },
    ),
}

Make = Callable[..., Any]


def encoder_class(name: str) -> type[VisionEncoder]:
    from vedcore_encoders import register_encoders

    family = name.split()[0].rstrip("3")
    cls: type[VisionEncoder] = next(e for e in register_encoders() if e.name == family).load()
    return cls


@pytest.fixture
def make() -> Make:
    """``make("swin", depths=(1, 1))``: a small encoder in eval mode, with fields on top."""

    def small(name: str, /, **fields: Any) -> Any:
        torch.manual_seed(0)
        cls = encoder_class(name)
        variant, own = SMALL[name]
        return cls(cls.make_config(variant, {**own, **fields}, prefix="encoder.")).eval()

    return small


@pytest.fixture(params=SMALL)
def small(request: pytest.FixtureRequest) -> str:
    """The name of each small encoder."""
    return str(request.param)


@pytest.fixture(params=["vit", "deit", "beit", "swin"])
def family(request: pytest.FixtureRequest) -> str:
    """The name of each family."""
    return str(request.param)
