"""Assisted decoding: whatever is guessed, the text is that of plain greedy search, in fewer calls of the decoder."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.generation.tiny import FAMILIES, POSITIONS, VOCABULARY, decoder, state_and_request, write
from vedcore.errors import NonFiniteError, UsageError
from vedcore.generation.options.config import GenerationConfig
from vedcore.generation.options.strategies import check_assisted
from vedcore.generation.results import with_inner_states
from vedcore.generation.search import search, stream
from vedcore.generation.search.assisted.drafters import DraftModel, PromptLookup
from vedcore.layers.cache import DecoderCache
from vedcore.outputs import EncoderOutput

EOS = list(range(4, VOCABULARY, 5))
ENDS: dict[str, Any] = {"eos_token_id": EOS, "pad_token_id": 2, "min_new_tokens": 2, "repetition_penalty": 1.3}
PROMPT = torch.tensor([[1, 1, 3], [5, 6, 5], [1, 9, 7], [8, 8, 8]])
MASK = torch.tensor([[0, 0, 1], [1, 1, 1], [0, 1, 1], [1, 1, 1]])


class Oracle:
    """Guesses the right tokens, cut and spoilt at random."""

    def __init__(self, texts: Tensor, seed: int, wrong: float = 0.2) -> None:
        self.texts = texts.tolist()
        self.draw, self.wrong, self.guessed, self.right = random.Random(seed), wrong, 0, 0

    def guess(self, texts: Sequence[Sequence[int]], room: int) -> list[list[int]]:
        guesses = []
        for text, whole in zip(texts, self.texts, strict=True):
            assert list(text)[: len(whole)] == whole[: len(text)]
            guess = whole[len(text) :][: self.draw.randint(0, min(room, 6))] if text else []
            guesses.append([t if self.draw.random() > self.wrong else self.draw.randrange(VOCABULARY) for t in guess])
        return guesses

    def learn(self, guessed: Sequence[int], right: Sequence[int]) -> None:
        assert all(a >= b for a, b in zip(guessed, right, strict=True))
        self.guessed, self.right = self.guessed + sum(guessed), self.right + sum(right)


def assert_same(made: Any, count: int, drafter: Any = None, seed: int = 0, **options: Any) -> Any:
    plain = write(made, count, **options)
    if drafter is None:
        drafter = Oracle(plain.sequences, seed)
    ours = write(made, count, drafter=drafter, **options)
    assert ours.sequences.tolist() == plain.sequences.tolist()
    assert ours.lengths == plain.lengths
    assert ours.finish_reasons == plain.finish_reasons
    assert torch.allclose(
        ours.token_logprobs, plain.token_logprobs, atol=2e-3
    )  # several queries at once round otherwise
    return drafter


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("count", [1, 4])
def test_good_and_bad_guesses(family: str, use_cache: bool, count: int) -> None:
    """Each of several rows accepts its own number of guesses, up to the last position."""
    made = decoder(family, 1)
    for options in ({}, ENDS, {**ENDS, "prompt": PROMPT[:count], "mask": MASK[:count]}):
        if family == "whole" and "mask" in options:
            continue
        for seed in range(2):
            oracle = assert_same(made, count, seed=seed, use_cache=use_cache, **options)
        assert oracle.right


@pytest.mark.parametrize("family", ["gpt2", "roberta", "trocr", "whole"])
@pytest.mark.parametrize("lookup", [(1, 1), (10, 2), (3, 3)])
def test_prompt_lookup(family: str, lookup: tuple[int, int]) -> None:
    made, options = decoder(family), {"prompt": PROMPT}
    assert_same(made, 4, PromptLookup(*lookup), **options)
    asked = {"prompt_lookup_num_tokens": lookup[0], "max_matching_ngram_size": lookup[1]}
    assert write(made, 4, **asked, **options).sequences.tolist() == write(made, 4, **options).sequences.tolist()


def test_holes_of_wrong_guesses_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache never holds more tokens than the decoder has positions, however many guesses were wrong."""
    made, closed = decoder("gpt2", 1), list[Tensor]()
    gather = DecoderCache.gather
    monkeypatch.setattr(DecoderCache, "gather", lambda cache, n: (closed.append(n), gather(cache, n))[1])
    plain = write(made, 4)
    oracle = Oracle(plain.sequences, 5, wrong=0.6)
    assert_same(made, 4, oracle)
    assert closed
    assert oracle.right < oracle.guessed


