"""A tiny decoder of each family, and the class of transformers that it must agree with."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from vedcore.registry import Entry
from vedcore.text_decoder import TextDecoder
from vedcore_decoders import register_decoders

VOCABULARY, POSITIONS, WIDTH, LAYERS = 61, 32, 24, 2
ENTRIES: dict[str, Entry] = {entry.name: entry for entry in register_decoders()}

_BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": POSITIONS,
}
_BART = {
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "decoder_layers": LAYERS,
    "decoder_attention_heads": 3,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": POSITIONS,
}
_CROSS = {"is_decoder": True, "add_cross_attention": True}
TINY: dict[str, dict[str, Any]] = {
    "bert": _BERT,
    "roberta": {**_BERT, "max_position_embeddings": POSITIONS + 2},
    "xlm-roberta": {**_BERT, "max_position_embeddings": POSITIONS + 2},
    "camembert": {**_BERT, "max_position_embeddings": POSITIONS + 2},
    "distilbert": {
        "vocab_size": VOCABULARY,
        "dim": WIDTH,
        "n_layers": LAYERS,
        "n_heads": 3,
        "hidden_dim": 40,
        "max_position_embeddings": POSITIONS,
    },
    "gpt2": {"vocab_size": VOCABULARY, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": 3, "n_positions": POSITIONS},
    "bart": _BART,
    "mbart": _BART,
    "trocr": _BART,
}


@dataclass(frozen=True)
class Family:
    """A family under some settings, with builders of our decoder and transformers'."""

    name: str
    theirs: str
    """Prefix of transformers' names: ``GPT2`` for ``GPT2Config``."""
    theirs_class: str
    fields: dict[str, Any] = field(default_factory=dict)
    """Settings of both decoders."""

    def build(self, seed: int = 0, **fields: Any) -> TextDecoder:
        """Our decoder in eval mode, with weights spread widely."""
        cls = ENTRIES[self.name].load()
        model: TextDecoder = cls(cls.make_config(None, {**TINY[self.name], **self.fields, **fields}))
        return spread(model, seed).eval()

    def build_theirs(self, seed: int = 0) -> nn.Module:
        """transformers' decoder in eval mode, with weights spread widely."""
        config = getattr(transformers, f"{self.theirs}Config")(
            **{**TINY[self.name], **_CROSS, **self.fields}, attn_implementation="eager"
        )
        model: nn.Module = getattr(transformers, self.theirs_class)(config)
        return spread(model, seed).eval()


def spread(model: nn.Module, seed: int) -> nn.Module:
    """Draw every parameter anew, widely, so that nothing agrees by being zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scales = name.endswith("weight") and ("norm" in name.lower() or ".ln_" in name)
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + scales)
    return model


FAMILIES = {
    "bert": Family("bert", "Bert", "BertLMHeadModel"),
    "roberta": Family("roberta", "Roberta", "RobertaForCausalLM", {"layer_norm_eps": 1e-5, "type_vocab_size": 1}),
    "xlm-roberta": Family("xlm-roberta", "XLMRoberta", "XLMRobertaForCausalLM", {"type_vocab_size": 1}),
    "camembert": Family("camembert", "Camembert", "CamembertForCausalLM", {"bos_token_id": 5, "eos_token_id": 6}),
    "distilbert": Family("distilbert", "DistilBert", "DistilBertForMaskedLM"),
    "gpt2": Family("gpt2", "GPT2", "GPT2LMHeadModel", {"bos_token_id": 1, "eos_token_id": 2}),
    "bart": Family("bart", "Bart", "BartForCausalLM"),
    "mbart": Family("mbart", "MBart", "MBartForCausalLM"),
    "trocr": Family("trocr", "TrOCR", "TrOCRForCausalLM"),
}
"""The families, each with its defaults."""


@cache
def cases() -> dict[str, Family]:
    """Each family with its defaults, and with every setting that changes the arithmetic."""

    def of(name: str, **fields: Any) -> Family:
        base = FAMILIES[name]
        return Family(name, base.theirs, base.theirs_class, {**base.fields, **fields})

    sinusoids = {"use_learned_position_embeddings": False}
    return {
        **FAMILIES,
        "bert, untied": of("bert", tie_word_embeddings=False),
        "bert, relu and three types": of("bert", hidden_act="relu", type_vocab_size=3, layer_norm_eps=1e-3),
        "roberta, silu": of("roberta", hidden_act="silu", type_vocab_size=2),
        "roberta, pad 4": of("roberta", pad_token_id=4),
        "xlm-roberta, pad 3, silu": of("xlm-roberta", pad_token_id=3, hidden_act="silu"),
        "camembert, untied": of("camembert", tie_word_embeddings=False, layer_norm_eps=1e-5),
        "distilbert, sinusoidal": of("distilbert", sinusoidal_pos_embds=True, activation="relu"),
        "distilbert, untied": of("distilbert", tie_word_embeddings=False),
        "gpt2, untied, n_inner": of("gpt2", tie_word_embeddings=False, n_inner=17, activation_function="quick_gelu"),
        "gpt2, unscaled": of("gpt2", scale_attn_weights=False),
        "gpt2, scaled by layer": of("gpt2", scale_attn_by_inverse_layer_idx=True),
        "gpt2, upcast": of("gpt2", reorder_and_upcast_attn=True, scale_attn_by_inverse_layer_idx=True),
        "bart, scaled, untied": of("bart", scale_embedding=True, tie_word_embeddings=False),
        "mbart, scaled": of("mbart", scale_embedding=True, activation_function="gelu_new"),
        "trocr, wide encoder": of("trocr", cross_attention_hidden_size=40),
        "trocr, sinusoidal": of("trocr", **sinusoids),
        "trocr, as large-printed": of(
            "trocr",
            **sinusoids,
            scale_embedding=True,
            layernorm_embedding=False,
            tie_word_embeddings=False,
            activation_function="relu",
            cross_attention_hidden_size=16,
        ),
        "trocr, no embedding norm": of("trocr", layernorm_embedding=False),
    }


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``family`` runs over the families, ``case`` over their settings too, the other names over some of the cases."""
    for argument, values in (
        ("family", FAMILIES),
        ("case", cases()),
        ("crossing_case", {name: case for name, case in cases().items() if case.name != "distilbert"}),
        ("distilbert_case", {name: case for name, case in cases().items() if case.name == "distilbert"}),
    ):
        if argument in metafunc.fixturenames:
            metafunc.parametrize(argument, values.values(), ids=values.keys())


@pytest.fixture
def families() -> dict[str, Family]:
    """All families by name."""
    return FAMILIES


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same draws in every test."""
    torch.manual_seed(0)


@pytest.fixture
def ids() -> Tensor:
    """(2, 7) token ids without special tokens."""
    return torch.randint(5, VOCABULARY, (2, 7))


@pytest.fixture
def states() -> Tensor:
    """(2, 5, D) encoder states."""
    return torch.randn(2, 5, WIDTH)
