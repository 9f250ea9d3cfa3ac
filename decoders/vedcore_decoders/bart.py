"""The decoder of BART (Lewis et al. 2019), and with other settings those of mBART (Liu et al. 2020) and TrOCR
(Li et al. 2021).

======  =====================  ==================================================================================
bart    norms after residuals  learned positions; a norm of the embeddings
mbart   norms first            the same, and a norm after the last layer
trocr   norms after residuals  learned or sinusoidal positions; embeddings normed or not, and tied or not
======  =====================  ==================================================================================

Arithmetic and names of fields as in transformers' ``BartForCausalLM``, ``MBartForCausalLM``, ``TrOCRForCausalLM``.

Shape letters: B rows of text, T tokens, D width, V vocabulary size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Self

from pydantic import model_validator
from torch import Tensor, nn

from vedcore.config import Activation, DecoderConfig, Layers, Rate, Size, Spread, TokenId, VocabSize
from vedcore.errors import IncompatibleError
from vedcore.layers.attention import CrossAttention, SelfAttention
from vedcore.layers.block import DecoderLayer
from vedcore.layers.embeddings import sinusoid
from vedcore.layers.linear import Embedding, output_layer
from vedcore.layers.mlp import MLP
from vedcore.transformers_class import ConfigField, TransformersClass, unused_fields
from vedcore.weights.keymap import Row, ignored
from vedcore_decoders.built_in import BuiltInDecoder
from vedcore_decoders.transformers_fields import cross_attention_or_padding_mismatch, padding_mismatch, shared_fields

__all__ = ["BartConfig", "BartDecoder", "MBartConfig", "MBartDecoder", "TrOCRConfig", "TrOCRDecoder"]

NORM_EPS = 1e-5
"""Added to the variance in the layer norms; not a setting."""
FIRST_POSITION_ROW = 2
"""Row of the learned position table that the first token takes."""


class BartConfig(DecoderConfig):
    """Settings of a BART decoder; the defaults are those of ``bart-large``."""

    attribute_map: ClassVar[Mapping[str, str]] = {
        "hidden_size": "d_model",
        "num_attention_heads": "decoder_attention_heads",
        "num_hidden_layers": "decoder_layers",
    }

    vocab_size: VocabSize = 50265
    """Number of token ids; the tokenizer decides it unless it is given."""
    d_model: Size = 1024
    """Width of the decoder, D."""
    decoder_layers: Layers = 12
    """Number of layers."""
    decoder_attention_heads: Size = 16
    """Attention heads; must divide ``d_model``."""
    decoder_ffn_dim: Size = 4096
    """Width inside the feed-forward blocks."""
    activation_function: Activation = "gelu"
    """Activation inside the feed-forward blocks."""
    max_position_embeddings: Size = 1024
    """The most tokens of a text, where positions are learned; sinusoids have no limit."""
    use_learned_position_embeddings: bool = True
    """Whether positions are learned, or sinusoids that count only tokens other than ``pad_token_id``."""
    scale_embedding: bool = False
    """Whether token embeddings are multiplied by the root of ``d_model``."""
    layernorm_embedding: bool = True
    """Whether a norm follows the sum of token and position embeddings."""
    normalize_before: bool = False
    """Whether a norm precedes each part, with one more after the last layer, or follows each residual."""
    dropout: Rate = 0.1
    """Dropout of the embeddings and of the outputs of attention and feed-forward blocks, in training."""
    attention_dropout: Rate = 0.0
    """Dropout of the attention weights, in training."""
    activation_dropout: Rate = 0.0
    """Dropout inside the feed-forward blocks, in training."""
    decoder_layerdrop: Rate = 0.0
    """Share of the layers that a training step leaves out."""
    init_std: Spread = 0.02
    """Standard deviation of fresh weights."""
    bos_token_id: TokenId | None = 0
    """Id that starts a text."""
    pad_token_id: TokenId | None = 1
    """Id that fills rows after the end of a text."""
    eos_token_id: TokenId | tuple[TokenId, ...] | None = 2
    """Id or ids that end a text."""
    decoder_start_token_id: TokenId | None = 2
    """Id that generation starts with."""

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.d_model % self.decoder_attention_heads:
            raise IncompatibleError(
                f"{self.decoder_attention_heads} heads do not divide d_model {self.d_model}",
                field="decoder_attention_heads",
                hint="change one of the two",
            )
        return self

    @model_validator(mode="after")
    def _check_padding(self) -> Self:
        if not self.use_learned_position_embeddings and self.pad_token_id is None:
            raise IncompatibleError(
                "sinusoidal positions are counted from pad_token_id, which is not set",
                field="pad_token_id",
                hint="set it, or use_learned_position_embeddings",
            )
        return self


class MBartConfig(BartConfig):
    """Settings of an mBART decoder; the defaults are transformers'."""

    normalize_before: bool = True
    """Whether a norm precedes each part, with one more after the last layer, or follows each residual."""
    decoder_start_token_id: TokenId | None = None
    """Id that generation starts with; for mBART that of the language."""


