"""An encoder of one convolution.

Shape letters: N images, H x W pixels, Y x X patches, S = Y * X tokens, D width.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from vedcore import EncoderConfig, EncoderOutput, IncompatibleError, Preprocessing, UsageError, VisionEncoder
from vedcore.nn import sinusoid_2d

__all__ = ["PatchEncoder", "PatchEncoderConfig"]


class PatchEncoderConfig(EncoderConfig):
    """Settings of PatchEncoder."""

    image_size: tuple[int, int] = (32, 128)
    """Height and width of the images, H and W."""
    hidden_size: int = 64
    """Width of the tokens, D; a multiple of 4."""
    patch_size: int = 8
    """Side of a patch in pixels."""


class PatchEncoder(VisionEncoder):
    """A strided convolution, positions and a norm: (N, 3, H, W) to (N, S, D)."""

    config_class: ClassVar[type[PatchEncoderConfig]] = PatchEncoderConfig
    config: PatchEncoderConfig

    def __init__(self, config: PatchEncoderConfig, pretrained: bool = False) -> None:
        super().__init__()
        if pretrained:
            raise UsageError("patches has no published weights", hint="leave pretrained out")
        if any(pixels % config.patch_size for pixels in config.image_size):
            raise IncompatibleError(
                f"patches of {config.patch_size} do not divide {config.image_size[0]} x {config.image_size[1]} pixels",
                field="encoder.image_size",
                hint=f"set multiples of {config.patch_size}",
            )
        self.config = config
        self.hidden_size = config.hidden_size
        self.preprocessing = Preprocessing(image_size=config.image_size)
        self.projection = nn.Conv2d(3, config.hidden_size, config.patch_size, config.patch_size)
        self.norm = nn.LayerNorm(config.hidden_size)

    def num_tokens(self, image_size: tuple[int, int] | None = None) -> int:
        """S for images of that size; for those of ``preprocessing`` where it is None."""
        height, width = image_size or self.preprocessing.image_size
        return (height // self.config.patch_size) * (width // self.config.patch_size)

    def forward(
        self,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> EncoderOutput:
        """Encode images; there are no attentions and no states between layers to give."""
        x = self.projection(pixel_values)  # (N, D, Y, X)
        positions = sinusoid_2d(x.shape[2], x.shape[3], self.hidden_size, device=x.device)  # (S, D)
        x = x.flatten(2).transpose(1, 2) + positions.to(x.dtype)  # (N, S, D)
        return EncoderOutput(self.norm(x), attention_mask=attention_mask)
