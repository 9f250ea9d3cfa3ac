"""Hints about exports, each given; those that name a way out of it, followed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import vedcore
from tests.export.conftest import tiny, traced
from tests.hints.templates import told
from vedcore.cli.exporting import export as command
from vedcore.errors import MissingExtraError
from vedcore.export import GRAPH, Exporter, exporting, interpreter, proof, read_graphs
from vedcore.export.fitting import fitted, some_images
from vedcore.export.graphs import Graphs
from vedcore.export.programs import programs
from vedcore.export.running import GraphExporter
from vedcore.plugins import check_exporter
from vedcore.registry import Entry


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model, and the graphs that need little time to record, as an export has them."""
    model, folder = tiny(), tmp_path_factory.mktemp("export") / "recorded"
    model.save_pretrained(folder)
    graphs, _ = traced(model, "encode", "shift")
    ids = {"start": 2, "eos": [3], "pad": 1}
    found = Graphs(graphs, {}, (), ids, (3, 16, 32), 50, 40)
    (folder / GRAPH).write_text(found.to_json())
    return model, folder


def test_parts_that_cannot_be_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    encode = type(model.encoder).forward

    def masked(self: Any, *arguments: Any, **options: Any) -> Any:
        out = encode(self, *arguments, **options)
        return replace(out, attention_mask=torch.ones(out.last_hidden_state.shape[:2], dtype=torch.bool))

    def branched(self: Any, pixel_values: Tensor, **options: Any) -> Any:
        return encode(self, -pixel_values if pixel_values.sum() > 0 else pixel_values, **options)

    def of_three(self: Any, pixel_values: Tensor, **options: Any) -> Any:
        return encode(self, pixel_values.reshape(3, *pixel_values.shape[1:]), **options)

    def special(self: Any, pixel_values: Tensor, **options: Any) -> Any:
        return encode(self, torch.special.i0(pixel_values), **options)

    for forward, hint in (
        (masked, "export a model whose images have one size"),
        (branched, "compute with torch's operations on tensors alone there"),
        (of_three, "compute with shapes, and ask none in Python"),
        (special, "compute it with others: vedcore.export.operations.OPERATIONS lists them"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(type(model.encoder), "forward", forward)
            told(hint, traced, model, "encode")
    assert "special_i0" not in vedcore.export.OPERATIONS
    with monkeypatch.context() as patch:
        patch.setattr(type(model.decoder), "relative_positions", True)
        told("export a model whose decoder has learned, sinusoidal or rotary positions", list, programs(model))
    assert traced(model, "encode")[0]


def test_folders(recorded: Any, tmp_path: Path) -> None:
    _, folder = recorded
    told("give the folder of an export: vedcore export MODEL FOLDER", read_graphs, tmp_path)
    for text in ("[", "[]", json.dumps({"format": "vedcore graph", "version": 2})):
        (tmp_path / GRAPH).write_text(text)
        told("export the model anew", read_graphs, tmp_path)
    assert read_graphs(folder).image == (3, 16, 32)


def test_exports_that_fail(recorded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, folder = recorded
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file.txt").write_text("")
    told("name a new folder, or an empty one", model.export, tmp_path / "mine")

    def copied(_: object, stage: Path) -> Graphs:
        shutil.copytree(folder, stage, dirs_exist_ok=True)
        return read_graphs(stage)

    def write(self: Any, stage: Path, graphs: Graphs) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "record", copied)
    with monkeypatch.context() as patch:
        patch.setattr(GraphExporter, "write", write)
        told("check the path, its permissions and the disk", model.export, tmp_path / "new")
    check = proof.Check("encoder", "encode", 1e-5, 1.0)
    monkeypatch.setattr(exporting, "_proved", lambda *_: [check])
    told("nothing was written; report it with the name of the model", model.export, tmp_path / "new")
    monkeypatch.setattr(exporting, "_proved", lambda *_: [replace(check, difference=0.0)])
    assert model.export(tmp_path / "new")["holds"]


def test_texts_that_do_not_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    monkeypatch.setattr("vedcore.export.fitting.MAX_STEPS", 1)
    hint = "look whether the image changes its texts: vedcore check FOLDER"
    told(hint, fitted, model, some_images(model, 1).expand(8, -1, -1, -1))


def test_targets(recorded: Any) -> None:
    _, folder = recorded
    told("export to graph, or compute it with others there", interpreter.refuse_missing, read_graphs(folder), (), "x")
    entry = Entry("x", "a.b:C")
    told("derive it from vedcore.export.Exporter, with write and runtime", check_exporter, entry, int)
    check_exporter(entry, GraphExporter)
    call = command.callback
    assert call is not None
    options: dict[str, Any] = {"settings": (), "revision": None, "lists": False, "as_json": False}
    told("vedcore export MODEL OUT --to graph", call, model=None, output=None, to="graph", **options)


def test_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    call = command.callback
    assert call is not None
    options: dict[str, Any] = {"settings": (), "revision": None, "lists": False, "as_json": False}
    monkeypatch.setattr("vedcore.cli.exporting.list_parts", lambda kind: [])
    error = told("pip install {…}", call, model="a", output="b", to="jax", **options)
    assert isinstance(error, MissingExtraError)

    class Needy(GraphExporter):
        needs = ("no_such_framework",)
        install = "pip install vedcore-no-such-framework"

    assert issubclass(Needy, Exporter)
    monkeypatch.setattr(exporting, "load_component", lambda kind, name: (Needy, None))
    told("pip install vedcore-no-such-framework", exporting.make_exporter, "x")
