"""`vedcore.training.train`: what a run leaves, learns and logs, and how it goes on after a stop."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

import vedcore
from tests.training.data import CONFIG, QUICK, STILL, WORDS, assert_same_weights, image, losses, write_folder
from vedcore.training import TrainingConfig, train


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "lines")


def test_a_run_leaves_the_best_model_a_log_curves_samples_and_its_config(lines: Path, tmp_path: Path) -> None:
    result = train(CONFIG, lines, tmp_path / "run", **QUICK, eval_steps=3)
    best, last = vedcore.load(result.best), vedcore.load(result.last)
    assert best.generate_text(image(0, 99))[0].error is None
    assert last.decoder.hidden_size == 32
    logged = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in logged if "evaluation" in line] == [3, 6]
    assert {"cer", "wer", "exact_match", "rows", "failed"} <= logged[3].keys()
    assert Image.open(tmp_path / "run" / "curves.png").size[0] > 500
    assert sorted(p.name for p in (tmp_path / "run" / "samples").iterdir()) == ["step-3.png", "step-6.png"]
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["train"].keys() == TrainingConfig.model_fields.keys()
    assert result.metric == min(line["cer"] for line in logged if "evaluation" in line)
    again = train(tmp_path / "run" / "config.yaml", output=tmp_path / "again")
    assert losses(tmp_path / "again") == losses(tmp_path / "run")
    assert_same_weights(again.last, result.last)


def test_a_run_learns(tmp_path: Path) -> None:
    options = {"max_steps": 120, "per_device_train_batch_size": 8, "learning_rate": 2e-3, "eval_steps": 60}
    schedule = {"lr_scheduler_type": "cosine", "warmup_ratio": 0.1, "generation_max_length": 6}
    result = train(CONFIG, write_folder(tmp_path / "lines", 96), tmp_path / "run", **options, **schedule)
    assert result.metric is not None
    assert result.metric < 0.2
    model = vedcore.load(result.best)
    read = [each.text for each in model.generate_text([image(i % 4, 1000 + i) for i in range(8)], max_new_tokens=6)]
    assert sum(a == b for a, b in zip(read, 2 * WORDS, strict=True)) >= 6


@pytest.mark.parametrize("stop_at", [2, 5])
def test_a_stopped_run_goes_on_to_the_bit(
    lines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    options: dict[str, Any] = {
        **QUICK,
        "max_steps": 8,
        "gradient_accumulation_steps": 2,
        "per_device_train_batch_size": 3,
        "ema_decay": 0.9,
        "data_workers": 2,
        "data_augment": "line",
    }
    straight = train(CONFIG, lines, tmp_path / "straight", **options)

    from vedcore.training import loop

    step = loop.TrainingLoop._step

    def stopping(self: Any, batches: Any) -> Any:
        values = step(self, batches)
        if self.position.step == stop_at:
            signal.raise_signal(signal.SIGINT)
        return values

    monkeypatch.setattr(loop.TrainingLoop, "_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, lines, tmp_path / "stopped", **options)
    assert vedcore.load(tmp_path / "stopped" / "last")
    monkeypatch.undo()
    torch.rand(7)
    resumed = train(CONFIG, lines, tmp_path / "stopped", **options)
    assert losses(tmp_path / "stopped") == losses(tmp_path / "straight")
    assert_same_weights(resumed.last, straight.last)
    assert_same_weights(resumed.best, straight.best)


def test_another_run_is_refused_with_what_differs(lines: Path, tmp_path: Path) -> None:
    train(CONFIG, lines, tmp_path / "run", **{**QUICK, "max_steps": 1})
    with pytest.raises(vedcore.ResumeError, match="1, not 2") as caught:
        train(CONFIG, lines, tmp_path / "run", **{**QUICK, "max_steps": 2})
    assert caught.value.field == "train.max_steps"
    with pytest.raises(vedcore.ResumeError) as caught:
        train({**CONFIG, "seed": 5}, lines, tmp_path / "run", **{**QUICK, "max_steps": 1})
    assert caught.value.field == "seed"
    other = write_folder(tmp_path / "other", 12)
    (other / "metadata.jsonl").write_text((other / "metadata.jsonl").read_text().replace("one", "nine"))
    os.rename(tmp_path / "run" / "run.json", tmp_path / "kept")
    kept = json.loads((tmp_path / "kept").read_text())
    kept["config"]["data"]["train"] = str(other)
    (tmp_path / "run" / "run.json").write_text(json.dumps(kept))
    with pytest.raises(vedcore.ResumeError, match="rows"):
        train(CONFIG, other, tmp_path / "run", **{**QUICK, "max_steps": 1})


@pytest.mark.parametrize(
    ("override", "field", "hint"),
    [
        ("train.learning_rat=1e-3", "train.learning_rat", "learning_rate"),
        ("train.max_step=3", "train.max_step", "max_steps"),
        ("data.validaton=x", "data.validaton", "validation"),
        ("train.lr_scheduler_type=step", "train.lr_scheduler_type", ""),
        ("train.learning_rate=-1", "train.learning_rate", ""),
    ],
)
def test_an_unknown_setting_is_refused_with_the_nearest(
    lines: Path, tmp_path: Path, override: str, field: str, hint: str
) -> None:
    with pytest.raises(vedcore.ConfigError) as caught:
        train(CONFIG, lines, tmp_path / "run", overrides=[override])
    assert caught.value.field == field
    assert hint in (caught.value.hint or "")
    assert not (tmp_path / "run").exists()


def test_losses_over_accumulated_batches_are_those_of_one_batch(lines: Path, tmp_path: Path) -> None:
    eight = write_folder(tmp_path / "eight", 8)
    options: dict[str, Any] = {**QUICK, "max_steps": 3, "data_validation": str(lines)}
    train(STILL, eight, tmp_path / "whole", **{**options, "per_device_train_batch_size": 8})
    parts = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 3}
    train(STILL, eight, tmp_path / "parts", **{**options, **parts})
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), rel=1e-4)


def test_kept_states_of_a_frozen_encoder_train_as_images_do(lines: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {**QUICK, "freeze": "encoder", "max_steps": 3}
    train(CONFIG, lines, tmp_path / "images", **options)
    train(CONFIG, lines, tmp_path / "states", **options, data_cache_encoder=True)
    assert losses(tmp_path / "states") == pytest.approx(losses(tmp_path / "images"), rel=1e-4)
    with pytest.raises(vedcore.UsageError, match="images that change"):
        train(CONFIG, lines, tmp_path / "augmented", **options, data_cache_encoder=True, data_augment="line")


def test_a_full_disk_loses_no_earlier_state(lines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import accelerate

    save = accelerate.Accelerator.save_state
    saved: list[str] = []

    def full(self: Any, folder: str, **options: Any) -> Any:
        saved.append(folder)
        save(self, folder, **options)
        if len(saved) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(accelerate.Accelerator, "save_state", full)
    with pytest.raises(vedcore.CheckpointWriteError, match="No space left"):
        train(CONFIG, lines, tmp_path, **QUICK, save_steps=2)
    assert [path.name for path in tmp_path.glob("*state-*")] == ["state-2"]
    result = train(CONFIG, lines, tmp_path, **QUICK, save_steps=2)
    assert result.steps == 6


def test_a_loss_of_ones_own(lines: Path, tmp_path: Path) -> None:
    def doubled(model: Any, batch: Any, num_items_in_batch: int) -> torch.Tensor:
        loss: torch.Tensor = model(**batch).loss
        tokens = (batch["labels"] != -100).sum()
        return 2 * loss * tokens / num_items_in_batch

    options = {**QUICK, "max_steps": 1, "gradient_accumulation_steps": 2}
    train(CONFIG, lines, tmp_path / "own", **options)
    train(CONFIG, lines, tmp_path / "doubled", **options, loss=doubled)
    assert losses(tmp_path / "doubled") == pytest.approx([2 * loss for loss in losses(tmp_path / "own")], rel=1e-5)
    assert train(CONFIG, lines, tmp_path / "doubled", **options, loss=doubled).steps == 1
    with pytest.raises(vedcore.ResumeError, match=r"the loss of the run there: .*doubled, not the model's own"):
        train(CONFIG, lines, tmp_path / "doubled", **options)

    def other(model: Any, batch: Any, num_items_in_batch: int) -> torch.Tensor:
        return doubled(model, batch, num_items_in_batch)

    other.__qualname__ = doubled.__qualname__
    with pytest.raises(vedcore.ResumeError, match=r"the code of .*doubled is another") as caught:
        train(CONFIG, lines, tmp_path / "doubled", **options, loss=other)
    assert caught.value.field == "loss"


def test_frozen_parts_stay_until_their_step(lines: Path, tmp_path: Path) -> None:
    before = vedcore.compose(CONFIG, seed=42).encoder.state_dict()
    options = {**QUICK, "freeze": "encoder"}
    frozen = vedcore.load(train(CONFIG, lines, tmp_path / "frozen", **options).last).encoder.state_dict()
    assert all(torch.equal(before[name], frozen[name]) for name in before)
    later = vedcore.load(train(CONFIG, lines, tmp_path / "later", **options, unfreeze_at={"encoder": 3}).last)
    assert any(not torch.equal(before[name], value) for name, value in later.encoder.state_dict().items())


def test_adapters_are_trained_and_merged(lines: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    result = train(CONFIG, lines, tmp_path, **QUICK, lora={"r": 4})
    before, after = vedcore.compose(CONFIG, seed=42).state_dict(), vedcore.load(result.best).state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("attention." in name or "attn." in name or name.startswith("projector.") for name in changed)


def test_ctrl_c_in_the_shell_exits_130_and_the_same_command_goes_on(lines: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({**CONFIG, "train": {**QUICK, "max_steps": 400}}))
    command = [sys.executable, "-m", "vedcore", "train", str(config), str(lines), "-o", str(tmp_path / "run")]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "run" / "log.jsonl"
    while not (log.exists() and len(log.read_text().splitlines()) > 3):
        assert child.poll() is None, child.communicate()[1]
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=60)
    assert child.returncode == 130
    assert vedcore.load(tmp_path / "run" / "last")
    done = len(losses(tmp_path / "run"))
    second = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while len(log.read_text().splitlines()) <= done + 2:
        assert second.poll() is None
    second.send_signal(signal.SIGTERM)
    assert f"resumed at step {done}" in second.communicate(timeout=60)[1]
    assert second.returncode == 143


def test_new_letters_of_the_labels_get_tokens_behind_the_old_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "lines", 16, ("öne", "twõ", "six", "ten"))
    before = vedcore.compose(CONFIG, seed=42)
    after = vedcore.load(train(CONFIG, folder, tmp_path / "run", **QUICK).best)
    told = r"2 new letters of the labels have tokens now: 'õ' \(\d\), 'ö' \(\d\)"
    assert re.search(told, capsys.readouterr().err)
    old, new = before.processor.tokenizer.get_vocab(), after.processor.tokenizer.get_vocab()
    assert {name: new[name] for name in old} == old
    assert new.keys() - old.keys() == {"ö", "õ"}
    assert after.decoder.vocab_size == len(old) + 2


def test_runs_of_one_process_may_differ_in_precision(lines: Path, tmp_path: Path) -> None:
    options = {**QUICK, "max_steps": 1}
    exact = losses(Path(train(CONFIG, lines, tmp_path / "float32", **options).last).parent)
    rough = losses(Path(train(CONFIG, lines, tmp_path / "bfloat16", **options, bf16=True).last).parent)
    assert rough != exact
    assert rough == pytest.approx(exact, rel=0.05)


def test_a_run_ends_early_without_a_better_model(lines: Path, tmp_path: Path) -> None:
    slow = {"max_steps": 20, "learning_rate": 1e-12, "eval_steps": 1, "early_stopping_patience": 2}
    assert train(CONFIG, lines, tmp_path, **{**QUICK, **slow}).steps == 3


def test_rates_fall_from_layer_to_layer_and_vectors_do_not_decay() -> None:
    from vedcore.training.parameters import parameter_groups

    model = vedcore.compose({**CONFIG, "encoder": "timm/swin_tiny_patch4_window7_224"}, decoder_n_layer=3)
    config = TrainingConfig(learning_rate=1.0, layer_decay=0.5, weight_decay=0.1)
    groups = parameter_groups(model, config)
    found = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    of = {name: found[id(parameter)] for name, parameter in model.named_parameters()}
    assert [of[f"decoder.layers.{i}.mlp.input.weight"] for i in range(3)] == [(0.25, 0.1), (0.5, 0.1), (1.0, 0.1)]
    assert of["decoder.layers.2.mlp.input.bias"] == (1.0, 0.0)
    assert of["decoder.embedding.weight"] == (0.125, 0.1)
    blocks = [of[name][0] for name in of if name.endswith("attn.qkv.weight")]
    assert len(blocks) == 12
    assert blocks == sorted(set(blocks))  # what joins two stages is a layer too
    assert blocks[-1] == 1.0
