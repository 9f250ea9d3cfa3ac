"""The model's own training goes through `vedcore.training`, with its lines and its loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import vedcore
from vedcore_printed.normalise import normalise_line


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A shard of twelve lines, as make_data.py writes it."""
    texts = [f"{word} {i}" for i in range(3) for word in ("tea", "Milk", "some bread", "two cups of it")]
    maps = []
    for text in texts:
        image = Image.new("L", (12 * len(text) + 20, 40), 255)
        ImageDraw.Draw(image).text((8, 6), text, 0, font_size=20)
        maps.append(np.round(normalise_line(image) * 255).astype(np.uint8))
    folder = tmp_path / "data"
    folder.mkdir()
    np.save(folder / "shard-000.images.npy", np.concatenate(maps, axis=1))
    np.save(folder / "shard-000.offsets.npy", np.cumsum([0, *(drawn.shape[1] for drawn in maps)]))
    (folder / "shard-000.json").write_text(json.dumps({"texts": texts, "conditions": ["clean"] * len(texts)}))
    return folder


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module training/train.py."""
    pytest.importorskip("accelerate")  # the oldest versions are tested without it
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "training")
    import train

    return train


def test_a_new_model_is_trained_by_both_losses(training: Any, shards: Path, tmp_path: Path) -> None:
    options = {"per_device_train_batch_size": 4, "warmup_ratio": 0.0, "generation_max_length": 4}
    result = training.train_reader(training.Lines(shards), tmp_path / "run", 14, **options)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["all", "short"]
    logged = [json.loads(line) for line in (tmp_path / "run" / "all" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in logged if "loss" in line]
    assert len(losses) == 13
    assert losses[-1] < 0.8 * losses[0]
    name = "encoder.characters.weight"  # which learns by CTC alone
    assert not torch.equal(training.new_model(0).state_dict()[name], vedcore.load(result.last).state_dict()[name])
