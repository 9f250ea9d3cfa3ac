"""Hints of `compose` and `plan`, and of settings that are assigned to: each is given, followed, and works."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

import vedcore
from tests.composer.tiny import BERT, GPT2, VIT, same_weights, without
from tests.hints.templates import told
from tests.plugins.test_plugins import site, write_distribution
from vedcore.config import ComponentConfig
from vedcore.projectors import MLPProjectorConfig

__all__ = ["site"]

BART = {
    "name": "bart",
    "d_model": 24,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 20,
    "vocab_size": 50,
}


def small(**options: Any) -> vedcore.VisionEncoderDecoder:
    return vedcore.compose(VIT, GPT2, **options)


def tokenizer_of(count: int) -> Tokenizer:
    """A tokenizer of that many letters."""
    tokens = {chr(0x4E00 + i): i for i in range(count)}
    data = {"version": "1.0", "model": {"type": "BPE", "vocab": tokens, "merges": [], "unk_token": None}}
    for key in ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"):
        data[key] = None
    return Tokenizer.from_str(json.dumps({**data, "added_tokens": []}))


# -- arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "bad", "bad_keywords", "good", "good_keywords"),
    [
        ("write compose({…}, 'gpt2'), or give a .yaml, .toml or .json file", ["vit"], {}, ["vit", "gpt2"], {}),
        ("name one, such as 'gpt2'", [ComponentConfig(**VIT)], {}, [ComponentConfig(**VIT), "gpt2"], {}),
        (
            "change it with decoder_<field> keywords",
            [{"encoder": VIT, "decoder": GPT2}, {"n_layer": 2}],
            {},
            [{"encoder": VIT, "decoder": GPT2}],
            {"decoder_n_layer": 2},
        ),
        ("there are: {…}", [VIT, GPT2], {"qqqqqq": 1}, [VIT, GPT2], {"seed": 1}),
        ("did you mean {…}?", [VIT, GPT2], {"sede": 1}, [VIT, GPT2], {"seed": 1}),
        ("see `vedcore list {…}s`", [VIT, 3], {}, [VIT, "gpt2"], {}),
        (
            "set projector to 'auto' or 'linear', or decoder.cross_attention_hidden_size",
            [VIT, BERT],
            {"projector": "identity"},
            [VIT, BERT],
            {},
        ),
        (
            "set projector to 'auto' or 'linear', or decoder.cross_attention_hidden_size",
            [VIT, BERT],
            {"projector": "identity"},
            [VIT, BERT],
            {"projector": "identity", "decoder_cross_attention_hidden_size": 24},
        ),
        (
            "give a tokenizer whose ids are below {…}",
            [VIT, GPT2],
            {"tokenizer": tokenizer_of(51)},
            [VIT, GPT2],
            {"tokenizer": tokenizer_of(50)},
        ),
        ("try 'cpu'", [VIT, GPT2], {"device": "nowhere"}, [VIT, GPT2], {"device": "cpu"}),
        (
            "make hidden sizes, layers, images or the vocabulary smaller",
            [VIT, {**BART, "d_model": 1 << 20, "decoder_layers": 1000}],
            {},
            [VIT, BART],
            {},
        ),
        ("set an id below {…}", [VIT, GPT2], {"decoder_eos_token_id": 50}, [VIT, GPT2], {"decoder_eos_token_id": 49}),
        ("set an id below {…}", [VIT, GPT2], {"token_ids": {"pad": 50}}, [VIT, GPT2], {"token_ids": {"pad": 49}}),
    ],
)
def test_arguments(
    template: str, bad: list[Any], bad_keywords: dict[str, Any], good: list[Any], good_keywords: dict[str, Any]
) -> None:
    told(template, vedcore.compose, *bad, **bad_keywords)
    if "gpt2" in good:  # of its whole size
        assert vedcore.plan(*good, **good_keywords).decoder.name == "gpt2"
    else:
        assert vedcore.compose(*good, **good_keywords).num_parameters() > 0


def test_a_whole_model_given_to_compose(tmp_path: Path) -> None:
    (model := small()).save_pretrained(folder := tmp_path / "model")
    template = "write vedcore.load({…}) for the whole model, or compose({…}, 'gpt2')"
    hint = told(template, vedcore.compose, str(folder)).hint
    loaded = eval(hint.removeprefix("write ").partition(" for the whole")[0])
    assert same_weights(loaded, model)
    assert vedcore.plan(str(folder), "gpt2").encoder.parameters == sum(p.numel() for p in model.encoder.parameters())


def test_a_checkpoint_without_the_part(tmp_path: Path) -> None:
    model = small()
    model.save_pretrained(folder := tmp_path / "whole")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(without(config, "decoder")))
    told("name a checkpoint of a{…} {…}, or of a whole model", vedcore.compose, VIT, str(folder))
    (folder / "config.json").write_text(json.dumps(config))
    composed = vedcore.compose(VIT, str(folder))
    assert same_weights(composed.decoder, model.decoder)
    (folder / "config.json").write_text(json.dumps(without(config, "encoder")))
    told("name a checkpoint of a{…} {…}, or of a whole model", vedcore.compose, str(folder), GPT2)


@pytest.mark.parametrize(
    ("decoder", "fields", "template", "mended"),
    [
        ("gpt2", {"n_head": 5}, "change one of the two", {"n_head": 3}),
        ("bert", {"num_attention_heads": 5}, "change one of the two", {"num_attention_heads": 2}),
        ("distilbert", {"n_heads": 5}, "change one of the two", {"n_heads": 3}),
        (
            "bart",
            {"decoder_attention_heads": 5},
            "change one of the two",
            {"d_model": 25, "decoder_attention_heads": 5},
        ),
        ("roberta", {"pad_token_id": None}, "set it to the id of <pad>, 1 in published models", {"pad_token_id": 1}),
        ("roberta", {"pad_token_id": 30}, "raise it, or lower pad_token_id", {"pad_token_id": 3}),
        (
            "roberta",
            {"pad_token_id": 30},
            "raise it, or lower pad_token_id",
            {"pad_token_id": 30, "max_position_embeddings": 40},
        ),
        (
            "trocr",
            {"use_learned_position_embeddings": False, "pad_token_id": None},
            "set it, or use_learned_position_embeddings",
            {"use_learned_position_embeddings": False, "pad_token_id": 1},
        ),
        (
            "trocr",
            {"use_learned_position_embeddings": False, "pad_token_id": None},
            "set it, or use_learned_position_embeddings",
            {"use_learned_position_embeddings": True, "pad_token_id": None},
        ),
    ],
)
def test_decoders(decoder: str, fields: dict[str, Any], template: str, mended: dict[str, Any]) -> None:
    base: dict[str, Any] = {**BART, "name": "trocr", "cross_attention_hidden_size": 24} if decoder == "trocr" else BART
    base = {"gpt2": GPT2, "bert": BERT, "roberta": {**BERT, "name": "roberta"}}.get(decoder, base)
    if decoder == "distilbert":
        base = {"name": "distilbert", "dim": 24, "n_heads": 2, "n_layers": 1, "hidden_dim": 40, "vocab_size": 50}
    told(template, vedcore.compose, VIT, {**base, **fields})
    assert vedcore.compose(VIT, {**base, **mended}).num_parameters() > 0


# -- settings that do not change in place ---------------------------------------------------------------------------


@pytest.mark.parametrize("saved", [False, True], ids=["composed", "loaded"])
@pytest.mark.parametrize(
    ("target", "name", "value"),
    [
        ("model.encoder.config", "hidden_dropout_prob", 0.25),
        ("model.decoder.config", "attn_pdrop", 0.25),
        ("model.config.decoder", "attn_pdrop", 0.25),
        ("model.config.encoder", "hidden_dropout_prob", 0.25),
        ("model.config", "seed", 3),
    ],
)
def test_assignments_to_a_model(tmp_path: Path, saved: bool, target: str, name: str, value: object) -> None:
    model = small()
    model.save_pretrained(folder := tmp_path / "model")
    if saved:
        model = vedcore.load(folder)
    template = "compose the model with {…}; a saved one: vedcore.compose(folder, folder, {…})"
    hint = told(template, setattr, eval(target), name, value).hint
    folder_call = hint.partition(": ")[2]
    changed = eval(folder_call, {"vedcore": vedcore, "folder": str(folder)})
    assert same_weights(changed, model)
    assert eval(f"{target}.{name}", {"model": changed}) == value
    argument = hint.removeprefix("compose the model with ").partition(";")[0]
    composed = eval(f"vedcore.compose(VIT, GPT2, {argument})")
    assert eval(f"{target}.{name}", {"model": composed}) == value


def test_an_assignment_of_an_image_size(tmp_path: Path) -> None:
    model = small()
    model.save_pretrained(tmp_path / "model")
    template = "load or compose the model with image_size={…}"
    for settings in (model.config, model.processor.preprocessing):
        told(template, setattr, settings, "image_size", (32, 24))
    assert vedcore.load(tmp_path / "model", image_size=(32, 24)).processor.preprocessing.image_size == (32, 24)
    assert small(image_size=(32, 24)).config.encoder.fields["image_size"] == (32, 24)


@pytest.mark.parametrize(
    ("target", "name", "value"),
    [("model.config", "encoder", "deit"), ("model.config", "decoder", "bert")],
)
def test_an_assignment_of_a_part(target: str, name: str, value: str) -> None:
    model = small()
    hint = told("compose the model with {…}", setattr, eval(target), name, value).hint
    plan = eval(
        f"vedcore.plan(**{{'encoder': VIT, 'decoder': GPT2}} | dict({hint.removeprefix('compose the model with ')}))"
    )
    assert getattr(plan, name).name == value
    told("compose the model of that part", setattr, getattr(model.config, name), "name", value)


@pytest.mark.parametrize(
    ("settings", "name", "near"),
    [
        ("model.encoder.config", "hiden_size", "hidden_size"),
        ("model.decoder.config", "num_layers", "n_layer"),
        ("model.config.decoder", "n_layers", "n_layer"),
        ("model.processor.preprocessing", "image_means", "image_mean"),
        ("model.token_ids", "qqqqqq", None),
        ("model.config", "qqqqqq", None),
    ],
)
def test_an_assignment_of_an_unknown_setting(settings: str, name: str, near: str | None) -> None:
    here = eval(settings, {"model": small()})
    error = told("there are: {…}" if near is None else "did you mean {…}?", setattr, here, name, 3)
    named = near or error.hint.removeprefix("there are: ").split(", ")[-1]
    assert named in error.hint
    assert "did you mean" not in told("{…}", setattr, here, named, 3).hint


def test_other_assignments() -> None:
    model = small(token_ids={"start": 1})
    hint = told("model.token_ids = model.token_ids.changed({…}={…})", setattr, model.token_ids, "eos_token_id", 2).hint
    exec(hint)
    assert model.token_ids.eos == (2,)
    template = "model.processor.preprocessing = model.processor.preprocessing.changed({…}={…})"
    exec(told(template, setattr, model.processor.preprocessing, "interpolation", "nearest").hint)
    assert model.processor.preprocessing.interpolation == "nearest"
    config = MLPProjectorConfig()
    hint = told("make a copy: config.changed({…}={…})", setattr, config, "dropout", 0.5).hint
    assert eval(hint.removeprefix("make a copy: ")).dropout == 0.5
    exec(told("model.resize_vocabulary({…})", setattr, model.config, "vocab_size", 60).hint)
    template = "model.generation_config = model.generation_config.with_options({…}={…})"
    for settings in (model.config, model.config.decoder, model.decoder.config):
        exec(told(template, setattr, settings, "num_beams", 6).hint)
    assert (model.decoder.vocab_size, model.generation_config.num_beams) == (60, 6)
    exec(
        told(
            "model.generation_config = model.generation_config.with_options({…})",
            setattr,
            model.generation_config,
            "top_k",
            6,
        ).hint
    )
    told("it is not an option of generate", setattr, model.generation_config, "qqqqqqq", 6)
    assert model.generation_config.top_k == 6
    template = "model.token_ids = vedcore.TokenIds(start=0, eos=2, pad=1), or model.token_ids.changed(eos=2)"
    exec(told(template, setattr, model.config, "token_ids", {"eos": 2}).hint.partition(", or")[0])
    assert model.token_ids == vedcore.TokenIds(start=0, eos=2, pad=1)


def test_ids_of_a_model() -> None:
    model = small()
    pixels = torch.zeros(1, 3, 16, 24)
    hint = told("set model.token_ids = model.token_ids.changed({…}=…)", model.generate, pixels).hint
    exec(hint.removeprefix("set ").replace("…", "1"))
    assert model.generate(pixels, max_new_tokens=2).shape == (1, 3)
    template = "set another id, or first call model.resize_vocabulary({…})"
    ids = vedcore.TokenIds(start=1, eos=(50,))
    hint = told(template, setattr, model, "token_ids", ids).hint
    model.token_ids = ids.changed(eos=49)
    exec(hint.partition("first call ")[2])
    model.token_ids = ids
    assert model.generate(pixels, max_new_tokens=2).shape[0] == 1


# -- preprocessing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "bad", "good"),
    [
        ("give both one number for each channel", {"image_mean": (0.5,)}, {"image_mean": (0.5,), "image_std": (0.5,)}),
        (
            "leave it out, or use squash, shortest_edge or none",
            {"resize_mode": "pad", "do_pad": True},
            {"resize_mode": "pad"},
        ),
        (
            "leave it out, or use squash, shortest_edge or none",
            {"resize_mode": "crop", "thumbnail": "bicubic"},
            {"resize_mode": "none", "thumbnail": "bicubic"},
        ),
        ("leave it out", {"resize_size": (20, 30)}, {}),
        ("pass a preprocessing whose image_size is {…}", {"image_size": (33, 24)}, {"image_size": (16, 24)}),
    ],
)
def test_preprocessing(tmp_path: Path, template: str, bad: dict[str, Any], good: dict[str, Any]) -> None:
    size = {"image_size": (16, 24)}
    told(template, small, preprocessing={**size, **bad})
    model = small(preprocessing={**size, **good})
    model.save_pretrained(tmp_path)
    told(template, vedcore.load, tmp_path, preprocessing={**size, **bad})
    assert (
        vedcore.load(tmp_path, preprocessing={**size, **good}).processor.preprocessing == model.processor.preprocessing
    )


# -- parts of plugins, and published weights ------------------------------------------------------------------------

DECODER = """
from vedcore import Entry, hookimpl

