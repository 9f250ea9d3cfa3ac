"""Beam search: results besides the ids, the ends of its texts, and the tokens that are certain before the end."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from vedcore.config import TokenIds
from vedcore.generation.options.config import GenerationConfig
from vedcore.generation.request import Request
from vedcore.generation.search.beams.beam_search import beam_steps
from vedcore.generation.search.beams.candidates import top
from vedcore.generation.streaming import TokenIterator

PROMPT = torch.tensor([[1, 5, 9], [1, 7, 3], [1, 30, 22], [1, 8, 8]])
EOS = [2, 11, 17, 23, 31, 35]  # several, so that random rows end at different steps


def _theirs(model: Any, prompt: Tensor = PROMPT, **options: Any) -> Any:
    return model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_length=None,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
        **options,
    )


def _ours(
    state: Any,
    prompt: Tensor = PROMPT,
    streaming: bool = False,
    criteria: Any = (),
    text_of: Any = None,
    **options: Any,
) -> Any:
    config = GenerationConfig().with_options(**options)
    ids = config.token_ids(TokenIds(), 40)
    limits = config.limits(prompt.shape[1], 64)
    request = Request(prompt, config, ids, limits, stopping_criteria=criteria, text_of=text_of)
    return TokenIterator(beam_steps(state, replace(request, streaming=streaming)))


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 2, "eos_token_id": EOS, "max_new_tokens": 9},
        {"num_beams": 4, "eos_token_id": EOS[:2], "max_new_tokens": 9, "num_return_sequences": 3},
        {"num_beams": 3, "eos_token_id": EOS, "max_new_tokens": 7, "repetition_penalty": 1.6, "early_stopping": True},
        {"num_beams": 3, "eos_token_id": EOS, "max_new_tokens": 1, "num_return_sequences": 2},
    ],
    ids=str,
)
def test_scores_logits_and_beam_indices(gpt2: Any, gpt2_state: Any, run: Any, options: dict[str, Any]) -> None:
    options = {**options, "pad_token_id": 4}
    ours = run(gpt2_state(gpt2), PROMPT, **options, output_scores=True, output_logits=True)
    theirs = _theirs(gpt2, **options)
    assert ours.sequences.tolist() == theirs.sequences.tolist()
    assert torch.equal(ours.beam_indices, theirs.beam_indices)
    torch.testing.assert_close(ours.sequences_scores, theirs.sequences_scores, atol=1e-5, rtol=1e-5)
    for name in ("scores", "logits"):
        assert len(ours[name]) == len(theirs[name])
        for mine, yours in zip(ours[name], theirs[name], strict=True):
            torch.testing.assert_close(mine, yours, atol=1e-4, rtol=1e-4)
    plain = run(gpt2_state(gpt2), PROMPT, **options)
    assert plain.scores is plain.logits is None
    assert plain.sequences.tolist() == ours.sequences.tolist()
    assert plain.beam_indices.tolist() == ours.beam_indices.tolist()


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("length_penalty", [-1.5, 0.0, 1.0])
def test_nobody_looks_at_prompts_that_have_ended(
    gpt2: Any, gpt2_state: Any, run: Any, early_stopping: Any, length_penalty: float
) -> None:
    class Forgetful(gpt2_state):  # type: ignore[misc,valid-type]
        gone: Any = ()

        def keep(self, going_on: list[bool]) -> None:
            assert any(going_on)
            assert not any(a and not b for a, b in zip(going_on, self.gone or going_on, strict=True))  # none comes back
            self.gone = going_on

        def step(self, tokens: Tensor, reorder: Tensor | None) -> Tensor:
            logits = super().step(tokens, reorder)
            return logits.masked_fill(~torch.tensor(self.gone).repeat_interleave(3)[:, None], float("nan"))

    options = {
        "num_beams": 3,
        "eos_token_id": EOS,
        "pad_token_id": 0,
        "max_new_tokens": 12,
        "num_return_sequences": 3,
        "early_stopping": early_stopping,
        "length_penalty": length_penalty,
    }
    state = Forgetful(gpt2)
    ours, theirs = run(state, PROMPT, **options), _theirs(gpt2, **options)
    assert ours.sequences.tolist() == theirs.sequences.tolist()
    if early_stopping is True:
        assert not all(state.gone)  # else nothing was seen


@pytest.mark.parametrize("beams", [2, 4])
def test_stopping_criteria_see_whole_candidates(gpt2: Any, gpt2_state: Any, beams: int) -> None:
    from transformers import StoppingCriteria, StoppingCriteriaList

    class Sum(StoppingCriteria):  # type: ignore[misc]
        def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
            return input_ids.sum(1) % 5 == 0

    options = {"num_beams": beams, "eos_token_id": EOS[:2], "pad_token_id": 0, "max_new_tokens": 9}
    ours = _ours(gpt2_state(gpt2), criteria=[Sum()], num_return_sequences=2, **options).finish()
    theirs = _theirs(gpt2, stopping_criteria=StoppingCriteriaList([Sum()]), num_return_sequences=2, **options)
    assert ours.sequences.tolist() == theirs.sequences.tolist()
    ends = [row[3 : 3 + n] for row, n in zip(ours.sequences.tolist(), ours.lengths, strict=True)]
    for row, why, end in zip(ours.sequences.tolist(), ours.finish_reasons, ends, strict=True):
        expected = "eos" if end[-1] in EOS[:2] else "criteria" if sum(row[:3] + end) % 5 == 0 else "length"
        assert why == expected
    assert "criteria" in ours.finish_reasons


def test_repetition_and_time_end_texts(table_state: Any, run: Any) -> None:
    table = torch.full((12, 12), -4.0)
    table[torch.arange(12), (torch.arange(12) + 1) % 3] = 4.0  # 0 1 2 0 1 2 ...
    table += torch.rand(12, 12, generator=torch.Generator().manual_seed(0))
    options = {"vocab": 12, "num_beams": 3, "max_new_tokens": 30, "eos_token_id": ()}
    out = run(table_state(table), torch.tensor([[0]]), repetition_stop=3, early_stopping=True, **options)
    assert out.finish_reasons == ("repetition",)
    assert out.sequences[0, -9:].reshape(3, 3).unique(dim=0).shape == (1, 3)
    state = table_state(table)
    out = run(state, torch.tensor([[0], [1]]), max_time=1e-9, num_return_sequences=2, **options)
    assert (out.finish_reasons, state.calls, out.lengths) == (("time",) * 4, 1, (1,) * 4)


def test_stop_strings_end_texts(gpt2: Any, gpt2_state: Any) -> None:
    def text_of(ids: Any) -> str:
        return "".join("abcd"[i % 4] for i in ids)

    options = {"num_beams": 4, "eos_token_id": EOS[:2], "pad_token_id": 0, "max_new_tokens": 12}
    out = _ours(
        gpt2_state(gpt2), num_return_sequences=4, stop_strings=["bad", "aa"], text_of=text_of, **options
    ).finish()
    texts = [text_of(row[: 3 + n]) for row, n in zip(out.sequences.tolist(), out.lengths, strict=True)]
    for text, why in zip(texts, out.finish_reasons, strict=True):
        assert text.endswith(("bad", "aa")) == (why == "stop_string")
        assert "bad" not in text[3:-1]
    assert {"stop_string"} < set(out.finish_reasons)


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3, "eos_token_id": EOS},
        {"num_beams": 4, "eos_token_id": EOS[:2], "length_penalty": -1.0},
        {"num_beams": 2, "eos_token_id": EOS, "early_stopping": True},
        {"num_beams": 3, "eos_token_id": EOS[:1], "early_stopping": "never", "length_penalty": 2.0},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5, "eos_token_id": EOS},
        {"num_beams": 3, "force_words_ids": [[6, 7]], "eos_token_id": EOS},
    ],
    ids=str,
)
def test_stream_gives_the_best_text_early(gpt2: Any, gpt2_state: Any, options: dict[str, Any]) -> None:
    early = 0
    for row in range(4):
        options = {**options, "max_new_tokens": 14}
        state = gpt2_state(gpt2)
        whole = _ours(state, PROMPT[row : row + 1], **options).finish()
        stream, last = _ours(gpt2_state(gpt2), PROMPT[row : row + 1], streaming=True, **options), state.ids.shape[1]
        seen = []
        for token in stream:
            assert token.shape == (1,)
            seen += token.tolist()
        assert stream.output.sequences.tolist() == whole.sequences.tolist()
        assert seen == whole.sequences[0, 3:].tolist()
        stream, state = None, gpt2_state(gpt2)
        first = next(_ours(state, PROMPT[row : row + 1], streaming=True, **options))
        assert first.tolist() == seen[:1]
        early += state.ids.shape[1] < last
    assert early or options["num_beams"] == 2


def test_several_prompts_yield_nothing(gpt2: Any, gpt2_state: Any) -> None:
    assert list(_ours(gpt2_state(gpt2), streaming=True, num_beams=2, max_new_tokens=4)) == []


@pytest.mark.parametrize(("size", "count"), [(50257, 8), (4097, 10), (4096, 3), (130, 7), (64, 64), (700, 1)])
def test_top_is_topk(size: int, count: int) -> None:
    generator = torch.Generator().manual_seed(size)
    for rows, infinite in itertools.product((1, 5), (False, True)):
        scores = torch.randn(rows, size, generator=generator)
        if infinite:
            scores[:, torch.randperm(size, generator=generator)[: size - count // 2]] = -torch.inf
        value, index = top(scores, count)
        assert torch.equal(value, scores.topk(count).values)
        assert torch.equal(scores.gather(1, index), value)
        assert all(len(set(row)) == count for row in index.tolist())
