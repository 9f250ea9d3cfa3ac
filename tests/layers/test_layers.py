"""The shared blocks: activations, positions, masks, attention, caches, fresh weights."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.models.trocr.modeling_trocr import TrOCRSinusoidalPositionalEmbedding

from vedcore.config import Activation
from vedcore.errors import IncompatibleError, UnknownComponentError
from vedcore.layers.attention import CrossAttention, SelfAttention, attend, causal_mask
from vedcore.layers.cache import DecoderCache, LayerCache
from vedcore.layers.context import LayerContext
from vedcore.layers.embeddings import sinusoid, sinusoid_2d
from vedcore.layers.linear import Embedding, Linear, output_layer
from vedcore.layers.mlp import ACTIVATIONS, activation

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same draws in every test."""
    torch.manual_seed(0)


@pytest.mark.parametrize("name", sorted(set(ACTIVATIONS) - {"swish"}))
def test_activations_are_transformers(name: str) -> None:
    """Each name computes what it computes in transformers."""
    x = torch.linspace(-12, 12, 201)
    torch.testing.assert_close(activation(name)(x), ACT2FN[name](x), rtol=0, atol=1e-6)


def test_activations_are_all_of_transformers() -> None:
    """Only those with parameters are missing, and a config takes exactly these names."""
    assert {*ACTIVATIONS} == {*ACT2FN} - {"prelu", "xielu"} == {*get_args(Activation)}


def test_an_unknown_activation_is_named() -> None:
    """The error offers the nearest names."""
    with pytest.raises(UnknownComponentError, match="did you mean 'gelu"):
        activation("geluu")


@pytest.mark.parametrize("width", [6, 7, 24])
def test_sinusoids_are_fairseqs(width: int) -> None:
    """The table is TrOCR's; an odd width ends in a zero."""
    theirs = TrOCRSinusoidalPositionalEmbedding.get_embedding(20, width)
    torch.testing.assert_close(sinusoid(torch.arange(20), width), theirs, rtol=0, atol=1e-5)


def test_sinusoids_of_a_map() -> None:
    """Every position differs from every other, for odd widths too."""
    for channels in (8, 9, 13):
        places = sinusoid_2d(5, 7, channels)
        assert places.shape == (35, channels)
        assert torch.pdist(places).min() > 1e-2


def test_causal_mask() -> None:
    """A token sees itself and the real tokens before it; padding sees itself, so that no row is empty."""
    assert causal_mask(1, 9, None, CPU) is None
    mask = causal_mask(2, 3, None, CPU)
    assert mask is not None
    assert mask[0, 0].tolist() == [[True, True, False], [True, True, True]]
    padded = causal_mask(3, 3, torch.tensor([[False, True, True]]), CPU)
    assert padded is not None
    assert padded[0, 0].tolist() == [[True, False, False], [False, True, False], [False, True, True]]


@pytest.mark.parametrize("upcast", [False, True])
def test_both_ways_of_attending_agree(upcast: bool) -> None:
    """The fused attention, and the explicit one that returns the weights, with a mask and a scaling."""
    query, key, value = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 6, 8), torch.randn(2, 3, 6, 8)
    mask = torch.rand(2, 1, 4, 6) > 0.3
    mask[..., 0] = True
    fast, none = attend(query, key, value, mask, scaling=0.7, upcast=upcast)
    slow, weights = attend(query, key, value, mask, scaling=0.7, need_weights=True, upcast=upcast)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-5)
    assert none is None
    assert weights is not None
    assert not weights[~mask.expand(2, 3, 4, 6)].any()


def test_attention_dropout_is_for_training() -> None:
    """In eval mode there is none."""
    layer = SelfAttention(8, 2, dropout=0.5, std=1.0)
    x = torch.randn(1, 5, 8)
    assert not torch.equal(layer(x, LayerContext()), layer(x, LayerContext()))
    layer.eval()
    assert torch.equal(layer(x, LayerContext()), layer(x, LayerContext()))


def test_heads_that_do_not_divide() -> None:
    """The refusal names both numbers."""
    with pytest.raises(IncompatibleError, match="hidden size of 10 does not divide into 3"):
        SelfAttention(10, 3)


def test_cross_attention_of_several_rows_an_image() -> None:
    """Rows that share an image attend as rows with a copy of it each."""
    layer, text, image = CrossAttention(8, 12, 2, std=0.5).eval(), torch.randn(6, 3, 8), torch.randn(2, 5, 12)
    mask = torch.rand(2, 1, 1, 5) > 0.4
    mask[..., 0] = True
    for need in (False, True):
        shared = LayerContext(encoder_mask=mask, needs_weights=need)
        own = LayerContext(encoder_mask=mask.repeat_interleave(3, 0), needs_weights=need)
        out = layer(text, layer.project(image), shared)
        torch.testing.assert_close(out, layer(text, layer.project(image.repeat_interleave(3, 0)), own))
        torch.testing.assert_close(shared.cross_attention, own.cross_attention)


def test_cache_grows() -> None:
    """The cache grows by chunks, beyond its capacity and without one, and keeps the graph for gradients."""
    chunks = [torch.randn(2, 3, n, 4) for n in (1, 5, 70, 1, 200)]
    for capacity in (None, 2, 300):
        cache = LayerCache(capacity)
        with torch.no_grad():
            for chunk in chunks:
                keys, values = cache.update(chunk, -chunk)
        assert torch.equal(keys, torch.cat(chunks, 2))
        assert torch.equal(values, -keys)
    cache, leaf = LayerCache(8), torch.randn(1, 1, 2, 3, requires_grad=True)
    cache.update(leaf * 1, leaf * 2)
    keys, values = cache.update(leaf * 3, leaf * 4)
    (keys.sum() + values.sum()).backward()
    assert leaf.grad is not None
    assert torch.equal(leaf.grad, torch.full_like(leaf, 10.0))


def test_a_cache_with_room_is_never_copied() -> None:
    """One buffer serves from the second token on; the first takes its own size, as rows may multiply after it."""
    cache = DecoderCache(1, capacity=50)
    places = []
    with torch.no_grad():
        for _ in range(50):
            keys, _ = cache.layers[0].update(torch.randn(1, 2, 1, 4), torch.randn(1, 2, 1, 4))
            places.append(keys.untyped_storage())
    assert places[0].nbytes() == 1 * 2 * 1 * 4 * 4
    assert {(place.data_ptr(), place.nbytes()) for place in places[1:]} == {(keys.data_ptr(), 50 * 2 * 4 * 4)}
    assert cache.length == 50


def test_fresh_weights() -> None:
    """Weights are normal with the given spread; a bias starts at zero."""
    layer, embedding = Linear(300, 200, std=0.1), Embedding(300, 200, std=0.3)
    assert layer.weight.std().item() == pytest.approx(0.1, rel=0.02)
    assert not layer.bias.any()
    assert embedding.weight.std().item() == pytest.approx(0.3, rel=0.02)


def test_output_layer() -> None:
    """A tied layer draws nothing and holds the embedding's weight."""
    embedding = Embedding(11, 6)
    state = torch.get_rng_state()
    tied = output_layer(embedding, tied=True, bias=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert tied.weight is embedding.weight
    assert isinstance(tied.bias, nn.Parameter)
    assert tied.bias.device == embedding.weight.device
    assert tied(torch.ones(2, 6)).shape == (2, 11)
    untied = output_layer(embedding, tied=False)
    assert untied.weight is not embedding.weight
    assert untied.bias is None
