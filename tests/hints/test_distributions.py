"""Hints of ``vedcore new-plugin`` and ``vedcore package``: each is given, followed, and works."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import vedcore
from tests.hints.templates import told
from vedcore.distributions.model import package_model
from vedcore.distributions.plugin import new_plugin


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    encoder = {"name": "vit", "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    decoder = {"name": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2}
    model = vedcore.compose(encoder, decoder, image_size=32, tokenizer="char", seed=0)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model.save_pretrained(folder)
    model.save_pretrained(folder.with_name("theirs"), format="transformers")
    return folder


@pytest.mark.parametrize("name", ["vedcore mine", "vedcore-vit", "torch", "class", "vedcore"])
def test_a_name(name: str, tmp_path: Path) -> None:
    template, better = {
        "vedcore mine": ("use letters, digits, - _ . such as vedcore-mine", "vedcore-mine"),
        "class": ("call it vedcore-{…}", ""),
    }.get(name, ("choose another name", "vedcore-another"))
    error = told(template, new_plugin, name, "encoder", tmp_path / "a")
    assert new_plugin(better or error.hint.removeprefix("call it "), "encoder", tmp_path / "a").is_dir()


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    told("name a new folder", new_plugin, "vedcore-mine", "format", tmp_path / "mine")
    assert new_plugin("vedcore-mine", "format", tmp_path / "new").is_dir()
    (tmp_path / "text").write_text("")
    told("name a folder to create", new_plugin, "vedcore-mine", "format", tmp_path / "text" / "mine")
    assert new_plugin("vedcore-mine", "format", tmp_path / "other" / "mine").is_dir()


def test_a_wheel(saved: Path, tmp_path: Path) -> None:
    told("write one such as 1.0 or 1.0rc1", package_model, saved, "mine", version="first", output=tmp_path)
    made = package_model(saved, "mine", version="1.0", output=tmp_path)
    told("remove it, or give another --version", package_model, saved, "mine", version="1.0", output=tmp_path)
    made.wheel.unlink()
    assert package_model(saved, "mine", version="1.0", output=tmp_path).wheel.exists()
    told("name a folder to write to", package_model, saved, "mine", version="1.1", output=made.wheel)
    assert package_model(saved, "mine", version="1.1", output=tmp_path / "d").wheel.exists()


def test_a_model(saved: Path, tmp_path: Path) -> None:
    theirs = saved.with_name("theirs")
    template = "convert it first: `vedcore convert IN OUT --format native`"
    told(template, package_model, theirs, "mine", output=tmp_path)
    vedcore.load(theirs).save_pretrained(tmp_path / "ours", format="native")
    assert package_model(tmp_path / "ours", "mine", output=tmp_path).wheel.exists()
    broken = Path(shutil.copytree(saved, tmp_path / "broken"))
    (broken / "manifest.json").unlink()
    told("save the model again", package_model, broken, "mine", version="2", output=tmp_path)
    vedcore.load(broken, verify=False).save_pretrained(broken)
    assert package_model(broken, "mine", version="2", output=tmp_path).wheel.exists()