class TrOCRConfig(BartConfig):
    """Settings of a TrOCR decoder; the defaults are transformers'."""

    max_position_embeddings: Size = 512
    """The most tokens of a text, where positions are learned; sinusoids have no limit."""


def _layer(config: BartConfig) -> DecoderLayer:
    width, heads, std = config.d_model, config.decoder_attention_heads, config.init_std
    dropout = config.attention_dropout
    return DecoderLayer(
        SelfAttention(width, heads, dropout=dropout, std=std),
        CrossAttention(width, config.cross_attention_hidden_size or width, heads, dropout=dropout, std=std),
        MLP(
            width,
            config.decoder_ffn_dim,
            config.activation_function,
            activation_dropout=config.activation_dropout,
            std=std,
        ),
        norm=partial(nn.LayerNorm, width, NORM_EPS),
        norm_first=config.normalize_before,
        dropout=config.dropout,
    )


def _key_map(head: str) -> tuple[Row, ...]:
    return (
        Row("[model.]decoder.embed_tokens",                       "embedding",                         optional=True),
        Row("[model.]shared",                                     "embedding",  optional=True,  read_only=True),
        Row("[model.]decoder.embed_positions",                    "position_embedding",                optional=True),
        Row("[model.]decoder.layernorm_embedding",                "embedding_norm",                    optional=True),
        Row("[model.]decoder.layers.{}.self_attn.q_proj",         "layers.{}.self_attention.query"),
        Row("[model.]decoder.layers.{}.self_attn.k_proj",         "layers.{}.self_attention.key"),
        Row("[model.]decoder.layers.{}.self_attn.v_proj",         "layers.{}.self_attention.value"),
        Row("[model.]decoder.layers.{}.self_attn.out_proj",       "layers.{}.self_attention.output"),
        Row("[model.]decoder.layers.{}.self_attn_layer_norm",     "layers.{}.self_attention_norm"),
        Row("[model.]decoder.layers.{}.encoder_attn.q_proj",      "layers.{}.cross_attention.query",   optional=True),
        Row("[model.]decoder.layers.{}.encoder_attn.k_proj",      "layers.{}.cross_attention.key",     optional=True),
        Row("[model.]decoder.layers.{}.encoder_attn.v_proj",      "layers.{}.cross_attention.value",   optional=True),
        Row("[model.]decoder.layers.{}.encoder_attn.out_proj",    "layers.{}.cross_attention.output",  optional=True),
        Row("[model.]decoder.layers.{}.encoder_attn_layer_norm",  "layers.{}.cross_attention_norm",    optional=True),
        Row("[model.]decoder.layers.{}.fc1",                      "layers.{}.mlp.input"),
        Row("[model.]decoder.layers.{}.fc2",                      "layers.{}.mlp.output"),
        Row("[model.]decoder.layers.{}.final_layer_norm",         "layers.{}.mlp_norm"),
        Row("[model.]decoder.layer_norm",                         "final_norm",                        optional=True),
        Row(head,                                                 "output",                            optional=True),
        ignored("[model.]decoder.embed_positions._float_tensor"),  # TrOCR's sinusoids, in old files
        ignored("[model.]decoder.embed_positions.weights"),
        ignored("[model.]encoder.*"),
        ignored("final_logits_bias"),  # zeros, of the sequence-to-sequence classes
    )  # fmt: skip


KEY_MAP = _key_map("lm_head")
"""Names of tensors in ``BartForCausalLM`` and ``MBartForCausalLM``."""
TROCR_KEY_MAP = _key_map("output_projection")
"""Names of tensors in ``TrOCRForCausalLM``."""

