"""Any timm model that has ``forward_features``: ``timm/<name>``.

The shape of a model's features is found by a forward pass on the meta device, so there is no list of models here.

Shape letters: N images, H x W pixels, S tokens, D width, Y rows and X columns of a map.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import timm
import torch
from timm.layers import set_reentrant_ckpt, use_reentrant_ckpt
from torch import Tensor, nn

from vedcore.config import Rate
from vedcore.errors import (
    ConfigSchemaError,
    IncompatibleError,
    UnknownComponentError,
    UsageError,
    VedcoreError,
    described,
    printable,
)
from vedcore.layers.checkpointing import Checkpointing
from vedcore.layers.embeddings import sinusoid_2d
from vedcore.layers.tracing import is_traced
from vedcore.outputs import EncoderOutput
from vedcore.token_grids import TokenGrid
from vedcore_encoders.timm_building import build, check_patches, check_tokens
from vedcore_encoders.timm_encoder import Run, TimmConfig, TimmEncoder, as_sequence

__all__ = ["AnyTimm", "AnyTimmConfig"]


class AnyTimmConfig(TimmConfig):
    """Settings of any timm model; a field that is None is as the variant has it."""

    drop_rate: Rate | None = None
    """Dropout rate, in timm's meaning for the model."""
    drop_path_rate: Rate | None = None
    """Probability that the last block is skipped in training."""
    positions: Literal["auto", "none", "sinusoidal"] = "auto"
    """Positions added to the features, for cross-attention: ``sinusoidal`` adds sines along height and width to a map;
    ``auto`` does so for maps, and leaves sequences, which have positions, as they are."""


class FeatureShape(NamedTuple):
    """Shape of the features that a model gives for images of a size."""

    layout: Literal["NLC", "NCHW", "NHWC"]
    tokens: int
    width: int
    grid: TokenGrid | None
    """The grid of the tokens on an image; None where the model does not say."""
    unused: tuple[str, ...]
    """Direct children of the model that ``forward_features`` does not call: modules of the classifier."""


