"""RoBERTa (Liu et al. 2019) as a decoder: BERT with other positions, another head and other sizes.

The first token has row ``pad_token_id + 1`` of the position table, and tokens with the padding id have no position.
The head's activation is always GELU. Arithmetic and names of fields as in transformers' ``RobertaForCausalLM``.
XLM-RoBERTa (Conneau et al. 2020) and CamemBERT (Martin et al. 2020) have other vocabularies.

Shape letters: B rows of text, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import field_validator, model_validator
from torch import Tensor

from vedcore.config import Size, TokenId, VocabSize
from vedcore.errors import ConfigSchemaError, IncompatibleError
from vedcore.transformers_class import ConfigField, TransformersClass
from vedcore.weights.keymap import Row
from vedcore_decoders.bert import BODY_FIELDS, BertConfig, BertDecoder, body_rows
from vedcore_decoders.transformers_fields import cross_attention_or_padding_mismatch, shared_fields

__all__ = [
    "CamembertDecoder",
    "RobertaConfig",
    "RobertaDecoder",
    "XLMRobertaConfig",
    "XLMRobertaDecoder",
]


class RobertaConfig(BertConfig):
    """Settings of a RoBERTa decoder; the defaults are transformers', and published variants have others."""

    vocab_size: VocabSize = 50265
    """Number of token ids; the tokenizer decides it unless it is given."""
    max_position_embeddings: Size = 512
    """Rows of the position table; a text may have ``pad_token_id + 1`` tokens fewer."""
    bos_token_id: TokenId | None = 0
    """Id that starts a text."""
    pad_token_id: TokenId = 1
    """Id that fills rows after the end of a text; positions begin after its row of the position table."""
    eos_token_id: TokenId | tuple[TokenId, ...] | None = 2
    """Id or ids that end a text."""

    @field_validator("pad_token_id", mode="before")
    @classmethod
    def _check_padding(cls, value: Any) -> Any:
        if value is None:
            raise ConfigSchemaError(
                "RoBERTa counts positions from pad_token_id, which is not set",
                field="pad_token_id",
                hint="set it to the id of <pad>, 1 in published models",
            )
        return value

    @model_validator(mode="after")
    def _check_positions(self) -> Self:
        if self.max_position_embeddings <= self.pad_token_id + 1:
            raise IncompatibleError(
                f"{self.max_position_embeddings} leaves no position after pad_token_id {self.pad_token_id}",
                field="max_position_embeddings",
                hint="raise it, or lower pad_token_id",
            )
        return self


class XLMRobertaConfig(RobertaConfig):
    """Settings of an XLM-RoBERTa or CamemBERT decoder; the defaults are transformers'."""

    vocab_size: VocabSize = 30522
    """Number of token ids; the tokenizer decides it unless it is given."""


KEY_MAP = (
    *body_rows("roberta"),
    Row("lm_head.dense",       "lm_head.transform"),
    Row("lm_head.layer_norm",  "lm_head.norm"),
    Row("lm_head.decoder",     "lm_head.output",       optional=True),
    Row("lm_head.bias",        "lm_head.output.bias",  optional=True),  # a second copy
)  # fmt: skip
"""Names of tensors in ``RobertaForCausalLM``."""


def _transformers_class(model_type: str, name: str, vocab_size: int) -> TransformersClass:
    """One of transformers' classes with RoBERTa's arithmetic and names, and a default vocabulary of its own."""
    return TransformersClass(
        model_type=model_type,
        name=name,
        fields=(ConfigField("vocab_size", vocab_size), *BODY_FIELDS, *shared_fields(bos=0, eos=2, pad=1)),
        key_map=KEY_MAP,
        flags=("is_decoder", "add_cross_attention"),
        refuses=cross_attention_or_padding_mismatch,
    )


_BASE = {"max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
_LARGE = {
    **_BASE,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}


class RobertaDecoder(BertDecoder):
    """RoBERTa as a decoder."""

    config_class: ClassVar[type[RobertaConfig]] = RobertaConfig
    config: RobertaConfig
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "roberta-base": _BASE,
        "roberta-large": _LARGE,
        "distilroberta-base": {**_BASE, "num_hidden_layers": 6},
    }
    hub_repos: ClassVar[Mapping[str, str]] = {
        "roberta-base": "FacebookAI/roberta-base",
        "roberta-large": "FacebookAI/roberta-large",
        "distilroberta-base": "distilbert/distilroberta-base",
    }
    transformers = (_transformers_class("roberta", "RobertaForCausalLM", 50265),)
    positions_by_id = True

    def __init__(self, config: RobertaConfig) -> None:
        super().__init__(config)
        self.max_positions = config.max_position_embeddings - config.pad_token_id - 1

    def head_act(self) -> str:
        """GELU, whatever ``hidden_act`` is."""
        return "gelu"

    def takes_position(self, input_ids: Tensor | None, attention_mask: Tensor | None) -> Tensor | None:
        """(B, T) bool: True for tokens that are neither masked nor the padding id."""
        if input_ids is None:
            return attention_mask
        real = input_ids != self.config.pad_token_id
        return real if attention_mask is None else real & attention_mask

    def position_rows(self, positions: Tensor) -> Tensor:
        """Rows of the position table; padding takes that of the padding id."""
        return positions + self.config.pad_token_id + 1


class XLMRobertaDecoder(RobertaDecoder):
    """XLM-RoBERTa as a decoder: RoBERTa with a vocabulary of a hundred languages."""

    config_class: ClassVar[type[RobertaConfig]] = XLMRobertaConfig
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "xlm-roberta-base": {**_BASE, "vocab_size": 250002},
        "xlm-roberta-large": {**_LARGE, "vocab_size": 250002},
    }
    hub_repos: ClassVar[Mapping[str, str]] = {name: f"FacebookAI/{name}" for name in variants}
    transformers = (_transformers_class("xlm-roberta", "XLMRobertaForCausalLM", 30522),)


class CamembertDecoder(RobertaDecoder):
    """CamemBERT as a decoder: RoBERTa with a French vocabulary."""

    config_class: ClassVar[type[RobertaConfig]] = XLMRobertaConfig
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "camembert-base": {**_BASE, "vocab_size": 32005, "bos_token_id": 5, "eos_token_id": 6},
    }
    hub_repos: ClassVar[Mapping[str, str]] = {"camembert-base": "almanach/camembert-base"}
    transformers = (_transformers_class("camembert", "CamembertForCausalLM", 30522),)
