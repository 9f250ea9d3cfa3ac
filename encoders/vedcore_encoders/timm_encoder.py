"""The base of all encoders on timm: building, checks of image sizes, and the forward pass.

Shape letters: N images, C channels, H x W pixels, S tokens, D width, Y rows and X columns of a map.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from typing import Annotated, Any, ClassVar, Literal

import timm
import torch
from pydantic import Field
from timm.layers import Mlp
from torch import Tensor, nn

from vedcore.components import VisionEncoder, check_interpolation, parameters_of
from vedcore.config import EncoderConfig, Preprocessing
from vedcore.errors import IncompatibleError, UsageError, VedcoreError
from vedcore.layers.linear import activated
from vedcore.outputs import EncoderOutput
from vedcore.weights.keymap import Row
from vedcore_encoders.attention_weights import AttentionWeights
from vedcore_encoders.positions import sides
from vedcore_encoders.timm_building import build
from vedcore_encoders.timm_names import check_timm_name

__all__ = ["BlockEncoder", "Channels", "Heads", "PatchSide", "Run", "TimmConfig", "TimmEncoder", "Width", "as_sequence"]

Run = Callable[..., Any]
"""Calls a block: ``run(block, *arguments)``, with or without gradient checkpointing."""
ImageSide = Annotated[int, Field(ge=1, le=16_384)]
"""Height or width of an image in pixels."""
PatchSide = Annotated[int, Field(ge=1, le=1024)]
"""Height or width of a patch in pixels."""
Width = Annotated[int, Field(ge=1, le=32_768)]
"""Width of a token."""
Heads = Annotated[int, Field(ge=1, le=2048)]
"""Number of attention heads."""
Channels = Literal[1, 3]
"""Channels of an image: grey or RGB."""


class TimmConfig(EncoderConfig):
    """Settings of any encoder on timm; a field that is None is as the variant has it."""

    variant: str
    """timm's name of the model, with or without the tag of its published weights."""
    image_size: tuple[ImageSide, ImageSide] | None = None
    """Height and width of images in pixels; None takes the variant's. A single number means a square."""


