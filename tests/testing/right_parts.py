"""Small right parts, of other makes than vedcore's own, that every check must let pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import vedcore
from vedcore.checkpoints.native import NativeFormat
from vedcore.weights.folder import save_folder
from vedcore_decoders.gpt2 import GPT2Config, GPT2Decoder

GPT2 = {"vocab_size": 53, "n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 24}


class Patches(vedcore.VisionEncoder):
    """Square patches of 4 pixels through one convolution and a norm."""

    config_class = vedcore.EncoderConfig

    def __init__(self, config: Any, pretrained: bool = False) -> None:
        super().__init__()
        self.config, self.hidden_size = config, 16
        self.preprocessing = vedcore.Preprocessing(image_size=(16, 24))
        self.projection = nn.Conv2d(3, 16, 4, 4)
        self.mix = nn.Linear(16, 16)
        self.norm = nn.LayerNorm(16)

    def num_tokens(self, image_size: tuple[int, int] | None = None) -> int:
        height, width = image_size or self.preprocessing.image_size
        return (height // 4) * (width // 4)

    def encode(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, S, 16)."""
        x = self.projection(x).flatten(2).transpose(1, 2)
        return x + self.mix(x.mean(1, keepdim=True)).tanh()

    def forward(
        self,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> vedcore.EncoderOutput:
        return vedcore.EncoderOutput(self.norm(self.encode(pixel_values)), attention_mask=attention_mask)


class FrozenPatches(Patches):
    """Weights that are not trained, and no gradient through them."""

    def __init__(self, config: Any, pretrained: bool = False) -> None:
        super().__init__(config)
        self.requires_grad_(False)

    def encode(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return super().encode(x)


class NormalisedPatches(Patches):
    """BatchNorm, whose statistics move in training and are stored."""

    def __init__(self, config: Any, pretrained: bool = False) -> None:
        super().__init__(config)
        self.batch_norm = nn.BatchNorm2d(3)

    def encode(self, x: Tensor) -> Tensor:
        return super().encode(self.batch_norm(x))


class TabledPatches(Patches):
    """A table of numpy, and a rate for each layer from torch.linspace, as timm makes them."""

    def __init__(self, config: Any, pretrained: bool = False) -> None:
        super().__init__(config)
        self.table = np.sin(np.arange(16.0))
        with torch.device("cpu"):
            self.rates = [rate.item() for rate in torch.linspace(0, 0.2, 3)]

    def encode(self, x: Tensor) -> Tensor:
        x = super().encode(x)
        return x + torch.as_tensor(self.table, dtype=x.dtype, device=x.device) * (1 + self.rates[1])


class RebuiltTable(Patches):
    """A buffer that is not stored, and the same whenever it is built."""

    def __init__(self, config: Any, pretrained: bool = False) -> None:
        super().__init__(config)
        self.register_buffer("ramp", torch.arange(16.0) / 16, persistent=False)

    def encode(self, x: Tensor) -> Tensor:
        return super().encode(x) + self.ramp


class Dropped(Patches):
    """Dropout in training alone, of the states and of whole branches."""

    def encode(self, x: Tensor) -> Tensor:
        x = F.dropout(super().encode(x), 0.3, self.training)
        return x if self.training and torch.rand(()) < 0.5 else x + self.mix(x)


class Flamingo(GPT2Decoder):
    """A gate of zero before the image, and layers that are dropped in training."""

    layerdrop = 0.5
    transformers = ()

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.gate = nn.Parameter(torch.zeros(()))

    def run(
        self, text: Tensor, positions: Tensor, mask: Tensor | None, states: Tensor | None = None, *rest: Any
    ) -> Any:
        return super().run(text, positions, mask, None if states is None else states * self.gate.tanh(), *rest)

    def fresh_parameters(self) -> set[str]:
        return super().fresh_parameters() | {"gate"}


class Mean(vedcore.Projector):
    """The mean of all tokens, as one."""

    config_class = vedcore.ProjectorConfig

    def __init__(self, config: Any, in_features: int = 12, out_features: int = 8) -> None:
        super().__init__()
        self.config, self.in_features, self.out_features = config, in_features, out_features
        self.linear = nn.Linear(in_features, out_features)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.linear(hidden_states.mean(1, keepdim=True))

    def num_tokens(self, tokens: int) -> int:
        return 1

    def project_mask(self, attention_mask: Tensor) -> Tensor:
        return attention_mask.any(1, keepdim=True)


class Shuffle(Mean):
    """Three adjacent tokens side by side; other numbers of tokens are refused."""

    def __init__(self, config: Any, in_features: int = 12, out_features: int = 8) -> None:
        super().__init__(config, in_features, out_features)
        self.linear = nn.Linear(3 * in_features, out_features)

    def forward(self, hidden_states: Tensor) -> Tensor:
        rows, tokens, width = hidden_states.shape
        return self.linear(hidden_states.reshape(rows, self.num_tokens(tokens), 3 * width))

    def num_tokens(self, tokens: int) -> int:
        if tokens % 3:
            raise vedcore.IncompatibleError(f"{tokens} tokens are not a multiple of 3")
        return tokens // 3

    def project_mask(self, attention_mask: Tensor) -> Tensor:
        return attention_mask.unflatten(1, (-1, 3)).any(-1)


class MaskedMean(Mean):
    """The mean of the tokens that are not padding."""

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        if attention_mask is None:
            return super().forward(hidden_states)
        seen = attention_mask[..., None].to(hidden_states.dtype)
        return self.linear((hidden_states * seen).sum(1, keepdim=True) / seen.sum(1, keepdim=True).clamp(min=1))


class Marked(NativeFormat):
    """vedcore's own layout, with a file of its own in it."""

    def recognises(self, folder: Path) -> bool:
        return (folder / "marked.json").is_file()

    def save(self, model: Any, folder: Any, **options: Any) -> None:
        super().save(model, folder, **options)
        save_folder(folder, {"marked.json": b"{}"}, adds=True)


def decoder(cls: type[GPT2Decoder] = GPT2Decoder, **fields: Any) -> GPT2Decoder:
    """A tiny GPT2, or a subclass of it."""
    return cls(cls.make_config(None, {**GPT2, **fields}))


RIGHT: dict[str, Any] = {
    **{cls.__name__: cls for cls in (Patches, FrozenPatches, NormalisedPatches, TabledPatches, RebuiltTable, Dropped)},
    "Flamingo": lambda: decoder(Flamingo),
    "untied": lambda: decoder(tie_word_embeddings=False),
    "half frozen": lambda: _half_frozen(),
    "Mean": lambda: Mean(vedcore.ProjectorConfig()),
    "Shuffle": lambda: Shuffle(vedcore.ProjectorConfig()),
    "MaskedMean": lambda: MaskedMean(vedcore.ProjectorConfig()),
}


def _half_frozen() -> GPT2Decoder:
    """A decoder of which the image's layers alone are trained."""
    model = decoder()
    fresh = model.fresh_parameters()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in fresh)
    return model


__all__ = ["RIGHT", "Marked", "Mean", "Patches", "Shuffle", "decoder"]
