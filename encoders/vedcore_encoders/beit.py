"""BEiT: a ViT with relative positions in its attention, and with scaled layers.

"BEiT: BERT Pre-Training of Image Transformers", Bao et al. 2021. Only the difference from ViT is here: relative
positions are biases of the attention scores (a table for each block, or one for all), absolute positions are optional,
keys have no bias, and the final norm is part of the pooling that published models were fine-tuned with.

Shape letters: N images, S tokens, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from timm.models.beit import Attention, Block, gen_relative_position_index
from torch import Tensor, nn

from vedcore.transformers_class import ConfigField, TransformersClass, unused_fields
from vedcore.weights.keymap import Row, ignored
from vedcore_encoders.positions import is_same, relative_rows, resample_relative, sides, stored_grid
from vedcore_encoders.timm_building import as_square, pair
from vedcore_encoders.timm_encoder import Run
from vedcore_encoders.timm_transformers import key_map_mismatch, layer_mismatch, model_type_field, with_version_5_names
from vedcore_encoders.vit import BODY_FIELDS as VIT_BODY_FIELDS
from vedcore_encoders.vit import KEY_MAP as VIT_KEY_MAP
from vedcore_encoders.vit import ViTConfig, ViTEncoder

__all__ = ["KEY_MAP", "BeitConfig", "BeitEncoder"]


class BeitConfig(ViTConfig):
    """Settings of a BEiT; a field that is None is as the variant has it."""

    variant: str = "beit_base_patch16_224"
    """timm's name of the model, with or without the tag of its published weights."""
    qkv_bias: bool | None = None
    """Whether query and value have a bias; keys never have one."""
    use_absolute_position_embeddings: bool | None = None
    """Whether positions are added to the embeddings."""
    use_relative_position_bias: bool | None = None
    """Whether each block has its own table of relative positions."""
    use_shared_relative_position_bias: bool | None = None
    """Whether all blocks share one table of relative positions."""
    layer_scale_init_value: Annotated[float, Field(ge=0, le=10)] | None = None
    """Initial value of the factors that scale each layer's output; 0 means no factors."""
    use_mean_pooling: bool | None = None
    """Whether the last norm belongs to the classifier's mean pooling, as in published models. The classifier is left
    out here, so ``last_hidden_state`` is not normed; with False it is. Both as in transformers."""


_RELATIVE = "relative_position_bias.relative_position_bias_table"
_OPTIONAL = ("embeddings.position_embeddings", "layernorm")
KEY_MAP: tuple[Row, ...] = with_version_5_names((
    Row("encoder.layer.{}.attention.attention.query.bias",        "model.blocks.{}.attn.q_bias", optional=True),
    Row("encoder.layer.{}.attention.attention.value.bias",        "model.blocks.{}.attn.v_bias", optional=True),
    Row("encoder.layer.{}.lambda_1",                              "model.blocks.{}.gamma_1", optional=True),
    Row("encoder.layer.{}.lambda_2",                              "model.blocks.{}.gamma_2", optional=True),
    Row(f"encoder.layer.{{}}.attention.attention.{_RELATIVE}",    "model.blocks.{}.attn.relative_position_bias_table",
        optional=True),
    Row(f"encoder.{_RELATIVE}",                                   f"model.rel_pos_bias.{_RELATIVE.split('.')[1]}",
        optional=True),
    ignored("encoder.layer.{}.attention.attention.relative_position_bias.relative_position_index"),
    ignored("encoder.relative_position_bias.relative_position_index"),
    *(ignored(head) for head in ("lm_head", "decode_head.*", "auxiliary_head.*", "fpn1.*", "fpn2.*", "fpn.*")),
    *(Row(row.theirs, row.ours, optional=True) if row.theirs in _OPTIONAL else row for row in VIT_KEY_MAP
      if not row.theirs.startswith("layers.")),  # version 5's names, made anew from these rows
))  # fmt: skip
"""Names of tensors in ``BeitModel``."""

_VIT_ONLY = ("qkv_bias", "pooler_output_size", "pooler_act")
FIELDS: tuple[ConfigField, ...] = (
    model_type_field("beit", "beit_base_patch16_224"),
    *(field for field in VIT_BODY_FIELDS if field.name not in _VIT_ONLY),
    ConfigField("use_absolute_position_embeddings",  False),
    ConfigField("use_relative_position_bias",        False),
    ConfigField("use_shared_relative_position_bias", False),
    ConfigField("layer_scale_init_value",            0.1, read=lambda value: max(0.0, value or 0.0)),
    ConfigField("drop_path_rate",                    0.1),
    ConfigField("use_mean_pooling",                  True),
    *unused_fields(
        "vocab_size", "use_mask_token", "pool_scales", "use_auxiliary_head", "auxiliary_loss_weight",
        "auxiliary_channels", "auxiliary_num_convs", "auxiliary_concat_input", "semantic_loss_ignore_index",
        "out_features", "out_indices", "stage_names", "segmentation_indices", "add_fpn", "reshape_hidden_states",
    ),
)  # fmt: skip


def extra_tensors(part: Any) -> dict[str, tuple[tuple[int, ...], float]]:
    """The norm behind transformers' mean of the tokens, which a model with a decoder does not read."""
    if not part.settings()["use_mean_pooling"]:
        return {}
    return {"pooler.layernorm.weight": ((part.hidden_size,), 1.0), "pooler.layernorm.bias": ((part.hidden_size,), 0.0)}