@hookimpl
def register_decoders():
    return [Entry("mine", "mine_part:Mine", "a decoder")]
"""
BLIND = """
from vedcore_decoders.gpt2 import GPT2Decoder

class Mine(GPT2Decoder):
    hub_repos = {}

    def __init__(self, config):
        super().__init__(config)
        %s
"""


def test_a_decoder_of_a_plugin_that_does_not_build_or_see(site: Path) -> None:
    write_distribution(site, "mine", DECODER)
    mine = {**without(GPT2, "name"), "name": "mine"}
    (site / "mine_part.py").write_text(BLIND % "self.cross_attention_size = 0")
    told("choose a decoder of `vedcore list decoders`", vedcore.compose, VIT, mine)
    assert "gpt2" in vedcore.list_decoders()
    assert vedcore.compose(VIT, GPT2).num_parameters() > 0
    told("leave it out", vedcore.compose, VIT, {**mine, "variant": "gpt2"}, pretrained=True)


def test_a_decoder_of_a_plugin_that_raises(site: Path) -> None:
    write_distribution(site, "mine", DECODER)
    mine = {**without(GPT2, "name"), "name": "mine"}
    (site / "mine_part.py").write_text(BLIND % "assert config.n_layer < 3")
    told("check its settings, or tell its authors", vedcore.compose, VIT, {**mine, "n_layer": 3})
    assert vedcore.compose(VIT, mine).num_parameters() > 0
