"""Decoders of other makes keep what `TextDecoder` promises: the contract, every search, checkpointing, export."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from tests.decoders.other_makes import OTHERS, Elsewhere, OfTorch, Plain, Relative, Rotary
from tests.generation.tiny import write
from vedcore.errors import IncompatibleError
from vedcore.layers.attention import SelfAttention
from vedcore.layers.cache import DecoderCache
from vedcore.layers.checkpointing import Checkpointing
from vedcore.layers.injection import CrossAttentionInjection
from vedcore.testing import Case, parametrize_with_checks


def built(cls: type[Plain]) -> Any:
    return Case.of(cls).build()


@parametrize_with_checks(OTHERS)
def test_contract(part: Any, check: Any) -> None:
    check(part)


@pytest.mark.parametrize("cls", OTHERS)
def test_every_search_writes_what_it_writes_without_a_cache(cls: type[Plain]) -> None:
    """Greedy search, beams, contrastive search; assisted decoding, whose rows grow unevenly, as greedy search."""
    decoder = built(cls)
    prompt, mask = (
        torch.tensor([[0, 5, 9, 5], [7, 8, 7, 8], [0, 0, 0, 4]]),
        torch.tensor([[0, 1, 1, 1], [1] * 4, [0, 0, 0, 1]]),
    )
    given = {"prompt": prompt, "mask": mask, "max_new_tokens": 12}
    for options in ({}, {"num_beams": 4}, {"penalty_alpha": 0.5, "top_k": 3}, {"prompt_lookup_num_tokens": 3}):
        texts = [write(decoder, 3, use_cache=cache, **given, **options).sequences.tolist() for cache in (True, False)]
        assert texts[0] == texts[1], options
        if "prompt_lookup_num_tokens" in options:
            assert texts[0] == write(decoder, 3, **given).sequences.tolist()


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradients_are_the_same_when_layers_are_computed_again(reentrant: bool) -> None:
    """Of the parameters, of a learned bias and of the image; where the recorded weights count in the loss, too."""
    for cls in (Rotary, Relative):
        found = []
        for again in (False, True):
            decoder, states = built(cls).train(), torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(0))
            decoder.gradient_checkpointing, decoder.checkpointing = again, Checkpointing({"use_reentrant": reentrant})
            states.requires_grad_()
            torch.manual_seed(3)
            ids = torch.randint(3, 40, (4, 6), generator=torch.Generator().manual_seed(0))
            out = decoder(ids, encoder_hidden_states=states, output_attentions=True)
            recorded = (*out.attentions, *out.cross_attentions)
            (out.logits.square().mean() + sum(each.square().sum() for each in recorded)).backward()
            found.append({"states": states.grad, **{n: p.grad for n, p in decoder.named_parameters()}})
        assert all(gradient is not None for gradient in found[0].values())
        torch.testing.assert_close(found[0], found[1])


class Step(nn.Module):
    """The tensors' half of a step, as a program: a token, its position and a cache to logits, new keys and values."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, text: Tensor, positions: Tensor, cache: DecoderCache) -> Any:
        out = self.decoder.run(text, positions, None, None, None, cache)
        return out.logits, out.last_hidden_state, out.new


@torch.no_grad()
def test_another_runtime_takes_the_place_of_run() -> None:
    decoder, states = built(Rotary), torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(0))
    ids = torch.randint(3, 40, (4, 9), generator=torch.Generator().manual_seed(0))
    whole = decoder(ids, encoder_hidden_states=states).logits
    cache = decoder(ids[:, :4], encoder_hidden_states=states, use_cache=True).past_key_values
    shapes: list[Any] = [*[{2: Dim("past")}] * 4, {}, {}]  # the second layer alone sees the image
    given = (ids[:, 4:5], torch.full((1, 1), 4), cache)
    program = torch.export.export(Step(decoder), given, dynamic_shapes=(None, None, shapes)).module()
    for at in range(4, 9):
        logits, _, new = program(ids[:, at : at + 1], torch.full((1, 1), at), cache)
        torch.testing.assert_close(logits[:, 0], whole[:, at], atol=1e-4, rtol=1e-4)
        cache.extend(new)
    assert cache.length == 9


def test_layers_that_record_nothing_give_the_weights_of_the_image_alone() -> None:
    out = built(OfTorch)(torch.ones(2, 3).long(), encoder_hidden_states=torch.randn(2, 5, 24), output_attentions=True)
    assert out.attentions is None
    assert [weights.shape for weights in out.cross_attentions] == [(2, 4, 3, 5)] * 2


def test_injected_layers() -> None:
    """Every k-th layer sees the image, through a gate that starts closed; a layer that does not keeps nothing of it."""
    decoder = Rotary(Rotary.make_config(None, {"num_hidden_layers": 5})).eval()  # type: ignore[arg-type]
    assert {name.split(".")[1] for name in decoder.fresh_parameters()} == {"1", "3"}
    ids, states = torch.ones(1, 3).long(), torch.randn(1, 5, 24)
    with torch.no_grad():
        assert torch.equal(decoder(ids).logits, decoder(ids, encoder_hidden_states=states).logits)
        cache = decoder(ids, encoder_hidden_states=states, use_cache=True).past_key_values
    kept = decoder.cross(states)
    assert (
        [layer.cross is None for layer in cache.layers] == [each is None for each in kept] == [True, False] * 2 + [True]
    )
    assert torch.equal(cache.layers[1].cross[0], kept[1][0])
    assert (cache.layers[0].keys.shape, cache.layers[1].cross[0].shape) == ((1, 2, 3, 10), (1, 2, 5, 10))
    with pytest.raises(IncompatibleError, match="after every 3 of 2 layers: none would see the image"):
        CrossAttentionInjection.into([nn.Identity()] * 2, decoder.crossing, every=3, norm=decoder.norm)


def test_heads_of_keys_that_do_not_divide() -> None:
    with pytest.raises(IncompatibleError, match="4 attention heads do not divide into 3 heads of keys and values"):
        SelfAttention(24, 4, num_key_value_heads=3)


def test_the_parts_of_a_cache_are_the_same_elsewhere() -> None:
    """A runtime that leaves the cache as it is has its new keys and values appended."""
    ids, states = torch.ones(2, 3).long(), torch.randn(2, 5, 24)
    with torch.no_grad():
        caches = [
            built(cls)(ids, encoder_hidden_states=states, use_cache=True).past_key_values for cls in (Rotary, Elsewhere)
        ]
    for one, other in zip(*(cache.layers for cache in caches), strict=True):
        assert one.length == other.length == 3
        assert torch.equal(one.since(0)[1], other.since(0)[1])
