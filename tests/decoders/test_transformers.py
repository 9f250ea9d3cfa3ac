"""Folders of transformers' decoders open as ours, and ours open in transformers, with the same logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.decoders.conftest import ENTRIES, FAMILIES, TINY, VOCABULARY, Family, cases, spread
from vedcore.errors import ConfigSchemaError, IncompatibleError
from vedcore.text_decoder import TextDecoder
from vedcore.transformers_class import TransformersClass
from vedcore.weights.keymap import to_ours, to_theirs

TOLERANCE = 2e-4
DEEPER = {
    "bart, deeper than its encoder": Family("bart", "Bart", "BartForCausalLM", {"decoder_layers": 3}),
    "mbart, its output apart": Family("mbart", "MBart", "MBartForCausalLM", {"tie_word_embeddings": False}),
    "roberta, its output apart": Family("roberta", "Roberta", "RobertaForCausalLM", {"tie_word_embeddings": False}),
}
CROSSING = {name: case for name, case in {**cases(), **DEEPER}.items() if case.name != "distilbert"}
PARTS = {
    "BertForMaskedLM": "bert",
    "BertForPreTraining": "bert",
    "RobertaForMaskedLM": "roberta",
    "XLMRobertaForMaskedLM": "xlm-roberta",
    "CamembertForMaskedLM": "camembert",
    "GPT2LMHeadModel": "gpt2",
    "BartForConditionalGeneration": "bart",
    "MBartForConditionalGeneration": "mbart",
    "DistilBertForMaskedLM": "distilbert",
}
HEADLESS = {
    "BertModel": "bert",
    "RobertaModel": "roberta",
    "XLMRobertaModel": "xlm-roberta",
    "CamembertModel": "camembert",
    "GPT2Model": "gpt2",
    "BartModel": "bart",
    "MBartModel": "mbart",
    "DistilBertModel": "distilbert",
}


def the_class(name: str) -> TransformersClass:
    (found,) = ENTRIES[name].load().transformers
    assert isinstance(found, TransformersClass)
    return found


def saved(model: nn.Module, folder: Path, *, original: bool = True) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and tensors as transformers writes them."""
    model.save_pretrained(folder, save_original_format=original)  # type: ignore[operator]
    return json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")


def opened(name: str, config: dict[str, Any], tensors: dict[str, Tensor], without: set[str] = frozenset()) -> Any:  # type: ignore[assignment]
    """Our decoder with transformers' config and tensors; only ``without`` and ties may be missing."""
    cls, theirs = ENTRIES[name].load(), the_class(name)
    decoder = cls(cls.make_config(None, theirs.read(config))).eval()
    missing, unexpected = decoder.load_state_dict(to_ours(tensors, theirs.key_map), strict=False)
    filled = {id(t) for n, t in decoder.state_dict(keep_vars=True).items() if n not in missing}
    assert not unexpected
    absent = {n for n in missing if id(decoder.state_dict(keep_vars=True)[n]) not in filled}
    assert absent <= without, absent
    return decoder


