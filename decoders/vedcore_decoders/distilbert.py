"""DistilBERT (Sanh et al. 2019) as a decoder: causal, with cross-attention.

A norm follows each residual; positions are learned, or sinusoids with sines and cosines in turn; tokens have no types;
attention outputs have no dropout. Arithmetic and names of fields as in transformers' ``DistilBertForMaskedLM``, which
has no causal mask and no cross-attention: these are BERT's.

Shape letters: B rows of text, T tokens, P positions, D width, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from vedcore.config import Activation, DecoderConfig, Layers, Rate, Size, Spread, TokenId, VocabSize
from vedcore.errors import IncompatibleError
from vedcore.layers.attention import CrossAttention, SelfAttention
from vedcore.layers.block import DecoderLayer
from vedcore.layers.linear import Embedding
from vedcore.layers.mlp import MLP
from vedcore.transformers_class import ConfigField, TransformersClass, unused_fields
from vedcore.weights.keymap import Row, ignored
from vedcore_decoders.bert import MaskedLMHead
from vedcore_decoders.built_in import BuiltInDecoder
from vedcore_decoders.transformers_fields import shared_fields

__all__ = ["DistilBertConfig", "DistilBertDecoder"]

NORM_EPS = 1e-12
"""Added to the variance in the layer norms; not a setting."""


class DistilBertConfig(DecoderConfig):
    """Settings of a DistilBERT decoder; the defaults are those of ``distilbert-base-uncased``."""

    attribute_map: ClassVar[Mapping[str, str]] = {
        "hidden_size": "dim",
        "num_attention_heads": "n_heads",
        "num_hidden_layers": "n_layers",
    }

    vocab_size: VocabSize = 30522
    """Number of token ids; the tokenizer decides it unless it is given."""
    max_position_embeddings: Size = 512
    """Rows of the position table: the most tokens of a text."""
    sinusoidal_pos_embds: bool = False
    """Whether positions are sinusoids, which training does not change, instead of learned."""
    n_layers: Layers = 6
    """Number of layers."""
    n_heads: Size = 12
    """Attention heads; must divide ``dim``."""
    dim: Size = 768
    """Width of the decoder, D."""
    hidden_dim: Size = 3072
    """Width inside the feed-forward blocks."""
    dropout: Rate = 0.1
    """Dropout of the embeddings and of the feed-forward blocks' outputs, in training."""
    attention_dropout: Rate = 0.1
    """Dropout of the attention weights, in training."""
    activation: Activation = "gelu"
    """Activation inside the feed-forward blocks and the head."""
    initializer_range: Spread = 0.02
    """Standard deviation of fresh weights."""
    pad_token_id: TokenId | None = 0
    """Id that fills rows after the end of a text."""

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.dim % self.n_heads:
            raise IncompatibleError(
                f"{self.n_heads} heads do not divide dim {self.dim}", field="n_heads", hint="change one of the two"
            )
        return self


def _layer(config: DistilBertConfig) -> DecoderLayer:
    width, heads, std = config.dim, config.n_heads, config.initializer_range
    return DecoderLayer(
        SelfAttention(width, heads, dropout=config.attention_dropout, std=std),
        CrossAttention(
            width, config.cross_attention_hidden_size or width, heads, dropout=config.attention_dropout, std=std
        ),
        MLP(width, config.hidden_dim, config.activation, std=std),
        norm=partial(nn.LayerNorm, width, NORM_EPS),
        norm_first=False,
        dropout=0.0,
        mlp_dropout=config.dropout,
    )


