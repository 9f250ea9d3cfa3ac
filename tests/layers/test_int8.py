"""Copies with int8 weights: near the module, made once, and anew when its weights change."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.generation.tiny import decoder, images
from vedcore.layers import int8
from vedcore.layers.int8 import int8_bytes, int8_copy, int8_product
from vedcore.layers.linear import SeamLinear

pytestmark = pytest.mark.skipif(int8_product() is None, reason="no product in int8 is faster here")


def own(family: str = "gpt2") -> Any:
    return copy.deepcopy(decoder(family))


@torch.no_grad()
def logits(made: Any, *, cached: bool = True) -> Tensor:
    """Of five tokens in two calls; the second takes the images from the cache."""
    cache = made.make_cache() if cached else None
    made(torch.tensor([[3, 5, 7]]), encoder_hidden_states=images(1), past_key_values=cache)
    return made(torch.tensor([[9, 11]]), past_key_values=cache).logits


@pytest.mark.parametrize("family", ["bert", "gpt2", "bart"])
def test_it_is_near_and_shares_the_rest(family: str) -> None:
    made = own(family)
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    made.register_forward_hook(lambda *_: pytest.fail("a hook runs"))
    drafted: Any = int8_copy(made)
    near = logits(drafted)
    made._forward_hooks.clear()
    plain = logits(made)
    assert 0 < (near - plain).abs().mean() < 0.1 * plain.abs().mean()
    assert drafted.get_input_embeddings().weight is made.get_input_embeddings().weight
    assert not any(part is other for part in drafted.modules() for other in made.modules())
    assert made.state_dict().keys() == before.keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in made.state_dict().items())
    assert type(made.layers[0].mlp.input) is not type(drafted.layers[0].mlp.input)
    assert isinstance(drafted.layers[0].mlp.input, SeamLinear)
    assert type(drafted.layers[0].cross_attention.key) is type(made.layers[0].cross_attention.key)
    inner = sum(part.weight.numel() for part in made.modules() if isinstance(part, nn.Linear))
    crossed = sum(2 * layer.cross_attention.key.weight.numel() for layer in made.layers)
    assert int8_bytes(made) == inner - crossed


def test_it_is_made_once_and_follows_the_weights() -> None:
    made = own()
    first = int8_copy(made)
    assert int8_copy(made) is first
    with torch.no_grad():
        made.layers[1].mlp.output.weight.mul_(2)
    second: Any = int8_copy(made)
    assert second is not first
    made.layers[0].mlp.input.weight.data.zero_()  # which torch does not count
    third: Any = int8_copy(made)
    assert third is not second
    made.layers[0].mlp.input = nn.Linear(24, 96)
    assert int8_copy(made) is not third
    assert "_int8_copy" not in copy.deepcopy(made).__dict__
    assert "_int8_copy" not in pickle.loads(pickle.dumps(made)).__dict__
    made.train()
    assert "_int8_copy" not in made.__dict__


def test_layers_that_it_cannot_take(monkeypatch: pytest.MonkeyPatch) -> None:
    made = own().to(torch.bfloat16)
    assert int8_copy(made) is None
    normed: Any = own()
    nn.utils.parametrizations.weight_norm(normed.layers[0].mlp.input)
    assert logits(int8_copy(normed)).isfinite().all()
    monkeypatch.setattr(int8, "int8_product", lambda: None)
    assert int8_copy(own()) is None
