"""A small causal transformer.

Shape letters: B rows of text, T tokens, D width, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from vedcore import DecoderConfig, TextDecoder
from vedcore.nn import MLP, CrossAttention, DecoderLayer, Embedding, SelfAttention, output_layer, sinusoid

__all__ = ["TinyConfig", "TinyDecoder"]


class TinyConfig(DecoderConfig):
    """Settings of TinyDecoder."""

    vocab_size: int = 1000
    """Number of token ids, V; the tokenizer decides it unless it is given."""
    hidden_size: int = 64
    """Width, D."""
    num_hidden_layers: int = 2
    """Number of layers."""
    num_attention_heads: int = 4
    """Attention heads; must divide hidden_size."""
    dropout: float = 0.1
    """Dropout rate of the outputs of attention and of the feed-forward blocks."""
    bos_token_id: int | None = 0
    """Id that starts a text."""
    eos_token_id: int | tuple[int, ...] | None = 1
    """Id or ids that end a text."""
    pad_token_id: int | None = 2
    """Id that fills up shorter texts."""


class TinyDecoder(TextDecoder):
    """A causal transformer with sinusoidal positions, for texts of any length."""

    config_class: ClassVar[type[TinyConfig]] = TinyConfig
    config: TinyConfig
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "tiny-2": {},
        "tiny-4": {"num_hidden_layers": 4, "hidden_size": 128},
    }

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        width, heads = config.hidden_size, config.num_attention_heads
        self.config = config
        self.hidden_size, self.vocab_size, self.max_positions = width, config.vocab_size, None
        self.num_attention_heads = heads
        self.cross_attention_size = config.cross_attention_hidden_size or width
        self.embedding = Embedding(config.vocab_size, width)
        self.layers = nn.ModuleList(
            DecoderLayer(
                SelfAttention(width, heads),
                CrossAttention(width, self.cross_attention_size, heads),
                MLP(width, 4 * width, "gelu"),
                norm=partial(nn.LayerNorm, width),
                norm_first=True,
                dropout=config.dropout,
            )
            for _ in range(config.num_hidden_layers)
        )
        self.final_norm = nn.LayerNorm(width)
        self.output = output_layer(self.embedding, tied=config.tie_word_embeddings)

    def embed(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        """(B, T, D) embeddings with their positions added."""
        return embeddings + sinusoid(positions.clamp(min=0), self.hidden_size).to(embeddings.dtype)

    def head(self, hidden_states: Tensor) -> Tensor:
        """(B, T, D) to logits (B, T, V)."""
        logits: Tensor = self.output(hidden_states)
        return logits

    def get_input_embeddings(self) -> nn.Embedding:
        """The embedding of tokens."""
        return self.embedding

    def get_output_embeddings(self) -> nn.Linear:
        """The last layer."""
        return self.output
