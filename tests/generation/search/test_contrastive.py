"""Contrastive search against the paper's rule written out, a candidate at a time and without any cache."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.generation.tiny import FAMILIES, POSITIONS, VOCABULARY, decoder, image_mask, images, state_and_request, write
from vedcore.errors import GenerationError, NonFiniteError, UsageError
from vedcore.generation.search import search, stream

EOS = list(range(4, VOCABULARY, 5))
ENDS: dict[str, Any] = {"eos_token_id": EOS, "pad_token_id": 2, "min_new_tokens": 3}
PROMPT = torch.tensor([[1, 3], [5, 6], [1, 9], [8, 8]])
MASK = torch.tensor([[0, 1], [1, 1], [0, 1], [1, 1]])


def naive(
    made: Any,
    at: int,
    prompt: list[int],
    new: int,
    alpha: float,
    k: int,
    eos: Any = (),
    least: int = 0,
    processors: Any = (),
    near: float = 0.0,
    count: int = 4,
) -> Any:
    """One text of image ``at`` of ``count``, of ``new`` tokens at most; skips examples with a choice as ``near``."""
    generated: dict[str, Any] = {"prompt_length": len(prompt)} if made.positions_by_id else {}

    def read(ids: list[int]) -> tuple[Tensor, Tensor]:
        out = made(
            torch.tensor([ids]),
            encoder_hidden_states=images(count)[at : at + 1],
            output_hidden_states=True,
            encoder_attention_mask=image_mask(count)[at : at + 1],
            **generated,
        )
        return out.logits[0, -1].double(), out.hidden_states[-1][0].double()

    ids = list(prompt)
    for step in range(new):
        logits, hidden = read(ids)
        if step < least:
            logits[list(eos)] = -torch.inf
        for processor in processors:
            logits = processor(torch.tensor([ids]), logits[None].float())[0].double()
        probabilities, tokens = logits.softmax(0).sort(descending=True)
        if near and k < len(tokens):
            assume(probabilities[k - 1] - probabilities[k] > near * probabilities[k] or probabilities[k] == 0)
        choices = [(-math.inf, -1)]
        for probability, token in zip(probabilities[:k].tolist(), tokens[:k].tolist(), strict=True):
            if probability > 0:
                candidate = read([*ids, token])[1][-1]
                likeness = max(float(candidate @ h / candidate.norm() / h.norm()) for h in hidden)
                choices.append(((1 - alpha) * probability - alpha * likeness, token))
        choices.sort(reverse=True)
        if near:
            assume(choices[0][0] - choices[1][0] > near)
        ids.append(choices[0][1])
        if choices[0][1] in eos:
            break
    return ids


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("alpha", "k"), [(0.6, 4), (1.0, 3)])
def test_as_the_rule_says(family: str, alpha: float, k: int) -> None:
    made = decoder(family)
    with torch.no_grad():
        for options in ({}, ENDS):
            out = write(made, 4, penalty_alpha=alpha, top_k=k, max_new_tokens=7, **options)
            for at, row in enumerate(out.sequences.tolist()):
                wanted = naive(made, at, [3], 7, alpha, k, options.get("eos_token_id", ()), 3)
                assert row == (wanted + [2] * 9)[: len(row)]
                assert (out.lengths or ())[at] == len(wanted) - 1


OPTIONS = st.fixed_dictionaries(
    {"penalty_alpha": st.sampled_from([0.1, 0.6, 0.9, 1.0]), "top_k": st.sampled_from([2, 3, 5, 99])},
    optional={
        "eos_token_id": st.sampled_from([[5], EOS]),
        "use_cache": st.booleans(),
        "output_scores": st.booleans(),
        "min_new_tokens": st.integers(1, 3),
        "repetition_penalty": st.sampled_from([0.5, 2.0]),
        "no_repeat_ngram_size": st.integers(1, 3),
        "suppress_tokens": st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=36, unique=True),
    },
)


@settings(max_examples=12, deadline=None)
@given(
    family=st.sampled_from(list(FAMILIES)),
    seed=st.integers(0, 2),
    options=OPTIONS,
    new=st.integers(3, 5),
    prompts=st.integers(1, 3).flatmap(
        lambda length: st.lists(
            st.lists(st.integers(0, VOCABULARY - 1), min_size=length, max_size=length), min_size=1, max_size=3
        )
    ),
)
def test_as_the_rule_says_whatever_the_options(
    family: str, seed: int, options: dict[str, Any], new: int, prompts: list[list[int]]
) -> None:
    """In a batch and alone, with and without a cache."""
    made, prompt, count = decoder(family, seed), torch.tensor(prompts), len(prompts)
    options = {**options, "max_new_tokens": new, "pad_token_id": 2}
    eos = options.get("eos_token_id", ())
    try:
        out = write(made, count, prompt=prompt, **options)
    except GenerationError:
        assume(False)  # the options left no token
    with torch.no_grad():
        for at, ids in enumerate(prompts):
            processors = state_and_request(made, count, prompt=prompt, **options)[1].processors(1)
            wanted = naive(
                made,
                at,
                ids,
                new,
                options["penalty_alpha"],
                options["top_k"],
                eos,
                processors=processors,
                near=1e-4,
                count=count,
            )
            end = len(ids) + (out.lengths or ())[at]
            assert out.sequences[at].tolist() == wanted + [2] * (out.sequences.shape[1] - end)
            alone = write(made, count, at=at, prompt=prompt, **options)
            assert alone.sequences[0].tolist() == wanted
            assert (alone.finish_reasons or ())[0] == (out.finish_reasons or ())[at]
            assert torch.allclose(out.token_logprobs[at, : end - len(ids)], alone.token_logprobs[0], atol=2e-3)


@pytest.mark.parametrize("family", ["gpt2", "roberta", "bart", "whole"])
def test_alone_in_a_batch_with_and_without_a_cache(family: str) -> None:
    made = decoder(family, 1)
    options: dict[str, Any] = {"penalty_alpha": 0.6, "top_k": 5, **ENDS, "max_new_tokens": 14}
    whole = write(made, 6, **options)
    assert write(made, 6, use_cache=False, **options).sequences.tolist() == whole.sequences.tolist()
    for at in range(6):
        alone = write(made, 6, at=at, **options)
        length = alone.sequences.shape[1]
        assert whole.sequences[at, :length].tolist() == alone.sequences[0].tolist()
        assert torch.allclose(whole.token_logprobs[at, : length - 1], alone.token_logprobs[0], atol=2e-3)


def test_padding_is_no_text_so_far() -> None:
    made = decoder("gpt2", 1)
    options: dict[str, Any] = {"penalty_alpha": 0.6, "top_k": 5, "max_new_tokens": 8}
    out = write(made, 4, prompt=PROMPT, mask=MASK, **options)
    with torch.no_grad():
        for at, (row, mask) in enumerate(zip(PROMPT.tolist(), MASK.tolist(), strict=True)):
            real = [token for token, on in zip(row, mask, strict=True) if on]
            assert out.sequences[at, 2 - len(real) :].tolist() == naive(made, at, real, 8, 0.6, 5)


def test_barred_tokens_are_not_written_whatever_they_are_like() -> None:
    """Also with fewer allowed tokens than candidates."""
    made, few = decoder("gpt2", 1), [7, 11, 30]
    barred = [token for token in range(VOCABULARY) if token not in few]
    out = write(made, 4, penalty_alpha=0.9, top_k=10, suppress_tokens=barred, max_new_tokens=10)
    assert set(out.sequences[:, 1:].flatten().tolist()) <= set(few)
    assert write(made, 4, penalty_alpha=0.9, top_k=VOCABULARY + 5, max_new_tokens=3).sequences.shape == (4, 4)
    with pytest.raises(GenerationError, match="no token to go on with at prefill"):
        write(made, 4, penalty_alpha=0.9, top_k=10, suppress_tokens=list(range(VOCABULARY)), max_new_tokens=10)


def test_what_is_told_of_each_step() -> None:
    options: dict[str, Any] = {"penalty_alpha": 0.6, "top_k": 5, "max_new_tokens": 6, "repetition_penalty": 1.5}
    kept = dict.fromkeys(("output_scores", "output_logits", "output_attentions", "output_hidden_states"), True)
    state, request = state_and_request(decoder("bart"), 3, **options, **kept)
    out = search(state, request)
    assert out.sequences.tolist() == write(decoder("bart"), 3, **options).sequences.tolist()
    assert [s.shape for s in out.scores or ()] == [s.shape for s in out.logits or ()] == [(3, VOCABULARY)] * 6
    logprobs = torch.stack(out.logits or (), 1).log_softmax(2).gather(2, out.sequences[:, 1:, None])[:, :, 0]
    assert torch.allclose(out.token_logprobs, logprobs, atol=1e-5)
    assert [layer.shape for step in state.attentions for layer in step[:1]] == [(3, 3, 1, n) for n in range(1, 7)]
    assert [layer.shape for step in state.hidden_states for layer in step[-1:]] == [(3, 1, 24)] * 6
    with torch.no_grad():
        hidden = decoder("bart")(
            out.sequences[:, :-1],
            encoder_hidden_states=images(3),
            encoder_attention_mask=image_mask(3),
            output_hidden_states=True,
        ).hidden_states[-1]
    assert torch.allclose(torch.cat([step[-1] for step in state.hidden_states], 1), hidden, atol=1e-3)


def test_the_last_token_needs_a_position() -> None:
    """The last token is read before it is chosen, so a text may not be longer than the positions."""
    options: dict[str, Any] = {"penalty_alpha": 0.6, "top_k": 3}
    assert write(decoder("gpt2"), 1, **options).sequences.shape[1] == POSITIONS
    with pytest.raises(UsageError, match=f"max_new_tokens={POSITIONS - 1} or less"):
        write(decoder("gpt2"), 1, max_new_tokens=POSITIONS, **options)


def test_it_is_streamed() -> None:
    state, request = state_and_request(decoder("gpt2"), 2, penalty_alpha=0.6, top_k=3, max_new_tokens=5)
    tokens = stream(state, request)
    assert torch.stack(list(tokens), 1).tolist() == tokens.output.sequences[:, 1:].tolist()  # type: ignore[union-attr]


@pytest.mark.parametrize("new", [1, 5])
def test_what_is_useless_names_row_and_step(new: int) -> None:
    """NaN after the last token is an error too: that token is read although none follows."""
    state, request = state_and_request(decoder("gpt2"), 2, penalty_alpha=0.6, top_k=3, max_new_tokens=new)
    step, spoiled = state.step, torch.tensor([3, 4, 5])

    def spoil(*arguments: Any) -> Tensor:
        logits = step(*arguments)
        assert state.last_hidden_state is not None
        state.last_hidden_state = state.last_hidden_state.index_fill(0, spoiled, torch.nan)
        return logits.index_fill(0, spoiled, torch.nan)

    state.step = spoil  # type: ignore[method-assign]
    with pytest.raises(NonFiniteError, match="row 1 hold NaN at step 1"):
        search(state, request)
