"""A copy of a model that writes another text for each of some images: only such a model shows that ids are equal."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from vedcore.errors import IncompatibleError
from vedcore.generation.options.config import GenerationConfig
from vedcore.model import VisionEncoderDecoder

__all__ = ["MAX_NEW_TOKENS", "TEXTS", "fitted", "some_images"]

TEXTS = 8
MAX_NEW_TOKENS = 8
MAX_STEPS = 400
CHECK_STEPS = 10
"""Steps between two looks at the texts."""
LEARNING_RATE = 3e-3


def some_images(model: VisionEncoderDecoder, count: int, seed: int = 0) -> Tensor:
    """Images (N, C, H, W) that differ in large areas, so that any encoder tells them apart."""
    height, width = model.encoder.preprocessing.image_size
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, model.num_channels, 3, 3, generator=generator)
    large = torch.nn.functional.interpolate(coarse, (height, width), mode="nearest")
    return large + 0.3 * torch.randn(large.shape, generator=generator)


def fitted(model: VisionEncoderDecoder, images: Tensor) -> VisionEncoderDecoder:
    """A copy whose decoder is trained until each image (N, C, H, W) has its own text.

    Args:
        model: in eval mode.
        images: as `some_images` gives them.

    Raises:
        IncompatibleError: it does not come to that.
    """
    made = copy.deepcopy(model).float().eval().requires_grad_(False)
    labels = _labels(made, len(images))
    with torch.no_grad():
        encoded = made.encode(images.float())
    made.decoder.requires_grad_(True)
    made.projector.requires_grad_(True)
    trained = [each for each in made.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
    for step in range(MAX_STEPS):
        if step % CHECK_STEPS == 0 and _differ(made, images):
            return made.to(model.dtype)
        with torch.enable_grad():
            loss = made(encoder_outputs=encoded, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
    hint = "look whether the image changes its texts: vedcore check FOLDER"
    message = f"{len(images)} images have no texts of their own after {MAX_STEPS} steps of training"
    raise IncompatibleError(message, field="export", hint=hint)


def _differ(model: VisionEncoderDecoder, images: Tensor) -> bool:
    ids: Any = model.generate(images, generation_config=GenerationConfig(max_new_tokens=MAX_NEW_TOKENS))
    return len({tuple(row) for row in ids.tolist()}) == len(images)


def _labels(model: VisionEncoderDecoder, count: int) -> Tensor:
    """Texts (N, L) of 2 to L tokens with their end, -100 behind it."""
    ids, generator = model.token_ids, torch.Generator().manual_seed(1)
    special = {ids.start, ids.pad, *ids.eos}
    plain = torch.tensor([i for i in range(min(model.decoder.vocab_size, 2000)) if i not in special])
    labels = torch.full((count, MAX_NEW_TOKENS), -100)
    for row in range(count):
        length = 1 + row % (MAX_NEW_TOKENS - 1)
        labels[row, :length] = plain[torch.randint(len(plain), (length,), generator=generator)]
        labels[row, length] = ids.eos[0]
    return labels
