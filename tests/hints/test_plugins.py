"""Hints about plugins, for their authors and for those who use them: each is given, followed, and works."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import vedcore
from tests.composer.tiny import GPT2, VIT, same_weights
from tests.hints.templates import told
from tests.hints.test_config_files import run
from tests.plugins.test_plugins import site, write_distribution
from vedcore import plugins

__all__ = ["site"]

HEAD = "import vedcore\nfrom vedcore import Entry\n"
PART = "from tests.composer.test_foreign_parts import Encoder\nclass C(Encoder): pass\n"
GOOD = "@vedcore.hookimpl\ndef register_encoders(): return [Entry('ok', 'mine_part:C')]"
REPAIR = "repair or uninstall {…}, or block it with VEDCORE_DISABLE_PLUGINS={…}"


@pytest.fixture(autouse=True)
def part(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The module of the part that a good plugin registers."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # modules are written twice in a second
    (path := site / "mine_part.py").write_text(PART)
    yield path
    plugins.configure()


def write(site: Path, code: str, entry_points: str | None = None) -> None:
    """Write the plugin ``mine`` anew, as its author would, and start again."""
    for module in ("mine", "mine_part"):
        sys.modules.pop(module, None)
    for path in site.glob("mine-1.0.dist-info/*"):
        path.unlink()
    for path in site.glob("mine-1.0.dist-info"):
        path.rmdir()
    write_distribution(site, "mine", HEAD + code, entry_points)
    plugins.reset()


def entry(arguments: str) -> str:
    return f"@vedcore.hookimpl\ndef register_encoders(): return [Entry({arguments})]"


@pytest.mark.parametrize(
    ("template", "bad"),
    [
        ("did you mean {…}?", GOOD.replace("encoders", "encodrs")),
        ("there are {…}", GOOD.replace("register_encoders", "qqqqqqqqqqqqq")),
        ("hooks take no arguments", GOOD.replace("()", "(config)")),
        ("put @vedcore.hookimpl before it", GOOD.replace("@vedcore.hookimpl\n", "")),
        ("mark a function with @vedcore.hookimpl: {…}", "x = 1"),
        ("return a list of vedcore.Entry(name, target)", GOOD.replace("Entry(", "str(").replace(", 'mine_part:C'", "")),
        ("use letters, digits, - _ .", entry("'o k', 'mine_part:C'")),
        ("write 'package.module:Attribute'", entry("'ok', 'mine_part.C'")),
        ('write {…}=("a", "b")', entry("'ok', 'mine_part:C', variants='abc'")),
        ("see vedcore.Entry", entry("'ok', 'mine_part:C', summary=3")),
        ("keep one of them", GOOD.replace("[Entry('ok', 'mine_part:C')", "[Entry('ok', 'mine_part:C')] * 2 + [")),
        ("install another version of {…}", f"vedcore_api = 2\n{GOOD}"),
        (REPAIR, f"import does_not_exist\n{GOOD}"),
        ("look up inside functions", f"import vedcore.plugins\nvedcore.plugins.registry()\n{GOOD}"),
        ("return a list of vedcore.Entry(name, target)", GOOD.replace("[Entry('ok', 'mine_part:C')]", "7")),
    ],
)
def test_a_plugin_that_does_not_register(site: Path, template: str, bad: str) -> None:
    if "config" in bad:
        bad = bad.replace("Entry(config)", "Entry()")
    write(site, bad)
    if template == "look up inside functions":
        with pytest.raises(vedcore.PluginError, match=template):
            vedcore.compose("mine:ok", GPT2)
    else:
        told(template, vedcore.compose, "mine:ok", GPT2)
    write(site, GOOD)
    assert vedcore.compose("mine:ok", GPT2).config.encoder.name == "ok"


def test_a_broken_plugin_is_blocked(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(site, "import does_not_exist")
    hint = told(REPAIR, vedcore.compose, "mine:ok", GPT2).hint
    name, _, value = hint.rpartition(" ")[2].partition("=")
    monkeypatch.setenv(name, value)
    plugins.reset()
    assert next(p.status for p in plugins.list_plugins() if p.distribution == "mine") == "blocked"
    assert vedcore.compose(VIT, GPT2).num_parameters() > 0


@pytest.mark.parametrize(
    ("template", "bad"),
    [
        ("repair or uninstall {…}", "import does_not_exist"),
        ("subclass vedcore.{…}", "C = 7"),
        ("subclass vedcore.{…}", "import torch\nclass C(torch.nn.Module): pass"),
        ("set config_class to a subclass of vedcore.{…}", f"{PART.replace(' pass', ' config_class = int')}"),
        ("use register_buffer, or it stays behind on .to(device)", PART.replace(" pass", " loose = True")),
        ("correct forward, or the sizes that the part publishes", PART.replace(" pass", " width = 7")),
        ("write one", f"{PART}import torch\nC.forward = torch.nn.Module.forward"),
        ("see help({…}.forward)", f"{PART}C.forward = lambda self, pixel_values: {{}}[3]"),
        ("check its settings, or tell its authors", f"{PART}C.__init__ = lambda self, config: 1 / 0"),
    ],
)
def test_a_part_that_breaks_its_contract(site: Path, part: Path, template: str, bad: str) -> None:
    part.write_text(bad)
    write(site, GOOD)
    told(template, vedcore.compose, "ok", GPT2)
    part.write_text(PART)
    write(site, GOOD)
    assert vedcore.compose("ok", GPT2).encoder.hidden_size == 6


def test_names_of_two_owners(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        code = f"{HEAD}@vedcore.hookimpl\ndef register_encoders(): return [Entry('shared', 'mine_part:C')]"
        write_distribution(site, name, code)
    plugins.reset()
    template = "write {…}:{…}, or block one with VEDCORE_DISABLE_PLUGINS={…}"
    hint = told(template, vedcore.compose, "shared", GPT2).hint
    chosen = hint.removeprefix("write ").partition(",")[0]
    assert vedcore.compose(chosen, GPT2).config.plugins["encoder"] == "one==1.0"
    name, _, value = hint.rpartition(" ")[2].partition("=")
    monkeypatch.setenv(name, value)
    plugins.reset()
    assert vedcore.compose("shared", GPT2).config.plugins["encoder"] == "one==1.0"


def test_names_of_built_ins(site: Path) -> None:
    write(site, GOOD.replace("'ok'", "'vit'"))

    def conflict() -> None:
        mine = next(e for e in plugins.registry().entries("encoder") if e.owner.distribution == "mine")
        raise plugins.registry().conflicts("encoder", mine)[0]

    hint = told("write {…}:{…} for the other", conflict).hint
    assert hint in next(p.problems[0] for p in plugins.list_plugins() if p.distribution == "mine")
    other = hint.removeprefix("write ").partition(" ")[0]
    assert vedcore.compose(other, GPT2).config.plugins["encoder"] == "mine==1.0"


def test_targets_of_other_kinds(site: Path, part: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    hooks = "".join(
        f"@vedcore.hookimpl\ndef register_{kind}s(): return [Entry('{kind}-mine', 'mine_part:{kind}')]\n"
        for kind in ("model", "command")
    )
    (model := vedcore.compose(VIT, GPT2)).save_pretrained(tmp_path / "model")
    part.write_text("model = 7\ndef command(): print('mine')\n")
    write(site, hooks)
    told("let the target be a class or a function", vedcore.load, "model-mine")
    told("decorate it with @click.command()", run, "command-mine")
    code = f"import click\ndef model(): return {str(tmp_path / 'model')!r}\n"
    part.write_text(f"{code}@click.command()\ndef command(): print('mine')\n")
    write(site, hooks)
    assert same_weights(vedcore.load("model-mine"), model)
    run("command-mine")
    assert "mine" in capsys.readouterr().out


@pytest.mark.parametrize("bad", ["None", "'/nowhere'"])
def test_a_model_function_that_gives_no_path(site: Path, part: Path, tmp_path: Path, bad: str) -> None:
    (model := vedcore.compose(VIT, GPT2)).save_pretrained(tmp_path / "model")
    hook = "@vedcore.hookimpl\ndef register_models(): return [Entry('model-mine', 'mine_part:model')]"
    part.write_text(f"def model(): return {bad}\n")
    write(site, hook)
    told("return the path of the model's folder from it", vedcore.load, "model-mine")
    part.write_text(f"def model(): return {str(tmp_path / 'model')!r}\n")
    write(site, hook)
    assert same_weights(vedcore.load("model-mine"), model)


def test_plugins_by_name(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(site, GOOD)
    told("name a plugin", run, "-p", "no:vedcore", "list", "encoders")
    plugins.configure()
    hint = told("installed: {…}", run, "-p", "qqqqqqqqqqq", "list", "encoders").hint
    plugins.configure()
    assert "mine" in hint.removeprefix("installed: ").split(", ")
    capsys.readouterr()
    run("-p", "no:mine", "list", "encoders")
    assert "ok" not in capsys.readouterr().out.split()
    run("-p", "mine", "list", "encoders")
    assert "ok" in capsys.readouterr().out.split()


def test_a_saved_model_whose_plugin_is_gone(site: Path, tmp_path: Path) -> None:
    write(site, GOOD)
    model = vedcore.compose("ok", GPT2)
    model.save_pretrained(tmp_path / "model")
    plugins.configure(block=["mine"])
    template = "unblock it: see -p, VEDCORE_PLUGINS and VEDCORE_DISABLE_PLUGINS"
    told(template, vedcore.load, tmp_path / "model")
    plugins.configure()
    assert same_weights(vedcore.load(tmp_path / "model"), model)
    info = site / "mine-1.0.dist-info"
    info.rename(tmp_path / "uninstalled")
    plugins.reset()
    assert told("pip install {…}", vedcore.load, tmp_path / "model").hint == "pip install mine==1.0"
    (tmp_path / "uninstalled").rename(info)
    plugins.reset()
    assert same_weights(vedcore.load(tmp_path / "model"), model)


def test_model_types_of_transformers(tmp_path: Path) -> None:
    vedcore.compose(VIT, GPT2).save_pretrained(tmp_path, format="transformers", part="encoder")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "vits"}))
    told("{…}; a plugin may add it", vedcore.compose, str(tmp_path), GPT2)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert vedcore.compose(str(tmp_path), GPT2).config.encoder.name == "vit"


def test_key_maps() -> None:
    from vedcore.weights.keymap import Row, to_ours

    rows = [Row("theirs.a", "a"), Row("theirs.b", "b")]
    mine = {"theirs.a.weight": torch.ones(1), "theirs.b.weight": torch.ones(1)}
    template = "is it a checkpoint of another architecture?"
    told(template, to_ours, {"others.a.weight": torch.ones(1)}, rows)
    assert {*to_ours(mine, rows)} == {"a.weight", "b.weight"}
