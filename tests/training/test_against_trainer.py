"""The loop beside transformers' Trainer: the same losses on the same batches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import vedcore
from tests.training.data import CONFIG, write_folder
from vedcore.data import open_data
from vedcore.training import train

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant_with_warmup", "polynomial", "inverse_sqrt"])
def test_losses_are_those_of_trainer(schedule: str, tmp_path: Path) -> None:
    still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = {**CONFIG, "decoder": {**CONFIG["decoder"], **still}}  # type: ignore[dict-item]
    rows, held_back = write_folder(tmp_path / "rows", 8), write_folder(tmp_path / "held-back", 2)
    shared: dict[str, Any] = {
        "max_steps": 6,
        "learning_rate": 1e-2,
        "weight_decay": 0.1,
        "warmup_steps": 2,
        "lr_scheduler_type": schedule,
        "per_device_train_batch_size": 8,
        "max_grad_norm": 0.5,
    }
    train(config, rows, tmp_path / "run", **shared, seed=7, data_validation=str(held_back), generation_max_length=4)
    ours = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]

    model = vedcore.compose(config, seed=7)
    trainer = transformers.Trainer(
        model,
        transformers.TrainingArguments(
            str(tmp_path / "theirs"),
            **shared,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            remove_unused_columns=False,
        ),
        train_dataset=[{"image": row.image, "text": row.text} for row in open_data(rows)],
        data_collator=model.processor.collate,
    )
    trainer.train()
    theirs = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert [line["loss"] for line in ours if "loss" in line] == pytest.approx(theirs, rel=2e-4)
