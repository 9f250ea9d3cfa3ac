"""Folders of exports: their proof, and what goes wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import vedcore
from tests.export.conftest import images, tiny
from vedcore.cli.app import group
from vedcore.errors import CheckpointError, IncompatibleError, UsageError
from vedcore.export import GRAPH, Graphs, exporting, proof, read_graphs
from vedcore.export.running import GraphExporter, TorchRuntime


def test_the_proof_and_the_folder(exported: Any) -> None:
    model, folder, report = exported
    assert report == json.loads((folder / "export_report.json").read_text())
    assert report["holds"]
    assert not report["left_out"]
    assert {check["method"] for check in report["checks"]} == set(vedcore.export.ABILITIES)
    graphs = read_graphs(folder)
    assert graphs.ties == {"decoder.lm_head.output.weight": "decoder.embedding.weight"}
    assert json.loads(graphs.to_json()) == json.loads((folder / GRAPH).read_text())
    pixels = images(model, 2)
    again = vedcore.load(folder)
    assert torch.equal(again.generate(pixels, max_new_tokens=5), model.generate(pixels, max_new_tokens=5))


def test_gradients_of_tied_weights_add_up(exported: Any) -> None:
    model, folder, _ = exported
    pixels, labels = images(model, 2), torch.tensor([[5, 6, 3], [7, 3, -100]])
    found = TorchRuntime(folder).gradients(pixels.numpy(), labels.numpy())
    model.zero_grad()
    model(pixels, labels=labels).loss.backward()
    due = model.decoder.embedding.weight.grad
    torch.testing.assert_close(torch.from_numpy(found["decoder.embedding.weight"]).float(), due, atol=1e-6, rtol=1e-4)


class Wrong(GraphExporter):
    """Writes other weights than the model's."""

    def write(self, folder: Path, graphs: Graphs, **options: Any) -> None:
        from safetensors.torch import load_file, save_file

        path = folder / "model.safetensors"
        save_file({name: each + 0.01 for name, each in load_file(path).items()}, path)


class Failing(GraphExporter):
    """Cannot write."""

    def write(self, folder: Path, graphs: Graphs, **options: Any) -> None:
        (folder / "half").write_bytes(b"")
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("exporter", [Wrong, Failing])
def test_nothing_is_left_of_an_export_that_fails(
    exporter: type[GraphExporter], exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder, _ = exported
    monkeypatch.setattr(exporting, "make_exporter", lambda to: exporter())
    monkeypatch.setattr(exporting, "record", lambda model, stage: copied(folder, stage))
    with pytest.raises(vedcore.VedcoreError, match=r"does not give the same: encoder|no space left on device"):
        model.export(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_proof_that_hangs_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(proof, "TIMEOUT_SECONDS", 0.01)
    with pytest.raises(IncompatibleError, match=r"the export does not run: no result after 0\.01 seconds"):
        tiny().export(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def copied(folder: Path, stage: Path) -> Graphs:
    shutil.copytree(folder, stage, dirs_exist_ok=True)
    return read_graphs(stage)


def test_a_folder_that_is_not_an_export_is_kept(exported: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not an export"):
        exported[0].export(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def version(data: dict[str, Any]) -> None:
    data["version"] = 99


def other_format(data: dict[str, Any]) -> None:
    data["format"] = "onnx"


def without_nodes(data: dict[str, Any]) -> None:
    del data["graphs"]["encode"]["nodes"]


def more(data: dict[str, Any]) -> None:
    data["graphs"]["encode"]["nodes"][0]["unknown"] = 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (version, "version 99 of the format, but this vedcore reads 1"),
        (other_format, "not the graphs of a model"),
        (without_nodes, "damaged"),
        (more, "damaged"),
    ],
)
def test_other_graphs_are_refused(
    change: Callable[[dict[str, Any]], None], words: str, exported: Any, tmp_path: Path
) -> None:
    data = json.loads((exported[1] / GRAPH).read_text())
    change(data)
    (tmp_path / GRAPH).write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match=words):
        read_graphs(tmp_path)


@pytest.mark.parametrize("text", ["", "[", "[]", "null", '{"format": "vedcore graph", "version": 1}', "[" * 100_000])
def test_damaged_graphs_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / GRAPH).write_text(text)
    with pytest.raises(CheckpointError):
        read_graphs(tmp_path)


def test_relative_positions_are_refused() -> None:
    model = tiny()
    type(model.decoder).relative_positions = True
    try:
        with pytest.raises(IncompatibleError, match="relative positions cannot be exported"):
            list(vedcore_programs(model))
    finally:
        type(model.decoder).relative_positions = False


def vedcore_programs(model: Any) -> Any:
    from vedcore.export.programs import programs

    return programs(model)


def test_the_shell() -> None:
    shell = CliRunner()
    rows = json.loads(shell.invoke(group, ["export", "--list", "--json"]).stdout)
    found = {row["name"]: row for row in rows}
    assert found["graph"]["missing"] == []
    assert set(found) >= {"graph", "jax", "savedmodel", "tflite"}
    assert all(row["install"].startswith("pip install ") for row in rows if row["missing"])