class AnyTimm(TimmEncoder):
    """A timm model as an encoder; ``last_hidden_state`` is the output of ``forward_features``, as a sequence.

    A map (N, D, Y, X) becomes (N, Y * X, D), row by row. Models without fixed positions take images of any size that is
    not smaller than their stride.
    """

    config_class: ClassVar[type[AnyTimmConfig]] = AnyTimmConfig
    config: AnyTimmConfig
    model: Any

    def __init__(self, config: AnyTimmConfig, pretrained: bool = False) -> None:
        super().__init__(config, pretrained)
        found = feature_shape(config.variant, *_shape_arguments(config))
        # a model without positions of a fixed size takes images of other sizes anyway
        self.interpolates_positions = not timm.get_pretrained_cfg(config.variant).fixed_input_size
        self.layout, self.hidden_size = found.layout, found.width
        for child in found.unused:
            setattr(self.model, child, nn.Identity())

    @classmethod
    def make_config(
        cls, variant: str | None, fields: Mapping[str, Any], *, path: object = None, prefix: str = ""
    ) -> TimmConfig:
        if variant is None and "variant" not in fields:
            raise UnknownComponentError(
                "no timm model is named",
                path=path,
                field=f"{prefix}variant",
                hint="write timm/<name>, such as timm/convnext_tiny",
            )
        return super().make_config(variant, fields, path=path, prefix=prefix)

    @classmethod
    def check(cls, config: Any, prefix: str = "encoder.") -> None:
        """Refuse image sizes that the model does not take, and sinusoidal positions for a sequence."""
        found = feature_shape(config.variant, *_shape_arguments(config))
        if config.positions == "sinusoidal" and found.layout == "NLC":
            raise IncompatibleError(
                f"{config.variant} gives a sequence, not a map", field=f"{prefix}positions", hint="leave positions out"
            )

    @classmethod
    def timm_arguments(cls, config: Any) -> dict[str, Any]:
        size, drop_rate, drop_path_rate = _shape_arguments(config)
        return _arguments(config.variant, size, drop_rate, drop_path_rate)

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether activations are computed again in the backward pass instead of kept; timm decides which."""
        return bool(self.__dict__.get("_checkpointing", False))

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, enable: bool) -> None:
        self.__dict__["_checkpointing"] = enable
        self.model.set_grad_checkpointing(enable)

    @property
    def checkpointing(self) -> Checkpointing:
        """The options of checkpointing; all but ``use_reentrant`` are a `UsageError` (timm has no others)."""
        found: Checkpointing = self.__dict__.get("_how", Checkpointing())
        return found

    @checkpointing.setter
    def checkpointing(self, how: Checkpointing) -> None:
        others = [name for name in how.options if name != "use_reentrant"]
        others += ["every_n_layers"] * (how.every_n_layers > 1) + ["offload"] * how.offload
        if others:
            raise UsageError(
                "timm's models do not take it",
                field=others[0],
                hint="leave it out, or set model.decoder.gradient_checkpointing = True alone",
            )
        self.__dict__["_how"] = how

    def num_tokens(self, image_size: tuple[int, int] | None = None) -> int:
        """S for images of that height and width, computed without weights.

        Raises:
            IncompatibleError: a size that the model does not take.
        """
        size = image_size or self.image_size
        if self.interpolates_positions:
            self.check_size(size)
        else:
            self.check_own_size(size)
        return feature_shape(self.config.variant, size, *_shape_arguments(self.config)[1:]).tokens

    def token_grid(self, image_size: tuple[int, int]) -> TokenGrid:
        found = feature_shape(self.config.variant, image_size, *_shape_arguments(self.config)[1:])
        return found.grid or super().token_grid(image_size)

    def check_size(self, image_size: tuple[int, int], interpolate: bool = False) -> None:
        if not self.interpolates_positions:
            super().check_size(image_size)
        elif not is_traced() and image_size != self.image_size:
            feature_shape(self.config.variant, image_size, *_shape_arguments(self.config)[1:])

    def forward(
        self,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        interpolate_pos_encoding: bool = False,
    ) -> EncoderOutput:
        """Encode images, as `TimmEncoder.forward` says.

        ``output_hidden_states`` gives the output of each stage or block, without class tokens and positions.

        Raises:
            UsageError: attention weights or hidden states are asked for, and the model has none.
        """
        if output_attentions and self.gradient_checkpointing and self.training:
            raise UsageError(
                "gradient checkpointing keeps no attention weights",
                field="output_attentions",
                hint="switch one of them off",
            )
        out = super().forward(
            pixel_values, attention_mask, output_attentions, output_hidden_states, interpolate_pos_encoding
        )
        if output_attentions and not out.attentions:
            raise UsageError(
                f"{self.config.variant} computes no attention weights", field="output_attentions", hint="leave it out"
            )
        return out

    def encode(self, pixel_values: Tensor, run: Run, output_hidden_states: bool) -> tuple[Tensor, list[Tensor]]:
        states: list[Tensor] = []
        if output_hidden_states:
            if not hasattr(self.model, "forward_intermediates"):
                raise UsageError(
                    f"timm gives no hidden states of {self.config.variant}",
                    field="output_hidden_states",
                    hint="leave it out",
                )
            maps = self.model.forward_intermediates(pixel_values, intermediates_only=True)
            states = [as_sequence(m.movedim(1, -1) if m.ndim == 4 else m) for m in maps]  # (N, D, Y, X) -> (N, Y*X, D)
        before = use_reentrant_ckpt()
        set_reentrant_ckpt(self.checkpointing.reentrant)
        try:
            features = self.model.forward_features(pixel_values)
        finally:
            set_reentrant_ckpt(before)
        if self.layout == "NCHW":
            features = features.movedim(1, -1)  # (N, Y, X, D)
        if self.layout != "NLC" and self.config.positions != "none":
            features = features + _positions(features)
        return as_sequence(features), states


def _positions(features: Tensor) -> Tensor:
    """Sines of rows and columns for a map (N, Y, X, D), scaled to the size of each image's features."""
    _, height, width, channels = features.shape
    size = features.detach().float().pow(2).mean((1, 2, 3), keepdim=True).sqrt()  # (N, 1, 1, 1)
    sines = sinusoid_2d(height, width, channels, features.device).reshape(height, width, channels)  # (Y, X, D)
    out: Tensor = size * sines
    return out.to(features.dtype)


def _shape_arguments(config: Any) -> tuple[tuple[int, int], float | None, float | None]:
    size = config.image_size or tuple(timm.get_pretrained_cfg(config.variant).input_size[1:])
    return size, config.drop_rate, config.drop_path_rate


