"""Settings of the families: refusals, variants, registration."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from vedcore.errors import ConfigError, ConfigSchemaError, IncompatibleError, UnknownComponentError
from vedcore_decoders import register_decoders

ENTRIES = {entry.name: entry for entry in register_decoders()}
HEADS = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert"), "num_attention_heads"),
    "distilbert": "n_heads",
    "gpt2": "n_head",
}


def test_registering_imports_no_torch() -> None:
    """An entry holds a dotted path, which is imported at first use."""
    code = "import sys, vedcore_decoders; vedcore_decoders.register_decoders(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_entries_and_classes_agree(entry: Any) -> None:
    """The entry has the variants of the class; each can be built and has a repository."""
    cls = entry.load()
    assert tuple(cls.variants) == entry.variants == tuple(cls.hub_repos)
    assert entry.default_variant in cls.variants
    for variant in cls.variants:
        config = cls.make_config(variant, {})
        assert config == type(config).parse(config.model_dump())
        with torch.device("meta"):
            cls(cls.make_config(variant, {"num_hidden_layers": 1}))


def test_published_sizes() -> None:
    """Without cross-attention there are as many parameters as in the published models."""
    expected = {
        "gpt2": 124_439_808,
        "gpt2-medium": 354_823_168,
        "gpt2-large": 774_030_080,
        "gpt2-xl": 1_557_611_200,
        "distilgpt2": 81_912_576,
        "bert-base-uncased": 109_514_298,
        "bert-large-uncased": 335_174_458,
        "roberta-base": 124_697_433,
        "roberta-large": 355_412_057,
        "xlm-roberta-base": 278_295_186,
        "xlm-roberta-large": 560_142_482,
        "camembert-base": 110_655_493,
        "distilbert-base-uncased": 66_985_530,
    }
    for variant, count in expected.items():
        entry = next(e for e in ENTRIES.values() if variant in e.variants)
        cls = entry.load()
        with torch.device("meta"):
            model = cls(cls.make_config(variant, {}))
        fresh = model.fresh_parameters()
        assert sum(p.numel() for n, p in model.named_parameters() if n not in fresh) == count, variant


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_bad_settings(entry: Any) -> None:
    """Bad settings are refused with the name of the key, before anything is built."""
    cls = entry.load()
    heads = HEADS.get(entry.name, "decoder_attention_heads")
    with pytest.raises(IncompatibleError, match=rf"decoder\.{heads}: 7 heads do not divide \w+ 32") as caught:
        cls.make_config(None, {"hidden_size": 32, heads: 7}, prefix="decoder.")
    assert caught.value.field == f"decoder.{heads}"
    for bad in (
        {"hidden_size": 0},
        {"hidden_size": -32},
        {heads: 0},
        {heads: 10**9},
        {"num_hidden_layers": 0},
        {"num_hidden_layers": -1},
        {"num_hidden_layers": 10**6},
        {"vocab_size": 0},
        {"vocab_size": 2**63},
        {"max_position_embeddings": 2**62},
        {"hidden_size": "32"},
        {"hidden_size": 32.0},
        {"hidden_size": True},
        {"pad_token_id": -1},
        {"cross_attention_hidden_size": 0},
        {"tie_word_embeddings": "yes"},
        {"vocab_size": None},
        {"hidden_size": []},
    ):
        with pytest.raises(ConfigError):
            cls.make_config(None, bad)
    with pytest.raises(ConfigSchemaError, match="did you mean 'vocab_size'"):
        cls.make_config(None, {"vocab_sizes": 3})
    with pytest.raises(UnknownComponentError, match="no variant 'zorg'"):
        cls.make_config("zorg", {})


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("bert", {"hidden_act": "os.system"}),
        ("bert", {"hidden_dropout_prob": 1.5}),
        ("bert", {"layer_norm_eps": 0.0}),
        ("gpt2", {"activation_function": "evil"}),
        ("gpt2", {"resid_pdrop": -0.1}),
        ("gpt2", {"n_inner": 0}),
        ("gpt2", {"initializer_range": float("nan")}),
        ("distilbert", {"activation": "load"}),
        ("bart", {"decoder_layerdrop": 1.0}),
        ("trocr", {"use_learned_position_embeddings": 1}),
        ("roberta", {"pad_token_id": None}),
    ],
)
def test_bad_settings_of_one_family(name: str, bad: dict[str, Any]) -> None:
    """An activation, a rate or a width out of bounds is refused with the name of the key."""
    with pytest.raises(ConfigSchemaError) as caught:
        ENTRIES[name].load().make_config(None, bad, prefix="decoder.")
    assert caught.value.field == f"decoder.{next(iter(bad))}"


def test_positions_that_the_padding_id_leaves_no_room_for() -> None:
    """RoBERTa's positions begin after the padding id's row, and sinusoids need a padding id."""
    with pytest.raises(IncompatibleError, match="max_position_embeddings: 2 leaves no position"):
        ENTRIES["roberta"].load().make_config(None, {"max_position_embeddings": 2})
    with pytest.raises(IncompatibleError, match="pad_token_id"):
        ENTRIES["trocr"].load().make_config(None, {"use_learned_position_embeddings": False, "pad_token_id": None})


def test_words_of_both_kinds() -> None:
    """Where transformers has two names for a field, either is read, and both at once are refused."""
    make = ENTRIES["gpt2"].load().make_config
    assert make(None, {"hidden_size": 24, "num_attention_heads": 3}) == make(None, {"n_embd": 24, "n_head": 3})
    assert ENTRIES["trocr"].load().make_config("trocr-small-printed", {"d_model": 128}).d_model == 128


def test_defaults_are_those_of_transformers() -> None:
    """Every field that both configs have has one default."""
    import transformers

    for theirs in ("Bert", "Roberta", "DistilBert", "GPT2", "Bart", "MBart", "TrOCR"):
        name = theirs.lower()
        ours, config = ENTRIES[name].load().config_class(), getattr(transformers, f"{theirs}Config")()
        for field, value in ours.model_dump().items():
            if hasattr(config, field) and field != "cross_attention_hidden_size":
                assert value == getattr(config, field), (name, field)
