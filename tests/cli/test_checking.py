"""``vedcore check``: a table, JSON, and exit codes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

import vedcore
from tests.plugins.test_plugins import site, write_distribution  # noqa: F401
from vedcore.checkpoints.inspection import inspect_folder
from vedcore.cli.app import main

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["check", *arguments])
    return int(ended.value.code or 0)


@pytest.mark.parametrize("name", ["gpt2", "vit", "swin", "mlp", "identity"])
def test_a_right_part(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(f" {name}")
    assert any(line.startswith("  ✓ tensors_are_registered: ") for line in lines)
    assert not [line for line in lines if line.startswith("  ✗")]


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("linear", "--json") == 0
    (part,) = json.loads(capsys.readouterr().out)
    assert (part["kind"], part["name"]) == ("projector", "linear")
    assert {each["outcome"] for each in part["checks"]} == {"passed", "not applicable"}


def test_a_wrong_part(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vedcore.projectors.LinearProjector.num_tokens", lambda self, tokens: tokens + 1)
    assert run("linear") == 1
    assert "✗ number_of_tokens_out_is_published: linear: expected 17 tokens for 16" in capsys.readouterr().out


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = vedcore.compose(
        {"name": "vit", "num_hidden_layers": 1, "hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 40},
        {"name": "distilbert", "n_layers": 1, "dim": 16, "n_heads": 2, "hidden_dim": 20},
        image_size=32,
        tokenizer="char",
        seed=0,
    )
    folder = tmp_path_factory.mktemp("saved") / "model"
    model.save_pretrained(folder)
    return folder


def test_a_folder_keeps_its_result(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (saved / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in saved.iterdir() if path.name != "manifest.json"}
    assert run(str(saved), "--json") == 0
    groups = json.loads(capsys.readouterr().out)
    kinds = [(each["kind"], each["name"]) for each in groups]
    assert kinds == [("encoder", "vit"), ("projector", "linear"), ("decoder", "distilbert"), ("wiring", str(saved))]
    assert groups[-1]["kept"] is True
    after = {path.name: path.read_bytes() for path in saved.iterdir() if path.name != "manifest.json"}
    assert json.loads(after.pop("wiring.json"))["version"] == 1
    assert after == before
    found = inspect_folder(saved, verify=True)
    assert not found.problems and not found.notes
    assert set(found.checked) == {*before, "wiring.json"} - {"notes.txt"}
    assert vedcore.load(saved).wiring is not None


def test_a_folder_that_cannot_be_written(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(saved, tmp_path / "a")
    (folder / "wiring.json").unlink(missing_ok=True)

    def refuse(*arguments: object, **options: object) -> None:
        raise vedcore.CheckpointWriteError("cannot be written: read-only file system", path=folder)

    monkeypatch.setattr("vedcore.checkpoints.wiring.save_folder", refuse)
    assert run(str(folder)) == 0
    assert "not kept as wiring.json: " in capsys.readouterr().err
    assert not (folder / "wiring.json").exists()


def test_a_folder_of_another_format(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = vedcore.compose(
        {"name": "vit", "num_hidden_layers": 1, "hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 40},
        {"name": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 20},
        image_size=32,
        tokenizer="char",
    )
    model.save_pretrained(tmp_path / "a", format="transformers")
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert run(str(tmp_path / "a")) == 0
    assert "not of vedcore's native format" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before


def test_a_folder_with_findings(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = vedcore.load(saved)
    for layer in model.decoder.layers:
        torch.nn.init.zeros_(layer.cross_attention.output.weight)
    model.save_pretrained(tmp_path / "a")
    assert run(str(tmp_path / "a")) == 1
    assert "✗ image_changes_every_token: " in capsys.readouterr().out
    report = vedcore.load(tmp_path / "a").wiring
    assert report is not None
    assert [each.check for each in report.failed] == ["image_changes_every_token"]


def test_a_damaged_folder(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(saved, tmp_path / "a")
    (folder / "config.json").write_text("{")
    assert run(str(folder)) == 3
    assert run(str(tmp_path / "missing")) == 1
    assert "no such folder" in capsys.readouterr().err


SITE = """
import vedcore

@vedcore.hookimpl
def register_formats():
    return [vedcore.Entry("marked", "tests.testing.right_parts:Marked"), *{more}]

@vedcore.hookimpl
def register_models():
    return [vedcore.Entry("kept", "checked_plugin:folder")]

@vedcore.hookimpl
def register_projectors():
    return [vedcore.Entry("mean", "tests.testing.right_parts:Mean")]

def folder():
    return {folder!r}
"""


@pytest.mark.parametrize(
    ("more", "code"), [("[]", 0), ('[vedcore.Entry("all", "tests.testing.wrong_formats:ClaimsAll")]', 1)]
)
def test_a_distribution(
    more: str,
    code: int,
    saved: Path,
    site: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_distribution(site, "checked-plugin", SITE.format(folder=str(saved), more=more))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(ROOT)]))
    assert run("checked-plugin", "--json") == code
    groups = json.loads(capsys.readouterr().out)
    kinds = [(each["kind"], each["name"]) for each in groups]
    assert kinds[0] == ("plugin", "checked_plugin")
    assert {("projector", "mean"), ("format", "marked"), ("model", "kept")} <= set(kinds)
    failed = {c["check"] for each in groups for c in each["checks"] if c["outcome"] == "failed"}
    assert failed == ({"claims_nothing_else"} if code else set())


def test_a_distribution_that_does_not_register(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_distribution(site, "checked-plugin", "import nothing_of_that_name")
    monkeypatch.setenv("PYTHONPATH", str(site))
    assert run("checked-plugin") == 1
    assert "✗ registering_imports_no_torch: " in capsys.readouterr().out


def test_an_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("nothing-of-that-name") == 3
    assert "no part, model, distribution or folder of that name" in capsys.readouterr().err
    assert run("gpt3") == 3
    assert "did you mean 'gpt2'" in capsys.readouterr().err
