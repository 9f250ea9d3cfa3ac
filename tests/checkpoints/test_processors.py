"""Processors without their models: saved, and read from folders of vedcore and transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from PIL import Image

import vedcore
from tests.hf.tokenizer_files import both
from tests.model.tiny import tiny
from vedcore.config import Preprocessing, TokenIds
from vedcore.processing.processor import Processor
from vedcore.processing.tokenizers import make_tokenizer

PICTURE = Image.effect_noise((40, 30), 90).convert("RGB")


def same(one: Processor, other: Processor) -> None:
    assert one.preprocessing == other.preprocessing
    assert one.token_ids == other.token_ids
    ours, theirs = one(PICTURE, "a b"), other(PICTURE, "a b")
    assert torch.equal(ours.pixel_values, theirs.pixel_values)
    assert torch.equal(ours.labels, theirs.labels)


@pytest.mark.parametrize("name", ["char", "byte", "roberta", "bert", "mbart"])
def test_a_processor_comes_back(name: str, tmp_path: Path) -> None:
    tokenizer = make_tokenizer(name if name in ("char", "byte") else both(name)[0])
    ids = TokenIds(start=1, eos=(2,), pad=0)
    settings = Preprocessing(image_size=(16, 24), resize_mode="pad", image_mean=(0.1, 0.2, 0.3))
    processor = Processor(settings, tokenizer, token_ids=ids)
    processor.model_max_length = 12
    processor.save_pretrained(tmp_path / "new" / "folder")
    again = vedcore.Processor.from_pretrained(tmp_path / "new" / "folder")
    same(processor, again)
    assert again.model_max_length == 12
    theirs = hf.AutoTokenizer.from_pretrained(tmp_path / "new" / "folder")
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (1, 2, 0)
    processor.tokenizer = None
    processor.save_pretrained(tmp_path / "images")
    assert vedcore.Processor.from_pretrained(str(tmp_path / "images")).tokenizer is None


@pytest.mark.parametrize("format", ["native", "transformers"])
def test_beside_a_model_nothing_else_changes(format: str, tmp_path: Path) -> None:
    model = tiny("bert", tokenizer="char", token_ids=None, decoder_vocab_size=98)
    model.save_pretrained(tmp_path / "m", format=format)
    before = {p.name for p in (tmp_path / "m").iterdir()}
    model.processor.save_pretrained(tmp_path / "m")
    assert before <= {p.name for p in (tmp_path / "m").iterdir()}
    again = vedcore.load(tmp_path / "m")
    same(model.processor, again.processor)
    same(model.processor, vedcore.Processor.from_pretrained(tmp_path / "m"))
    assert again.token_ids == model.token_ids
    pixels = model.processor(PICTURE).pixel_values
    assert torch.equal(again.generate(pixels, max_new_tokens=5), model.generate(pixels, max_new_tokens=5))


def test_a_processor_of_transformers(tmp_path: Path) -> None:
    _, tokenizer = both("roberta")
    image_processor: Any = hf.ViTImageProcessor(size={"height": 16, "width": 24})
    hf.TrOCRProcessor(image_processor=image_processor, tokenizer=tokenizer).save_pretrained(tmp_path)
    ours, theirs = vedcore.Processor.from_pretrained(tmp_path), hf.TrOCRProcessor.from_pretrained(tmp_path)
    assert ours.preprocessing.image_size == (16, 24)
    text = "Hello, world"
    assert ours(text=text).labels[0].tolist() == theirs.tokenizer(text).input_ids[1:]
    assert ours.tokenizer is not None
    assert ours.tokenizer(text).input_ids == theirs.tokenizer(text).input_ids
    pixels = theirs(PICTURE, return_tensors="pt").pixel_values
    assert (ours(PICTURE).pixel_values - pixels).abs().max() < 0.02  # transformers' torchvision class


def test_folders_without_a_processor(tmp_path: Path) -> None:
    with pytest.raises(vedcore.CheckpointNotFoundError, match="preprocessor_config"):
        vedcore.Processor.from_pretrained(tmp_path)
    with pytest.raises(vedcore.CheckpointNotFoundError):
        vedcore.Processor.from_pretrained(tmp_path / "none")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_size": "large"}))
    with pytest.raises(vedcore.ConfigSchemaError, match="image_size"):
        vedcore.Processor.from_pretrained(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(vedcore.CheckpointWriteError, match="file"):
        tiny("bert").processor.save_pretrained(tmp_path / "file")
