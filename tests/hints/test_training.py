"""Hints about training runs, each followed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin

import vedcore
from tests.hints.templates import HOLE, told
from tests.training.data import CONFIG, image, write_folder
from vedcore.data import DataConfig
from vedcore.training import TrainingConfig, train
from vedcore.training.processes import check_sharding

ONE: dict[str, Any] = {"max_steps": 1, "generation_max_length": 3, "per_device_train_batch_size": 4}


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "lines", 8)


def test_settings_that_contradict_each_other() -> None:
    told("set one of the two", TrainingConfig.parse, {"bf16": True, "fp16": True})
    told("add {…} to freeze, or leave it out", TrainingConfig.parse, {"unfreeze_at": {"encoder": 3}})
    assert TrainingConfig.parse({"unfreeze_at": {"encoder": 3}, "freeze": "encoder"}).freeze == ("encoder",)
    told("leave out freeze, or lora", TrainingConfig.parse, {"lora": True, "freeze": ["encoder"]})


def test_what_is_trained(lines: Path, tmp_path: Path) -> None:
    told("add model: NAME_OR_FOLDER, or encoder: and decoder:", train, {"train": ONE}, lines, tmp_path)
    told("leave out one of the two", train, {**CONFIG, "model": "printed-line"}, lines, tmp_path)
    told("name a folder of labelled images", train, CONFIG, output=tmp_path)
    told("name a folder for the trained model", train, CONFIG, lines)
    ends = "leave it out, or give ends such as [query, value]"
    told(ends, train, CONFIG, lines, tmp_path / "no", **ONE, lora={"target_modules": ["none"]})
    assert train(CONFIG, lines, tmp_path / "yes", **ONE, lora={"target_modules": ["query", "value"]}).steps == 1


def test_rows(lines: Path, tmp_path: Path) -> None:
    rows = [{"image": image(0, i), "text": "one"} for i in range(4)]

    class Stream:
        def __iter__(self) -> Any:
            return iter(rows)

    told("name held-back rows with data.validation", train, CONFIG, Stream(), tmp_path / "a", **ONE)
    held_back = {"data_validation": str(lines)}
    without = {**ONE, "max_steps": None}
    told("set it, such as train.max_steps=10000", train, CONFIG, Stream(), tmp_path / "b", **without, **held_back)
    assert train(CONFIG, Stream(), tmp_path / "c", **ONE, **held_back).steps == 1
    rows.clear()
    told("are there rows for training?", train, CONFIG, Stream(), tmp_path / "none", **ONE, **held_back)
    frozen = {"freeze": ["encoder"], "data_cache_encoder": True}
    later = "leave data.cache_encoder out, or {…}"
    told(later, train, CONFIG, lines, tmp_path / "d", **ONE, **frozen, unfreeze_at={"encoder": 1})
    assert train(CONFIG, lines, tmp_path / "e", **ONE, **frozen).steps == 1
    empty = write_folder(tmp_path / "empty", 4)
    for png in empty.glob("*.png"):
        png.write_bytes(b"")
    told(HOLE, train, CONFIG, empty, tmp_path / "f", **ONE, **held_back)


def test_a_tracker_that_is_not_installed(lines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    error = told("pip install {…}", train, CONFIG, lines, tmp_path, **ONE, report_to="wandb")
    assert error.hint == "pip install wandb"


def test_names_of_other_data() -> None:
    two = ["a/lines", "b/lines"]
    told("give names: data.also={one: …, other: …}", DataConfig.parse, {"also": two})
    assert DataConfig.parse({"also": {"one": two[0], "other": two[1]}}).also == {"one": two[0], "other": two[1]}
    told("give another name: data.also={other: …}", DataConfig.parse, {"also": "validation/"})
    assert DataConfig.parse({"also": {"other": "validation/"}}).also == {"other": "validation/"}


def test_settings_of_fsdp() -> None:
    told("set fsdp_version: 2 in accelerate's config", check_sharding, FullyShardedDataParallelPlugin())
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    plugin.cpu_ram_efficient_loading = True
    told("set it to false in accelerate's config", check_sharding, plugin)
    plugin.cpu_ram_efficient_loading = False
    check_sharding(plugin)


def test_a_loss_that_is_not_a_number(lines: Path, tmp_path: Path) -> None:
    model = vedcore.compose(CONFIG, seed=0)
    with torch.no_grad():
        model.decoder.get_input_embeddings().weight.fill_(float("nan"))
    told("lower it, or set train.max_grad_norm=1.0; the last save is kept", train, model, lines, tmp_path, **ONE)


def test_folders_of_runs(lines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    told("name another folder", train, CONFIG, lines, tmp_path / "file" / "run", **ONE)
    assert train(CONFIG, lines, tmp_path / "run", **ONE).steps == 1
    differs = "give what began it, or name another folder"
    told(differs, train, CONFIG, lines, tmp_path / "run", **{**ONE, "seed": 3})
    kept = json.loads((tmp_path / "run" / "run.json").read_text())
    for change in ({"processes": 2}, {"data": {"train": "", "validation": ""}}, {"model": ""}):
        (tmp_path / "run" / "run.json").write_text(json.dumps({**kept, **change}))
        told(differs, train, CONFIG, lines, tmp_path / "run", **ONE)
    (tmp_path / "run" / "run.json").write_text(json.dumps(kept))
    assert train(CONFIG, lines, tmp_path / "run", **ONE).steps == 1

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(accelerate.Accelerator, "save_state", full)
        told("free some space, then do the same again", train, CONFIG, lines, tmp_path / "full", **ONE)
    assert train(CONFIG, lines, tmp_path / "full", **ONE).steps == 1
    with monkeypatch.context() as patch:
        patch.setattr(accelerate.Accelerator, "num_processes", 2)
        late = {"freeze": ["encoder"], "unfreeze_at": {"encoder": 1}}
        told("leave it out, or run one process", train, CONFIG, lines, tmp_path / "late", **ONE, **late)
