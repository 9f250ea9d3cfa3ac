"""The encoder of `printed-line`: a line of print, 32 px high and of any width, to one token for each 4 px of width.

A timm ``resnet10t`` whose strides after the stem apply to the height only. Two positions are added to each column: its
index, and the number of characters that have begun before it, counted by a small CTC head (Graves et al. 2006).
Without them, cross-attention cannot tell the columns of a convolutional map apart.

Shape letters: N images, W width in pixels, S = W / 4 columns, D hidden size, C characters that the head tells apart.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Annotated, Any, ClassVar

import timm
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor, nn

from vedcore import EncoderConfig, EncoderOutput, Preprocessing, UsageError, VisionEncoder
from vedcore.nn import sinusoid
from vedcore_printed.normalise import HEIGHT, Affine, normalise_line, place_line

__all__ = ["PrintedColumnsConfig", "PrintedColumnsEncoder"]

COLUMN_WIDTH = 4
"""Pixels of width for each token."""

_masks: ContextVar[dict[int, Tensor]] = ContextVar("masks")
"""Masks of the current forward pass by their width; the convolutions' hooks read them."""


class PrintedColumnsConfig(EncoderConfig):
    """Sizes of the encoder."""

    image_size: tuple[int, int] = (HEIGHT, 640)
    """Height, which is fixed, and the width that plans assume; the encoder takes lines of any width."""
    stem_width: Annotated[int, Field(ge=8, le=256)] = 32
    """Channels of the stem."""
    channels: tuple[Annotated[int, Field(ge=8, le=2048)], ...] = (64, 128, 192, 256)
    """Channels of the four stages; the last is the hidden size."""
    num_characters: Annotated[int, Field(ge=1, le=1 << 16)] = 95
    """Characters that the counting head tells apart."""
    max_width: Annotated[int, Field(ge=32, le=1 << 14)] = 1600
    """Widest line in pixels; a wider one is squeezed."""


class PrintedColumnsEncoder(VisionEncoder):
    """(N, 3, 32, W) to (N, W / 4, D); padding at the right does not change the result.

    Args:
        config: the sizes.
        pretrained: must be False; trained weights come with the model ``printed-line``.
    """

    config_class: ClassVar[type[PrintedColumnsConfig]] = PrintedColumnsConfig
    config: PrintedColumnsConfig

    def __init__(self, config: PrintedColumnsConfig, pretrained: bool = False) -> None:
        super().__init__()
        if pretrained:
            raise UsageError(
                "printed-columns has no published weights",
                hint='load the trained model with vedcore.load("printed-line")',
            )
        self.config = config
        self.hidden_size = config.channels[-1]
        self.preprocessing = Preprocessing(image_size=config.image_size, image_mean=(0.0,) * 3, image_std=(1.0,) * 3)
        self.backbone = timm.create_model(
            "resnet10t",
            in_chans=1,
            num_classes=0,
            global_pool="",
            stem_width=config.stem_width,
            channels=config.channels,
        )
        for module in self.backbone.modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
                module.register_forward_pre_hook(_hide_padding)
        for stage in (self.backbone.layer2, self.backbone.layer3, self.backbone.layer4):
            for module in stage.modules():
                if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
                    module.stride = (2, 1)
                elif isinstance(module, nn.AvgPool2d):
                    module.kernel_size = module.stride = (2, 1)
        self.norm = nn.LayerNorm(self.hidden_size)
        self.characters = nn.Linear(self.hidden_size, config.num_characters + 1)
        """Columns to scores of the characters, (N, S, D) to (N, S, 1 + C); the first is CTC's blank."""

    def num_tokens(self, image_size: tuple[int, int] | None = None) -> int:
        """S, a quarter of the width, rounded up."""
        width = (image_size or self.preprocessing.image_size)[1]
        return -(-width // COLUMN_WIDTH)

    def preprocess(self, image: Image.Image) -> Tensor:
        """One line, normalised, (3, 32, W) with the same values in all channels and W a multiple of 4."""
        line = torch.from_numpy(normalise_line(image, max_width=self.config.max_width))  # (32, W)
        line = nn.functional.pad(line, (0, -line.shape[1] % COLUMN_WIDTH))
        return line.expand(3, -1, -1)

    def placement(self, image: Image.Image) -> Affine:
        return place_line(image, max_width=self.config.max_width)[1]

    def token_mask(self, sizes: Tensor, padded_size: tuple[int, int]) -> Tensor:
        """(N, S), True for the columns within each line's unpadded width."""
        columns = torch.arange(self.num_tokens(padded_size), device=sizes.device)
        return columns < -(-sizes[:, 1:] // COLUMN_WIDTH)  # (N, S)

    def forward(
        self,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> EncoderOutput:
        """Encode lines; ``hidden_states`` has the columns without positions, for a CTC loss."""
        if output_attentions:
            raise UsageError("a convolutional encoder has no attentions", field="output_attentions")
        if pixel_values.shape[2] != HEIGHT or pixel_values.shape[3] % COLUMN_WIDTH:
            raise UsageError(
                f"lines of {pixel_values.shape[2]} x {pixel_values.shape[3]} px",
                field="pixel_values",
                hint=f"use model.processor: {HEIGHT} px high, a multiple of {COLUMN_WIDTH} wide",
            )
        if pixel_values.is_cpu and not torch.is_grad_enabled():  # a third faster; one channel alone has no such layout
            pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        columns = self._columns(pixel_values[:, :1], attention_mask)
        states = columns + self._positions(columns, attention_mask)
        return EncoderOutput(states, attention_mask, hidden_states=(columns,) if output_hidden_states else None)

    def _columns(self, lines: Tensor, mask: Tensor | None) -> Tensor:
        masks = {}  # by width: the stages work at the full, half and quarter width of a line
        if mask is not None:
            columns = mask.to(lines.dtype)[:, None, None]  # (N, 1, 1, S)
            masks = {mask.shape[1] * times: columns.repeat_interleave(times, 3) for times in (1, 2, COLUMN_WIDTH)}
        token = _masks.set(masks)
        try:
            maps = self.backbone.forward_features(lines)  # (N, D, 1, S)
        finally:
            _masks.reset(token)
        return self.norm(maps.mean(2).transpose(1, 2))  # type: ignore[no-any-return]  # (N, D, S) -> (N, S, D)

    def _positions(self, columns: Tensor, mask: Tensor | None) -> Tensor:
        """Each column's index and the characters begun before it, as sinusoids of size D / 2 each, (N, S, D)."""
        size = columns.shape[2]
        indices = torch.arange(columns.shape[1], device=columns.device)[None]  # (1, S)
        with torch.no_grad():  # the count is a position: no gradient flows through it
            probabilities = self.characters(columns).float().softmax(-1)[..., 1:]  # (N, S, C)
            before = nn.functional.pad(probabilities, (0, 0, 1, 0))[:, :-1]
            begun = (probabilities * (1 - before)).sum(-1)  # (N, S): a character that the column before does not have
            counts = (begun if mask is None else begun * mask).cumsum(1)
        by_index = sinusoid(indices, size // 2).expand(columns.shape[0], -1, -1)
        by_count = sinusoid(counts.detach(), size - size // 2)  # an exported program has no `torch.no_grad`
        return torch.cat([by_index, by_count], -1).to(columns.dtype)


def _hide_padding(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Zero the padding of a convolution's input, so that it equals the zero padding of a line alone."""
    mask = _masks.get().get(inputs[0].shape[-1])
    return inputs if mask is None else (inputs[0] * mask,)
