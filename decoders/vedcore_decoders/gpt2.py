"""GPT2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners") with cross-attention.

A norm precedes each part, and one follows the last layer; positions are learned; the output layer is the input
embedding. Arithmetic and names of fields as in transformers' ``GPT2LMHeadModel``.

Shape letters: B rows of text, T tokens, D width, V vocabulary size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Self

from pydantic import model_validator
from torch import Tensor, nn

from vedcore.config import Activation, DecoderConfig, Epsilon, Layers, Rate, Size, Spread, TokenId, VocabSize
from vedcore.errors import IncompatibleError
from vedcore.layers.attention import CrossAttention, SelfAttention
from vedcore.layers.block import DecoderLayer
from vedcore.layers.linear import Embedding, output_layer
from vedcore.layers.mlp import MLP
from vedcore.transformers_class import ConfigField, TransformersClass, unused_fields
from vedcore.weights.keymap import SAME, TRANSPOSED, Row, ignored
from vedcore_decoders.built_in import BuiltInDecoder
from vedcore_decoders.transformers_fields import cross_attention_mismatch, shared_fields

__all__ = ["GPT2Config", "GPT2Decoder"]


class GPT2Config(DecoderConfig):
    """Settings of a GPT2 decoder; the defaults are those of ``gpt2``."""

    attribute_map: ClassVar[Mapping[str, str]] = {
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }

    vocab_size: VocabSize = 50257
    """Number of token ids; the tokenizer decides it unless it is given."""
    n_positions: Size = 1024
    """Rows of the position table: the most tokens of a text."""
    n_embd: Size = 768
    """Width of the decoder, D."""
    n_layer: Layers = 12
    """Number of layers."""
    n_head: Size = 12
    """Attention heads; must divide ``n_embd``."""
    n_inner: Size | None = None
    """Width inside the feed-forward blocks; None means four times ``n_embd``."""
    activation_function: Activation = "gelu_new"
    """Activation inside the feed-forward blocks."""
    resid_pdrop: Rate = 0.1
    """Dropout of the outputs of attention and feed-forward blocks, in training."""
    embd_pdrop: Rate = 0.1
    """Dropout of the embeddings, in training."""
    attn_pdrop: Rate = 0.1
    """Dropout of the attention weights, in training."""
    layer_norm_epsilon: Epsilon = 1e-5
    """Added to the variance in the layer norms."""
    initializer_range: Spread = 0.02
    """Standard deviation of fresh weights; divided by the root of 2 ``n_layer`` for those that add to the residual."""
    scale_attn_weights: bool = True
    """Whether query-key products are divided by the root of the head size."""
    scale_attn_by_inverse_layer_idx: bool = False
    """Whether query-key products are also divided by the layer's number, counted from 1."""
    reorder_and_upcast_attn: bool = False
    """Whether attention scores are computed in float32, whatever the model's dtype."""
    bos_token_id: TokenId | None = 50256
    """Id that starts a text."""
    eos_token_id: TokenId | tuple[TokenId, ...] | None = 50256
    """Id or ids that end a text."""

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.n_embd % self.n_head:
            raise IncompatibleError(
                f"{self.n_head} heads do not divide n_embd {self.n_embd}", field="n_head", hint="change one of the two"
            )
        return self