def test_prompt_lookup_guesses_as_transformers() -> None:
    from transformers.generation.candidate_generator import PromptLookupCandidateGenerator

    draw, found = random.Random(0), 0
    for _ in range(300):
        tokens, size, end = draw.randint(1, 8), draw.randint(1, 4), draw.choice([None, 2])
        text = [draw.randrange(4) for _ in range(draw.randint(1, 25))]
        theirs = PromptLookupCandidateGenerator(
            None if end is None else torch.tensor([end]), tokens, size, max_length=1000
        ).get_candidates(torch.tensor([text]))[0][0, len(text) :]
        ours = PromptLookup(tokens, size, frozenset() if end is None else frozenset([end])).guess([text], 1000)
        assert ours == [theirs.tolist()]
        found += bool(ours[0])
    assert found > 100


@pytest.mark.parametrize("family", ["gpt2", "roberta", "trocr", "whole"])
@pytest.mark.parametrize("schedule", ["constant", "heuristic"])
def test_draft_model(family: str, schedule: str) -> None:
    """The model itself as assistant is always right; one of another family hardly ever."""
    made = decoder(family, 1)
    for small, cached in ((made, True), (decoder("gpt2", 7), True), (decoder("bart", 7), False)):
        for count, more in (
            (1, {}),
            (4, ENDS),
            (4, {"assistant_confidence_threshold": 0.0, "num_assistant_tokens": 3}),
        ):
            options = {**more, "num_assistant_tokens_schedule": schedule, "max_new_tokens": 20}
            state, request = state_and_request(small, count, **{**options, "use_cache": cached})
            plain = write(made, count, **options)
            out = write(made, count, drafter=DraftModel(state, request), **options)
            assert out.sequences.tolist() == plain.sequences.tolist()


def test_a_draft_model_spares_calls() -> None:
    made, calls = decoder("gpt2", 1), list[int]()
    options: dict[str, Any] = {"max_new_tokens": 25, "assistant_confidence_threshold": 0.0, "num_assistant_tokens": 5}
    drafter = DraftModel(*state_and_request(made, 3, **options))
    state, request = state_and_request(made, 3, **options)
    call = state.call
    state.call = lambda *a, **k: (calls.append(a[0].shape[1]), call(*a, **k))[1]  # type: ignore[method-assign]
    search(state, replace(request, drafter=drafter))
    assert calls == [1, 6, 6, 6, 6]


def test_the_number_of_tokens_is_learned() -> None:
    made = decoder("gpt2", 3)
    state, request = state_and_request(made, num_assistant_tokens=4, num_assistant_tokens_schedule="heuristic")
    first = DraftModel(state, request)
    first.learn([4, 4], [4, 4])
    assert first.num_tokens == 6
    assert DraftModel(state, request).num_tokens == 6
    first.learn([6, 0], [5, 0])
    assert first.num_tokens == 5
    for schedule, tokens in (("heuristic_transient", 4), ("heuristic", 9)):
        _, other = state_and_request(made, num_assistant_tokens=tokens, num_assistant_tokens_schedule=schedule)
        assert DraftModel(state, other).num_tokens == tokens


