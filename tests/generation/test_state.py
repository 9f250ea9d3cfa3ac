"""The decoder over a batch of texts: prompts that ended leave it, and what goes on inside is recorded."""

from __future__ import annotations

import random
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

import vedcore
from tests.generation.tiny import FAMILIES, VOCABULARY, decoder, state_and_request, write
from vedcore.generation.search import search
from vedcore.generation.search.scoring import log_sum_exp
from vedcore.generation.state import DecodingState

EOS = list(range(4, VOCABULARY, 5))  # many, so that rows end at different steps
ENDS: dict[str, Any] = {
    "eos_token_id": EOS,
    "pad_token_id": 2,
    "max_new_tokens": 24,
    "min_new_tokens": 2,
    "repetition_penalty": 1.6,
}


class Calls:
    """Counts the tokens that go through a decoder."""

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
    """Fewer and fewer rows are computed; each text is the same as alone."""
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
    """Under any reordering, unfinished rows are as in a state that keeps all; the others are zeros."""
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


PARTS: tuple[dict[str, Any], dict[str, Any]] = (
    {"name": "vit_tiny_patch16_224", "num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2},
    {"name": "gpt2", "n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": 40},
)


def small_model(projector: str = "auto") -> Any:
    ids = {"start": 3}
    return vedcore.compose(
        *PARTS, projector=projector, image_size=32, decoder_vocab_size=VOCABULARY, token_ids=ids, seed=0
    ).eval()


@pytest.mark.parametrize("projector", ["auto", "mlp"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 3, "return_dict_in_generate": True}])
@pytest.mark.parametrize("use_cache", [True, False])
def test_encoder_states_live_no_longer_than_they_are_read(
    projector: str, options: dict[str, Any], use_cache: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a cache, the states of encoder and projector are freed before the first token is chosen."""
    model = small_model(projector)
    encode, project = model.run_encoder, model.project
    born: list[Any] = []

    def encoding(*args: Any) -> Any:
        out = encode(*args)
        born.append(weakref.ref(out.last_hidden_state))
        return out

    def projecting(*args: Any) -> Any:
        states, mask = project(*args)
        born.append(weakref.ref(states))
        return states, mask

    monkeypatch.setattr(model, "run_encoder", encoding)
    monkeypatch.setattr(model, "project", projecting)
    alive: list[bool] = []

    def look(_: Tensor, scores: Tensor) -> Tensor:
        alive.append(any(ref() is not None for ref in born))
        return scores

    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model.generate(pixels, max_new_tokens=4, use_cache=use_cache, logits_processor=look, **options)
    assert len(born) == 2
    assert alive == [not use_cache] * 4


@pytest.mark.parametrize(
    "options",
    [{}, {"num_beams": 3}, {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0}, {"do_sample": True}],
)
def test_logits_go_before_the_next_come(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Only one tensor of the size of the logits is alive at a time."""
    step, born, alive = DecodingState.step, list[Any](), list[bool]()

    def stepping(self: DecodingState, tokens: Tensor, reorder: Tensor | None) -> Tensor:
        alive.extend(ref() is not None for ref in born)
        out = step(self, tokens, reorder)
        born.append(weakref.ref(out))
        return out

    monkeypatch.setattr(DecodingState, "step", stepping)
    search(*state_and_request(decoder("gpt2"), 2, max_new_tokens=5, **options))
    assert len(born) == 4
    assert alive == [False] * 6


@pytest.mark.parametrize(
    ("options", "last"),
    [
        ({}, 7),
        ({"num_beams": 3}, 7),
        ({"num_return_sequences": 2, "do_sample": True}, 7),
        ({"penalty_alpha": 0.6, "top_k": 4}, 8),
        ({"prompt_lookup_num_tokens": 2}, 7),
    ],
)
def test_the_cache_has_room_for_what_is_read(
    options: dict[str, Any], last: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only contrastive search, which looks one token ahead, reads the last token."""
    model = small_model()
    make, made = model.decoder.make_cache, list[Any]()
    monkeypatch.setattr(model.decoder, "make_cache", lambda capacity: made.append(make(capacity)) or made[-1])
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    ids = model.generate(
        pixels, decoder_input_ids=torch.tensor([[3, 5]]), max_new_tokens=6, eos_token_id=None, **options
    )
    assert ids.shape[1] == 8
    (cache,) = made
    assert [layer.keys.shape[2] for layer in cache.layers] == [last] * 2


@pytest.mark.parametrize("rows", [1, 32, 33, 70])
def test_log_sum_exp_is_that_of_torch(rows: int) -> None:
    logits = torch.randn(rows, 300, generator=torch.Generator().manual_seed(rows)) * 9
    logits[0, 3], logits[-1, 5] = float("-inf"), float("nan")
    assert log_sum_exp(logits).shape == (rows, 1)
    assert torch.allclose(log_sum_exp(logits), logits.logsumexp(1, keepdim=True), equal_nan=True)


def _shape(tensor: Tensor | None) -> tuple[int, ...]:
    return () if tensor is None else tuple(tensor.shape)
