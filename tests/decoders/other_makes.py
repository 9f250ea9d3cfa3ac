"""Small decoders of other makes than the built-in families: positions, heads, norms and layers of other kinds."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import vedcore
from vedcore.layers.attention import CrossAttention, SelfAttention
from vedcore.layers.block import DecoderLayer
from vedcore.layers.cache import DecoderCache
from vedcore.layers.context import LayerContext
from vedcore.layers.embeddings import sinusoid
from vedcore.layers.injection import CrossAttentionInjection
from vedcore.layers.linear import Embedding, output_layer
from vedcore.layers.mlp import MLP, GatedMLP
from vedcore.layers.positions import RelativePositionBias, alibi, rotary_angles, rotate_halves, rotate_pairs
from vedcore.outputs import RunOutput


class Config(vedcore.DecoderConfig):
    """Settings of all of them."""

    vocab_size: int = 40
    hidden_size: int = 24
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    bos_token_id: int | None = 1
    eos_token_id: int | tuple[int, ...] | None = 2
    pad_token_id: int | None = 0


class Plain(vedcore.TextDecoder):
    """No positions at all: a causal mask alone tells the order."""

    config_class = Config

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.hidden_size, self.vocab_size = config, config.hidden_size, config.vocab_size
        self.num_attention_heads, self.max_positions = config.num_attention_heads, None
        self.cross_attention_size = config.cross_attention_hidden_size or config.hidden_size
        self.embedding = Embedding(config.vocab_size, self.hidden_size)
        self.layers = self.make_layers(config.num_hidden_layers)
        self.final_norm = self.norm()
        self.output = output_layer(self.embedding, tied=config.tie_word_embeddings)

    def norm(self) -> nn.Module:
        return nn.LayerNorm(self.hidden_size)

    def crossing(self) -> CrossAttention:
        return CrossAttention(self.hidden_size, self.cross_attention_size, 4, num_key_value_heads=2)

    def attending(self) -> SelfAttention:
        return SelfAttention(self.hidden_size, 4)

    def make_layers(self, count: int) -> nn.ModuleList:
        width = self.hidden_size
        return nn.ModuleList(
            DecoderLayer(
                self.attending(), self.crossing(), MLP(width, 32, "relu"), norm=self.norm, norm_first=True, dropout=0.1
            )
            for _ in range(count)
        )

    def embed(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        return embeddings

    def head(self, hidden_states: Tensor) -> Tensor:
        out: Tensor = self.output(hidden_states)
        return out

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embedding

    def get_output_embeddings(self) -> nn.Linear:
        return self.output


class Rotary(Plain):
    """As Qwen3: RMS norms, rotary positions, few heads of keys and values, wide heads, normed queries, gated MLP.

    Cross-attention is injected behind every second layer, with a gate.
    """

    float32_buffers = ("inv_freq",)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.register_buffer("inv_freq", 100.0 ** -(torch.arange(0, 10, 2) / 10), persistent=False)

    def norm(self) -> nn.Module:
        return nn.RMSNorm(self.hidden_size)

    def make_layers(self, count: int) -> nn.ModuleList:
        heads: dict[str, Any] = {"num_key_value_heads": 2, "head_dim": 10, "biases": ("key",)}
        norm = partial(nn.RMSNorm, 10)
        layers = (
            DecoderLayer(
                SelfAttention(self.hidden_size, 4, rotate=rotate_halves, head_norm=norm, **heads),
                None,
                GatedMLP(self.hidden_size, 32, "silu"),
                norm=self.norm,
                norm_first=True,
            )
            for _ in range(count)
        )
        return CrossAttentionInjection.into(
            layers,
            partial(CrossAttention, self.hidden_size, self.cross_attention_size, 4, **heads),
            every=2,
            norm=self.norm,
            gated=True,
        )

    def position_states(self, positions: Tensor) -> tuple[Tensor, ...]:
        return rotary_angles(positions, self.inv_freq)


class PartlyRotary(Plain):
    """As GPT-J: pairs of the first four numbers of a head turn."""

    def attending(self) -> SelfAttention:
        return SelfAttention(self.hidden_size, 4, rotate=rotate_pairs)

    def position_states(self, positions: Tensor) -> tuple[Tensor, ...]:
        return rotary_angles(positions, torch.tensor([1.0, 0.1], device=positions.device))


class Relative(Plain):
    """As T5: a learned bias for each distance, and fewer heads of keys and values."""

    relative_positions = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.distances = RelativePositionBias(4, num_buckets=6, max_distance=12)

    def attending(self) -> SelfAttention:
        return SelfAttention(self.hidden_size, 4, num_key_value_heads=1)

    def score_bias(self, positions: Tensor, key_positions: Tensor) -> Tensor:
        out: Tensor = self.distances(positions, key_positions)
        return out


class Falling(Plain):
    """As BLOOM: scores that fall with the distance."""

    relative_positions = True

    def score_bias(self, positions: Tensor, key_positions: Tensor) -> Tensor:
        return alibi(positions, key_positions, 4)


class TorchLayer(CrossAttentionInjection):
    """A layer of torch, which knows no cache: it keeps states, and makes keys and values of all of them anew."""

    layer: nn.TransformerEncoderLayer

    def call_layer(self, hidden_states: Tensor, context: LayerContext) -> Tensor:
        x, attention = hidden_states, self.layer.self_attn
        new = seen = self.layer.norm1(x)
        if context.cache is not None:
            seen = context.cache.update(seen[:, None], seen[:, None, :, :0])[0][:, 0]
        hidden = None
        if context.mask is not None:  # torch's are True where a token must not look
            hidden = ~context.mask.expand(len(x), attention.num_heads, -1, -1).flatten(0, 1)
        x = x + self.layer.dropout1(attention(new, seen, seen, attn_mask=hidden, need_weights=False)[0])
        return x + self.layer._ff_block(self.layer.norm2(x))


class OfTorch(Plain):
    """Layers of torch as they are."""

    records_attention = False

    def make_layers(self, count: int) -> nn.ModuleList:
        width = self.hidden_size
        layers = [nn.TransformerEncoderLayer(width, 4, 32, batch_first=True, norm_first=True) for _ in range(count)]
        return TorchLayer.into(layers, self.crossing, norm=self.norm)

    def embed(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        return embeddings + sinusoid(positions.clamp(min=0), self.hidden_size).to(embeddings.dtype)


class Elsewhere(Rotary):
    """Computes as another runtime does: reads the cache, leaves it as it is, and gives the new keys and values."""

    def run(
        self,
        text: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        encoder_hidden_states: Tensor | None = None,
        encoder_mask: Tensor | None = None,
        cache: DecoderCache | None = None,
        *rest: Any,
    ) -> RunOutput:
        own = None
        if cache is not None:
            if encoder_hidden_states is not None and cache.layers[-1].cross is None:
                for layer, cross in zip(cache.layers, self.cross(encoder_hidden_states), strict=True):
                    layer.cross = cross
            own = DecoderCache(len(cache.layers))
            for layer, copy in zip(cache.layers, own.layers, strict=True):
                if (kept := layer.since(0)) is not None:
                    copy.keys, copy.values, copy.length = kept[0].clone(), kept[1].clone(), layer.length
                copy.cross = layer.cross
        return super().run(text, positions, mask, encoder_hidden_states, encoder_mask, own, *rest)


OTHERS: tuple[type[Plain], ...] = (Plain, Rotary, PartlyRotary, Relative, Falling, OfTorch, Elsewhere)