class TimmEncoder(VisionEncoder):
    """A timm model as a vision encoder; subclasses add checks, timm's arguments and `encode`."""

    config_class: ClassVar[type[TimmConfig]]
    config: TimmConfig
    key_map: ClassVar[tuple[Row, ...]] = ()
    timm_modules: ClassVar[tuple[str, ...]] = ()
    """timm's modules with the models of the family; empty for any."""
    model: nn.Module
    """timm's model, without the modules that only a classifier needs."""
    image_size: tuple[int, int]
    """Height and width in pixels of the images that it takes."""

    def __init__(self, config: TimmConfig, pretrained: bool = False) -> None:
        """Build the model.

        Args:
            config: of the family's ``config_class``.
            pretrained: take the published weights, from timm's cache or from the hub.

        Raises:
            IncompatibleError: sizes that do not fit together; published weights that do not fit the config.
            HubError: the published weights cannot be fetched.
        """
        super().__init__()
        check_timm_name(config.variant, self.timm_modules)
        self.check(config)
        self.config = config
        self.model = build(config.variant, pretrained, **self.timm_arguments(config))
        part: Any
        for part in self.model.modules():
            if getattr(part, "qkv_bias_separate", None) is False:
                part.qkv_bias_separate = True  # BEiT, EVA: q, k, v through their layer, whose product is the fastest
            if type(part) is Mlp:
                part.__class__ = _FusedMlp
        self._fused_attentions: list[Any] = [
            part for part in self.model.modules() if getattr(part, "fused_attn", False)
        ]
        published = timm.get_pretrained_cfg(config.variant)
        self.image_size = config.image_size or tuple(published.input_size[1:])
        self.num_channels = getattr(config, "num_channels", 3)
        self.preprocessing = _preprocessing(published, self.image_size, self.num_channels)

    @classmethod
    def make_config(
        cls, variant: str | None, fields: Mapping[str, Any], *, path: object = None, prefix: str = ""
    ) -> TimmConfig:
        """The config of a timm model with ``fields`` on top.

        Args:
            variant: timm's name of the model; None for the family's default.
            fields: what the user set.
            path: the file that it came from, for messages.
            prefix: prepended to a field's name in messages, such as ``"encoder."``.

        Raises:
            UnknownComponentError: timm has no such model, or the family does not.
            ConfigLimitError: a size above its limit.
            ConfigSchemaError: a field that the family does not have, or a bad value.
            IncompatibleError: sizes that do not fit together.
        """
        named = {} if variant is None or "variant" in fields else {"variant": variant}
        config = cls.config_class.parse({**named, **fields}, path=path, prefix=prefix)
        check_timm_name(config.variant, cls.timm_modules, path=path)
        cls.check(config, prefix)
        return config

    @classmethod
    @abc.abstractmethod
    def check(cls, config: Any, prefix: str = "encoder.") -> None:
        """Refuse sizes that do not fit together, before anything is built.

        Raises:
            IncompatibleError: with both numbers and the field to change.
        """

    @classmethod
    @abc.abstractmethod
    def timm_arguments(cls, config: Any) -> dict[str, Any]:
        """The config as arguments of timm's constructor; None for those that are as the variant has them."""

    def model_settings(self) -> dict[str, Any]:
        """Settings read from the built model; those that it does not have are left out, or None."""
        return {"image_size": self.image_size}

    def settings(self) -> dict[str, Any]:
        """All fields of the config: as they were set, else as the built model has them."""
        found = self.model_settings()
        return {name: found.get(name) if value is None else value for name, value in self.config.model_dump().items()}

    @abc.abstractmethod
    def encode(self, pixel_values: Tensor, run: Run, output_hidden_states: bool) -> tuple[Tensor, list[Tensor]]:
        """Images to the last state (N, S, D), and, if they are asked for, the hidden states before it."""

    def forward(
        self,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        interpolate_pos_encoding: bool = False,
    ) -> EncoderOutput:
        """Encode images.

        Args:
            pixel_values: (N, C, H, W) float, prepared as ``preprocessing`` says.
            attention_mask: (N, S), 0 or False where a token shows padding. It is returned for cross-attention, which
                ignores these tokens; the encoder itself does not.
            output_attentions: return the attention weights of each block, (N, heads, S, S), in Swin
                (N * windows, heads, tokens of a window, tokens of a window).
            output_hidden_states: return the embeddings and the output of each block, in Swin of each stage; the last
                is before the final norm.
            interpolate_pos_encoding: take images of any size, with the positions resampled for it in this call, as
                transformers does. What patches do not cover at the right and at the bottom is cut off, in Swin padded.

        Raises:
            UsageError: not a batch of images, a mask of a wrong shape, or positions that cannot be resampled.
            IncompatibleError: images of a size that the encoder does not take.
        """
        pixels = self._checked(pixel_values, interpolate_pos_encoding)
        run: Run = _run
        if self.gradient_checkpointing and self.training and not output_attentions:
            run = self.checkpointing.runner()
        # on CPUs plain products are twice as fast as the fused attention in bfloat16, and slower in float32
        plain = pixels.dtype == torch.bfloat16 and pixels.device.type == "cpu" and not torch.is_grad_enabled()
        for part in self._fused_attentions:
            part.fused_attn = output_attentions or not plain
        with AttentionWeights() if output_attentions else nullcontext() as attention:
            last, hidden_states = self.encode(pixels, run, output_hidden_states)
        if attention_mask is not None and attention_mask.shape != last.shape[:2]:
            raise UsageError(
                f"a mask of shape {tuple(attention_mask.shape)}",
                field="encoder_attention_mask",
                hint=f"give {tuple(last.shape[:2])}, one value for each token",
            )
        return EncoderOutput(
            last_hidden_state=last,
            attention_mask=None if attention_mask is None else attention_mask.bool(),
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            attentions=tuple(attention.weights) if attention else None,
        )

    def _checked(self, pixel_values: Tensor, interpolate: bool) -> Tensor:
        """The images, (N, C, H, W), in the dtype of the parameters."""
        if interpolate:
            check_interpolation(self)
        if not isinstance(pixel_values, Tensor):
            raise UsageError(
                f"tensor expected, got {type(pixel_values).__name__}", field="pixel_values", hint="use model.processor"
            )
        channels = self.num_channels
        if pixel_values.ndim != 4 or pixel_values.shape[1] != channels or not pixel_values.is_floating_point():
            found = f"{str(pixel_values.dtype).removeprefix('torch.')} {tuple(pixel_values.shape)}"
            raise UsageError(
                f"float (N, {channels}, H, W) expected, got {found}", field="pixel_values", hint="use model.processor"
            )
        self.check_size(sides(pixel_values, 2), interpolate)
        return pixel_values.to(next(parameters_of(self)).dtype)

    def check_size(self, image_size: tuple[int, int], interpolate: bool = False) -> None:
        """Refuse images of a size that the encoder does not take.

        Args:
            image_size: height and width.
            interpolate: whether positions may be resampled.

        Raises:
            IncompatibleError: with both sizes.
        """
        if image_size != self.image_size:
            hint = "resize them"
            if self.interpolates_positions:
                hint += ", or pass interpolate_pos_encoding=True"
                with suppress(VedcoreError):
                    self.check(self.config.changed(image_size=image_size))
                    hint += f", or give image_size={tuple(image_size)} to vedcore.load or compose"
            raise self.wrong_size(image_size, hint)

    def check_own_size(self, image_size: tuple[int, int] | None, patch_size: tuple[int, int] | None = None) -> None:
        """Refuse another size than the encoder's own for all of its images; None means its own.

        Raises:
            IncompatibleError: with both sizes, and what to pass; an ``image_size`` where patches cover it.
        """
        if image_size is None or image_size == self.image_size:
            return
        hint = f"pass a preprocessing whose image_size is {self.image_size}"
        if patch_size and all(side % patch == 0 for side, patch in zip(image_size, patch_size, strict=True)):
            hint += f", or image_size={tuple(image_size)}"
        raise self.wrong_size(image_size, hint)

    def wrong_size(self, image_size: tuple[int, int], hint: str) -> IncompatibleError:
        """The error for images of another size."""
        return IncompatibleError(
            f"images of {image_size[0]} x {image_size[1]} pixels, but the encoder takes "
            f"{self.image_size[0]} x {self.image_size[1]}",
            field="encoder.image_size",
            hint=hint,
        )


