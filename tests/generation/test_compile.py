"""``compile=True``: the same texts from a decoder that torch has compiled, and a model that is as it was."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch

import vedcore


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler")
def test_the_same_ids() -> None:
    model = vedcore.compose(
        {
            "name": "vit",
            "image_size": [32, 32],
            "patch_size": 16,
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 48,
        },
        {"name": "gpt2", "n_layer": 1, "n_embd": 32, "n_head": 2, "initializer_range": 0.5},
        tokenizer="char",
        seed=0,
    ).eval()
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    names = list(model.state_dict())
    for options in ({"max_new_tokens": 9}, {"max_new_tokens": 7, "num_beams": 3}):
        due = model.generate(pixels, **options)
        assert torch.equal(model.generate(pixels, compile=True, **options), due)
        assert torch.equal(copy.deepcopy(model).generate(pixels, **options), due)
    assert list(model.state_dict()) == names