def _arguments(
    variant: str, image_size: tuple[int, int], drop_rate: float | None, drop_path_rate: float | None
) -> dict[str, Any]:
    """Arguments of timm's constructor; only models of a fixed size take a size, and only where it is not their own."""
    own = timm.get_pretrained_cfg(variant)
    resized = own.fixed_input_size and image_size != tuple(own.input_size[1:])
    return {"img_size": image_size if resized else None, "drop_rate": drop_rate, "drop_path_rate": drop_path_rate}


@functools.lru_cache(maxsize=256)
def feature_shape(
    variant: str, image_size: tuple[int, int], drop_rate: float | None = None, drop_path_rate: float | None = None
) -> FeatureShape:
    """The shape of the features of images of that size, from a forward pass on the meta device: nothing is computed.

    Raises:
        ConfigSchemaError: a setting that the model does not have.
        IncompatibleError: a size that the model does not take, or features that are neither a sequence nor a map.
    """
    own = timm.get_pretrained_cfg(variant)
    called: set[str] = set()
    try:
        with torch.device("meta"), torch.no_grad():
            arguments = _arguments(variant, image_size, drop_rate, drop_path_rate)
            model: Any = build(variant, **arguments).eval()
            _check_size(variant, model, image_size, resized=arguments["img_size"] is not None)
            for name, child in model.named_children():
                for module in child.modules():
                    module.register_forward_pre_hook(lambda *_, name=name: called.add(name))
            features = model.forward_features(torch.empty(2, 3, *image_size))
    except (VedcoreError, MemoryError):
        raise
    except Exception as error:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown and unknown[1] != "img_size":
            raise ConfigSchemaError(
                f"{variant} has no such setting", field=f"encoder.{unknown[1]}", hint="leave it out"
            ) from error
        if image_size == tuple(own.input_size[1:]):  # the model's own size, so another error
            message, hint = f"{variant} does not run as an encoder: {described(error)}", "choose another model"
            raise IncompatibleError(message, field="encoder.variant", hint=hint) from error
        raise IncompatibleError(
            f"{variant} does not take images of {image_size[0]} x {image_size[1]} pixels",
            field="encoder.image_size",
            hint=f"use {own.input_size[1]} x {own.input_size[2]}, which it was made for",
            details=printable(error),
        ) from error
    if not isinstance(features, Tensor) or features.ndim not in (3, 4):
        raise IncompatibleError(
            f"{variant} gives neither a sequence nor a map", field="encoder", hint="choose another model"
        )
    layout, width, tokens = _layout(model, features)
    check_tokens(tokens, "encoder.")
    weighted = [name for name, child in model.named_children() if any(True for _ in child.parameters())]
    grid = _grid(model, features, layout)
    return FeatureShape(layout, tokens, width, grid, tuple(name for name in weighted if name not in called))


def _layout(model: Any, features: Tensor) -> tuple[Literal["NLC", "NCHW", "NHWC"], int, int]:
    if features.ndim == 3:
        return "NLC", features.shape[2], features.shape[1]
    last = getattr(model, "output_fmt", None) == "NHWC" or features.shape[1] != model.num_features == features.shape[3]
    width = features.shape[3 if last else 1]
    return "NHWC" if last else "NCHW", width, features[0].numel() // width


def _grid(model: Any, features: Tensor, layout: str) -> TokenGrid | None:
    if layout != "NLC":
        rows, columns = features.shape[2:] if layout == "NCHW" else features.shape[1:3]
        return TokenGrid(rows, columns)
    rows, columns = getattr(getattr(model, "patch_embed", None), "grid_size", None) or (0, 0)
    grid = TokenGrid(rows, columns, int(getattr(model, "num_prefix_tokens", 0)))
    return grid if grid.tokens == features.shape[1] else None


def _check_size(variant: str, model: Any, image_size: tuple[int, int], resized: bool) -> None:
    """Refuse a rest that patches do not cover, which timm cuts off, and a size below the stride, which timm pads."""
    patches: Any = getattr(model, "patch_embed", None)
    if resized and hasattr(patches, "grid_size"):
        check_patches(image_size, tuple(patches.patch_size), "encoder.")
    stride = max((info["reduction"] for info in getattr(model, "feature_info", [])), default=1)
    if min(image_size) < stride:
        raise IncompatibleError(
            f"images of {image_size[0]} x {image_size[1]} pixels, but {variant} shrinks them by {stride}",
            field="encoder.image_size",
            hint=f"make each side at least {stride}",
        )
