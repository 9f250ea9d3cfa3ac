"""ViT: an image as a sequence of patches.

"An Image is Worth 16x16 Words", Dosovitskiy et al. 2020. A class token comes first, so S = 1 + patches.

Shape letters: N images, C channels, H x W pixels, S tokens, D width.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from timm.layers import Attention, PatchEmbed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from vedcore.config import Activation, Epsilon, Layers, Rate, Size
from vedcore.errors import IncompatibleError
from vedcore.layers.lazy_init import LazyInit
from vedcore.layers.tracing import holds
from vedcore.token_grids import TokenGrid
from vedcore.transformers_class import ConfigField, TransformersClass, unused_fields
from vedcore.weights.keymap import Row, ignored
from vedcore_encoders.positions import Grid, is_same, resample_absolute, sides, stored_grid
from vedcore_encoders.timm_building import (
    as_square,
    build,
    check_division,
    check_patches,
    check_tokens,
    drop_once,
    pair,
    set_activation,
    set_layer_norm_eps,
)
from vedcore_encoders.timm_encoder import BlockEncoder, Channels, Heads, PatchSide, Run, TimmConfig, Width
from vedcore_encoders.timm_transformers import (
    HEAD_ROWS,
    LAYER_FIELDS,
    activation_name,
    first_attribute,
    image_fields,
    key_map_mismatch,
    layer_mismatch,
    model_type_field,
    with_version_5_names,
)

__all__ = ["BODY_FIELDS", "KEY_MAP", "VIT_MODEL", "ViTConfig", "ViTEncoder", "extra_tensors", "refuses"]


class ViTConfig(TimmConfig):
    """Settings of a ViT; a field that is None is as the variant has it."""

    variant: str = "vit_base_patch16_224"
    """timm's name of the model, with or without the tag of its published weights."""
    hidden_size: Width | None = None
    """D, the width of the tokens."""
    num_hidden_layers: Layers | None = None
    """Number of blocks."""
    num_attention_heads: Heads | None = None
    """Attention heads of a block; must divide ``hidden_size``."""
    intermediate_size: Size | None = None
    """Width inside the feed-forward layers; None keeps the variant's ratio to ``hidden_size``, which is mostly 4."""
    hidden_act: Activation | None = None
    """Activation of the feed-forward layers."""
    layer_norm_eps: Epsilon | None = None
    """Added to the variance in the layer norms."""
    qkv_bias: bool | None = None
    """Whether query, key and value have a bias."""
    patch_size: PatchSide | tuple[PatchSide, PatchSide] | None = None
    """Height and width of a patch in pixels; a single number means a square."""
    num_channels: Channels = 3
    """Channels of an image: 3 for RGB, 1 for grey."""
    hidden_dropout_prob: Rate | None = None
    """Dropout of the embeddings and of the outputs of attention and feed-forward layers, in training."""
    attention_probs_dropout_prob: Rate | None = None
    """Dropout of the attention weights, in training."""
    drop_path_rate: Rate | None = None
    """Probability that the last block is skipped in training; it grows from 0 with depth."""


class Published(NamedTuple):
    """Sizes of a published variant, for the checks."""

    hidden_size: int
    heads: int
    image_size: tuple[int, int]
    patch_size: tuple[int, int]
    extra_tokens: int
    hybrid: bool
    """Whether patches come from a convolutional network, which fixes their size."""


@functools.cache
def published(variant: str) -> Published:
    """The variant's sizes, from a model of one block on the meta device: takes milliseconds."""
    with torch.device("meta"), LazyInit():
        model: Any = build(variant, depth=1)
    return Published(
        hidden_size=model.embed_dim,
        heads=next(m.num_heads for m in model.modules() if hasattr(m, "num_heads")),
        image_size=tuple(model.patch_embed.img_size),
        patch_size=tuple(model.patch_embed.feat_ratio(as_scalar=False)),
        extra_tokens=model.num_prefix_tokens,
        hybrid=type(model.patch_embed) is not PatchEmbed,
    )