def unlike(settings: Mapping[str, Any]) -> dict[str, str]:
    """Image sizes whose positions transformers computes otherwise."""
    height, width = pair(settings["image_size"])  # type: ignore[misc]
    down, across = pair(settings["patch_size"])  # type: ignore[misc]
    relative = settings["use_relative_position_bias"] or settings["use_shared_relative_position_bias"]
    if relative and height // down != width // across:
        return {"image_size": "transformers' relative positions need as many rows of patches as columns"}
    if settings["use_absolute_position_embeddings"] and height != width:
        return {"image_size": "transformers' absolute positions need a square image"}
    return {}


def refuses(part: Any) -> str:
    """The reason why an encoder is not transformers' BEiT, or an empty string."""
    model, settings = part.model, part.settings()
    relative = settings["use_relative_position_bias"] or settings["use_shared_relative_position_bias"]
    reasons = {
        "transformers' relative positions need square patches": relative
        and not isinstance(as_square(settings["patch_size"]), int),
        "its blocks are of another kind": any(
            type(block) is not Block or type(block.attn) is not Attention for block in model.blocks
        ),
    }
    reason = next((reason for reason, found in reasons.items() if found), "")
    return reason or layer_mismatch(model, model.blocks) or key_map_mismatch(part, part.key_map)


BEIT_MODEL = TransformersClass(
    model_type="beit",
    name="BeitModel",
    fields=FIELDS,
    key_map=KEY_MAP,
    base_prefix="beit",
    fixed={"qkv_bias": True},
    extra=extra_tensors,
    refuses=refuses,
    unlike=unlike,
)


class BeitEncoder(ViTEncoder):
    """A timm ``Beit`` as an encoder."""

    config_class: ClassVar[type[BeitConfig]] = BeitConfig
    config: BeitConfig
    timm_modules: ClassVar[tuple[str, ...]] = ("beit",)
    key_map = KEY_MAP
    transformers = (BEIT_MODEL,)

    @classmethod
    def timm_arguments(cls, config: Any) -> dict[str, Any]:
        pooling = {None: None, True: "avg", False: "token"}
        return {
            **super().timm_arguments(config),
            "use_abs_pos_emb": config.use_absolute_position_embeddings,
            "use_rel_pos_bias": config.use_relative_position_bias,
            "use_shared_rel_pos_bias": config.use_shared_relative_position_bias,
            "init_values": config.layer_scale_init_value,
            "global_pool": pooling[config.use_mean_pooling],
        }

    def model_settings(self) -> dict[str, Any]:
        model, block = self.model, self.model.blocks[0]
        return {
            **super().model_settings(),
            "qkv_bias": block.attn.q_bias is not None,
            "use_absolute_position_embeddings": model.pos_embed is not None,
            "use_relative_position_bias": block.attn.relative_position_bias_table is not None,
            "use_shared_relative_position_bias": model.rel_pos_bias is not None,
            "layer_scale_init_value": 0.0 if block.gamma_1 is None else float(block.init_values),
            "use_mean_pooling": isinstance(model.norm, nn.Identity),
        }

    def fit_tensor(self, name: str, tensor: Tensor, image_size: int | Sequence[int] | None = None) -> Tensor | None:
        size = pair(image_size)
        if not name.endswith(".relative_position_bias_table") or tensor.ndim != 2:
            return super().fit_tensor(name, tensor, size)
        new, known = self.grid(self.image_size), size and self.grid(size)
        old = stored_grid(len(tensor), relative_rows, new, known)
        return None if old is None else resample_relative(tensor, old, new)

    def states(self, pixel_values: Tensor, run: Run) -> Iterator[Tensor]:
        size = sides(pixel_values, 2)
        x = self.patches(pixel_values)  # (N, patches, D)
        x = torch.cat([self.model.cls_token.expand(x.shape[0], -1, -1), x], 1) + self.positions(size)  # (N, S, D)
        x = self.model.pos_drop(x)
        yield x
        shared = self.model.rel_pos_bias
        if is_same(self.grid(size), self.grid(self.image_size)):
            bias = shared() if shared is not None else None  # (heads, S, S)
            for block in self.model.blocks:
                x = run(block, x, bias)
                yield x
            return
        bias = self._bias(shared, size)
        for block in self.model.blocks:
            own = self._bias(block.attn, size)
            both = own if bias is None else bias if own is None else own + bias
            x = run(_without_table(block), x, both)
            yield x

    def _bias(self, module: Any, image_size: tuple[int, int]) -> Tensor | None:
        """Biases (heads, S, S) of a module's table for images of another size; None where it has no table."""
        table = getattr(module, "relative_position_bias_table", None)
        if table is None:
            return None
        grid = self.grid(image_size)
        table = resample_relative(table, self.grid(self.image_size), grid)
        index = gen_relative_position_index(grid, device=table.device)  # (S, S)
        bias: Tensor = table[index.flatten()].view(*index.shape, -1).permute(2, 0, 1).contiguous()
        return bias


def _without_table(block: Any) -> Any:
    """The block without its table of relative positions, and so with those alone that it is called with."""
    if block.attn.relative_position_bias_table is None:
        return block
    block, attention = copy.copy(block), copy.copy(block.attn)
    attention._parameters = {**attention._parameters, "relative_position_bias_table": None}
    block._modules = {**block._modules, "attn": attention}
    return block
