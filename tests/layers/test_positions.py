"""Rotary and relative positions as in transformers, and attention of fewer heads of keys than of queries."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb as turn_pairs
from transformers.models.gptj.modeling_gptj import create_sinusoidal_positions
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb
from transformers.models.t5.modeling_t5 import T5Attention

from vedcore.layers.attention import attend
from vedcore.layers.positions import RelativePositionBias, alibi, rotary_angles, rotate_halves, rotate_pairs

POSITIONS = torch.tensor([[0, 1, 2, 7, 400]])


def test_halves_turn_as_in_llama() -> None:
    states = torch.randn(2, 3, 5, 8)
    theirs = LlamaRotaryEmbedding(LlamaConfig(hidden_size=24, num_attention_heads=3))
    cos, sin = theirs(states, POSITIONS)
    due, _ = apply_rotary_pos_emb(states, states, cos, sin)
    turned = rotary_angles(POSITIONS, theirs.inv_freq)
    torch.testing.assert_close(rotate_halves(states, *turned), due)
    more = torch.randn(2, 3, 5, 11)
    more[..., :8] = states
    came = rotate_halves(more, *turned)  # the rest of a head stays
    torch.testing.assert_close(came, torch.cat([due, more[..., 8:]], -1))


def test_pairs_turn_as_in_gptj() -> None:
    states = torch.randn(2, 3, 5, 11)
    sin, cos = create_sinusoidal_positions(401, 8)[POSITIONS].split(4, -1)
    due = turn_pairs(states[..., :8].transpose(1, 2), sin, cos).transpose(1, 2)
    turned = rotary_angles(POSITIONS, 10000.0 ** -(torch.arange(0, 8, 2) / 8))
    torch.testing.assert_close(rotate_pairs(states, *turned), torch.cat([due, states[..., 8:]], -1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("heads", [4, 6])
def test_alibi_is_blooms(heads: int) -> None:
    """But for a shift of each row, which a softmax does not see."""
    theirs = build_alibi_tensor(torch.ones(1, 9), heads, torch.float32).view(1, heads, 1, 9)
    places = torch.arange(9)[None]
    ours = alibi(places, places, heads)
    torch.testing.assert_close(ours - ours[..., :1], (theirs - theirs[..., :1]).expand_as(ours))


@pytest.mark.parametrize(("buckets", "farthest"), [(32, 128), (6, 12)])
def test_distances_are_t5s(buckets: int, farthest: int) -> None:
    layer = RelativePositionBias(3, buckets, farthest)
    places = torch.arange(300)[None]
    distance = places[0][None] - places[0][:, None]
    bucket = T5Attention._relative_position_bucket(distance, False, buckets, farthest)
    assert torch.equal(layer(places, places)[0], layer.embedding(bucket).permute(2, 0, 1))


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("tokens", [1, 3, 20])
@pytest.mark.parametrize("kind", ["none", "padding", "causal", "bias"])
def test_heads_share_keys_as_if_each_had_a_copy(kind: str, tokens: int, grad: bool) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 6, tokens, 8), torch.randn(2, 2, 30, 8), torch.randn(2, 2, 30, 8)
    shapes = {"none": None, "padding": (2, 1, 1, 30), "causal": (1, 1, tokens, 30), "bias": (1, 6, tokens, 30)}
    shape = shapes[kind]
    mask = None if shape is None else torch.randn(shape) if kind == "bias" else torch.rand(shape) > 0.3
    copies = [each.repeat_interleave(3, 1) for each in (key, value)]
    with torch.set_grad_enabled(grad):
        for need in (False, True):
            ours, weights = attend(query, key, value, mask, scaling=0.4, need_weights=need)
            due, expected = attend(query, *copies, mask, scaling=0.4, need_weights=need)
            torch.testing.assert_close(ours, due)
            torch.testing.assert_close(weights, expected)
