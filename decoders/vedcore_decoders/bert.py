"""BERT (Devlin et al. 2018) as a decoder: causal, with cross-attention.

A norm follows each residual; positions are learned; every token has the first type; the head is that of the masked
language model. Arithmetic and names of fields as in transformers' ``BertLMHeadModel`` with ``is_decoder`` and
``add_cross_attention``.

Shape letters: B rows of text, T tokens, D width, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Self

from pydantic import model_validator
from torch import Tensor, nn

from vedcore.config import Activation, DecoderConfig, Epsilon, Layers, Rate, Size, Spread, TokenId, VocabSize
from vedcore.errors import IncompatibleError
from vedcore.layers.attention import CrossAttention, SelfAttention
from vedcore.layers.block import DecoderLayer
from vedcore.layers.linear import Embedding, Linear, output_layer
from vedcore.layers.mlp import MLP, activation
from vedcore.transformers_class import ConfigField, TransformersClass, restricted_field, unused_fields
from vedcore.weights.keymap import Row, ignored
from vedcore_decoders.built_in import BuiltInDecoder
from vedcore_decoders.transformers_fields import cross_attention_or_padding_mismatch, shared_fields

__all__ = ["BertConfig", "BertDecoder", "MaskedLMHead"]


class BertConfig(DecoderConfig):
    """Settings of a BERT decoder; the defaults are those of ``bert-base-uncased``."""

    vocab_size: VocabSize = 30522
    """Number of token ids; the tokenizer decides it unless it is given."""
    hidden_size: Size = 768
    """Width of the decoder, D."""
    num_hidden_layers: Layers = 12
    """Number of layers."""
    num_attention_heads: Size = 12
    """Attention heads; must divide ``hidden_size``."""
    intermediate_size: Size = 3072
    """Width inside the feed-forward blocks."""
    hidden_act: Activation = "gelu"
    """Activation inside the feed-forward blocks and the head."""
    hidden_dropout_prob: Rate = 0.1
    """Dropout of the embeddings and of the outputs of attention and feed-forward blocks, in training."""
    attention_probs_dropout_prob: Rate = 0.1
    """Dropout of the attention weights, in training."""
    max_position_embeddings: Size = 512
    """Rows of the position table: the most tokens of a text."""
    type_vocab_size: Size = 2
    """Number of token types in the checkpoint; all tokens of a decoder have the first."""
    initializer_range: Spread = 0.02
    """Standard deviation of fresh weights."""
    layer_norm_eps: Epsilon = 1e-12
    """Added to the variance in the layer norms."""
    pad_token_id: TokenId | None = 0
    """Id that fills rows after the end of a text."""

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise IncompatibleError(
                f"{self.num_attention_heads} heads do not divide hidden_size {self.hidden_size}",
                field="num_attention_heads",
                hint="change one of the two",
            )
        return self


def _layer(config: BertConfig) -> DecoderLayer:
    width, heads, std = config.hidden_size, config.num_attention_heads, config.initializer_range
    dropout = config.attention_probs_dropout_prob
    return DecoderLayer(
        SelfAttention(width, heads, dropout=dropout, std=std),
        CrossAttention(width, config.cross_attention_hidden_size or width, heads, dropout=dropout, std=std),
        MLP(width, config.intermediate_size, config.hidden_act, std=std),
        norm=partial(nn.LayerNorm, width, config.layer_norm_eps),
        norm_first=False,
        dropout=config.hidden_dropout_prob,
    )


class MaskedLMHead(nn.Module):
    """A linear layer, an activation, a norm and the output layer: (B, T, D) to (B, T, V) logits.

    Args:
        embedding: the input embedding, (V, D).
        hidden_act: name of the activation.
        norm_eps: added to the variance in the norm.
        tied: whether the output layer's weight is the embedding's.
        std: standard deviation of fresh weights.
    """

    def __init__(self, embedding: nn.Embedding, hidden_act: str, norm_eps: float, *, tied: bool, std: float) -> None:
        super().__init__()
        width = embedding.embedding_dim
        self.transform = Linear(width, width, std=std)
        self.act = activation(hidden_act)
        self.norm = nn.LayerNorm(width, norm_eps)
        self.output = output_layer(embedding, tied=tied, bias=True, std=std)

    def forward(self, hidden_states: Tensor) -> Tensor:
        out: Tensor = self.output(self.norm(self.act(self.transform(hidden_states))))
        return out


_BODY_ROWS = (
    ("embeddings.word_embeddings",                       "embedding"),
    ("embeddings.position_embeddings",                   "position_embedding"),
    ("embeddings.token_type_embeddings",                 "token_type_embedding"),
    ("embeddings.LayerNorm",                             "embedding_norm"),
    ("encoder.layer.{}.attention.self.query",            "layers.{}.self_attention.query"),
    ("encoder.layer.{}.attention.self.key",              "layers.{}.self_attention.key"),
    ("encoder.layer.{}.attention.self.value",            "layers.{}.self_attention.value"),
    ("encoder.layer.{}.attention.output.dense",          "layers.{}.self_attention.output"),
    ("encoder.layer.{}.attention.output.LayerNorm",      "layers.{}.self_attention_norm"),
    ("encoder.layer.{}.crossattention.self.query",       "layers.{}.cross_attention.query"),
    ("encoder.layer.{}.crossattention.self.key",         "layers.{}.cross_attention.key"),
    ("encoder.layer.{}.crossattention.self.value",       "layers.{}.cross_attention.value"),
    ("encoder.layer.{}.crossattention.output.dense",     "layers.{}.cross_attention.output"),
    ("encoder.layer.{}.crossattention.output.LayerNorm", "layers.{}.cross_attention_norm"),
    ("encoder.layer.{}.intermediate.dense",              "layers.{}.mlp.input"),
    ("encoder.layer.{}.output.dense",                    "layers.{}.mlp.output"),
    ("encoder.layer.{}.output.LayerNorm",                "layers.{}.mlp_norm"),
)  # fmt: skip


def body_rows(prefix: str) -> tuple[Row, ...]:
    """The rows of everything but the head; ``prefix`` is what transformers' names begin with."""
    return (
        *(Row(f"[{prefix}.]{name}", ours, optional=".cross_attention" in ours) for name, ours in _BODY_ROWS),
        ignored(f"[{prefix}.]embeddings.position_ids"),
        ignored(f"[{prefix}.]embeddings.token_type_ids"),
        ignored(f"[{prefix}.]pooler.*"),
    )


