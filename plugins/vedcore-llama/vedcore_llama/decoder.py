"""The decoder that all families of this package are: Llama's layers, with cross-attention added after some of them.

A norm precedes each part, positions are rotary, and keys and values may have fewer heads than queries. Arithmetic and
names of fields as in transformers' ``LlamaForCausalLM``.

Shape letters: B rows of text, T tokens, L tokens so far, D width, K head size, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from vedcore import DecoderConfig, IncompatibleError, TextDecoder
from vedcore.config import Activation, Epsilon, Layers, Rate, Size, Spread, TokenId, VocabSize
from vedcore.nn import (
    CrossAttention,
    CrossAttentionInjection,
    DecoderLayer,
    Embedding,
    GatedMLP,
    LayerContext,
    SelfAttention,
    holds,
    output_layer,
    rotate_halves,
)
from vedcore_llama.rotary import RopeParameters, RotaryEmbedding

__all__ = ["HeadSize", "RotaryConfig", "RotaryDecoder", "sizes"]


HeadSize = Annotated[int, Field(ge=2, le=1 << 16, multiple_of=2)]
"""Width of a head that is turned in pairs."""


class RotaryConfig(DecoderConfig):
    """The settings that all families have; the default sizes are those of ``smollm-135m``, all else transformers'."""

    vocab_size: VocabSize = 49152
    """Number of token ids; the tokenizer decides it unless it is given."""
    hidden_size: Size = 576
    """Width of the decoder, D."""
    intermediate_size: Size = 1536
    """Width inside the feed-forward blocks."""
    num_hidden_layers: Layers = 30
    """Number of layers."""
    num_attention_heads: Size = 9
    """Attention heads."""
    num_key_value_heads: Size | None = None
    """Heads of keys and values; must divide ``num_attention_heads``. None means as many."""
    head_dim: HeadSize | None = None
    """Width of a head, K; None means ``hidden_size`` divided by ``num_attention_heads``."""
    hidden_act: Activation = "silu"
    """Activation inside the feed-forward blocks."""
    max_position_embeddings: Size = 2048
    """Tokens of the longest text in training; longer ones are taken too."""
    initializer_range: Spread = 0.02
    """Standard deviation of fresh weights."""
    rms_norm_eps: Epsilon = 1e-6
    """Added to the mean square in the norms."""
    attention_dropout: Rate = 0.0
    """Dropout of the attention weights, in training."""
    rope_parameters: RopeParameters = RopeParameters()
    """Rotary positions: the kind of scaling and its settings."""
    tie_word_embeddings: bool = False
    """Whether the output layer is the input embedding."""
    bos_token_id: TokenId | None = 1
    """Id that starts a text."""
    eos_token_id: TokenId | tuple[TokenId, ...] | None = 2
    """Id or ids that end a text."""
    cross_attention_every: Layers = 1
    """Cross-attention follows each layer whose number, from 1, this divides."""
    cross_attention_gate: bool = False
    """Whether the output of cross-attention is multiplied by the tanh of a learned number that starts at zero: a fresh
    decoder then writes as its language model does."""

    @field_validator("rope_parameters", mode="before")
    @classmethod
    def _rope_parameters(cls, value: Any) -> Any:
        if value is None:
            return RopeParameters()
        return value if isinstance(value, RopeParameters) else RopeParameters.parse(value, prefix="rope_parameters.")

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        heads, groups = self.num_attention_heads, self.num_key_value_heads
        if groups is not None and heads % groups:
            raise IncompatibleError(
                f"{groups} heads of keys and values do not divide {heads} attention heads",
                field="num_key_value_heads",
                hint="change one of the two",
            )
        if self.head_dim is None and (self.hidden_size % heads or self.hidden_size // heads % 2):
            raise IncompatibleError(
                f"{heads} heads do not divide hidden_size {self.hidden_size} into heads of even width",
                field="num_attention_heads",
                hint="change one of the two, or set head_dim",
            )
        if self.cross_attention_every > self.num_hidden_layers:
            raise IncompatibleError(
                f"{self.num_hidden_layers} layers, so that none has cross-attention",
                field="cross_attention_every",
                hint=f"set at most {self.num_hidden_layers}",
            )
        self.rope_parameters.check(self.head_width, self.max_position_embeddings)
        return self

    @property
    def head_width(self) -> int:
        """K."""
        return self.hidden_size // self.num_attention_heads if self.head_dim is None else self.head_dim

    def biases(self) -> tuple[str, ...]:
        """The layers of self-attention that have a bias, of ``query``, ``key``, ``value`` and ``output``."""
        return ()

    def mlp_biases(self) -> bool:
        """Whether the layers of the feed-forward blocks have a bias."""
        return False

    def window(self, layer: int) -> int | None:
        """Tokens that each token attends to in a layer, itself and those before it; None means all."""
        return None


class RMSNorm(nn.Module):
    """Root mean square norm (Zhang and Sennrich 2019), in float32: (…, D) to (…, D).

    Args:
        size: D.
        eps: added to the mean square.
    """

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """As transformers' norm: the scale is applied in the type of ``x``."""
        if x.dtype == torch.float32:
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)