def agree(ours: Tensor, theirs: Tensor) -> None:
    assert (ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max()


@pytest.mark.parametrize("original", [True, False], ids=["names of files", "names in memory"])
@pytest.mark.parametrize("name", CROSSING)
def test_opens_what_transformers_saves(name: str, original: bool, ids: Tensor, tmp_path: Path) -> None:
    case = CROSSING[name]
    theirs = case.build_theirs(3)
    ours = opened(case.name, *saved(theirs, tmp_path, original=original))
    states = torch.randn(2, 5, ours.cross_attention_size)
    with torch.no_grad():
        agree(ours(ids, encoder_hidden_states=states).logits, theirs(ids, encoder_hidden_states=states).logits)


@pytest.mark.parametrize("name", CROSSING)
def test_transformers_opens_what_is_written(name: str, ids: Tensor, tmp_path: Path) -> None:
    case = CROSSING[name]
    ours: TextDecoder = case.build(4)
    theirs = the_class(case.name)
    config = {**theirs.write(ours, ours.settings()), **dict.fromkeys(theirs.flags, True), "is_decoder": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = {n: t.detach().clone().contiguous() for n, t in to_theirs(ours.state_dict(), theirs.key_map).items()}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    model, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert type(model).__name__ == theirs.name
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    if not case.fields.get("use_learned_position_embeddings", True):  # transformers 5 loses its sinusoids in loading
        model = getattr(transformers, theirs.name)(model.config).eval()
        model.load_state_dict(tensors, strict=False)
        model.tie_weights()
    states = torch.randn(2, 5, ours.cross_attention_size)
    with torch.no_grad():
        agree(ours(ids, encoder_hidden_states=states).logits, model(ids, encoder_hidden_states=states).logits)


def larger(class_name: str, family: str) -> nn.Module:
    fields = dict(TINY[family])
    if family in ("bart", "mbart"):
        fields |= {"encoder_layers": 1, "encoder_attention_heads": 3, "encoder_ffn_dim": 24}
    config = getattr(transformers, f"{FAMILIES[family].theirs}Config")(**fields)
    return spread(getattr(transformers, class_name)(config), 5).eval()


@pytest.mark.parametrize("class_name", PARTS)
def test_larger_classes_hold_the_decoder(class_name: str, tmp_path: Path) -> None:
    family = PARTS[class_name]
    model = larger(class_name, family)
    crossing = ENTRIES[family].load()(ENTRIES[family].load().make_config(None, TINY[family])).fresh_parameters()
    theirs_cross = family in ("bart", "mbart")
    ours = opened(family, *saved(model, tmp_path), without=set() if theirs_cross else crossing)
    assert torch.equal(ours.get_input_embeddings().weight, model.get_input_embeddings().weight)  # type: ignore[operator]


@pytest.mark.parametrize("class_name", HEADLESS)
def test_models_without_a_head_leave_only_the_head_and_cross_attention(class_name: str, tmp_path: Path) -> None:
    family = HEADLESS[class_name]
    _, tensors = saved(larger(class_name, family), tmp_path)
    rows = the_class(family).key_map
    body = tuple(row for row in rows if not row.ours.startswith("lm_head"))
    assert "layers.0.mlp.input.weight" in to_ours(tensors, body)


def test_distilbert_is_not_written() -> None:
    decoder = cases()["distilbert"].build()
    with pytest.raises(IncompatibleError, match="no cross-attention"):
        the_class("distilbert").write(decoder, decoder.settings())


@pytest.mark.parametrize("part", ["bert", "roberta", "xlm-roberta", "camembert", "gpt2", "bart", "mbart"])
def test_a_wider_encoder_is_not_written(part: str) -> None:
    decoder = cases()[part].build(cross_attention_hidden_size=40)
    with pytest.raises(IncompatibleError, match="40"):
        the_class(part).write(decoder, decoder.settings())


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("bart", "normalize_before", True),
        ("mbart", "normalize_before", False),
        ("bart", "layernorm_embedding", False),
        ("mbart", "use_learned_position_embeddings", False),
        ("trocr", "normalize_before", True),
    ],
)
def test_settings_that_the_class_lacks_are_not_written(part: str, field: str, value: bool) -> None:
    decoder = cases()[part].build(**{field: value})
    with pytest.raises(IncompatibleError, match=field):
        the_class(part).write(decoder, decoder.settings())


@pytest.mark.parametrize("part", ["bert", "bart", "mbart", "trocr"])
def test_padding_outside_the_vocabulary_is_not_written(part: str) -> None:
    decoder = cases()[part].build(pad_token_id=VOCABULARY)
    with pytest.raises(IncompatibleError, match="pad_token_id"):
        the_class(part).write(decoder, decoder.settings())


def test_trocr_without_a_start_is_not_written() -> None:
    decoder = cases()["trocr"].build(decoder_start_token_id=None)
    with pytest.raises(IncompatibleError, match="decoder_start_token_id"):
        the_class("trocr").write(decoder, decoder.settings())


def test_relative_positions_are_refused() -> None:
    with pytest.raises(ConfigSchemaError, match="position_embedding_type"):
        the_class("bert").read({"position_embedding_type": "relative_key"})


@pytest.mark.parametrize("part", list(ENTRIES))
def test_silent_files_have_transformers_defaults(part: str) -> None:
    config_class = transformers.AutoConfig.for_model(part)
    said = the_class(part).read({"model_type": part})
    spoken = the_class(part).read(config_class.to_dict())
    assert said == spoken
    assert said["vocab_size"] > VOCABULARY


