"""Swin: attention within windows, which shift from block to block, on maps that shrink from stage to stage.

"Swin Transformer", Liu et al. 2021. There is no class token: S is the number of cells of the last map.

Shape letters: N images, C channels, H x W pixels, Y rows and X columns of a map, D width, P tokens of a window.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from pydantic import Field
from timm.models.swin_transformer import window_partition, window_reverse
from torch import Tensor, nn
from torch.nn import functional as F

from vedcore.config import Activation, Epsilon, Layers, Rate, check_limit
from vedcore.errors import IncompatibleError
from vedcore.layers.lazy_init import LazyInit
from vedcore.layers.tracing import holds
from vedcore.token_grids import TokenGrid
from vedcore.transformers_class import ConfigField, TransformersClass, restricted_field, unused_fields
from vedcore.weights.keymap import Row, ignored
from vedcore_encoders.positions import Grid, crop_offsets, is_same, resample_absolute, sides, stored_grid, window_rows
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
from vedcore_encoders.timm_encoder import BlockEncoder, Channels, Heads, PatchSide, Run, TimmConfig
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

__all__ = ["KEY_MAP", "SwinConfig", "SwinEncoder"]

MAX_BLOCKS = 1024
"""Limit of blocks, all stages together."""


class SwinConfig(TimmConfig):
    """Settings of a Swin; a field that is None is as the variant has it."""

    variant: str = "swin_base_patch4_window7_224"
    """timm's name of the model, with or without the tag of its published weights."""
    patch_size: PatchSide | tuple[PatchSide, PatchSide] | None = None
    """Height and width of a patch in pixels; a single number means a square."""
    num_channels: Channels = 3
    """Channels of an image: 3 for RGB, 1 for grey."""
    embed_dim: Annotated[int, Field(ge=1, le=8192)] | None = None
    """Width of the first stage; it doubles from stage to stage."""
    depths: Annotated[tuple[Layers, ...], Field(min_length=1, max_length=8)] | None = None
    """Number of blocks of each stage."""
    num_heads: Annotated[tuple[Heads, ...], Field(min_length=1, max_length=8)] | None = None
    """Attention heads of each stage; must divide its width."""
    window_size: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Height and width of a window, in cells of a map; a smaller map is a single window."""
    mlp_ratio: Annotated[float, Field(ge=0.125, le=64)] | None = None
    """Width inside the feed-forward layers, as a multiple of the stage's width."""
    qkv_bias: bool | None = None
    """Whether query, key and value have a bias."""
    hidden_act: Activation | None = None
    """Activation of the feed-forward layers."""
    layer_norm_eps: Epsilon | None = None
    """Added to the variance in the norms of blocks and in the final norm; norms between stages keep 1e-5."""
    use_absolute_embeddings: bool = False
    """Whether positions are added to the embeddings; published models have none."""
    final_norm: bool = True
    """Whether a norm follows the last stage; Donut has none."""
    hidden_dropout_prob: Rate | None = None
    """Dropout of the embeddings and of the outputs of attention and feed-forward layers, in training."""
    attention_probs_dropout_prob: Rate | None = None
    """Dropout of the attention weights, in training."""
    drop_path_rate: Rate | None = None
    """Probability that the last block is skipped in training; it grows from 0 with depth."""


class Published(NamedTuple):
    """Sizes of a published variant, for the checks."""

    embed_dim: int
    heads: tuple[int, ...]
    image_size: tuple[int, int]
    patch_size: tuple[int, int]


@functools.cache
def published(variant: str) -> Published:
    """The variant's sizes, from a model of one block a stage on the meta device: takes milliseconds."""
    with torch.device("meta"), LazyInit():
        model: Any = build(variant, depths=(1, 1, 1, 1))  # every published variant has four stages
    return Published(
        embed_dim=model.embed_dim,
        heads=tuple(stage.blocks[0].attn.num_heads for stage in model.layers),
        image_size=tuple(model.patch_embed.img_size),
        patch_size=tuple(model.patch_embed.patch_size),
    )


