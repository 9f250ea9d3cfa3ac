"""The same weights and the same options give the ids that transformers gives, token for token."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import torch

PROMPT = torch.tensor([[1, 5, 9], [1, 7, 3], [1, 30, 22], [1, 8, 8]])
PADDED = torch.tensor([[0, 0, 9], [0, 7, 3], [1, 30, 22], [1, 8, 8]])
MASK = torch.tensor([[0, 0, 1], [0, 1, 1], [1, 1, 1], [1, 1, 1]])
EOS = [2, 11, 17, 23, 31, 35]  # several, so that random rows end at different steps

GREEDY: list[dict[str, Any]] = [
    {"eos_token_id": None},
    {"eos_token_id": EOS, "pad_token_id": 0},
    {"eos_token_id": EOS[:2], "pad_token_id": 4},
    {"eos_token_id": EOS},
    {"eos_token_id": 11, "pad_token_id": 0},
    {"eos_token_id": EOS, "pad_token_id": 0, "min_length": 8},
    {"eos_token_id": EOS, "pad_token_id": 0, "min_new_tokens": 6},
    {"eos_token_id": EOS, "pad_token_id": 0, "repetition_penalty": 1.8},
    {"eos_token_id": EOS, "pad_token_id": 0, "no_repeat_ngram_size": 2},
    {"eos_token_id": EOS[:1], "pad_token_id": 0, "no_repeat_ngram_size": 1, "repetition_penalty": 0.7},
    {"eos_token_id": EOS, "pad_token_id": 0, "forced_eos_token_id": 2},
    {"eos_token_id": EOS[:1], "pad_token_id": 0, "forced_eos_token_id": [11, 5], "min_new_tokens": 12},
    {"eos_token_id": EOS, "pad_token_id": 0, "bad_words_ids": [[2], [11], [7], [9, 3], [3, 8], [1, 5, 9, 30]]},
    {"eos_token_id": EOS, "pad_token_id": 0, "suppress_tokens": [*range(3, 30), 31]},
    {"eos_token_id": EOS, "pad_token_id": 0, "begin_suppress_tokens": [*range(2, 36)]},
    {"eos_token_id": EOS, "pad_token_id": 0, "forced_bos_token_id": 6, "begin_suppress_tokens": [*range(2, 36)]},
]
BEAM: list[dict[str, Any]] = [
    {"length_penalty": 0.0},
    {"length_penalty": 2.5},
    {"length_penalty": -1.0},
    {"early_stopping": True},
    {"early_stopping": "never"},
    {"early_stopping": "never", "length_penalty": -0.5},
    {"early_stopping": True, "length_penalty": 0.3, "num_return_sequences": 2},
]


def _theirs(model: Any, options: dict[str, Any], **inputs: Any) -> Any:
    """Output of transformers; an eos of None must be set in its config, which would fill it in."""
    options = {k: v for k, v in options.items() if k != "seed"}
    return model.generate(
        **inputs, **{"pad_token_id": None, **options}, return_dict_in_generate=True, output_scores=True, max_length=None
    )


def _same(ours: Any, theirs: Any, options: dict[str, Any]) -> None:
    # where there are fewer texts than asked for and no end id, they fill with -1, which no tokenizer has
    assert ours.sequences.tolist() == theirs.sequences.clamp(min=0).tolist(), options
    if options.get("num_beams", 1) > 1:
        torch.testing.assert_close(ours.sequences_scores, theirs.sequences_scores, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("options", GREEDY, ids=str)
@pytest.mark.parametrize("padded", [False, True], ids=["prompt", "padded"])
def test_greedy(gpt2: Any, gpt2_state: Any, run: Any, options: dict[str, Any], padded: bool) -> None:
    prompt, mask = (PADDED, MASK) if padded else (PROMPT, None)
    options = {**options, "max_new_tokens": 14}
    state = gpt2_state(gpt2, mask)
    ours = run(state, prompt, mask=mask, **options)
    theirs = _theirs(gpt2, options, input_ids=prompt, attention_mask=MASK if padded else torch.ones_like(prompt))
    _same(ours, theirs, options)
    assert state.reordered == 0


@pytest.mark.parametrize("beams", [2, 3, 4, 5])
@pytest.mark.parametrize("options", [*GREEDY, *({**GREEDY[1], **extra} for extra in BEAM)], ids=str)
def test_beams(gpt2: Any, gpt2_state: Any, run: Any, options: dict[str, Any], beams: int) -> None:
    options = {**options, "max_new_tokens": 12, "num_beams": beams}
    ours = run(gpt2_state(gpt2), PROMPT, **options)
    theirs = _theirs(gpt2, options, input_ids=PROMPT, attention_mask=torch.ones_like(PROMPT))
    _same(ours, theirs, options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.6},
        {"temperature": 3.0, "top_k": 0},
        {"top_k": 5},
        {"top_p": 0.8, "temperature": 2.0},
        {"top_p": 0.0},
        {"top_k": 7, "top_p": 0.9, "temperature": 1.5, "repetition_penalty": 1.3},
        {"temperature": 2.0, "num_return_sequences": 3},
        {"temperature": 2.0, "num_beams": 3},
        {"temperature": 2.0, "num_beams": 4, "num_return_sequences": 2, "top_k": 6, "early_stopping": True},
        {"temperature": 2.0, "num_beams": 2, "top_p": 0.7},
        {"temperature": 2.0, "forced_eos_token_id": [5, 11, 17], "suppress_tokens": [*range(6, 20)], "top_p": 0.9},
        {"temperature": 2.0, "num_beams": 3, "begin_suppress_tokens": [*range(20)], "bad_words_ids": [[22], [30, 31]]},
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", range(3))
def test_sampling(gpt2: Any, gpt2_state: Any, run: Any, options: dict[str, Any], seed: int) -> None:
    options = {**options, "do_sample": True, "max_new_tokens": 12, "eos_token_id": EOS, "pad_token_id": 4}
    ours = run(gpt2_state(gpt2), PROMPT, seed=seed, **options)
    torch.manual_seed(seed)
    globally = run(gpt2_state(gpt2), PROMPT, **options)
    torch.manual_seed(seed)
    theirs = _theirs(gpt2, options, input_ids=PROMPT, attention_mask=torch.ones_like(PROMPT))
    _same(ours, theirs, options)
    _same(globally, theirs, options)


def _random_options(seed: int) -> dict[str, Any]:
    draw = random.Random(seed)
    options: dict[str, Any] = {
        "max_new_tokens": draw.choice([1, 2, 7, 15]),
        "eos_token_id": draw.choice([None, 2, EOS[:2], EOS]),
        "pad_token_id": draw.choice([0, 4]),
        "num_beams": draw.choice([1, 2, 3, 4, 5]),
        "repetition_penalty": draw.choice([1.0, 1.0, 1.2, 2.0]),
        "no_repeat_ngram_size": draw.choice([0, 0, 1, 2, 3]),
        draw.choice(["min_length", "min_new_tokens"]): draw.choice([0, 1]),
        "use_cache": draw.choice([True, False]),
        "forced_bos_token_id": draw.choice([None, None, 5, 0]),
        "forced_eos_token_id": draw.choice([None, None, 2, 7, [9, 4]]),
        "bad_words_ids": draw.choice([None, [[draw.randrange(40) for _ in range(n)] for n in (1, 1, 2, 2, 2, 3, 9)]]),
        "suppress_tokens": draw.choice([None, draw.sample(range(10, 40), 9)]),
        "begin_suppress_tokens": draw.choice([None, draw.sample(range(10, 40), 15)]),
    }
    if options["num_beams"] > 1:
        options["early_stopping"] = draw.choice([False, True, "never"])
        options["length_penalty"] = draw.choice([-1.0, 0.0, 0.6, 1.0, 2.0])
        options["num_return_sequences"] = draw.randint(1, options["num_beams"])
    return options


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("kind", ["gpt2", "bart", "vit_bert"])
def test_random_combinations(
    kind: str, seed: int, gpt2_state: Any, encoder_decoder_state: Any, run: Any, request: pytest.FixtureRequest
) -> None:
    model, options = request.getfixturevalue(kind), _random_options(seed)
    generator = torch.Generator().manual_seed(seed)
    if kind == "gpt2":
        prompt, mask = (PADDED, MASK) if seed % 2 else (PROMPT, torch.ones_like(PROMPT))
        state = gpt2_state(model, mask, options["use_cache"])
        theirs = _theirs(model, options, input_ids=prompt, attention_mask=mask)
        _same(run(state, prompt, mask=mask, **options), theirs, options)
        return
    if kind == "bart":
        source = torch.randint(3, 40, (3, 6), generator=generator)
        inputs, states = {"input_ids": source}, model.get_encoder()(source).last_hidden_state
    else:
        pixels = torch.randn(3, 3, 16, 16, generator=generator)
        inputs, states = {"pixel_values": pixels}, model.encoder(pixels).last_hidden_state
    prompt = torch.tensor([[2, 6, 9]] * 3 if seed % 3 == 0 else [[2]] * 3)
    theirs = _theirs(model, options, **inputs, decoder_input_ids=prompt, decoder_start_token_id=2)
    _same(run(encoder_decoder_state(model, states), prompt, **options), theirs, options)


@pytest.mark.parametrize("options", [{}, {"num_beams": 4, "num_return_sequences": 2}], ids=str)
def test_cache_and_batch_change_nothing(gpt2: Any, gpt2_state: Any, run: Any, options: dict[str, Any]) -> None:
    options = {**options, "eos_token_id": EOS, "pad_token_id": 4, "max_new_tokens": 12}
    together = run(gpt2_state(gpt2), PROMPT, **options)
    anew = run(gpt2_state(gpt2, use_cache=False), PROMPT, **options)
    assert together.sequences.tolist() == anew.sequences.tolist()
    count = options.get("num_return_sequences", 1)
    for i, row in itertools.product(range(len(PROMPT)), range(count)):
        alone = run(gpt2_state(gpt2), PROMPT[i : i + 1], **options)
        length = alone.sequences.shape[1]
        assert together.sequences[i * count + row, :length].tolist() == alone.sequences[row].tolist()
        torch.testing.assert_close(
            together.token_logprobs[i * count + row, : length - 3], alone.token_logprobs[row], atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 4, "num_return_sequences": 3},
        {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "num_beams": 3},
        {"do_sample": True, "temperature": 0.7, "seed": 1},
        {"do_sample": True, "num_beams": 3, "temperature": 0.7, "seed": 1},
    ],
    ids=str,
)
def test_token_logprobs_are_those_of_the_model(gpt2: Any, gpt2_state: Any, run: Any, options: dict[str, Any]) -> None:
    out = run(gpt2_state(gpt2), PROMPT, **options, eos_token_id=EOS, pad_token_id=4, max_new_tokens=10)
    with torch.no_grad():
        full = gpt2(out.sequences[:, :-1]).logits.log_softmax(-1)[:, 2:]  # from the last token of the prompt on
    new = out.sequences[:, 3:]
    expected = full.gather(2, new[:, :, None])[:, :, 0]
    ended = torch.isin(new, torch.tensor(EOS)).int().cumsum(1).cumsum(1) > 1  # past the first end
    torch.testing.assert_close(out.token_logprobs, expected.masked_fill(ended, 0.0), atol=1e-4, rtol=1e-4)
    reasons = ["eos" if row else "length" for row in torch.isin(new, torch.tensor(EOS)).any(1).tolist()]
    assert list(out.finish_reasons) == reasons


def test_rows_end_at_different_steps(gpt2: Any, gpt2_state: Any, run: Any) -> None:
    """Otherwise the comparisons above would prove little."""
    out = run(gpt2_state(gpt2), PROMPT, eos_token_id=EOS, pad_token_id=4, max_new_tokens=8)
    lengths = (out.token_logprobs != 0).sum(1).tolist()
    assert len(set(lengths)) > 1
    assert set(out.finish_reasons) == {"eos", "length"}
