"""Cross-attention of each token of a text, as maps over the image.

Shape letters: S tokens of the image that the decoder sees, Y x X their grid, T tokens of the text, H heads.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import vedcore

__all__ = ["AttentionMaps", "attention_maps", "parse_grid", "token_grid"]

MAX_PREFIX = 8
"""Tokens before the grid that are tried: class and register tokens."""
MAX_CELL_RATIO = 1.25
"""Ratio of the sides of a cell up to which it counts as square."""


@dataclass(frozen=True)
class AttentionMaps:
    """The text of an image, and where the model looked."""

    text: str
    tokens: tuple[str, ...]
    """T texts."""
    maps: Tensor
    """(T, Y, X) shares of the attention; they sum to 1, less the share of tokens before the grid."""
    pixels: Tensor
    """(3, height, width) from 0 to 1: the image as the model sees it."""

    @property
    def grid(self) -> tuple[int, int]:
        """Y and X."""
        return self.maps.shape[1], self.maps.shape[2]


@torch.no_grad()
def attention_maps(
    model: Any,
    image: object,
    *,
    layer: int | None = None,
    grid: tuple[int, int] | None = None,
    max_new_tokens: int | None = None,
) -> AttentionMaps:
    """Write the text of an image, and read the cross-attention of its tokens.

    The text is read once more as a whole, so that any search gives it: beams and sampling too.

    Args:
        model: a `vedcore.VisionEncoderDecoder` with a tokenizer.
        image: as ``model.processor`` takes it.
        layer: index of the decoder's layer; None takes the mean of all. Heads are averaged.
        grid: rows and columns of the image's tokens; None guesses them.
        max_new_tokens: limit of the text; None is the model's.

    Raises:
        ImageError: the image cannot be read.
        UsageError: a layer that the decoder does not have, or a grid that is not the tokens'.
    """
    layers = len(model.decoder.layers)
    if layer is not None and layer >= layers:
        raise vedcore.UsageError(f"the decoder has {layers} layers", field="layer", hint=f"give 0 to {layers - 1}")
    batch = model.processor(images=[image])
    pixels, mask = batch["pixel_values"].to(model.device, model.dtype), batch.get("encoder_attention_mask")
    limit = {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}
    ids = model.generate(pixels, encoder_attention_mask=mask, num_return_sequences=1, **limit)  # (1, 1 + T and the end)
    out = model(
        encoder_outputs=model.encode(pixels, mask),
        encoder_attention_mask=mask,
        decoder_input_ids=ids[:, :-1],
        output_attentions=True,
    )
    weights = torch.stack(out.cross_attentions if layer is None else [out.cross_attentions[layer]])
    weights = weights.float().mean((0, 2))[0].cpu()  # (layers, 1, H, T, S) -> (T, S)
    text = ids[0, 1:].tolist()
    count = next((i for i, token in enumerate(text) if token in model.token_ids.eos), len(text))
    rows, columns = token_grid(model, (pixels.shape[2], pixels.shape[3]), weights.shape[1], grid)
    return AttentionMaps(
        text=model.processor.decode(text[:count]),
        tokens=tuple(model.processor.token_text(token) for token in text[:count]),
        maps=weights[:count, weights.shape[1] - rows * columns :].reshape(-1, rows, columns),
        pixels=_seen(model, pixels[0]),
    )


def parse_grid(text: str) -> tuple[int, int]:
    """The rows and columns of a text such as ``7x14``.

    Raises:
        UsageError: anything else.
    """
    found = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", text)
    if found is None:
        raise vedcore.UsageError(f"{text!r} is not a grid", field="grid", hint="write rows and columns, such as 7x14")
    return int(found[1]), int(found[2])


def token_grid(model: Any, size: tuple[int, int], tokens: int, grid: tuple[int, int] | None = None) -> tuple[int, int]:
    """Rows and columns of the tokens that the decoder sees; tokens before the grid have no place in it.

    Args:
        model: the model.
        size: height and width of the image in pixels.
        tokens: S.
        grid: the rows and columns that the user gave.

    Raises:
        UsageError: more cells than tokens, or no grid of square cells.
    """
    if grid is not None:
        if grid[0] * grid[1] > tokens:
            message = f"a grid of {grid[0]} x {grid[1]}, and the image has {tokens} tokens"
            raise vedcore.UsageError(message, field="grid", hint=f"give fewer rows or columns, such as 1x{tokens}")
        return grid
    with contextlib.suppress(vedcore.VedcoreError):  # an encoder of fixed size refuses another height
        if model.encoder.num_tokens((2 * size[0], size[1])) == model.encoder.num_tokens(size) == tokens:
            return 1, tokens  # its tokens are columns of the image
    for prefix in range(min(MAX_PREFIX + 1, tokens)):
        cells = tokens - prefix
        shapes = [(rows, cells // rows) for rows in range(1, cells + 1) if cells % rows == 0]
        ratio, shape = min((_ratio(size[0] / rows, size[1] / columns), (rows, columns)) for rows, columns in shapes)
        if ratio <= MAX_CELL_RATIO:
            return shape
    message = f"{tokens} tokens are not a grid of squares over {size[0]} x {size[1]} pixels"
    raise vedcore.UsageError(message, field="grid", hint=f"give rows and columns, such as 1x{tokens}")


def _ratio(height: float, width: float) -> float:
    return max(height / width, width / height)


def _seen(model: Any, pixels: Tensor) -> Tensor:
    """(C, height, width) as the encoder takes it to (3, height, width) from 0 to 1."""
    pixels, settings = pixels.float().cpu(), model.processor.preprocessing
    mean, std = (torch.tensor(values)[:, None, None] for values in (settings.image_mean, settings.image_std))
    return (pixels * std + mean).clamp(0, 1).expand(3, -1, -1)
