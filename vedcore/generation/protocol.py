"""The protocol of a model that `generate`, `generate_text` and `stream` can write with.

Shape letters: N images, C channels, H x W pixels, S encoder tokens, S' tokens after the projector, E width of the
decoder's cross-attention.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor

from vedcore.config import TokenIds
from vedcore.generation.options.config import GenerationConfig
from vedcore.layers.sharing import Hold
from vedcore.outputs import EncoderOutput
from vedcore.processing.processor import Processor
from vedcore.text_decoder import TextDecoder

__all__ = ["ImageToTextModel"]


class ImageToTextModel(Protocol):
    """A vision encoder and a text decoder; `vedcore.VisionEncoderDecoder` fulfils it."""

    generation_config: GenerationConfig
    """Defaults of the options."""
    processor: Processor

    @property
    def decoder(self) -> TextDecoder:
        """The text decoder."""

    @property
    def token_ids(self) -> TokenIds:
        """Start, end and pad ids."""

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""

    @property
    def num_channels(self) -> int:
        """C, the channels of an image."""

    @property
    def takes_task_prompts(self) -> bool:
        """Whether prompts name a task in place of the start id, as Donut's do, so that it is not put before them."""

    def as_generation_config(self, given: object) -> GenerationConfig:
        """The options that ``generation_config=`` means: ours, or transformers' object over the model's own."""

    def run_encoder(
        self,
        pixel_values: Tensor,
        encoder_attention_mask: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        interpolate_pos_encoding: bool = False,
    ) -> EncoderOutput:
        """Images (N, C, H, W) that `check_pixels` has passed to encoder states (N, S, D_encoder)."""

    def project(
        self, encoded: EncoderOutput, encoder_attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Encoder states as the decoder takes them, (N, S', E), and their mask (N, S') or None."""

    def ready_for_inference(self, compiled: bool = False) -> AbstractContextManager[Hold]:
        """Eval mode for a while, in which nobody changes the model; laid out for speed but for ``torch.compile``."""
