"""The recurrent decoder keeps vedcore's contract, and every way of generation gives what a slow loop gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import vedcore
from vedcore.testing import check_registration, parametrize_with_checks
from vedcore_recurrent.decoder import LSTMConfig, LSTMDecoder


def make(**fields: Any) -> LSTMDecoder:
    return LSTMDecoder(LSTMConfig(**{"vocab_size": 61, "hidden_size": 24, "num_attention_heads": 3, **fields}))


@parametrize_with_checks({"plain": make, "untied": lambda: make(num_hidden_layers=1, tie_word_embeddings=False)})
def test_contract(part: Any, check: Callable[[Any], None]) -> None:
    check(part)


def test_registration() -> None:
    check_registration("vedcore_recurrent")


@pytest.fixture(scope="module")
def model() -> vedcore.VisionEncoderDecoder:
    encoder = {"name": "vit", "image_size": 32, "patch_size": 8, "hidden_size": 12, "num_hidden_layers": 1}
    decoder = {"name": "lstm", "hidden_size": 24, "num_attention_heads": 3}
    made = vedcore.compose({**encoder, "num_attention_heads": 2}, decoder, tokenizer="char", seed=0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(2)
    return made


def slow(model: Any, pixels: torch.Tensor, steps: int) -> torch.Tensor:
    """Greedy ids, the whole text read again for each token, without a cache."""
    ids = torch.full((len(pixels), 1), model.token_ids.start)
    for _ in range(steps):
        logits = model(pixels, decoder_input_ids=ids, use_cache=False).logits[:, -1]
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], 1)
    return ids


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 4},
        {"penalty_alpha": 0.4, "top_k": 3},
        {"prompt_lookup_num_tokens": 2},
        {"do_sample": True, "seed": 1},
    ],
)
def test_generation(model: Any, options: dict[str, Any]) -> None:
    pixels = torch.rand(2, 3, 32, 32)
    ids = model.generate(pixels, max_new_tokens=8, eos_token_id=None, **options)
    assert ids.shape == (2, 9)
    if not options or "prompt_lookup_num_tokens" in options:
        assert torch.equal(ids, slow(model, pixels, 8))
    alone = model.generate(pixels[:1], max_new_tokens=8, eos_token_id=None, **options)
    if "do_sample" not in options:
        assert torch.equal(alone, ids[:1])


def test_it_trains_and_is_saved(model: Any, tmp_path: Path) -> None:
    pixels = torch.rand(2, 3, 32, 32)
    model(pixels, labels=torch.tensor([[5, 6], [7, -100]])).loss.backward()
    model.save_pretrained(tmp_path / "saved")
    again = vedcore.load(tmp_path / "saved")
    assert torch.equal(again.generate(pixels, max_new_tokens=5), model.generate(pixels, max_new_tokens=5))


def test_the_plan_has_the_cache() -> None:
    """Two layers of two states."""
    plan = vedcore.plan("vit", {"name": "lstm", "hidden_size": 24, "num_attention_heads": 3}, tokenizer="char")
    assert plan.cache_bytes_per_token == 2 * 2 * 24 * 4
