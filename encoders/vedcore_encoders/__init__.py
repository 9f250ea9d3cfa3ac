"""The built-in vision encoders, all on timm.

This module registers them, and imports neither torch nor timm: an encoder's module is imported when it is first used.
"""

from __future__ import annotations

from vedcore.hookspecs import hookimpl
from vedcore.registry import Entry


@hookimpl
def register_encoders() -> list[Entry]:
    """ViT, DeiT, BEiT, Swin, and any other timm model as ``timm/<name>``."""
    return [
        Entry(
            name="vit",
            target="vedcore_encoders.vit:ViTEncoder",
            summary="Vision Transformer: patches, a class token, global attention",
            variants=("vit_*",),
            default_variant="vit_base_patch16_224",
            model_types=("vit",),
        ),
        Entry(
            name="deit",
            target="vedcore_encoders.deit:DeiTEncoder",
            summary="ViT trained on ImageNet alone, with or without a distillation token",
            variants=("deit*",),
            default_variant="deit_base_patch16_224",
            model_types=("deit",),
        ),
        Entry(
            name="beit",
            target="vedcore_encoders.beit:BeitEncoder",
            summary="ViT with relative positions and scaled layers, pre-trained on masked patches",
            variants=("beit_*", "beitv2_*"),
            default_variant="beit_base_patch16_224",
            model_types=("beit",),
        ),
        Entry(
            name="swin",
            target="vedcore_encoders.swin:SwinEncoder",
            summary="Swin: attention in shifted windows, four stages of shrinking maps",
            variants=("swin_*",),
            default_variant="swin_base_patch4_window7_224",
            model_types=("swin", "donut-swin"),
        ),
        Entry(
            name="timm",
            target="vedcore_encoders.any_timm:AnyTimm",
            summary="any other timm model as timm/<name>, convolutional ones included",
            prefix="timm",
        ),
    ]
