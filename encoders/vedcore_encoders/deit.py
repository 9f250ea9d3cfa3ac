"""DeiT: ViT's architecture, trained on ImageNet alone.

"Training data-efficient image transformers", Touvron et al. 2020, and "DeiT III", 2022. Only the difference from
ViT is here: the ``distilled`` variants have a second token before the patches, so S = 2 + patches.
"""

from __future__ import annotations

from typing import ClassVar

from vedcore.weights.keymap import Row
from vedcore_encoders.vit import KEY_MAP as VIT_KEY_MAP
from vedcore_encoders.vit import ViTConfig, ViTEncoder

__all__ = ["KEY_MAP", "DeiTConfig", "DeiTEncoder"]


class DeiTConfig(ViTConfig):
    """Settings of a DeiT; a field that is None is as the variant has it."""

    variant: str = "deit_base_patch16_224"
    """timm's name of the model; ``deit_base_distilled_patch16_224`` is the one that transformers calls DeiT."""


# transformers' DeiTModel, which always has the distillation token
KEY_MAP: tuple[Row, ...] = (Row("embeddings.distillation_token", "model.dist_token", optional=True), *VIT_KEY_MAP)


class DeiTEncoder(ViTEncoder):
    """A timm DeiT as an encoder; ``last_hidden_state`` is after the final norm."""

    config_class: ClassVar[type[DeiTConfig]] = DeiTConfig
    timm_modules: ClassVar[tuple[str, ...]] = ("deit",)
    key_map = KEY_MAP