KEY_MAP: tuple[Row, ...] = with_version_5_names((
    Row("embeddings.cls_token",                            "model.cls_token"),
    Row("embeddings.position_embeddings",                  "model.pos_embed"),
    Row("embeddings.patch_embeddings.projection",          "model.patch_embed.proj"),
    Row("encoder.layer.{}.layernorm_before",               "model.blocks.{}.norm1"),
    Row("encoder.layer.{}.attention.attention.query+key+value", "model.blocks.{}.attn.qkv"),
    Row("encoder.layer.{}.attention.output.dense",         "model.blocks.{}.attn.proj"),
    Row("encoder.layer.{}.layernorm_after",                "model.blocks.{}.norm2"),
    Row("encoder.layer.{}.intermediate.dense",             "model.blocks.{}.mlp.fc1"),
    Row("encoder.layer.{}.output.dense",                   "model.blocks.{}.mlp.fc2"),
    Row("layernorm",                                       "model.norm"),
    ignored("pooler.*"),
    *HEAD_ROWS,
))  # fmt: skip
"""Names of tensors in ``ViTModel``."""

BODY_FIELDS: tuple[ConfigField, ...] = (
    ConfigField("hidden_size",         768),
    ConfigField("num_hidden_layers",   12),
    ConfigField("num_attention_heads", 12),
    ConfigField("intermediate_size",   3072),
    ConfigField("layer_norm_eps",      1e-12),
    ConfigField("qkv_bias",            True),
    *image_fields(16),
    *LAYER_FIELDS,
    *unused_fields("pooler_output_size", "pooler_act"),
)  # fmt: skip
"""Config fields that transformers' ViT and DeiT share, and BEiT but for a few."""
FIELDS = (model_type_field("vit", "vit_base_patch16_224"), *BODY_FIELDS)


def extra_tensors(part: Any) -> dict[str, tuple[tuple[int, ...], float]]:
    """The pooler behind transformers' class token, which a model with a decoder does not read."""
    return {"pooler.dense.weight": ((part.hidden_size,) * 2, 0.0), "pooler.dense.bias": ((part.hidden_size,), 0.0)}


def refuses(part: Any, prefix_tokens: int = 1) -> str:
    """The reason why an encoder is not transformers' ViT, or an empty string; its DeiT has two ``prefix_tokens``."""
    model, blocks = part.model, part.model.blocks
    reasons = {
        "it has no class token": not model.has_class_token,
        "it has register tokens": model.num_reg_tokens > 0,
        "its class token has no position": model.no_embed_class or model.pos_embed is None,
        "it has a norm before the blocks": not isinstance(model.norm_pre, nn.Identity),
        "it has no final norm": isinstance(model.norm, nn.Identity),
        "its blocks are of another kind": any(type(b) is not Block or type(b.attn) is not Attention for b in blocks),
        "its layers are scaled": first_attribute(blocks, "gamma") is not None,
        "it has no distillation token": model.num_prefix_tokens < prefix_tokens,
        "it has a distillation token": model.num_prefix_tokens > prefix_tokens,
    }
    reason = next((reason for reason, found in reasons.items() if found), "")
    return reason or layer_mismatch(model, blocks) or key_map_mismatch(part, part.key_map)


VIT_MODEL = TransformersClass(
    model_type="vit",
    name="ViTModel",
    fields=FIELDS,
    key_map=KEY_MAP,
    base_prefix="vit",
    fixed={"drop_path_rate": 0.0},
    extra=extra_tensors,
    refuses=refuses,
)