class RotaryLayer(DecoderLayer):
    """A layer whose tokens may attend to the last ones alone.

    Args:
        self_attention: over the text.
        mlp: the feed-forward block.
        norm: makes a norm over D.
        window: tokens that each token attends to, itself and those before it; None means all.
    """

    def __init__(
        self, self_attention: SelfAttention, mlp: GatedMLP, norm: Callable[[], nn.Module], window: int | None
    ) -> None:
        super().__init__(self_attention, None, mlp, norm=norm, norm_first=True)
        self.window = window

    def forward(self, hidden_states: Tensor, context: LayerContext) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        if self.window is not None:
            context.mask = _within(self.window, hidden_states, context)
        return super().forward(hidden_states, context)


def _within(window: int, hidden_states: Tensor, context: LayerContext) -> Tensor | None:
    """The mask (1 or B, 1, T, L) of a call without what lies before the window; the same where nothing does."""
    queries, mask = hidden_states.shape[1], context.mask
    keys = queries + (0 if context.cache is None else context.cache.length)
    if holds(keys <= window):
        return mask
    own = torch.arange(keys - queries, keys, device=hidden_states.device)[:, None]  # (T, 1)
    near = torch.arange(keys, device=hidden_states.device) > own - window  # (T, L)
    return near[None, None] if mask is None else mask & near


class RotaryDecoder(TextDecoder):
    """Llama's layers and head; the config says what a family does otherwise."""

    config_class: ClassVar[type[RotaryConfig]]
    config: RotaryConfig
    float32_buffers = ("*inv_freq",)
    head_norm: ClassVar[bool] = False
    """Whether queries and keys have a norm of each head."""

    def __init__(self, config: RotaryConfig) -> None:
        super().__init__()
        width, heads, std = config.hidden_size, config.num_attention_heads, config.initializer_range
        self.config = config
        self.hidden_size, self.vocab_size, self.max_positions = width, config.vocab_size, None
        self.num_attention_heads = heads
        self.cross_attention_size = config.cross_attention_hidden_size or width

        self.embedding = Embedding(config.vocab_size, width, std=std)
        self.rotary = RotaryEmbedding(config.rope_parameters, config.head_width, config.max_position_embeddings)
        norm = partial(RMSNorm, width, config.rms_norm_eps)
        attention: dict[str, Any] = {
            "num_heads": heads,
            "num_key_value_heads": config.num_key_value_heads,
            "head_dim": config.head_width,
            "dropout": config.attention_dropout,
            "std": std,
        }
        head_norm = partial(RMSNorm, config.head_width, config.rms_norm_eps) if self.head_norm else None
        windows = [config.window(index) for index in range(config.num_hidden_layers)]
        self.uneven_rows = not any(windows)  # type: ignore[misc]  # a window counts the tokens of the cache
        self.layers = CrossAttentionInjection.into(
            (
                RotaryLayer(
                    SelfAttention(
                        width, **attention, biases=config.biases(), head_norm=head_norm, rotate=rotate_halves
                    ),
                    GatedMLP(width, config.intermediate_size, config.hidden_act, bias=config.mlp_biases(), std=std),
                    norm,
                    window,
                )
                for window in windows
            ),
            partial(CrossAttention, width, self.cross_attention_size, **attention, biases=()),
            every=config.cross_attention_every,
            norm=norm,
            gated=config.cross_attention_gate,
        )
        self.final_norm = norm()
        self.output = output_layer(self.embedding, tied=config.tie_word_embeddings, std=std)

    def embed(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        """The embeddings as they are: attention turns by the positions."""
        return embeddings

    def position_states(self, positions: Tensor) -> tuple[Tensor, ...]:
        """Cosines and sines of the positions, (1 or B, 1, T, K/2) each."""
        out: tuple[Tensor, ...] = self.rotary(positions)
        return out

    def head(self, hidden_states: Tensor) -> Tensor:
        """(B, T, D) to logits (B, T, V)."""
        out: Tensor = self.output(hidden_states)
        return out

    def get_input_embeddings(self) -> nn.Embedding:
        """The embedding of tokens, (V, D)."""
        return self.embedding

    def get_output_embeddings(self) -> nn.Linear:
        """The linear layer from D to V."""
        return self.output


def sizes(
    hidden_size: int,
    intermediate_size: int,
    num_hidden_layers: int,
    num_attention_heads: int,
    num_key_value_heads: int,
    **more: Any,
) -> dict[str, Any]:
    """The settings of a variant."""
    return {
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "num_hidden_layers": num_hidden_layers,
        "num_attention_heads": num_attention_heads,
        "num_key_value_heads": num_key_value_heads,
        **more,
    }
