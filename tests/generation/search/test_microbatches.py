"""Many images are written in several batches, and nobody can tell."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.generation import tiny
from vedcore.errors import GenerationError, NonFiniteError
from vedcore.generation.search import microbatches, search
from vedcore.generation.state import DecodingState
from vedcore.outputs import GenerateOutput

ENDS = {"eos_token_id": [*range(5, 40, 9)], "pad_token_id": 0, "max_new_tokens": 12}
MODES: list[dict[str, Any]] = [
    {},
    {"num_beams": 3, "num_return_sequences": 2},
    {"num_beams": 4, "early_stopping": True, "length_penalty": 0.3},
    {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.7},
    {"num_beams": 3, "force_words_ids": [[7], [11, 12]]},
    {"penalty_alpha": 0.6, "top_k": 3},
    {"no_repeat_ngram_size": 2, "repetition_penalty": 1.3, "use_cache": False},
    {"prompt_lookup_num_tokens": 3},
]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six rows at a time, so that a few images make several microbatches."""
    monkeypatch.setattr(microbatches, "MAX_ROWS", 6)


def _counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of prompts of each microbatch from now on."""
    seen: list[int] = []
    prefill = DecodingState.prefill

    def counting(state: DecodingState, input_ids: Tensor) -> Tensor:
        seen.append(len(input_ids))
        return prefill(state, input_ids)

    monkeypatch.setattr(DecodingState, "prefill", counting)
    return seen


def _same(ours: GenerateOutput, whole: GenerateOutput) -> None:
    assert ours.keys() == whole.keys()
    for name in whole:
        if name in ("sequences_scores", "token_logprobs"):
            torch.testing.assert_close(ours[name], whole[name], rtol=1e-4, atol=1e-4)
        elif isinstance(whole[name], Tensor):
            assert ours[name].tolist() == whole[name].tolist(), name
        else:
            assert ours[name] == whole[name], name


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("family", [name for name in tiny.FAMILIES if name != "whole"])  # it takes no masks
def test_batches_make_up_the_whole(family: str, mode: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    made, count = tiny.decoder(family), 13
    prompt = torch.randint(3, 40, (count, 3), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(prompt)
    mask[::4, 0] = 0
    given = {"prompt": prompt, "mask": mask, **ENDS, **mode}
    whole = tiny.write(made, count, **given)
    monkeypatch.setattr(microbatches, "MAX_ROWS", 6)
    seen = _counted(monkeypatch)
    _same(tiny.write(made, count, **given), whole)
    assert len(seen) > 2
    assert sum(seen) == count
    assert max(seen) - min(seen) <= 1


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(1, 5), st.integers(1, 30), st.integers(0, 99))
def test_any_number_of_images(count: int, beams: int, rows: int, seed: int) -> None:
    made = tiny.decoder("gpt2")
    given = {"num_beams": beams, "seed": seed, **ENDS}
    whole = tiny.write(made, count, **given)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(microbatches, "MAX_ROWS", rows)
        seen = _counted(patch)
        _same(tiny.write(made, count, **given), whole)
    assert max(seen) * beams <= max(rows, beams)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({"do_sample": True, "seed": 3}, {}),
        ({"max_time": 60.0}, {}),
        ({"output_scores": True}, {}),
        ({"output_logits": True}, {}),
        ({"output_attentions": True}, {}),
        ({"output_hidden_states": True}, {}),
        ({}, {"logits_processor": [lambda input_ids, scores: scores]}),
        ({}, {"stopping_criteria": [lambda input_ids, scores: torch.zeros(13, dtype=torch.bool)]}),
    ],
    ids=["sampling", "clock", "scores", "logits", "attentions", "states", "processor", "criterion"],
)
def test_who_would_see_batches_gets_one(
    options: dict[str, Any], fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _counted(monkeypatch)
    tiny.write(tiny.decoder("bart"), 13, fields=fields, **ENDS, **options)
    assert seen == [13]


@pytest.mark.usefixtures("few")
def test_functions_get_the_number_of_the_image() -> None:
    numbers = []

    def allowed(image: int, ids: Tensor) -> list[int]:
        numbers.append(image)
        return [3 + image]

    out = tiny.write(tiny.decoder("gpt2"), 13, max_new_tokens=2, fields={"prefix_allowed_tokens_fn": allowed})
    assert out.sequences[:, 1:].tolist() == [[3 + i, 3 + i] for i in range(13)]
    assert set(numbers) == set(range(13))


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("options", [{}, {"num_beams": 2}], ids=str)
def test_errors_name_the_row_of_the_call(options: dict[str, Any]) -> None:
    made = tiny.decoder("gpt2")
    state, request = tiny.state_and_request(made, 13, max_new_tokens=4, **options)
    state.states[11] = torch.nan
    with pytest.raises(NonFiniteError, match="logits of row 11 hold NaN at prefill"):
        search(state, request)
    nothing = {"prefix_allowed_tokens_fn": lambda image, ids: [] if image == 9 else [3, 4, 5]}
    with pytest.raises(GenerationError, match="for image 9 after 1 tokens"):
        tiny.write(made, 13, max_new_tokens=4, fields=nothing, **options)
