"""Hints about the config.json of transformers' folders, its classes, and its options of generation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

import vedcore
from tests.checkpoints.test_added_tokens import made
from tests.hints.templates import told
from tests.model.tiny import DECODERS, IMAGE, VIT, tiny
from tests.plugins import test_plugins
from tests.plugins.test_plugins import HEAD, write_distribution

site = test_plugins.site
Config = dict[str, Any]


@pytest.fixture(params=["gpt2", "bert"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return made(tmp_path / "m", request.param, [])


def edit(folder: Path, change: Callable[[Config], object]) -> Config:
    """Change config.json; the settings before."""
    path = folder / "config.json"
    before = json.loads(path.read_text())
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    return dict(before)


def same(folder: Path) -> None:
    """A folder loads, and computes what transformers computes."""
    pixels, ids = torch.randn(1, 3, 16, 16), torch.tensor([[0, 5, 6]])
    theirs = hf.VisionEncoderDecoderModel.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = theirs(pixel_values=pixels, decoder_input_ids=ids).logits
        assert (vedcore.load(folder)(pixels, decoder_input_ids=ids).logits - expected).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("template", "change"),
    [
        ("put the config.json of the whole model there", lambda c: c.pop("decoder")),
        ("put the config.json of the whole model there", lambda c: c.update(encoder=[])),
        ("name the architecture, such as 'vit' or 'gpt2'", lambda c: c["encoder"].pop("model_type")),
        (
            "set it to true if the weights have cross-attention",
            lambda c: c["decoder"].update(add_cross_attention=False),
        ),
        ("set it to true if the weights have cross-attention", lambda c: c["decoder"].pop("add_cross_attention")),
        ("save it unpruned", lambda c: c["encoder"].update(pruned_heads={"0": [1]})),
        ("write a value such as transformers' default, {…}", lambda c: c["encoder"].update(num_channels=[])),
    ],
)
def test_configs_of_whole_models(template: str, change: Callable[[Config], object], folder: Path) -> None:
    before = edit(folder, change)
    told(template, vedcore.load, folder)
    told(template, vedcore.compose, str(folder), str(folder))
    (folder / "config.json").write_text(json.dumps(before))
    same(folder)
    vedcore.compose(str(folder), str(folder))


def test_a_default(folder: Path) -> None:
    edit(folder, lambda c: c["encoder"].update(num_channels="RGB"))
    error = told("write a value such as transformers' default, {…}", vedcore.load, folder)
    default = int(error.hint.rpartition(" ")[2])
    edit(folder, lambda c: c["encoder"].update(num_channels=default))
    same(folder)


def test_a_config_of_other_arithmetic(tmp_path: Path) -> None:
    folder = made(tmp_path / "m", "bert", [])
    edit(folder, lambda c: c["decoder"].update(position_embedding_type="relative_key"))
    told("open another checkpoint", vedcore.load, folder)
    edit(folder, lambda c: c["decoder"].update(position_embedding_type="absolute"))
    same(folder)


def test_beit_of_images_that_transformers_does_not_take(tmp_path: Path) -> None:
    settings = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 20}
    config = hf.BeitConfig(**settings, image_size=16, patch_size=8, use_absolute_position_embeddings=True)
    hf.BeitModel(config).save_pretrained(tmp_path)
    edit(tmp_path, lambda c: c.update(image_size=[16, 24]))
    decoder = {"name": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 20}
    told("open another checkpoint", vedcore.compose, str(tmp_path), decoder)
    edit(tmp_path, lambda c: c.update(image_size=16))
    model = vedcore.compose(str(tmp_path), decoder)
    pixels = torch.randn(1, 3, 16, 16)
    theirs = hf.BeitModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert (model.encode(pixels).last_hidden_state - theirs(pixels).last_hidden_state).abs().max() < 1e-3


PART = """
import dataclasses
from vedcore_encoders.vit import VIT_MODEL, ViTEncoder
class Wombat(ViTEncoder):
    transformers = {classes}
"""


@pytest.fixture
def plugin(site: Path) -> Path:
    entry = "Entry('wombat', 'wombat_parts:Wombat', variants=('vit_*',), default_variant='vit_base_patch16_224', "
    code = f"@hookimpl\ndef register_encoders(): return [{entry}model_types=('wombat',))]"
    write_distribution(site, "wombat", HEAD + code)
    return site / "wombat_parts.py"


def test_a_plugin_that_promises_too_much(plugin: Path, tmp_path: Path) -> None:
    folder = made(tmp_path / "m", "gpt2", [])
    edit(folder, lambda c: c["encoder"].update(model_type="wombat"))
    plugin.write_text(PART.format(classes="()"))
    assert told("tell the authors of {…}", vedcore.load, folder).hint.endswith("wombat==1.0")
    part = __import__("wombat_parts")
    part.Wombat.transformers = (part.dataclasses.replace(part.VIT_MODEL, model_type="wombat"),)
    assert type(vedcore.load(folder).encoder).__name__ == "Wombat"


@pytest.mark.parametrize(
    ("decoder", "options"),
    [
        ("gpt2", {"encoder": {"name": "vit", **VIT, "variant": "vit_base_patch16_clip_224"}}),
        ("bert", {"decoder_cross_attention_hidden_size": 24}),
    ],
)
def test_parts_that_transformers_cannot_hold(decoder: str, options: dict[str, Any], tmp_path: Path) -> None:
    encoder = options.pop("encoder", {"name": "vit", **VIT})
    model = vedcore.compose(encoder, {"name": decoder, **DECODERS[decoder][2]}, **options)
    told('save it with format="native"', model.save_pretrained, tmp_path / "m", format="transformers")
    model.save_pretrained(tmp_path / "m", format="native")
    assert vedcore.load(tmp_path / "m").config.encoder == model.config.encoder


class Options:
    """An object that looks like transformers' options."""

    def to_dict(self) -> list[str]:
        return ["num_beams"]


def test_options_that_are_no_mapping() -> None:
    model = tiny("gpt2")
    pixels = torch.randn(1, 3, *IMAGE)
    told("give them as keywords: num_beams=4", model.generate, pixels, generation_config=Options())
    found = model.generate(pixels, num_beams=4, max_new_tokens=4)
    given = hf.GenerationConfig(num_beams=4, max_new_tokens=4)
    assert found.tolist() == model.generate(pixels, generation_config=given).tolist()