BODY_FIELDS = (
    ConfigField("vocab_size",              50265),
    ConfigField("d_model",                 1024),
    ConfigField("decoder_layers",          12),
    ConfigField("decoder_attention_heads", 16),
    ConfigField("decoder_ffn_dim",         4096),
    ConfigField("activation_function",     "gelu"),
    ConfigField("dropout",                 0.1),
    ConfigField("attention_dropout",       0.0),
    ConfigField("activation_dropout",      0.0),
    ConfigField("decoder_layerdrop",       0.0),
    ConfigField("init_std",                0.02),
    ConfigField("scale_embedding",         False),
    *unused_fields("classifier_dropout", "classif_dropout", "encoder_attention_heads", "encoder_ffn_dim",
                   "encoder_layerdrop", "encoder_layers", "num_hidden_layers"),
    # of the first releases; transformers no longer reads them, and each family has one value of each
    *unused_fields("add_bias_logits", "add_final_layer_norm", "do_blenderbot_90_layernorm", "extra_pos_embeddings",
                   "force_bos_token_to_be_generated", "normalize_before", "normalize_embedding", "save_step",
                   "static_position_embeddings"),
)  # fmt: skip
"""Config fields that transformers' BART, mBART and TrOCR share."""
FIELDS = (
    *BODY_FIELDS,
    ConfigField("max_position_embeddings", 1024),
    *shared_fields(bos=0, eos=2, pad=1, start=2),
)
MBART_FIELDS = (*BODY_FIELDS, ConfigField("max_position_embeddings", 1024), *shared_fields(bos=0, eos=2, pad=1))
TROCR_FIELDS = (
    *BODY_FIELDS,
    ConfigField("max_position_embeddings",         512),
    ConfigField("use_learned_position_embeddings", True),
    ConfigField("layernorm_embedding",             True),
    *shared_fields(bos=0, eos=2, pad=1, start=2),
)  # fmt: skip

_LEARNED = {"use_learned_position_embeddings": True, "layernorm_embedding": True}
BART_MODEL = TransformersClass(
    model_type="bart",
    name="BartForCausalLM",
    fields=FIELDS,
    key_map=KEY_MAP,
    attribute_map={"hidden_size": "d_model", "num_attention_heads": "encoder_attention_heads"},
    fixed={"normalize_before": False, **_LEARNED},
    refuses=cross_attention_or_padding_mismatch,
)
MBART_MODEL = TransformersClass(
    model_type="mbart",
    name="MBartForCausalLM",
    fields=MBART_FIELDS,
    key_map=KEY_MAP,
    attribute_map=BART_MODEL.attribute_map,
    fixed={"normalize_before": True, **_LEARNED},
    refuses=cross_attention_or_padding_mismatch,
)


def _trocr_mismatch(decoder: Any) -> str:
    start = decoder.config.decoder_start_token_id
    return padding_mismatch(decoder) or ("it has no decoder_start_token_id" if start is None else "")


TROCR_MODEL = TransformersClass(
    model_type="trocr",
    name="TrOCRForCausalLM",
    fields=TROCR_FIELDS,
    key_map=TROCR_KEY_MAP,
    attribute_map=BartConfig.attribute_map,
    fixed={"normalize_before": False},
    refuses=_trocr_mismatch,
)