def _layer(config: GPT2Config, index: int) -> DecoderLayer:
    width, std = config.n_embd, config.initializer_range
    scaling = (width // config.n_head) ** -0.5 if config.scale_attn_weights else 1.0
    if config.scale_attn_by_inverse_layer_idx:
        scaling /= index + 1
    output_std = std / math.sqrt(2 * config.n_layer)  # every layer adds to the residual twice
    attention: dict[str, Any] = {
        "dropout": config.attn_pdrop,
        "scaling": scaling,
        "upcast": config.reorder_and_upcast_attn,
        "std": std,
        "output_std": output_std,
    }
    return DecoderLayer(
        SelfAttention(width, config.n_head, **attention),
        CrossAttention(width, config.cross_attention_hidden_size or width, config.n_head, **attention),
        MLP(width, config.n_inner or 4 * width, config.activation_function, std=std, output_std=output_std),
        norm=partial(nn.LayerNorm, width, config.layer_norm_epsilon),
        norm_first=True,
        dropout=config.resid_pdrop,
    )


KEY_MAP = (
    Row("[transformer.]wte",                         "embedding"),
    Row("[transformer.]wpe",                         "position_embedding"),
    Row("[transformer.]h.{}.ln_1",                   "layers.{}.self_attention_norm"),
    Row("[transformer.]h.{}.attn.c_attn",            "layers.{}.self_attention.query+key+value", TRANSPOSED),
    Row("[transformer.]h.{}.attn.c_proj",            "layers.{}.self_attention.output",    TRANSPOSED),
    Row("[transformer.]h.{}.ln_cross_attn",          "layers.{}.cross_attention_norm",     SAME,       optional=True),
    Row("[transformer.]h.{}.crossattention.q_attn",  "layers.{}.cross_attention.query",    TRANSPOSED, optional=True),
    Row("[transformer.]h.{}.crossattention.c_attn",  "layers.{}.cross_attention.key+value", TRANSPOSED, optional=True),
    Row("[transformer.]h.{}.crossattention.c_proj",  "layers.{}.cross_attention.output",   TRANSPOSED, optional=True),
    Row("[transformer.]h.{}.ln_2",                   "layers.{}.mlp_norm"),
    Row("[transformer.]h.{}.mlp.c_fc",               "layers.{}.mlp.input",                TRANSPOSED),
    Row("[transformer.]h.{}.mlp.c_proj",             "layers.{}.mlp.output",               TRANSPOSED),
    Row("[transformer.]ln_f",                        "final_norm"),
    Row("lm_head",                                   "output",                             SAME,       optional=True),
    ignored("[transformer.]h.{}.attn.bias"),  # the causal mask, in old files
    ignored("[transformer.]h.{}.attn.masked_bias"),
    ignored("[transformer.]h.{}.crossattention.bias"),
    ignored("[transformer.]h.{}.crossattention.masked_bias"),
)  # fmt: skip
"""Names of tensors in ``GPT2LMHeadModel``."""

FIELDS = (
    ConfigField("vocab_size",                      50257),
    ConfigField("n_positions",                     1024),
    ConfigField("n_embd",                          768),
    ConfigField("n_layer",                         12),
    ConfigField("n_head",                          12),
    ConfigField("n_inner",                         None),
    ConfigField("activation_function",             "gelu_new"),
    ConfigField("resid_pdrop",                     0.1),
    ConfigField("embd_pdrop",                      0.1),
    ConfigField("attn_pdrop",                      0.1),
    ConfigField("layer_norm_epsilon",              1e-5),
    ConfigField("initializer_range",               0.02),
    ConfigField("scale_attn_weights",              True),
    ConfigField("scale_attn_by_inverse_layer_idx", False),
    ConfigField("reorder_and_upcast_attn",         False),
    *shared_fields(bos=50256, eos=50256),
    *unused_fields("n_ctx", "n_special", "predict_special_tokens", "summary_activation", "summary_first_dropout",
                   "summary_proj_to_labels", "summary_type", "summary_use_proj"),
)  # fmt: skip

GPT2_MODEL = TransformersClass(
    model_type="gpt2",
    name="GPT2LMHeadModel",
    fields=FIELDS,
    key_map=KEY_MAP,
    attribute_map=GPT2Config.attribute_map,
    flags=("add_cross_attention",),
    refuses=cross_attention_mismatch,
)


class GPT2Decoder(BuiltInDecoder):
    """GPT2 as a decoder: ``decoder(input_ids, encoder_hidden_states=...)``, see `TextDecoder.forward`."""

    config_class = GPT2Config
    config: GPT2Config
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "gpt2": {},
        "gpt2-medium": {"n_embd": 1024, "n_layer": 24, "n_head": 16},
        "gpt2-large": {"n_embd": 1280, "n_layer": 36, "n_head": 20},
        "gpt2-xl": {"n_embd": 1600, "n_layer": 48, "n_head": 25},
        "distilgpt2": {"n_layer": 6},
    }
    hub_repos: ClassVar[Mapping[str, str]] = {
        "gpt2": "openai-community/gpt2",
        "gpt2-medium": "openai-community/gpt2-medium",
        "gpt2-large": "openai-community/gpt2-large",
        "gpt2-xl": "openai-community/gpt2-xl",
        "distilgpt2": "distilbert/distilgpt2",
    }
    transformers = (GPT2_MODEL,)

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        width, std = config.n_embd, config.initializer_range
        self.config = config
        self.hidden_size, self.vocab_size, self.max_positions = width, config.vocab_size, config.n_positions
        self.num_attention_heads = config.n_head
        self.cross_attention_size = config.cross_attention_hidden_size or width

        self.embedding = Embedding(config.vocab_size, width, std=std)
        self.position_embedding = Embedding(config.n_positions, width, std=std)
        self.dropout = nn.Dropout(config.embd_pdrop)
        self.layers = nn.ModuleList(_layer(config, i) for i in range(config.n_layer))
        self.final_norm = nn.LayerNorm(width, config.layer_norm_epsilon)
        self.output = output_layer(self.embedding, tied=config.tie_word_embeddings, std=std)

    def embed(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        """(B, T, D) and (1 or B, T) to (B, T, D); padding takes the first position, since no token attends to it."""
        out: Tensor = self.dropout(embeddings + self.position_embedding(positions.clamp(min=0)))
        return out
