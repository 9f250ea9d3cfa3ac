"""The trained model reads lines in unseen fonts and from unseen texts, and photographs of a real page."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import vedcore

LINES = Path(__file__).parent / "lines"
TEXTS: dict[str, str] = json.loads((LINES / "texts.json").read_text())
DEMO = Path(__file__).parents[1] / "demo" / "line.png"


@pytest.fixture(scope="module")
def reader() -> vedcore.VisionEncoderDecoder:
    return vedcore.load("printed-line")


@pytest.fixture(scope="module")
def read(reader: vedcore.VisionEncoderDecoder) -> dict[str, vedcore.TextResult]:
    return dict(zip(TEXTS, reader.generate_text([LINES / name for name in TEXTS], batch_size=16), strict=True))


def edits(one: str, other: str) -> int:
    """Levenshtein distance."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        corner, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (a != b))
    return row[-1]


@pytest.mark.parametrize("condition", ["clean", "small", "dark", "photo"])
def test_lines_of_each_condition(read: dict[str, vedcore.TextResult], condition: str) -> None:
    """At most one error in twenty characters: the lines are few. training/training.log has the error rates."""
    names = [name for name in TEXTS if name.startswith(condition)]
    assert len(names) == 12
    wrong = sum(edits(read[name].text, TEXTS[name]) for name in names)
    assert wrong <= 0.05 * sum(len(TEXTS[name]) for name in names)


@pytest.mark.parametrize("name", ["histogram.png", "first.png", "background.png"])
def test_a_photographed_page(read: dict[str, vedcore.TextResult], name: str) -> None:
    assert edits(read[name].text, TEXTS[name]) <= 1


def test_the_demo(reader: vedcore.VisionEncoderDecoder) -> None:
    result = reader.generate_text(DEMO)[0]
    assert result.text == "Region-based segmentation"
    assert result.finish_reason == "eos"
    assert 0.5 < result.confidence <= 1
    assert "".join(token for token, _ in result.tokens) == result.text


def test_it_is_unsure_where_it_is_wrong(read: dict[str, vedcore.TextResult]) -> None:
    right = [read[name].confidence for name in TEXTS if read[name].text == TEXTS[name]]
    wrong = [read[name].confidence for name in TEXTS if read[name].text != TEXTS[name]]
    assert sum(right) / len(right) > sum([*wrong, 0.0]) / (len(wrong) + 1)


def test_a_batch_reads_as_alone(reader: vedcore.VisionEncoderDecoder, read: dict[str, vedcore.TextResult]) -> None:
    for name in list(TEXTS)[::8]:
        assert reader.generate_text(LINES / name)[0].text == read[name].text


def test_beams_read_it_too(reader: vedcore.VisionEncoderDecoder) -> None:
    assert reader.generate_text(DEMO, num_beams=3)[0].text == "Region-based segmentation"


def test_it_is_listed_and_small() -> None:
    assert "printed-line" in vedcore.list_models()
    assert "printed-columns" in vedcore.list_encoders()
    from vedcore_printed import folder

    assert sum(entry.stat().st_size for entry in os.scandir(folder())) <= 10e6


def test_it_trains_on(reader: vedcore.VisionEncoderDecoder, tmp_path: Any) -> None:
    """A fine-tuned copy trains, is saved, and loads bit for bit."""
    model = vedcore.load("printed-line").train()
    batch = model.processor(images=[DEMO], text=["Region-based segmentation"])
    loss = model(
        batch["pixel_values"], labels=batch["labels"], encoder_attention_mask=batch.get("encoder_attention_mask")
    ).loss
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=1e-3).step()
    model.eval().save_pretrained(tmp_path / "mine")
    again = vedcore.load(tmp_path / "mine")
    assert all(torch.equal(a, again.state_dict()[name]) for name, a in model.state_dict().items())
    assert again.generate_text(DEMO)[0].text == model.generate_text(DEMO)[0].text
