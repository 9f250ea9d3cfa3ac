"""accelerate on a model: prepare, save_state and load_state, save_model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from torch import Tensor

import vedcore
from tests.trainers.tiny import IMAGES, both, checkpoint, rows


@pytest.fixture(scope="module", params=["bert", "gpt2"])
def folder(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp(request.param), request.param)


def step(accelerator: Any, model: Any, optimizer: Any, number: int) -> Tensor:
    labels = torch.stack([row["labels"] for row in rows()])[number : number + 4]
    loss: Tensor = model(pixel_values=IMAGES[number : number + 4], labels=labels).loss
    accelerator.backward(loss)
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


@pytest.mark.parametrize("safe_serialization", [True, False])
def test_a_state_is_saved_and_loaded(folder: Path, tmp_path: Path, safe_serialization: bool) -> None:
    model = vedcore.load(folder)
    accelerator = accelerate.Accelerator(cpu=True)
    prepared, optimizer = accelerator.prepare(model.train(), torch.optim.AdamW(model.parameters(), lr=1e-2))
    step(accelerator, prepared, optimizer, 0)
    accelerator.save_state(str(tmp_path), safe_serialization=safe_serialization)
    due = [step(accelerator, prepared, optimizer, number) for number in (1, 2)]
    accelerator.unwrap_model(prepared).generate(IMAGES, max_new_tokens=3)
    accelerator.load_state(str(tmp_path))
    assert [step(accelerator, prepared, optimizer, number) for number in (1, 2)] == due
    unwrapped = accelerator.unwrap_model(prepared)
    assert unwrapped is model
    assert unwrapped.get_output_embeddings().weight is unwrapped.get_input_embeddings().weight


def test_losses_are_transformers(folder: Path) -> None:
    found = []
    for model, _ in both(folder):
        accelerator = accelerate.Accelerator(cpu=True)
        prepared, optimizer = accelerator.prepare(model.train(), torch.optim.AdamW(model.parameters(), lr=1e-3))
        found.append([step(accelerator, prepared, optimizer, number).item() for number in range(4)])
    assert found[0] == pytest.approx(found[1], abs=2e-5)


@pytest.mark.parametrize("max_shard_size", ["10GB", "20KB"])
def test_a_saved_model_opens_with_its_processor_beside_it(folder: Path, tmp_path: Path, max_shard_size: str) -> None:
    model = vedcore.load(folder)
    accelerator = accelerate.Accelerator(cpu=True)
    prepared = accelerator.prepare(model)
    accelerator.save_model(prepared, str(tmp_path), max_shard_size=max_shard_size)
    model.processor.save_pretrained(tmp_path)
    back = vedcore.load(tmp_path)
    assert torch.equal(back.generate(IMAGES, num_beams=2), model.generate(IMAGES, num_beams=2))
    assert back.get_output_embeddings().weight is back.get_input_embeddings().weight


def test_a_copy_of_a_processor_knows_the_settings(folder: Path, tmp_path: Path) -> None:
    model = vedcore.load(folder)
    model.token_ids = model.token_ids.changed(start=4)
    accelerate.Accelerator(cpu=True).save_model(model, str(tmp_path))
    copy.deepcopy(model.processor).save_pretrained(tmp_path)
    assert vedcore.load(tmp_path).token_ids == model.token_ids