# transformers merges patches at the end of a stage, timm at the start of the next
_BLOCK, _TIMM_BLOCK = "encoder.layers.{}.blocks.{}", "model.layers.{}.blocks.{}"
_TABLE, _INDEX = "relative_position_bias_table", "relative_position_index"
_NORM = Row("layernorm", "model.norm", optional=True)
KEY_MAP: tuple[Row, ...] = with_version_5_names((
    Row("embeddings.patch_embeddings.projection",       "model.patch_embed.proj"),
    Row("embeddings.norm",                              "model.patch_embed.norm"),
    Row("embeddings.position_embeddings",               "position_embeddings", optional=True),
    Row(f"{_BLOCK}.layernorm_before",                   f"{_TIMM_BLOCK}.norm1"),
    Row(f"{_BLOCK}.attention.self.query+key+value",     f"{_TIMM_BLOCK}.attn.qkv", optional=True),  # or version 5's
    Row(f"{_BLOCK}.attention.self.{_TABLE}",            f"{_TIMM_BLOCK}.attn.{_TABLE}", optional=True),
    Row(f"{_BLOCK}.attention.output.dense",             f"{_TIMM_BLOCK}.attn.proj", optional=True),
    Row(f"{_BLOCK}.layernorm_after",                    f"{_TIMM_BLOCK}.norm2"),
    Row(f"{_BLOCK}.intermediate.dense",                 f"{_TIMM_BLOCK}.mlp.fc1", optional=True),
    Row(f"{_BLOCK}.output.dense",                       f"{_TIMM_BLOCK}.mlp.fc2", optional=True),
    Row("encoder.layers.{}.downsample.norm",            "model.layers.{+1}.downsample.norm", optional=True),
    Row("encoder.layers.{}.downsample.reduction",       "model.layers.{+1}.downsample.reduction", optional=True),
    ignored(f"{_BLOCK}.attention.self.{_INDEX}"),
    _NORM,
    *HEAD_ROWS,
))  # fmt: skip
"""Names of tensors in ``SwinModel``."""

_ABSOLUTE = "use_absolute_embeddings"
BODY_FIELDS: tuple[ConfigField, ...] = (
    ConfigField("embed_dim",        96),
    ConfigField("depths",           (2, 2, 6, 2), read=tuple, write=list),
    ConfigField("num_heads",        (3, 6, 12, 24), read=tuple, write=list),
    ConfigField("window_size",      7),
    ConfigField("mlp_ratio",        4.0, write=float),
    ConfigField("qkv_bias",         True),
    ConfigField("layer_norm_eps",   1e-5),
    ConfigField("drop_path_rate",   0.1),
    *image_fields(4),
    *LAYER_FIELDS,
    *unused_fields("hidden_size", "num_layers", "stage_names", "out_features", "out_indices", "path_norm"),
)  # fmt: skip
"""Config fields that transformers' Swin and Donut share."""
FIELDS = (
    model_type_field("swin", "swin_base_patch4_window7_224"),
    ConfigField(_ABSOLUTE, False),
    *BODY_FIELDS,
)
DONUT_FIELDS = (
    model_type_field("donut-swin", "swin_base_patch4_window7_224"),
    restricted_field(_ABSOLUTE, False),  # with True transformers has a position too many, and cannot run
    *BODY_FIELDS,
)


def extra_tensors(part: Any) -> dict[str, Tensor]:
    """Row of the position table for each pair of cells of a window, which transformers' Donut keeps in its files."""
    return {
        f"encoder.layers.{i}.blocks.{j}.attention.self.{_INDEX}": block.attn.relative_position_index.clone()
        for i, stage in enumerate(part.model.layers)
        for j, block in enumerate(stage.blocks)
    }


def refuses(part: Any) -> str:
    """The reason why an encoder is not transformers' Swin, or an empty string."""
    window = part.settings()["window_size"]
    if any(block.window_size != (window, window) for stage in part.model.layers for block in stage.blocks):
        return "not all of its windows have the same size, or a map is smaller than a window"
    return layer_mismatch(part.model, part.model.layers) or key_map_mismatch(part, part.key_map)