def test_a_draft_model_of_fewer_positions() -> None:
    """An assistant stops guessing at its last position."""
    small, made = decoder("gpt2", 7), decoder("trocr", 1)
    plain = write(made, 3)
    positions, small.max_positions = small.max_positions, 12
    try:
        out = write(made, 3, drafter=DraftModel(*state_and_request(small, 3, max_new_tokens=12)))
    finally:
        small.max_positions = positions
    assert out.sequences.tolist() == plain.sequences.tolist()
    assert plain.sequences.shape[1] == POSITIONS


def allowed(image: int, ids: Tensor) -> list[int]:
    return list(range(3 + image, VOCABULARY, 2 + (int(ids[-1]) + len(ids)) % 3))


PROCESSED: list[dict[str, Any]] = [
    {"no_repeat_ngram_size": 2},
    {"repetition_penalty": 1.7, "mask": MASK, "prompt": PROMPT},
    {"min_new_tokens": 9, "eos_token_id": EOS, "pad_token_id": 2},
    {"forced_bos_token_id": 9, "forced_eos_token_id": 7, "max_new_tokens": 15},
    {"exponential_decay_length_penalty": (4, 1.3), "eos_token_id": EOS, "pad_token_id": 2},
    {"begin_suppress_tokens": list(range(30)), "bad_words_ids": [[9], [12, 30]], "eos_token_id": 8, "pad_token_id": 2},
    {"fields": {"prefix_allowed_tokens_fn": allowed}},
    {"fields": {"logits_processor": [lambda ids, scores: scores - (ids[:, -1:] % 3) * torch.arange(VOCABULARY) / 9]}},
    {"fields": {"stopping_criteria": [lambda ids, scores: ids.sum(1) > 200]}, "eos_token_id": 5, "pad_token_id": 2},
    {"fields": {"stopping_criteria": [lambda ids, scores: ids.sum(1) > 200]}},
    {"repetition_stop": 3, "eos_token_id": 5, "pad_token_id": 2},
    {"repetition_stop": 2},
]


@pytest.mark.parametrize("options", PROCESSED)
@pytest.mark.parametrize("count", [1, 3])
def test_each_position_is_processed_with_its_own_prefix(options: dict[str, Any], count: int) -> None:
    cut = {name: value[:count] for name, value in options.items() if isinstance(value, Tensor)}
    for seed in range(2):
        assert_same(decoder("gpt2", 1), count, seed=seed, **{**options, **cut})


def test_scores_and_logits_of_each_step() -> None:
    options: dict[str, Any] = {"output_scores": True, "output_logits": True, "repetition_penalty": 1.4}
    options["max_new_tokens"] = 12
    plain = write(decoder("bart"), 3, **options)
    drafter = Oracle(plain.sequences, 0)
    ours = write(decoder("bart"), 3, drafter=drafter, **options)
    for name in ("scores", "logits"):
        assert len(getattr(ours, name)) == 12
        for a, b in zip(getattr(ours, name), getattr(plain, name), strict=True):
            assert torch.allclose(a, b, atol=1e-3)


UNPADDED = {"stopping_criteria": [lambda ids, scores: ids.sum(1) > 200]}
RECORDED = ("decoder_hidden_states", "decoder_attentions", "cross_attentions")


@pytest.mark.parametrize("family", ["gpt2", "bert", "roberta", "trocr", "whole"])
@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize(
    "options", [{}, ENDS, {**ENDS, "prompt": PROMPT, "mask": MASK}, {"prompt": PROMPT, "fields": UNPADDED}]
)
def test_inner_states_are_those_of_plain_search(family: str, use_cache: bool, options: dict[str, Any]) -> None:
    """For each token of each row, and zeros behind its end where rows are padded."""
    if family == "whole" and "mask" in options:
        pytest.skip("takes no mask")
    made = decoder(family, 1)
    options = {**options, "max_new_tokens": 20, "output_attentions": True, "output_hidden_states": True}
    plain = recorded(made, None, use_cache=use_cache, **options)
    for seed in range(2):
        oracle = Oracle(plain.sequences, seed, wrong=0.4)
        ours = recorded(made, oracle, use_cache=use_cache, **options)
        assert ours.sequences.tolist() == plain.sequences.tolist()
        assert oracle.right
        for name in RECORDED:
            assert len(ours[name]) == len(plain[name]) == max(plain.lengths)
            for step, (mine, other) in enumerate(zip(ours[name], plain[name], strict=True)):
                for a, b in zip(mine, other, strict=True):
                    assert a.shape == b.shape, (name, step)
                    for row, length in enumerate(plain.lengths):
                        written = step < length or "fields" in options
                        expected = b[row] if written else torch.zeros_like(b[row])
                        assert torch.allclose(a[row], expected, atol=2e-3), (name, step, row)