_OLD_BART = {
    "add_bias_logits": False,
    "add_final_layer_norm": False,
    "normalize_before": False,
    "normalize_embedding": True,
    "static_position_embeddings": False,
    "extra_pos_embeddings": 2,
    "do_blenderbot_90_layernorm": False,
    "classif_dropout": 0.1,
    "classifier_dropout": 0.0,
    "force_bos_token_to_be_generated": True,
    "_num_labels": 3,
    "early_stopping": True,
    "gradient_checkpointing": False,
    "no_repeat_ngram_size": 3,
    "num_beams": 4,
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 2,
    "is_encoder_decoder": True,
    "encoder_layers": 6,
    "encoder_ffn_dim": 3072,
    "encoder_attention_heads": 12,
    "encoder_layerdrop": 0.0,
    "num_hidden_layers": 6,
    "d_model": 768,
    "decoder_layers": 4,
    "decoder_ffn_dim": 3072,
    "decoder_attention_heads": 12,
    "output_past": False,
    "task_specific_params": {},
    "prefix": " ",
    "max_length": 20,
    "id2label": {"0": "LABEL_0"},
    "use_cache": True,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
PUBLISHED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "bart-base": ("bart", _OLD_BART, {"decoder_layers": 4, "normalize_before": False}),
    "mbart-large-cc25": (
        "mbart",
        {
            **_OLD_BART,
            "normalize_before": True,
            "add_final_layer_norm": True,
            "scale_embedding": True,
            "decoder_start_token_id": None,
            "vocab_size": 250027,
        },
        {"normalize_before": True, "scale_embedding": True, "vocab_size": 250027},
    ),
    "donut": (
        "mbart",
        {
            "is_decoder": True,
            "add_cross_attention": True,
            "add_final_layer_norm": True,
            "max_position_embeddings": 1536,
            "scale_embedding": True,
            "vocab_size": 57580,
            "decoder_layers": 4,
            "cross_attention_hidden_size": None,
            "pruned_heads": {},
            "sep_token_id": None,
        },
        {"max_position_embeddings": 1536, "decoder_layers": 4},
    ),
    "bert-base-multilingual": (
        "bert",
        {
            "attention_probs_dropout_prob": 0.1,
            "directionality": "bidi",
            "pooler_fc_size": 768,
            "pooler_num_attention_heads": 12,
            "pooler_num_fc_layers": 3,
            "pooler_size_per_head": 128,
            "pooler_type": "first_token_transform",
            "vocab_size": 119547,
            "gradient_checkpointing": False,
            "position_embedding_type": "absolute",
            "layer_norm_eps": 1e-12,
            "pad_token_id": 0,
        },
        {"vocab_size": 119547},
    ),
    "roberta-base": (
        "roberta",
        {
            "bos_token_id": 0,
            "eos_token_id": 2,
            "pad_token_id": 1,
            "layer_norm_eps": 1e-05,
            "max_position_embeddings": 514,
            "type_vocab_size": 1,
            "vocab_size": 50265,
        },
        {"max_position_embeddings": 514},
    ),
    "xlm-roberta-base": (
        "xlm-roberta",
        {
            "bos_token_id": 0,
            "eos_token_id": 2,
            "pad_token_id": 1,
            "layer_norm_eps": 1e-05,
            "max_position_embeddings": 514,
            "output_past": True,
            "position_embedding_type": "absolute",
            "type_vocab_size": 1,
            "use_cache": True,
            "vocab_size": 250002,
        },
        {"max_position_embeddings": 514, "vocab_size": 250002},
    ),
    "camembert-base": (
        "camembert",
        {
            "bos_token_id": 5,
            "eos_token_id": 6,
            "pad_token_id": 1,
            "layer_norm_eps": 1e-05,
            "max_position_embeddings": 514,
            "output_past": True,
            "type_vocab_size": 1,
            "vocab_size": 32005,
        },
        {"bos_token_id": 5, "eos_token_id": 6, "vocab_size": 32005},
    ),
    "distilgpt2": (
        "gpt2",
        {
            "_num_labels": 1,
            "n_ctx": 1024,
            "n_layer": 6,
            "summary_activation": None,
            "summary_first_dropout": 0.1,
            "summary_proj_to_labels": True,
            "summary_type": "cls_index",
            "summary_use_proj": True,
            "task_specific_params": {},
            "label2id": {"LABEL_0": 0},
        },
        {"n_layer": 6, "eos_token_id": 50256},
    ),
    "trocr-base-stage1": (
        "trocr",
        {
            "activation_function": "relu",
            "classifier_dropout": 0.0,
            "cross_attention_hidden_size": 768,
            "d_model": 1024,
            "decoder_layers": 12,
            "layernorm_embedding": False,
            "scale_embedding": True,
            "max_position_embeddings": 1024,
            "tie_word_embeddings": False,
            "is_decoder": True,
            "use_learned_position_embeddings": False,
            "add_cross_attention": True,
        },
        {"cross_attention_hidden_size": 768, "layernorm_embedding": False, "use_learned_position_embeddings": False},
    ),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings_open(name: str) -> None:
    part, theirs, expected = PUBLISHED[name]
    cls = ENTRIES[part].load()
    settings = cls.make_config(None, the_class(part).read(theirs)).model_dump()
    assert {key: settings[key] for key in expected} == expected


def test_token_ids_of_old_files() -> None:
    read = the_class("gpt2").read({"eos_token_id": [1, 2], "bos_token_id": None})
    assert (read["eos_token_id"], read["bos_token_id"]) == ((1, 2), None)
    with pytest.warns(UserWarning, match="-1 is read as none"):
        assert the_class("gpt2").read({"pad_token_id": -1})["pad_token_id"] is None


def test_tables_that_are_not_weights_are_passed_over(tmp_path: Path) -> None:
    for name, extra in {
        "bert": {"bert.embeddings.position_ids": torch.arange(4)[None]},
        "gpt2": {"transformer.h.0.attn.bias": torch.ones(1, 1, 4, 4), "h.1.attn.masked_bias": torch.tensor(-1e4)},
        "trocr, sinusoidal": {
            "model.decoder.embed_positions._float_tensor": torch.zeros(1),
            "model.decoder.embed_positions.weights": torch.zeros(9, 4),
        },
        "bart": {"final_logits_bias": torch.zeros(1, VOCABULARY)},
    }.items():
        case = cases()[name]
        config, tensors = saved(case.build_theirs(), tmp_path / case.name)
        opened(case.name, config, {**tensors, **extra})
