"""Whole models with drafts in int8: by option, by default, in texts and streams, and saved without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import vedcore
from vedcore.errors import UsageError
from vedcore.generation.search.assisted.self_drafting import Account, SelfDrafter
from vedcore.layers.int8 import int8_product

pytestmark = pytest.mark.skipif(int8_product() is None, reason="no product in int8 is faster here")


@pytest.fixture(autouse=True)
def guessed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of guesses, which are made whatever they cost."""
    counts, learn = list[int](), SelfDrafter.learn
    monkeypatch.setattr(Account, "run_length", lambda _, room: min(room, 4))
    monkeypatch.setattr(SelfDrafter, "learn", lambda *a: (counts.append(max(a[1])), learn(*a))[1])
    return counts


@pytest.mark.parametrize("family", ["bert", "gpt2", "trocr"])
def test_texts_are_the_same(pair: Any, family: str, guessed: list[int]) -> None:
    model, pixels = pair(family).ours, pair(family).pixels
    for options in (
        {},
        {"do_sample": True, "seed": 5},
        {"prefix_allowed_tokens_fn": lambda image, ids: range(3 + image, 90)},
        {"logits_processor": lambda ids, scores: scores.roll(1, 1)},
        {"decoder_input_ids": torch.tensor([[0, 5, 9]] * 4)},
        {"return_dict_in_generate": True},
    ):
        plain, drafted = (model.generate(pixels, max_new_tokens=12, draft=d, **options) for d in (None, "int8"))
        if isinstance(plain, dict):
            plain, drafted = plain.sequences, drafted.sequences
        assert torch.equal(plain, drafted)
    assert max(guessed) == 4
    image = pixels[0].clamp(0, 1)
    for options in (
        {},
        {"pattern": "[0-9]+"},
        {"allowed_chars": "abc"},
        {"prompt": "ab"},
        {"stop_strings": ["a", "b"]},
    ):
        options = {"max_new_tokens": 9, "eos_token_id": 1, **options}
        [plain] = model.generate_text(image, **options)
        [drafted] = model.generate_text(image, draft="int8", **options)
        assert drafted.text == plain.text
        assert drafted.finish_reason == plain.finish_reason
        assert "".join(model.stream(image, draft="int8", **options)) == plain.text


def test_a_default(pair: Any, tmp_path: Path, guessed: list[int]) -> None:
    model, pixels = pair("bart").ours, pair("bart").pixels
    before = model.generation_config
    plain = model.generate(pixels, max_new_tokens=9)
    try:
        assert model.optimize_for_inference(draft="int8") is model
        assert "_int8_copy" in model.decoder.__dict__
        assert not guessed
        assert torch.equal(model.generate(pixels, max_new_tokens=9), plain)
        assert max(guessed) == 4
        guessed.clear()
        for options in (
            {"draft": None},
            {"num_beams": 2},
            {"penalty_alpha": 0.5, "top_k": 4},
            {"assistant_model": model},
        ):
            model.generate(pixels, max_new_tokens=3, **options)
        assert not guessed
        with pytest.raises(UsageError, match="assistant_model: contradicts draft='int8'"):
            model.generate(pixels, max_new_tokens=3, assistant_model=model, draft="int8")
        model.save_pretrained(tmp_path / "theirs", format="transformers")
        assert "draft" not in json.loads((tmp_path / "theirs" / "generation_config.json").read_text())
        model.save_pretrained(tmp_path / "ours")
        assert vedcore.load(tmp_path / "ours").generation_config.draft == "int8"
    finally:
        model.generation_config = before


def test_a_returned_cache_goes_on(pair: Any) -> None:
    model, pixels = pair("gpt2").ours, pair("gpt2").pixels[:1]
    whole = model.generate(pixels, max_new_tokens=16)
    out = model.generate(pixels, max_new_tokens=8, draft="int8", return_dict_in_generate=True)
    more = {"decoder_input_ids": out.sequences, "past_key_values": out.past_key_values}
    assert torch.equal(model.generate(**more, max_new_tokens=8, draft="int8"), whole)