KEY_MAP = (
    *body_rows("bert"),
    Row("cls.predictions.transform.dense",      "lm_head.transform"),
    Row("cls.predictions.transform.LayerNorm",  "lm_head.norm"),
    Row("cls.predictions.decoder",              "lm_head.output",       optional=True),
    Row("cls.predictions.bias",                 "lm_head.output.bias",  optional=True),  # a second copy
    ignored("cls.seq_relationship.*"),
)  # fmt: skip
"""Names of tensors in ``BertLMHeadModel``, and in ``BertForPreTraining``."""

BODY_FIELDS = (
    ConfigField("hidden_size",                  768),
    ConfigField("num_hidden_layers",            12),
    ConfigField("num_attention_heads",          12),
    ConfigField("intermediate_size",            3072),
    ConfigField("hidden_act",                   "gelu"),
    ConfigField("hidden_dropout_prob",          0.1),
    ConfigField("attention_probs_dropout_prob", 0.1),
    ConfigField("max_position_embeddings",      512),
    ConfigField("type_vocab_size",              2),
    ConfigField("initializer_range",            0.02),
    ConfigField("layer_norm_eps",               1e-12),
    restricted_field("position_embedding_type", "absolute"),
    *unused_fields("classifier_dropout", "directionality", "pooler_fc_size", "pooler_num_attention_heads",
                   "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type"),
)  # fmt: skip
"""Config fields that transformers' BERT and RoBERTa share."""
FIELDS = (ConfigField("vocab_size", 30522), *BODY_FIELDS, *shared_fields(pad=0))

BERT_MODEL = TransformersClass(
    model_type="bert",
    name="BertLMHeadModel",
    fields=FIELDS,
    key_map=KEY_MAP,
    flags=("is_decoder", "add_cross_attention"),
    refuses=cross_attention_or_padding_mismatch,
)

_IDS = {"bos_token_id": 101, "eos_token_id": 102}
"""Ids of [CLS] and [SEP]."""
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}


class BertDecoder(BuiltInDecoder):
    """BERT as a decoder: ``decoder(input_ids, encoder_hidden_states=...)``, see `TextDecoder.forward`."""

    config_class: ClassVar[type[BertConfig]] = BertConfig
    config: BertConfig
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "bert-base-uncased": _IDS,
        "bert-large-uncased": {**_IDS, **_LARGE},
        "bert-base-cased": {**_IDS, "vocab_size": 28996},
        "bert-large-cased": {**_IDS, **_LARGE, "vocab_size": 28996},
        "bert-base-multilingual-uncased": {**_IDS, "vocab_size": 105879},
        "bert-base-multilingual-cased": {**_IDS, "vocab_size": 119547},
    }
    hub_repos: ClassVar[Mapping[str, str]] = {name: f"google-bert/{name}" for name in variants}
    transformers = (BERT_MODEL,)

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width, std = config.hidden_size, config.initializer_range
        self.config = config
        self.hidden_size, self.vocab_size = width, config.vocab_size
        self.max_positions: int | None = config.max_position_embeddings
        self.num_attention_heads = config.num_attention_heads
        self.cross_attention_size = config.cross_attention_hidden_size or width

        self.embedding = Embedding(config.vocab_size, width, std=std)
        self.position_embedding = Embedding(config.max_position_embeddings, width, std=std)
        self.token_type_embedding = Embedding(config.type_vocab_size, width, std=std)
        self.embedding_norm = nn.LayerNorm(width, config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.layers = nn.ModuleList(_layer(config) for _ in range(config.num_hidden_layers))
        self.final_norm = nn.Identity()
        self.lm_head = MaskedLMHead(
            self.embedding, self.head_act(), config.layer_norm_eps, tied=config.tie_word_embeddings, std=std
        )

    def head_act(self) -> str:
        """Name of the head's activation."""
        return self.config.hidden_act

    def embed(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        """(B, T, D) and (1 or B, T) to (B, T, D)."""
        x = embeddings + self.token_type_embedding.weight[0] + self.position_embedding(self.position_rows(positions))
        out: Tensor = self.dropout(self.embedding_norm(x))
        return out

    def position_rows(self, positions: Tensor) -> Tensor:
        """Rows of the position table; padding takes the first, since no token attends to it."""
        return positions.clamp(min=0)

    def head(self, hidden_states: Tensor) -> Tensor:
        """(B, T, D) to (B, T, V) logits."""
        out: Tensor = self.lm_head(hidden_states)
        return out

    def get_output_embeddings(self) -> nn.Linear:
        """The linear layer from D to V."""
        return self.lm_head.output
