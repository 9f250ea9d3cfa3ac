"""Several processes as one, a model in shards, and trackers beside the log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import vedcore
from tests.training.data import CONFIG, QUICK, STILL, assert_close_weights, losses, write_folder
from vedcore.training import train

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "lines")


def test_two_processes_train_as_one_does(lines: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({**STILL, "train": {**QUICK, "max_steps": 2, "per_device_train_batch_size": 4}}))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    eight, held_back = write_folder(tmp_path / "eight", 8), f"data.validation={lines}"
    command = [*TORCHRUN, "-m", "vedcore", "train", config, eight, "-o", tmp_path / "two", held_back]
    subprocess.run(command, check=True, env=environment)
    one = {**QUICK, "max_steps": 2, "per_device_train_batch_size": 8}
    train(STILL, eight, tmp_path / "one", **one, data_validation=str(lines))
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    assert vedcore.load(tmp_path / "two" / "best")


def test_a_model_in_shards_trains_as_a_whole_one_and_resumes(tmp_path: Path) -> None:
    eight, held_back = write_folder(tmp_path / "eight", 8), write_folder(tmp_path / "held-back", 4)
    options: dict[str, Any] = {**QUICK, "max_steps": 4, "ema_decay": 0.9, "eval_steps": 2, "layer_decay": 0.9}
    parts = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({**STILL, "train": {**options, **parts}, "data": {"validation": str(held_back)}}))
    wrapped = {"FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP", "FSDP_TRANSFORMER_CLS_TO_WRAP": "Block,DecoderLayer"}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", **wrapped}
    script = Path(__file__).with_name("sharded.py")
    command = [*TORCHRUN, script, config, eight, tmp_path / "shards"]
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    assert "resumed at step 2 of 4" in done.stderr
    options["per_device_train_batch_size"] = 8
    train(STILL, eight, tmp_path / "one", **options, data_validation=str(held_back))
    assert losses(tmp_path / "shards") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    for name in ("best", "last"):
        assert vedcore.load(tmp_path / "shards" / name)
        assert_close_weights(tmp_path / "shards" / name, tmp_path / "one" / name)


def test_a_model_that_is_not_put_into_shards_is_told(
    lines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.warns(UserWarning, match="each process has the whole model"):
        train(CONFIG, lines, tmp_path, **{**QUICK, "max_steps": 1, "eval_rows": 1})


def test_tensorboard_gets_what_the_log_has(lines: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    other = str(write_folder(tmp_path / "other", 4))
    train(CONFIG, lines, tmp_path / "run", **{**QUICK, "max_steps": 2}, report_to="tensorboard", data_also=other)
    events = EventAccumulator(str(tmp_path / "run" / "vedcore"))
    events.Reload()
    told = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert told["loss"] == pytest.approx(losses(tmp_path / "run"), rel=1e-6)
    logged = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    for name, tag in (("validation", "eval_cer"), ("other", "eval_other_cer")):
        assert told[tag] == pytest.approx([line["cer"] for line in logged if line.get("evaluation") == name])
