"""Without an image the logits are those of transformers' class, for every family and kind of rotary positions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import vedcore
from vedcore.transformers_checkpoints import to_ours

TOLERANCE = 2e-4


def pair(case: Any) -> tuple[Any, Any]:
    """Our decoder and transformers', with the same weights."""
    theirs, ours = case.build_theirs(), case.build(seed=1)
    found = to_ours(theirs.state_dict(), type(ours).transformers[0].key_map)
    missing, unexpected = ours.load_state_dict(found, strict=False)
    assert not unexpected
    assert {*missing} == ours.fresh_parameters()
    return ours, theirs


def ids_of(rows: int, tokens: int) -> Tensor:
    return torch.randint(4, 61, (rows, tokens), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_logits(case: Any) -> None:
    ours, theirs = pair(case)
    for tokens in (5, 12, 13, 30):  # the longest text in training has 12
        ids = ids_of(2, tokens)
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_padding_at_the_left(case: Any) -> None:
    ours, theirs = pair(case)
    ids, mask = ids_of(2, 20), torch.ones(2, 20, dtype=torch.long)
    ids[1, :6], mask[1, :6] = 3, 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    expected = theirs(ids, attention_mask=mask, position_ids=positions).logits
    came = ours(ids, attention_mask=mask).logits
    torch.testing.assert_close(came[mask.bool()], expected[mask.bool()], atol=TOLERANCE, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("first", [4, 14])
def test_cache(case: Any, first: int) -> None:
    """Past the first length too, where keys of ``dynamic`` and ``longrope`` keep the frequencies of their call."""
    ours, theirs = pair(case)
    ids, cache, past = ids_of(2, 20), ours.make_cache(), None
    for start, end in ((0, first), *((i, i + 1) for i in range(first, 17)), (17, 20)):
        expected = theirs(ids[:, start:end], past_key_values=past, use_cache=True)
        came = ours(ids[:, start:end], past_key_values=cache, use_cache=True)
        past = expected.past_key_values
        torch.testing.assert_close(came.logits, expected.logits, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_states_and_weights(family: Any) -> None:
    ours, theirs = pair(family)
    ids = ids_of(2, 9)
    expected = theirs(ids, output_hidden_states=True, output_attentions=True)
    came = ours(ids, output_hidden_states=True, output_attentions=True)
    for name in ("hidden_states", "attentions"):
        for one, other in zip(getattr(came, name), getattr(expected, name), strict=True):
            torch.testing.assert_close(one, other, atol=TOLERANCE, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_the_frequencies(tiny: Any, dtype: torch.dtype) -> None:
    ours, theirs = pair(tiny("llama"))
    for way in (ours.half() if dtype == torch.float16 else ours.bfloat16(), ours.to(dtype)):
        assert way.rotary.inv_freq.dtype == torch.float32
        assert way.embedding.weight.dtype == dtype
    ids = ids_of(1, 30)
    expected, exact = theirs.to(dtype)(ids).logits.float(), theirs.float()(ids).logits
    assert (ours(ids).logits.float() - exact).abs().max() <= 1.5 * (expected - exact).abs().max()


def test_kinds_that_are_refused() -> None:
    """Each by its name, and settings that a kind lacks or cannot have."""
    from vedcore_llama.llama import LlamaDecoder

    for wrong, message in (
        ({"rope_type": "axial"}, "rope_parameters.rope_type: .*got 'axial'"),
        ({"rope_type": "mrope"}, "got 'mrope'"),
        ({"rope_type": "linear"}, "rope_parameters.factor: rope_type 'linear' needs it"),
        ({"rope_type": "llama3", "factor": 2.0}, "low_freq_factor: rope_type 'llama3' needs it"),
        ({"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}, "1 numbers for heads of 64"),
        ({"rope_type": "linear", "factor": 0.0}, "rope_parameters.factor"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor: 0.5 cannot be honoured"),
        ({"rope_thetta": 5.0}, "unknown key"),
        ("yarn", "object expected"),
    ):
        with pytest.raises(vedcore.ConfigError, match=message):
            LlamaDecoder.make_config(None, {"rope_parameters": wrong})