class BlockEncoder(TimmEncoder):
    """An encoder whose blocks are run one by one: a family gives `states` and `final_norm`."""

    @abc.abstractmethod
    def states(self, pixel_values: Tensor, run: Run) -> Iterator[Tensor]:
        """The embeddings, then the output of each block or stage, each (N, S_i, D_i) or (N, Y, X, D_i)."""

    @abc.abstractmethod
    def final_norm(self, hidden_states: Tensor) -> Tensor:
        """The last of `states` to the encoder's output, of the same shape."""

    def encode(self, pixel_values: Tensor, run: Run, output_hidden_states: bool) -> tuple[Tensor, list[Tensor]]:
        kept = []
        for state in self.states(pixel_values, run):
            if output_hidden_states:
                kept.append(as_sequence(state))
        return as_sequence(self.final_norm(state)), kept


def as_sequence(state: Tensor) -> Tensor:
    """A map (N, Y, X, D) as a sequence (N, Y * X, D), row by row; a sequence is returned as it is."""
    return state.flatten(1, 2) if state.ndim == 4 else state


class _FusedMlp(Mlp):  # type: ignore[misc]
    """timm's feed-forward layer, with its activation fused into the product before it where possible."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.drop1(activated(x, self.fc1, self.act)))
        out: Tensor = self.drop2(self.fc2(x))
        return out


def _run(block: Callable[..., Any], *arguments: Any) -> Any:
    return block(*arguments)


def _preprocessing(published: Any, image_size: tuple[int, int], channels: int) -> Preprocessing:
    """The preprocessing of the published weights; images are stretched to the size, as by transformers' processors."""
    known = ("nearest", "bilinear", "bicubic", "lanczos")
    mean, std = (
        tuple(values) if channels == 3 else (sum(values) / len(values),) for values in (published.mean, published.std)
    )
    return Preprocessing(
        image_size=image_size,
        image_mean=mean,
        image_std=std,
        interpolation=published.interpolation if published.interpolation in known else "bicubic",
        resize_mode="squash",
    )
