"""DeiT: ViT's architecture, trained on ImageNet alone.

"Training data-efficient image transformers", Touvron et al. 2020, and "DeiT III", 2022. Only the difference from
ViT is here: the ``distilled`` variants have a distillation token after the class token, so S = 2 + patches.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from vedcore.transformers_class import TransformersClass
from vedcore.weights.keymap import Row, ignored
from vedcore_encoders.timm_transformers import model_type_field
from vedcore_encoders.vit import BODY_FIELDS, VIT_MODEL, ViTConfig, ViTEncoder, extra_tensors, refuses
from vedcore_encoders.vit import KEY_MAP as VIT_KEY_MAP

__all__ = ["KEY_MAP", "DeiTConfig", "DeiTEncoder"]


class DeiTConfig(ViTConfig):
    """Settings of a DeiT; a field that is None is as the variant has it."""

    variant: str = "deit_base_patch16_224"
    """timm's name of the model; transformers' DeiT is ``deit_base_distilled_patch16_224``."""


KEY_MAP: tuple[Row, ...] = (
    Row("embeddings.distillation_token", "model.dist_token", optional=True),
    ignored("cls_classifier"),
    ignored("distillation_classifier"),
    *VIT_KEY_MAP,
)
"""Names of tensors in ``DeiTModel``."""

FIELDS = (model_type_field("deit", "deit_base_distilled_patch16_224"), *BODY_FIELDS)

# transformers' DeiT always has the distillation token; a DeiT without it is written as a ViT
DEIT_MODEL = TransformersClass(
    model_type="deit",
    name="DeiTModel",
    fields=FIELDS,
    key_map=KEY_MAP,
    base_prefix="deit",
    fixed={"drop_path_rate": 0.0},
    extra=extra_tensors,
    refuses=partial(refuses, prefix_tokens=2),
)


class DeiTEncoder(ViTEncoder):
    """A timm DeiT as an encoder; ``last_hidden_state`` is after the final norm."""

    config_class: ClassVar[type[DeiTConfig]] = DeiTConfig
    config: DeiTConfig
    timm_modules: ClassVar[tuple[str, ...]] = ("deit",)
    key_map = KEY_MAP
    transformers = (DEIT_MODEL, VIT_MODEL)
