"""Hints of a tokenizer's special tokens, raised and followed."""

from __future__ import annotations

from typing import Any

import pytest

import vedcore
from tests.hints.templates import told


@pytest.fixture
def model() -> Any:
    return vedcore.compose(
        {"name": "vit_tiny_patch16_224", "num_hidden_layers": 1},
        {"name": "gpt2", "n_layer": 1, "n_embd": 8, "n_head": 2},
        image_size=32,
        tokenizer="char",
    )


def test_a_token_that_there_is_not(model: Any) -> None:
    tokenizer = model.processor.tokenizer
    template = "add it with model.add_tokens([…], special_tokens=True) first"
    told(template, setattr, tokenizer, "pad_token", "[PAD]")
    model.add_tokens(["[PAD]"], special_tokens=True)
    tokenizer.pad_token = "[PAD]"
    assert model.token_ids.pad == tokenizer.pad_token_id == 98


def test_the_start_of_a_text(model: Any) -> None:
    tokenizer = model.processor.tokenizer
    told("set model.token_ids = model.token_ids.changed(start=…)", setattr, tokenizer, "bos_token", "a")
    model.token_ids = model.token_ids.changed(start=68)
    assert model.generate(encoder_outputs=model.encode(_pixels()), max_new_tokens=1)[0, 0] == 68


def test_other_roles(model: Any) -> None:
    tokenizer = model.processor.tokenizer
    told("add the token with model.add_tokens([…], special_tokens=True)", setattr, tokenizer, "mask_token", "[MASK]")
    model.add_tokens(["[MASK]"], special_tokens=True)
    assert tokenizer.mask_token == "[MASK]"


def _pixels() -> Any:
    import torch

    return torch.zeros(1, 3, 32, 32)
