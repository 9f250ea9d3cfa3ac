"""The decoder over a batch of texts: prompts that ended leave it, and what goes on inside is recorded."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.generation.tiny import FAMILIES, VOCABULARY, decoder, state_and_request, write

EOS = list(range(4, VOCABULARY, 5))  # many, so that rows end at different steps
ENDS: dict[str, Any] = {
    "eos_token_id": EOS, "pad_token_id": 2, "max_new_tokens": 24, "min_new_tokens": 2, "repetition_penalty": 1.6,
}  # fmt: skip


class Calls:
    """Counts what goes through a decoder."""

    def __init__(self, made: Any) -> None:
        self.rows: list[int] = []
        self.tokens: list[int] = []
        self.handle = made.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, module: Any, args: Any, kwargs: Any) -> None:
        self.rows.append(len(kwargs["input_ids"]))
        self.tokens.append(kwargs["input_ids"].shape[1])

    def __enter__(self) -> Calls:
        return self

    def __exit__(self, *_: object) -> None:
        self.handle.remove()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"use_cache": False}, {"num_beams": 2, "use_cache": False}])
def test_ended_prompts_leave_and_nothing_changes(family: str, options: dict[str, Any]) -> None:
    """Fewer and fewer rows are computed; each text is what it is alone."""
    made, count = decoder(family), 6
    with Calls(made) as calls:
        whole = write(made, count, **ENDS, **options)
    assert calls.rows[0] == count
    assert len(set(whole.lengths or ())) > 1
    assert min(calls.rows[1:]) < max(calls.rows[1:])
    for at in range(count):
        alone = write(made, count, at=at, **ENDS, **options)
        length = alone.sequences.shape[1]
        assert whole.sequences[at, :length].tolist() == alone.sequences[0].tolist()
        assert set(whole.sequences[at, length:].tolist()) <= {2}
        assert torch.allclose(whole.token_logprobs[at, : length - 1], alone.token_logprobs[0], atol=1e-4)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_any_prompts_leave_at_any_time(seed: int, use_cache: bool) -> None:
    """Under any reordering, rows of prompts that go on are as in a state that nothing leaves; others are zeros."""
    draw, made, count, copies = random.Random(seed), decoder("roberta", seed), 5, 3
    prompt = torch.tensor([[1, 3], [3, 4], [1, 9], [7, 8], [5, 5]])
    mask = torch.tensor([[0, 1], [1, 1], [0, 1], [1, 1], [1, 1]])
    options: dict[str, Any] = {"prompt": prompt, "mask": mask, "use_cache": use_cache, "max_new_tokens": 12}
    (leaving, _), (staying, _) = (state_and_request(made, count, **options) for _ in range(2))
    expand = torch.arange(count).repeat_interleave(copies)
    generator = torch.Generator().manual_seed(seed)
    going, reorder = [True] * count, expand
    with torch.inference_mode():
        assert torch.equal(leaving.prefill(prompt), staying.prefill(prompt))
        for _ in range(9):
            if draw.random() < 0.6 and sum(going) > 1:
                going[draw.choice([i for i, on in enumerate(going) if on])] = False
            leaving.keep(going)
            tokens = torch.randint(3, VOCABULARY, (count * copies, 1), generator=generator)
            one, other = leaving.step(tokens, reorder), staying.step(tokens, reorder)
            assert one.shape == other.shape == (count * copies, VOCABULARY)
            on = torch.tensor(going).repeat_interleave(copies)
            assert torch.allclose(one[on], other[on], atol=1e-4)
            gone = torch.tensor([i not in leaving.live for i in range(count)]).repeat_interleave(copies)
            assert not one[gone].any()
            within = torch.randint(0, copies, (count * copies,), generator=generator)
            reorder = draw.choice([None, torch.arange(count).repeat_interleave(copies) * copies + within])
    assert len(leaving.live) < count == len(staying.live)


@pytest.mark.parametrize("family", ["gpt2", "bert", "bart", "trocr"])
@pytest.mark.parametrize("beams", [1, 3])
def test_records_are_those_of_transformers(pair: Any, family: str, beams: int) -> None:
    """Attentions and hidden states of each step, also of rows that have ended."""
    inner = {"output_attentions": True, "output_hidden_states": True}
    ends = {"eos_token_id": list(range(4, 98, 7)), "pad_token_id": 2}
    ours, theirs = pair(family).generate({"max_new_tokens": 7, "num_beams": beams, **ends, **inner})
    assert ours.sequences.tolist() == theirs.sequences.tolist()
    for name in ("decoder_attentions", "cross_attentions", "decoder_hidden_states"):
        mine, other = getattr(ours, name), getattr(theirs, name)
        assert len(mine) == len(other)
        for step, wanted in zip(mine, other, strict=True):
            assert [layer.shape for layer in step] == [layer.shape for layer in wanted]
            assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(step, wanted, strict=True))


def test_nothing_leaves_while_it_is_recorded() -> None:
    with Calls(decoder("gpt2")) as calls:
        state, request = state_and_request(decoder("gpt2"), 4, output_attentions=True, max_new_tokens=5)
        state.prefill(request.input_ids)
        state.keep([True, False, False, False])
        state.step(torch.full((4, 1), 5), None)
    assert calls.rows == [4, 4]
    assert [layer.shape for layer in state.attentions[1]] == [(4, 3, 1, 2)] * 2
    assert [layer.shape for layer in state.cross_attentions[1]] == [(4, 3, 1, 5)] * 2
    assert state.hidden_states == []


@pytest.mark.parametrize("use_cache", [True, False])
def test_last_hidden_state_has_all_rows(use_cache: bool) -> None:
    state, request = state_and_request(decoder("gpt2"), 4, use_cache=use_cache, max_new_tokens=5)
    state.keeps_last_hidden_state = True
    state.prefill(request.input_ids)
    assert _shape(state.last_hidden_state) == (4, 1, 24)
    state.keep([False, True, False, False])
    state.step(torch.full((4, 1), 5), None)
    assert state.last_hidden_state is not None
    assert _shape(state.last_hidden_state) == (4, 1 if use_cache else 2, 24)
    assert state.last_hidden_state.abs().sum((1, 2)).bool().tolist() == [False, True, False, False]


def _shape(tensor: Tensor | None) -> tuple[int, ...]:
    return () if tensor is None else tuple(tensor.shape)