def recorded(made: Any, drafter: Any, **options: Any) -> Any:
    """The output of a search over four images, with what its state recorded."""
    state, request = state_and_request(made, 4, **options)
    out = search(state, replace(request, drafter=drafter))
    encoded = EncoderOutput(torch.empty(0))
    return with_inner_states(out, state, encoded, torch.arange(4), keeps_cache=False)


def test_sampling_draws_from_the_same_distribution() -> None:
    """Guesses change the order of draws, not the probability of a text: a chi-square test over pairs."""
    made, counts = decoder("gpt2", 2), []
    options: dict[str, Any] = {"do_sample": True, "top_k": 4, "max_new_tokens": 2, "num_return_sequences": 700}
    for seed, drafter in ((1, None), (2, Sure())):
        state, request = state_and_request(made, 1, **options)
        torch.manual_seed(seed)
        out = search(state, replace(request, drafter=drafter))
        pairs = out.sequences[:, 1] * VOCABULARY + out.sequences[:, 2]
        counts.append(torch.bincount(pairs, minlength=VOCABULARY**2).double())
    seen = torch.stack(counts)[:, (counts[0] + counts[1]) >= 10]
    expected = seen.sum(0) / 2
    chi = float(((seen - expected) ** 2 / expected).sum())
    freedom = seen.shape[1] - 1
    assert freedom >= 5
    assert chi < freedom + 4 * (2 * freedom) ** 0.5


class Sure:
    """Always guesses the same."""

    def guess(self, texts: Sequence[Sequence[int]], room: int) -> list[list[int]]:
        return [[11][:room] if text else [] for text in texts]

    def learn(self, guessed: Sequence[int], right: Sequence[int]) -> None:
        pass


def test_a_single_row_is_streamed_token_by_token() -> None:
    made = decoder("gpt2", 1)
    whole = write(made)
    state, request = state_and_request(made, prompt_lookup_num_tokens=5)
    tokens = stream(state, request)
    assert [int(token) for token in tokens] == whole.sequences[0, 1:].tolist()
    assert tokens.output is not None
    assert torch.equal(tokens.output.sequences, whole.sequences)
    with pytest.raises(UsageError, match="streamed"):
        stream(*state_and_request(made, 2, prompt_lookup_num_tokens=5))


def test_useless_logits_name_row_and_step() -> None:
    made = decoder("gpt2", 1)
    state, request = state_and_request(made, 2, prompt_lookup_num_tokens=5, max_new_tokens=9)
    call, seen = state.call, list[int]()

    def broken(*args: Any, **kwargs: Any) -> Tensor:
        logits = call(*args, **kwargs)
        seen.append(1)
        if len(seen) == 3:
            logits[1, 0, 5] = float("nan")
        return logits

    state.call = broken  # type: ignore[method-assign]
    with pytest.raises(NonFiniteError, match="row 1 hold NaN at step"):
        search(state, request)


@pytest.mark.parametrize("options", [{"num_beams": 2}, {"penalty_alpha": 0.6}])
def test_what_contradicts_guesses_is_refused(options: dict[str, Any]) -> None:
    config = GenerationConfig().with_options(**options)
    with pytest.raises(UsageError, match=f"{next(iter(options))}.*contradicts assistant_model"):
        check_assisted(dict(config), "assistant_model")