def interleaved_sinusoids(positions: int, width: int) -> Tensor:
    """(P, D): sines in the even columns and cosines in the odd ones, "Attention Is All You Need", section 3.5."""
    column = torch.arange(width)
    frequency = 10000.0 ** (-(column // 2 * 2).double() / width)  # (D,)
    angle = torch.arange(positions).double()[:, None] * frequency  # (P, D)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).to(torch.get_default_dtype())


KEY_MAP = (
    Row("[distilbert.]embeddings.word_embeddings",                  "embedding"),
    Row("[distilbert.]embeddings.position_embeddings",              "position_embedding"),
    Row("[distilbert.]embeddings.LayerNorm",                        "embedding_norm"),
    Row("[distilbert.]transformer.layer.{}.attention.q_lin",        "layers.{}.self_attention.query"),
    Row("[distilbert.]transformer.layer.{}.attention.k_lin",        "layers.{}.self_attention.key"),
    Row("[distilbert.]transformer.layer.{}.attention.v_lin",        "layers.{}.self_attention.value"),
    Row("[distilbert.]transformer.layer.{}.attention.out_lin",      "layers.{}.self_attention.output"),
    Row("[distilbert.]transformer.layer.{}.sa_layer_norm",          "layers.{}.self_attention_norm"),
    Row("[distilbert.]transformer.layer.{}.crossattention.q_lin",   "layers.{}.cross_attention.query", optional=True),
    Row("[distilbert.]transformer.layer.{}.crossattention.k_lin",   "layers.{}.cross_attention.key", optional=True),
    Row("[distilbert.]transformer.layer.{}.crossattention.v_lin",   "layers.{}.cross_attention.value", optional=True),
    Row("[distilbert.]transformer.layer.{}.crossattention.out_lin", "layers.{}.cross_attention.output", optional=True),
    Row("[distilbert.]transformer.layer.{}.ca_layer_norm",          "layers.{}.cross_attention_norm", optional=True),
    Row("[distilbert.]transformer.layer.{}.ffn.lin1",               "layers.{}.mlp.input"),
    Row("[distilbert.]transformer.layer.{}.ffn.lin2",               "layers.{}.mlp.output"),
    Row("[distilbert.]transformer.layer.{}.output_layer_norm",      "layers.{}.mlp_norm"),
    Row("vocab_transform",                                          "lm_head.transform"),
    Row("vocab_layer_norm",                                         "lm_head.norm"),
    Row("vocab_projector",                                          "lm_head.output"),
    ignored("[distilbert.]embeddings.position_ids"),
)  # fmt: skip
"""Names of tensors in ``DistilBertForMaskedLM``; those of cross-attention are vedcore's, in the same style."""

FIELDS = (
    ConfigField("vocab_size",              30522),
    ConfigField("max_position_embeddings", 512),
    ConfigField("sinusoidal_pos_embds",    False),
    ConfigField("n_layers",                6),
    ConfigField("n_heads",                 12),
    ConfigField("dim",                     768),
    ConfigField("hidden_dim",              3072),
    ConfigField("dropout",                 0.1),
    ConfigField("attention_dropout",       0.1),
    ConfigField("activation",              "gelu"),
    ConfigField("initializer_range",       0.02),
    *shared_fields(pad=0),
    *unused_fields("qa_dropout", "seq_classif_dropout", "tie_weights_"),
)  # fmt: skip

DISTILBERT_MODEL = TransformersClass(
    model_type="distilbert",
    name="DistilBertForMaskedLM",
    fields=FIELDS,
    key_map=KEY_MAP,
    attribute_map=DistilBertConfig.attribute_map,
    refuses=lambda decoder: "transformers' DistilBERT has no cross-attention",
)

_IDS = {"bos_token_id": 101, "eos_token_id": 102}
"""Ids of [CLS] and [SEP]."""


class DistilBertDecoder(BuiltInDecoder):
    """DistilBERT as a decoder: ``decoder(input_ids, encoder_hidden_states=...)``, see `TextDecoder.forward`."""

    config_class = DistilBertConfig
    config: DistilBertConfig
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "distilbert-base-uncased": _IDS,
        "distilbert-base-cased": {**_IDS, "vocab_size": 28996},
        "distilbert-base-multilingual-cased": {**_IDS, "vocab_size": 119547},
    }
    hub_repos: ClassVar[Mapping[str, str]] = {name: f"distilbert/{name}" for name in variants}
    transformers = (DISTILBERT_MODEL,)

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__()
        width, std = config.dim, config.initializer_range
        self.config = config
        self.hidden_size, self.vocab_size, self.max_positions = width, config.vocab_size, config.max_position_embeddings
        self.num_attention_heads = config.n_heads
        self.cross_attention_size = config.cross_attention_hidden_size or width

        self.embedding = Embedding(config.vocab_size, width, std=std)
        self.position_embedding = Embedding(config.max_position_embeddings, width, std=std)
        if config.sinusoidal_pos_embds:
            table = interleaved_sinusoids(config.max_position_embeddings, width)
            self.position_embedding.weight = nn.Parameter(table, requires_grad=False)
        self.embedding_norm = nn.LayerNorm(width, NORM_EPS)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(_layer(config) for _ in range(config.n_layers))
        self.final_norm = nn.Identity()
        self.lm_head = MaskedLMHead(
            self.embedding, config.activation, NORM_EPS, tied=config.tie_word_embeddings, std=std
        )

    def embed(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        """(B, T, D) and (1 or B, T) to (B, T, D); padding takes the first position, since no token attends to it."""
        x = embeddings + self.position_embedding(positions.clamp(min=0))
        out: Tensor = self.dropout(self.embedding_norm(x))
        return out

    def head(self, hidden_states: Tensor) -> Tensor:
        """(B, T, D) to (B, T, V) logits."""
        out: Tensor = self.lm_head(hidden_states)
        return out

    def get_output_embeddings(self) -> nn.Linear:
        """The linear layer from D to V."""
        return self.lm_head.output
