"""The model card: a README.md with the parts and settings of a saved model and how to use it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from vedcore.config import ModelConfig

if TYPE_CHECKING:
    from vedcore.model import VisionEncoderDecoder

__all__ = ["model_card"]

_CARD = """\
---
library_name: vedcore
pipeline_tag: image-to-text
tags:
{tags}
---

# {encoder} and {decoder}

An image-to-text model composed with vedcore: the vision encoder `{encoder}`, the projector `{projector}` and the text
decoder `{decoder}`.

## How to use it

```python
import vedcore

model = vedcore.load("path/to/this/folder")
{use}
```
{needs}
## What it is made of

| part | name | parameters | width |
|---|---|---:|---:|
{parts}

| setting | value |
|---|---|
{settings}
"""


def model_card(model: VisionEncoderDecoder, config: ModelConfig) -> str:
    """The card of a model as Markdown with YAML front matter; ``config`` is the one that is saved beside it."""
    encoder, decoder, projector = config.encoder.name, config.decoder.name, config.projector.name
    tags = ["image-to-text", "vision-encoder-decoder", encoder, decoder]
    needed = sorted({plugin for plugin in config.plugins.values() if plugin.partition("==")[0] != "vedcore"})
    return _CARD.format(
        tags="\n".join(f"- {json.dumps(tag)}" for tag in dict.fromkeys(tags)),
        encoder=encoder,
        decoder=decoder,
        projector=projector,
        use=_use(model),
        needs=f"\nIt needs a plugin: `pip install {' '.join(needed)}`.\n" if needed else "",
        parts="\n".join(_parts(model, config)),
        settings="\n".join(f"| {name} | {value} |" for name, value in _settings(model).items()),
    )


def _use(model: VisionEncoderDecoder) -> str:
    if model.processor.tokenizer is None:
        return 'batch = model.processor(images=["image.png"])\nids = model.generate(batch["pixel_values"])'
    return 'result = model.generate_text(["image.png"])[0]\nprint(result.text, result.confidence)'


def _parts(model: VisionEncoderDecoder, config: ModelConfig) -> list[str]:
    widths = {"encoder": model.encoder.hidden_size, "projector": model.decoder.cross_attention_size}
    rows = []
    for kind, width in {**widths, "decoder": model.decoder.hidden_size}.items():
        count = sum(p.numel() for p in getattr(model, kind).parameters())
        rows.append(f"| {kind} | `{getattr(config, kind).name}` | {count:,} | {width} |")
    return rows


def _settings(model: VisionEncoderDecoder) -> dict[str, object]:
    images, ids = model.processor.preprocessing, model.token_ids
    return {
        "image size (height x width)": f"{images.image_size[0]} x {images.image_size[1]}",
        "image mean": ", ".join(f"{value:g}" for value in images.image_mean),
        "image std": ", ".join(f"{value:g}" for value in images.image_std),
        "resizing": f"{images.resize_mode}, {images.interpolation}",
        "vocabulary": f"{model.decoder.vocab_size:,}",
        "token ids": f"start {ids.start}, end {', '.join(map(str, ids.eos)) or None}, padding {ids.pad}",
        "type of the weights": str(model.dtype).removeprefix("torch."),
    }