_ATTRIBUTE_MAP = {"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"}
SWIN_MODEL = TransformersClass(
    model_type="swin",
    name="SwinModel",
    fields=FIELDS,
    key_map=KEY_MAP,
    base_prefix="swin",
    attribute_map=_ATTRIBUTE_MAP,
    fixed={"final_norm": True},
    refuses=refuses,
)
DONUT_MODEL = TransformersClass(
    model_type="donut-swin",
    name="DonutSwinModel",
    fields=DONUT_FIELDS,
    key_map=tuple(row for row in KEY_MAP if row is not _NORM),
    base_prefix="donut",
    attribute_map=_ATTRIBUTE_MAP,
    fixed={"final_norm": False, _ABSOLUTE: False},
    extra=extra_tensors,
    refuses=refuses,
)


class SwinEncoder(BlockEncoder):
    """A timm ``SwinTransformer`` as an encoder; ``last_hidden_state`` is after the final norm, if there is one.

    It takes images of any size whose maps are not smaller than its windows; they are padded to whole patches. Only a
    table of absolute positions, which published models lack, is for one size.
    """

    config_class: ClassVar[type[SwinConfig]] = SwinConfig
    config: SwinConfig
    timm_modules: ClassVar[tuple[str, ...]] = ("swin_transformer",)
    key_map = KEY_MAP
    transformers = (SWIN_MODEL, DONUT_MODEL)
    interpolates_positions = True
    model: Any

    def __init__(self, config: SwinConfig, pretrained: bool = False) -> None:
        super().__init__(config, pretrained)
        self.takes_task_prompts = not config.final_norm  # Donut's
        self.hidden_size = self.model.num_features
        grid = self.model.patch_embed.grid_size
        self.position_embeddings = (
            nn.Parameter(torch.zeros(1, grid[0] * grid[1], self.model.embed_dim))
            if config.use_absolute_embeddings
            else None
        )
        set_activation(self.model.layers, config.hidden_act)
        for stage in self.model.layers:
            set_layer_norm_eps(stage.blocks, config.layer_norm_eps)
            _disable_shift(stage.blocks)
        set_layer_norm_eps(self.model.norm, config.layer_norm_eps)
        if not config.final_norm:
            self.model.norm = nn.Identity()
        if config.hidden_dropout_prob is not None:
            drop_once(self.model.layers)
        self.model.head = nn.Identity()

    @classmethod
    def check(cls, config: Any, prefix: str = "encoder.") -> None:
        """Refuse stages without heads, heads that do not divide the width, and patches that do not divide the image."""
        sizes = published(config.variant)
        heads, width = config.num_heads or sizes.heads, config.embed_dim or sizes.embed_dim
        stages = len(config.depths) if config.depths else len(sizes.heads)
        check_limit(sum(config.depths or ()), MAX_BLOCKS, f"{prefix}depths", "number of blocks")
        if len(heads) != stages:
            raise IncompatibleError(
                f"num_heads has {len(heads)} stages, depths {stages}",
                field=f"{prefix}num_heads",
                hint="give both the same number",
            )
        for stage, count in enumerate(heads):
            check_division(
                width * 2**stage,
                count,
                f"width of stage {stage + 1}",
                "num_heads",
                f"{prefix}num_heads",
                "change num_heads or embed_dim",
            )
        image = config.image_size or sizes.image_size
        patch = pair(config.patch_size) or sizes.patch_size
        check_patches(image, patch, prefix)
        last = [-(-side // (p * 2 ** (stages - 1))) for side, p in zip(image, patch, strict=True)]
        check_tokens(last[0] * last[1], prefix)

    @classmethod
    def timm_arguments(cls, config: Any) -> dict[str, Any]:
        return {
            "img_size": config.image_size,
            "patch_size": config.patch_size,
            "in_chans": None if config.num_channels == 3 else config.num_channels,
            "embed_dim": config.embed_dim,
            "depths": config.depths,
            "num_heads": config.num_heads,
            "window_size": config.window_size,
            "mlp_ratio": config.mlp_ratio,
            "qkv_bias": config.qkv_bias,
            "proj_drop_rate": config.hidden_dropout_prob,
            "attn_drop_rate": config.attention_probs_dropout_prob,
            "drop_path_rate": config.drop_path_rate,
        }

    def model_settings(self) -> dict[str, Any]:
        stages = [stage.blocks for stage in self.model.layers]
        block = stages[0][0]
        width, window = block.mlp.fc1.in_features, block.window_size[0]
        one_size = all(  # but for blocks whose map is smaller than a window
            tuple(b.window_size) == tuple(min(window, side) for side in b.input_resolution)
            for blocks in stages
            for b in blocks
        )
        return {
            **super().model_settings(),
            "patch_size": as_square(tuple(self.model.patch_embed.patch_size)),
            "embed_dim": self.model.embed_dim,
            "depths": tuple(len(blocks) for blocks in stages),
            "num_heads": tuple(blocks[0].attn.num_heads for blocks in stages),
            "window_size": window if one_size else None,
            "mlp_ratio": block.mlp.fc1.out_features / width,
            "qkv_bias": block.attn.qkv.bias is not None,
            "hidden_act": activation_name(self.model.layers),
            "layer_norm_eps": block.norm1.eps,
            "hidden_dropout_prob": block.attn.proj_drop.p,
            "attention_probs_dropout_prob": block.attn.attn_drop.p,
            "drop_path_rate": first_attribute(stages[-1][-1], "drop_prob") or 0.0,
        }

    def num_tokens(self, image_size: tuple[int, int] | None = None) -> int:
        """S: the cells of the last map.

        Raises:
            IncompatibleError: a size that the encoder does not take.
        """
        size = image_size or self.image_size
        self.check_size(size, interpolate=True)
        height, width = self.maps(size)[-1]
        return height * width

    def grid(self, image_size: tuple[int, int]) -> Grid:
        """Rows and columns of patches in an image, which is padded to whole patches."""
        height, width = self.model.patch_embed.patch_size
        return (image_size[0] + height - 1) // height, (image_size[1] + width - 1) // width

    def token_grid(self, image_size: tuple[int, int]) -> TokenGrid:
        return TokenGrid(*self.maps(image_size)[-1])

    def maps(self, image_size: tuple[int, int]) -> list[Grid]:
        """Rows and columns of the map of each stage."""
        rows, columns = self.grid(image_size)
        return [(-(-rows // 2**stage), -(-columns // 2**stage)) for stage in range(len(self.model.layers))]

    def check_size(self, image_size: tuple[int, int], interpolate: bool = False) -> None:
        if (
            self.position_embeddings is not None
            and not interpolate
            and not is_same(self.grid(image_size), self._own_grid)
        ):
            super().check_size(image_size)
        windows = [stage.blocks[0].window_size for stage in self.model.layers]
        for cells, window in zip(self.maps(image_size), windows, strict=True):
            if holds(cells[0] < window[0]) or holds(cells[1] < window[1]):
                patch = self.model.patch_embed.patch_size
                least = [
                    max((size[axis] - 1) * 2**stage for stage, size in enumerate(windows)) * patch[axis] + 1
                    for axis in (0, 1)
                ]
                raise IncompatibleError(
                    f"images of {image_size[0]} x {image_size[1]} pixels give a map of {cells[0]} x {cells[1]} cells, "
                    f"smaller than a window of {window[0]} x {window[1]}",
                    field="encoder.image_size",
                    hint=f"make them {least[0]} x {least[1]} pixels or larger",
                )

    def fit_tensor(self, name: str, tensor: Tensor, image_size: int | Sequence[int] | None = None) -> Tensor | None:
        size = pair(image_size)
        if name == "position_embeddings" and tensor.ndim == 3:
            known = size and self.grid(size)
            old = stored_grid(tensor.shape[1], math.prod, self._own_grid, known)
            return None if old is None else resample_absolute(tensor, old, self._own_grid, 0)
        found = re.fullmatch(rf"model\.layers\.(\d+)\.blocks\.(\d+)\.attn\.{_TABLE}", name)
        if found is None or tensor.ndim != 2:
            return None
        stage, block = int(found[1]), int(found[2])
        new: Grid = tuple(self.model.layers[stage].blocks[block].window_size)
        window = self.config.window_size
        if size is None or window is None:
            known = None
        else:  # a map smaller than the window was one window
            rows, columns = self.maps(size)[stage]
            known = min(window, rows), min(window, columns)
        old = stored_grid(len(tensor), window_rows, new, known)
        return None if old is None else crop_offsets(tensor, old, new)

    @property
    def _own_grid(self) -> Grid:
        return self.grid(self.image_size)

    def states(self, pixel_values: Tensor, run: Run) -> Iterator[Tensor]:
        size, embed = sides(pixel_values, 2), self.model.patch_embed
        pixel_values = _padded(pixel_values, 2, embed.patch_size)
        x = embed.norm(embed.proj(pixel_values).permute(0, 2, 3, 1))  # (N, Y, X, D)
        if self.position_embeddings is not None:
            positions = resample_absolute(self.position_embeddings, self._own_grid, self.grid(size), 0)
            x = x + positions.view(1, *x.shape[1:])
        x = F.dropout(x, self.config.hidden_dropout_prob or 0.0, self.training)
        yield x
        stages = list(self.model.layers)
        for stage, following in zip(stages, [*stages[1:], None], strict=True):
            for block in stage.blocks:
                x = run(windowed_block, block, x)
            if following is not None:
                x = following.downsample(_padded(x, 1, (2, 2)))  # (N, Y/2, X/2, 2 D)
            yield x

    def final_norm(self, hidden_states: Tensor) -> Tensor:
        out: Tensor = self.model.norm(hidden_states)
        return out


def windowed_block(block: Any, x: Tensor) -> Tensor:
    """A timm block on a map (N, Y, X, D), which is padded to whole windows before it is shifted.

    timm shifts first: where windows do not divide the map, cells attend to each other that its mask should separate.
    transformers and the original segmentation code pad first. On maps of whole windows both give the same.
    """
    size = height, width = sides(x, 1)
    window, shift, mask = block.window_size, block.shift_size, block.attn_mask
    own = is_same(size, block.input_resolution)
    if not own:  # as transformers does, which shifts along neither axis where a side of the map is a window
        shifted = any(block.target_shift_size) and all(side > max(window) for side in size)
        shift = (window[0] // 2, window[1] // 2) if shifted else (0, 0)
    inner = _padded(block.norm1(x), 1, window)  # (N, Y', X', D)
    padded = sides(inner, 1)
    if any(shift):
        inner = inner.roll((-shift[0], -shift[1]), (1, 2))
        mask = mask if own else _shift_mask(inner, window, shift)
    windows = window_partition(inner, window).flatten(1, 2)  # (N * windows, P, D)
    windows = block.attn(windows, mask=mask if any(shift) else None).unflatten(1, window)
    inner = window_reverse(windows, window, *padded)  # (N, Y', X', D)
    if any(shift):
        inner = inner.roll(shift, (1, 2))
    x = x + block.drop_path1(inner[:, :height, :width])
    out: Tensor = x + block.drop_path2(block.mlp(block.norm2(x)))
    return out


def _padded(x: Tensor, axis: int, unit: Grid) -> Tensor:
    """``x`` with zeros at the end of ``axis`` and of the axis after it, up to multiples of ``unit``."""
    rows, columns = ((side + each - 1) // each * each - side for side, each in zip(sides(x, axis), unit, strict=True))
    if is_same((rows, columns), (0, 0)):
        return x
    return F.pad(x, (*(0,) * (2 * (x.ndim - axis - 2)), 0, columns, 0, rows))


def _shift_mask(x: Tensor, window: Grid, shift: Grid) -> Tensor:
    """(windows, P, P) for a shifted map (N, Y, X, D): -100 between cells that were not side by side before, else 0."""
    rows, columns = (
        (index >= index.shape[0] - window[axis]).long() + (index >= index.shape[0] - shift[axis]).long()
        for axis, index in enumerate(torch.arange(side, device=x.device) for side in sides(x, 1))
    )
    regions = (3 * rows[:, None] + columns)[None, :, :, None]  # (1, Y, X, 1)
    windows = window_partition(regions, window).flatten(1)  # (windows, P)
    mask: Tensor = (windows[:, None] != windows[:, :, None]).to(x.dtype) * -100.0
    return mask


def _disable_shift(blocks: Any) -> None:
    """Shift along neither axis where one axis is exactly a window, as transformers does; timm shifts the other axis."""
    for block in blocks:
        if min(block.input_resolution) == max(block.window_size):
            block.shift_size = (0, 0)
            block.attn_mask = None
