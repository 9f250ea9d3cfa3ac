"""Hints about formats of plugins: each is given, followed, and works."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

import vedcore
from tests.checkpoints.test_recognition import Install, install, model
from tests.composer.tiny import GPT2, VIT, same_weights
from tests.hints.templates import told
from tests.plugins.test_plugins import site
from vedcore import plugins
from vedcore.weights.keymap import never_theirs
from vedcore_decoders.gpt2 import GPT2Decoder

__all__ = ["install", "model", "site"]

BLOCK = "tell its authors, or block it with VEDCORE_DISABLE_PLUGINS={…}"
OPTIONS = "do in load as the options say; vedcore.formats.load_model does"


def again(install: Install, site: Path, **methods: str) -> None:
    """Install the plugin ``own`` anew, as its author would."""
    sys.modules.pop("own", None)
    for path in [*site.glob("own-1.0.dist-info/*"), *site.glob("own-1.0.dist-info")]:
        path.rmdir() if path.is_dir() else path.unlink()
    install("own", **methods)


@pytest.mark.parametrize(
    ("template", "method", "body"),
    [
        ("return True or False from it", "recognises", "return 1"),
        ("return a vedcore.VisionEncoderDecoder from it", "load", "return 7"),
        (OPTIONS, "load", "return vedcore.compose(VIT, GPT2).train()"),
        (BLOCK, "load", "1 / 0"),
    ],
)
def test_a_format_that_loads_wrongly(
    install: Install,
    site: Path,
    model: vedcore.VisionEncoderDecoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    template: str,
    method: str,
    body: str,
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # the module is written twice in a second
    again(install, site)
    model.save_pretrained(tmp_path / "a", format="own")
    again(install, site, **{method: body})
    told(template, vedcore.load, tmp_path / "a")
    again(install, site)
    assert same_weights(vedcore.load(tmp_path / "a"), model)


def test_a_broken_format_is_blocked(install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install("own", recognises="1 / 0")
    name, _, value = told(BLOCK, vedcore.load, tmp_path).hint.rpartition(" ")[2].partition("=")
    monkeypatch.setenv(name, value)
    plugins.reset()
    with pytest.raises(vedcore.CheckpointNotFoundError):
        vedcore.load(tmp_path)


def test_a_format_that_saves_wrongly(
    install: Install,
    site: Path,
    model: vedcore.VisionEncoderDecoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    again(install, site, save="pass")
    told("write the model to the folder that it is given", model.save_pretrained, tmp_path / "a", format="own")
    again(install, site)
    (site / "own.py").write_text(
        (site / "own.py").read_text().replace("Own(Format)", "Own").replace("def save", "def s")
    )
    sys.modules.pop("own", None)
    plugins.reset()
    told("subclass vedcore.formats.Format", model.save_pretrained, tmp_path / "a", format="own")
    again(install, site)
    model.save_pretrained(tmp_path / "a", format="own")
    assert same_weights(vedcore.load(tmp_path / "a"), model)


def test_two_claimants(
    install: Install, model: vedcore.VisionEncoderDecoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("own")
    install("twin", recognises="return (arguments[0] / 'own.json').exists()")
    model.save_pretrained(tmp_path / "a", format="own")
    hint = told("block one, as with VEDCORE_DISABLE_PLUGINS={…}", vedcore.load, tmp_path / "a").hint
    name, _, value = hint.rpartition(" ")[2].partition("=")
    monkeypatch.setenv(name, value)
    plugins.reset()
    assert same_weights(vedcore.load(tmp_path / "a"), model)


def test_tensors_that_their_class_has_no_place_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = GPT2Decoder.transformers[0]
    rows = [row for row in theirs.key_map if "cross" not in row.theirs]
    rows.append(never_theirs("layers.{}.cross_attention*"))
    monkeypatch.setattr(GPT2Decoder, "transformers", (replace(theirs, key_map=tuple(rows)),))
    model = vedcore.compose(VIT, GPT2)
    template = "save it in the native format, or with part={…} without them"
    told(template, model.save_pretrained, tmp_path / "a", format="transformers")
    with pytest.warns(UserWarning, match="not written"):
        model.save_pretrained(tmp_path / "a", format="transformers", part="decoder")
    model.save_pretrained(tmp_path / "b")
    assert same_weights(vedcore.load(tmp_path / "b"), model)