class BartDecoder(BuiltInDecoder):
    """BART's decoder: ``decoder(input_ids, encoder_hidden_states=...)``, see `TextDecoder.forward`."""

    config_class: ClassVar[type[BartConfig]] = BartConfig
    config: BartConfig
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "bart-base": {
            "d_model": 768,
            "decoder_layers": 6,
            "decoder_attention_heads": 12,
            "decoder_ffn_dim": 3072,
            "attention_dropout": 0.1,
            "activation_dropout": 0.1,
        },
        "bart-large": {"attention_dropout": 0.1, "activation_dropout": 0.1},
    }
    hub_repos: ClassVar[Mapping[str, str]] = {"bart-base": "facebook/bart-base", "bart-large": "facebook/bart-large"}
    transformers: ClassVar[tuple[TransformersClass, ...]] = (BART_MODEL,)

    def __init__(self, config: BartConfig) -> None:
        super().__init__()
        width, std = config.d_model, config.init_std
        learned = config.use_learned_position_embeddings
        self.config = config
        self.hidden_size, self.vocab_size = width, config.vocab_size
        self.max_positions = config.max_position_embeddings if learned else None
        self.positions_by_id = not learned
        self.num_attention_heads = config.decoder_attention_heads
        self.cross_attention_size = config.cross_attention_hidden_size or width
        self.layerdrop = config.decoder_layerdrop

        self.embedding = Embedding(config.vocab_size, width, std=std)
        rows = config.max_position_embeddings + FIRST_POSITION_ROW
        self.position_embedding = Embedding(rows, width, std=std) if learned else None
        self.embedding_norm = nn.LayerNorm(width, NORM_EPS) if config.layernorm_embedding else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(_layer(config) for _ in range(config.decoder_layers))
        self.final_norm = nn.LayerNorm(width, NORM_EPS) if config.normalize_before else nn.Identity()
        self.output = output_layer(self.embedding, tied=config.tie_word_embeddings, std=std)

    def embed_tokens(self, input_ids: Tensor) -> Tensor:
        """(B, T) to (B, T, D); multiplied by the root of D where ``scale_embedding`` is set."""
        embeddings = super().embed_tokens(input_ids)
        return embeddings * math.sqrt(self.hidden_size) if self.config.scale_embedding else embeddings

    def takes_position(self, input_ids: Tensor | None, attention_mask: Tensor | None) -> Tensor | None:
        """(B, T) bool: True for tokens that are not masked, and with sinusoids are not the padding id either."""
        if self.position_embedding is not None or input_ids is None:
            return attention_mask
        real = input_ids.ne(self._pad_token_id())
        return real if attention_mask is None else real & attention_mask

    def embed(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        """(B, T, D) and (1 or B, T) to (B, T, D)."""
        if self.position_embedding is not None:
            # padding, at -1, takes the row before that of the first position
            added = self.position_embedding(positions + FIRST_POSITION_ROW)  # (1 or B, T, D)
        else:
            added = sinusoid(positions + self._pad_token_id() + 1, self.hidden_size)
            added = added.masked_fill((positions < 0)[..., None], 0.0).to(embeddings.dtype)
        out: Tensor = self.dropout(self.embedding_norm(embeddings + added))
        return out

    def _pad_token_id(self) -> int:
        assert self.config.pad_token_id is not None  # BartConfig checks it
        return self.config.pad_token_id


class MBartDecoder(BartDecoder):
    """mBART's decoder."""

    config_class: ClassVar[type[MBartConfig]] = MBartConfig
    config: MBartConfig
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "mbart-large-cc25": {"vocab_size": 250027, "scale_embedding": True},
        "mbart-large-50": {"vocab_size": 250054, "scale_embedding": True},
    }
    hub_repos: ClassVar[Mapping[str, str]] = {name: f"facebook/{name}" for name in variants}
    transformers = (MBART_MODEL,)


_SIZES: dict[str, dict[str, Any]] = {
    "base": {"cross_attention_hidden_size": 768},
    "large": {"cross_attention_hidden_size": 1024},
    "small": {
        "vocab_size": 64044,
        "d_model": 256,
        "decoder_layers": 6,
        "decoder_attention_heads": 8,
        "decoder_ffn_dim": 1024,
        "cross_attention_hidden_size": 384,
        "activation_function": "relu",
        "scale_embedding": True,
        "tie_word_embeddings": False,
    },
}
_NOT_FROM_ROBERTA: dict[str, Any] = {
    "activation_function": "relu",
    "max_position_embeddings": 1024,
    "scale_embedding": True,
    "use_learned_position_embeddings": False,
    "layernorm_embedding": False,
    "tie_word_embeddings": False,
}
"""Settings of the checkpoints whose decoder was not initialised from RoBERTa."""


class TrOCRDecoder(BartDecoder):
    """TrOCR's decoder."""

    config_class: ClassVar[type[TrOCRConfig]] = TrOCRConfig
    config: TrOCRConfig
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "trocr-base-handwritten": _SIZES["base"],
        "trocr-base-printed": _SIZES["base"],
        "trocr-base-stage1": {**_SIZES["base"], **_NOT_FROM_ROBERTA},
        "trocr-large-handwritten": _SIZES["large"],
        "trocr-large-printed": {**_SIZES["large"], **_NOT_FROM_ROBERTA},
        "trocr-large-stage1": {**_SIZES["large"], **_NOT_FROM_ROBERTA},
        "trocr-small-handwritten": _SIZES["small"],
        "trocr-small-printed": _SIZES["small"],
        "trocr-small-stage1": _SIZES["small"],
    }
    hub_repos: ClassVar[Mapping[str, str]] = {name: f"microsoft/{name}" for name in variants}
    transformers = (TROCR_MODEL,)