class ViTEncoder(BlockEncoder):
    """A timm ``VisionTransformer`` as an encoder; ``last_hidden_state`` is after the final norm."""

    config_class: ClassVar[type[ViTConfig]] = ViTConfig
    config: ViTConfig
    timm_modules: ClassVar[tuple[str, ...]] = ("vision_transformer", "vision_transformer_hybrid")
    key_map = KEY_MAP
    transformers: ClassVar[tuple[TransformersClass, ...]] = (VIT_MODEL,)
    model: Any

    def __init__(self, config: ViTConfig, pretrained: bool = False) -> None:
        super().__init__(config, pretrained)
        self.hidden_size = self.model.embed_dim
        set_activation(self.model.blocks, config.hidden_act)
        set_layer_norm_eps(self.model, config.layer_norm_eps)
        if config.hidden_dropout_prob is not None:
            drop_once(self.model.blocks)
        for name in ("fc_norm", "head_drop", "head", "head_dist"):  # pooling and the classifier
            if hasattr(self.model, name):
                setattr(self.model, name, nn.Identity())
        self.model.attn_pool = None
        kept = set(self.model.modules())
        self._fused_attentions = [part for part in self._fused_attentions if part in kept]

    @classmethod
    def check(cls, config: Any, prefix: str = "encoder.") -> None:
        """Refuse heads that do not divide the width, and patches that do not divide the image."""
        sizes = published(config.variant)
        check_division(
            config.hidden_size or sizes.hidden_size,
            config.num_attention_heads or sizes.heads,
            "hidden_size",
            "num_attention_heads",
            f"{prefix}num_attention_heads",
            "change one of the two",
        )
        if sizes.hybrid and config.patch_size is not None:
            raise IncompatibleError(
                f"the patches of {config.variant} come from a convolutional network",
                field=f"{prefix}patch_size",
                hint="leave patch_size out",
            )
        image, patch = config.image_size or sizes.image_size, pair(config.patch_size) or sizes.patch_size
        # patches do not cover the images of some published variants wholly
        if (image, patch) != (sizes.image_size, sizes.patch_size):
            check_patches(image, patch, prefix)
        check_tokens(sizes.extra_tokens + image[0] // patch[0] * (image[1] // patch[1]), prefix)

    @classmethod
    def timm_arguments(cls, config: Any) -> dict[str, Any]:
        ratio = None
        if config.intermediate_size is not None:
            width = config.hidden_size or published(config.variant).hidden_size
            ratio = (config.intermediate_size + 0.5) / width  # timm multiplies and rounds down
        return {
            "img_size": config.image_size,
            "patch_size": config.patch_size,
            "in_chans": None if config.num_channels == 3 else config.num_channels,
            "embed_dim": config.hidden_size,
            "depth": config.num_hidden_layers,
            "num_heads": config.num_attention_heads,
            "mlp_ratio": ratio,
            "qkv_bias": config.qkv_bias,
            "pos_drop_rate": config.hidden_dropout_prob,
            "proj_drop_rate": config.hidden_dropout_prob,
            "attn_drop_rate": config.attention_probs_dropout_prob,
            "drop_path_rate": config.drop_path_rate,
        }

    def model_settings(self) -> dict[str, Any]:
        blocks = self.model.blocks
        inner, qkv = first_attribute(blocks, "fc1") or first_attribute(blocks, "fc1_g"), first_attribute(blocks, "qkv")
        attention_dropout, drop_path = first_attribute(blocks, "attn_drop"), first_attribute(blocks[-1], "drop_prob")
        patches = self.model.patch_embed
        return {
            **super().model_settings(),
            "hidden_size": self.hidden_size,
            "num_hidden_layers": len(blocks),
            "num_attention_heads": first_attribute(blocks, "num_heads"),
            "intermediate_size": inner.out_features if inner else None,
            "hidden_act": activation_name(blocks),
            "layer_norm_eps": first_attribute(blocks, "eps"),
            "qkv_bias": qkv.bias is not None if qkv else None,
            "patch_size": as_square(tuple(patches.patch_size)) if type(patches) is PatchEmbed else None,
            "hidden_dropout_prob": self.model.pos_drop.p,
            "attention_probs_dropout_prob": getattr(attention_dropout, "p", attention_dropout),
            "drop_path_rate": drop_path or 0.0,
        }

    def num_tokens(self, image_size: tuple[int, int] | None = None) -> int:
        """S: the patches, and the tokens before them.

        Raises:
            IncompatibleError: a size that the encoder does not take.
        """
        self.check_own_size(image_size, self.model.patch_embed.feat_ratio(as_scalar=False))
        return int(self.model.num_prefix_tokens + self.model.patch_embed.num_patches)

    @property
    def interpolates_positions(self) -> bool:  # type: ignore[override]
        """False where patches come from a convolutional network."""
        return type(self.model.patch_embed) is PatchEmbed

    def check_size(self, image_size: tuple[int, int], interpolate: bool = False) -> None:
        if not interpolate:
            super().check_size(image_size)
        elif any(holds(side == 0) for side in self.grid(image_size)):
            height, width = self.model.patch_embed.patch_size
            raise self.wrong_size(image_size, f"make them at least a patch, {height} x {width}")

    def grid(self, image_size: tuple[int, int]) -> Grid:
        """Rows and columns of patches in an image; a rest that they do not cover does not count."""
        height, width = self.model.patch_embed.feat_ratio(as_scalar=False)
        return image_size[0] // height, image_size[1] // width

    def token_grid(self, image_size: tuple[int, int]) -> TokenGrid:
        return TokenGrid(*self.grid(image_size), int(self.model.num_prefix_tokens))

    @property
    def extra_positions(self) -> int:
        """Rows of the position table before those of patches."""
        return 0 if getattr(self.model, "no_embed_class", False) else int(self.model.num_prefix_tokens)

    def fit_tensor(self, name: str, tensor: Tensor, image_size: int | Sequence[int] | None = None) -> Tensor | None:
        size = pair(image_size)
        if name != "model.pos_embed" or tensor.ndim != 3:
            return None
        extra, new, known = self.extra_positions, self.grid(self.image_size), size and self.grid(size)
        old = stored_grid(tensor.shape[1], lambda grid: extra + math.prod(grid), new, known)
        return None if old is None else resample_absolute(tensor, old, new, extra)

    def states(self, pixel_values: Tensor, run: Run) -> Iterator[Tensor]:
        x = self.embed(pixel_values)  # (N, S, D)
        yield x
        for block in self.model.blocks:
            x = run(block, x)
            yield x

    def embed(self, pixel_values: Tensor) -> Tensor:
        """Images (N, C, H, W) to tokens with positions (N, S, D), which are resampled for images of another size."""
        model, size = self.model, sides(pixel_values, 2)
        if is_same(size, self.image_size):
            x = model._pos_embed(model.patch_embed(pixel_values))
        else:
            x = self.patches(pixel_values)  # (N, patches, D)
            positions = self.positions(size)
            named = (getattr(model, name, None) for name in ("cls_token", "dist_token", "reg_token"))
            extra = [token.expand(x.shape[0], -1, -1) for token in named if token is not None]
            with_extra = self.extra_positions > 0
            x = torch.cat([*extra, x], 1) + positions if with_extra else torch.cat([*extra, x + positions], 1)
            x = model.pos_drop(x)
        out: Tensor = model.norm_pre(model.patch_drop(x))
        return out

    def patches(self, pixel_values: Tensor) -> Tensor:
        """Images of any size (N, C, H, W) to (N, patches, D)."""
        embed = self.model.patch_embed
        out: Tensor = embed.norm(embed.proj(pixel_values).flatten(2).transpose(1, 2))
        return out

    def positions(self, image_size: tuple[int, int]) -> Tensor | float:
        """The position table (1, tokens, D) for images of a size; 0 where there is none."""
        table = self.model.pos_embed
        if table is None:
            return 0.0
        return resample_absolute(table, self.grid(self.image_size), self.grid(image_size), self.extra_positions)

    def final_norm(self, hidden_states: Tensor) -> Tensor:
        out: Tensor = self.model.norm(hidden_states)
        return out
