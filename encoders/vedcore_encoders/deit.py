"""DeiT: ViT's architecture, trained on ImageNet alone.

"Training data-efficient image transformers", Touvron et al. 2020, and "DeiT III", 2022. Only the difference from
ViT is here: the ``distilled`` variants have a second token before the patches, so S = 2 + patches.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from vedcore.transformers_class import TransformersClass
from vedcore.weights.keymap import Row, ignored
from vedcore_encoders.timm_transformers import stands_for
from vedcore_encoders.vit import KEY_MAP as VIT_KEY_MAP
from vedcore_encoders.vit import VIT_MODEL, VIT_WORDS, ViTConfig, ViTEncoder, pooler, refuses

__all__ = ["KEY_MAP", "DeiTConfig", "DeiTEncoder"]


class DeiTConfig(ViTConfig):
    """Settings of a DeiT; a field that is None is as the variant has it."""

    variant: str = "deit_base_patch16_224"
    """timm's name of the model; ``deit_base_distilled_patch16_224`` is the one that transformers calls DeiT."""


KEY_MAP: tuple[Row, ...] = (
    Row("embeddings.distillation_token", "model.dist_token", optional=True),
    ignored("cls_classifier"),
    ignored("distillation_classifier"),
    *VIT_KEY_MAP,
)
# always with the distillation token; a DeiT without is a ViT
DEIT_MODEL = TransformersClass(
    model_type="deit",
    name="DeiTModel",
    base_prefix="deit",
    key_map=KEY_MAP,
    words=(stands_for("deit", "deit_base_distilled_patch16_224"), *VIT_WORDS),
    fixed={"drop_path_rate": 0.0},
    extra=pooler,
    refuses=partial(refuses, prefix_tokens=2),
)


class DeiTEncoder(ViTEncoder):
    """A timm DeiT as an encoder; ``last_hidden_state`` is after the final norm."""

    config_class: ClassVar[type[DeiTConfig]] = DeiTConfig
    timm_modules: ClassVar[tuple[str, ...]] = ("deit",)
    key_map = KEY_MAP
    transformers = (DEIT_MODEL, VIT_MODEL)
