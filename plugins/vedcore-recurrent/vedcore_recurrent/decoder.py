"""An LSTM that attends to the image, as in "Show, Attend and Tell" (Xu et al. 2015).

It attends to no earlier token: the states after the last one are all that it knows of them. The cache keeps the states
after every token, so that beams can be reordered and drafts taken back as with any other decoder.

Shape letters: B rows of text, T new tokens, L tokens in the cache, D width, E width of encoder states, S tokens of an
image.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from vedcore import DecoderConfig, TextDecoder
from vedcore.nn import CrossAttention, Embedding, LayerContext, Linear, output_layer

__all__ = ["LSTMConfig", "LSTMDecoder", "LSTMLayer"]

Size = Annotated[int, Field(ge=1, le=1 << 16)]


class LSTMConfig(DecoderConfig):
    """Settings of `LSTMDecoder`."""

    vocab_size: Size = 32000
    """Number of token ids; the tokenizer decides it unless it is given."""
    hidden_size: Size = 512
    """D."""
    num_hidden_layers: Annotated[int, Field(ge=1, le=64)] = 2
    """Number of layers."""
    num_attention_heads: Size = 8
    """Heads of the attention to the image; must divide hidden_size."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout rate of the layers' outputs."""


class LSTMLayer(nn.Module):
    """One layer: (B, T, D) to (B, T, D), token by token.

    Args:
        width: D.
        source_size: E.
        num_heads: heads of the attention to the image.
        dropout: dropout rate of the output.
    """

    def __init__(self, width: int, source_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.cross_attention = CrossAttention(width, source_size, num_heads)
        self.token = Linear(width, 4 * width, std=width**-0.5)
        self.cross_attention_gates = Linear(width, 4 * width, bias=False, std=width**-0.5)
        self.state = Linear(width, 4 * width, bias=False, std=width**-0.5)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_states: Tensor, context: LayerContext) -> Tensor:
        """The residual stream after the layer; the context has the image, the mask and the cache."""
        tokens = self.token(self.norm(hidden_states))  # (B, T, 4 D)
        image = self.cross_attention.images(context)
        state, cell = self._begin(hidden_states, context)
        new = None if context.mask is None else context.mask[:, 0, -1, -tokens.shape[1] :, None]  # (1 or B, T, 1)
        states, cells, weights, outputs = [], [], [], []
        for t in range(tokens.shape[1]):
            gates, seen = tokens[:, t] + self.state(state), torch.zeros_like(state)
            if image is not None:
                seen = self.cross_attention(state[:, None], image, context)[:, 0]  # (B, D)
                weights.append(context.cross_attention)
                gates = gates + self.cross_attention_gates(seen)
            enter, keep, value, leave = gates.chunk(4, -1)
            next_cell = keep.sigmoid() * cell + enter.sigmoid() * value.tanh()
            next_state = leave.sigmoid() * next_cell.tanh()
            outputs.append(next_state + seen)
            if new is not None:  # padding leaves the states as they are
                next_state, next_cell = (
                    torch.where(new[:, t], *pair) for pair in ((next_state, state), (next_cell, cell))
                )
            state, cell = next_state, next_cell
            states.append(state)
            cells.append(cell)
        if context.cache is not None:
            context.cache.update(*(torch.stack(each, 1)[:, None] for each in (states, cells)))  # (B, 1, T, D)
        if context.needs_weights and image is not None:
            context.cross_attention = torch.cat([each for each in weights if each is not None], 2)  # (B, H, T, S)
        out: Tensor = self.dropout(torch.stack(outputs, 1))
        return hidden_states + out

    def _begin(self, hidden_states: Tensor, context: LayerContext) -> tuple[Tensor, Tensor]:
        """The states (B, D) after the last earlier token that is not padding; zeros before the first."""
        zero = hidden_states.new_zeros(hidden_states.shape[0], 1, hidden_states.shape[2])  # (B, 1, D)
        kept = None if context.cache is None else context.cache.since(0)
        if kept is None:
            return zero[:, 0], zero[:, 0]
        states, cells = (torch.cat([zero, each[:, 0]], 1) for each in kept)  # (B, 1 + L, D)
        if context.mask is None:
            return states[:, -1], cells[:, -1]
        earlier = context.mask[:, 0, 0, : states.shape[1] - 1]  # (1 or B, L)
        number = torch.arange(1, states.shape[1], device=earlier.device)
        last = (earlier * number).amax(1).expand(len(zero))[:, None, None].expand_as(zero)  # (B, 1, D)
        return states.gather(1, last)[:, 0], cells.gather(1, last)[:, 0]


class LSTMDecoder(TextDecoder):
    """Layers of `LSTMLayer`, and a head that is tied to the embedding where the config says so."""

    config_class: ClassVar[type[LSTMConfig]] = LSTMConfig
    config: LSTMConfig
    records_attention = False

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.config = config
        self.hidden_size, self.vocab_size, self.max_positions = width, config.vocab_size, None
        self.num_attention_heads = config.num_attention_heads
        self.cross_attention_size = config.cross_attention_hidden_size or width
        self.embedding = Embedding(config.vocab_size, width, std=1.0)
        self.layers = nn.ModuleList(
            LSTMLayer(width, self.cross_attention_size, config.num_attention_heads, config.dropout)
            for _ in range(config.num_hidden_layers)
        )
        self.final_norm = nn.LayerNorm(width)
        self.output = output_layer(self.embedding, tied=config.tie_word_embeddings)

    def embed(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        """The embeddings as they are: the order of the tokens is the order of the steps."""
        return embeddings

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
