"""Whole models of every family, written by transformers: the same ids from both, whatever the options."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor

from vedcore.config import token_id_tuple
from vedcore.errors import NonFiniteError, UsageError

PLAIN = ["bert", "roberta", "gpt2", "bart", "mbart", "trocr", "trocr-sinusoid"]
EOS = [*range(4, 98, 7)]  # many, so that rows end at different steps
ENDS: dict[str, Any] = {"eos_token_id": EOS, "pad_token_id": 2}
PROMPT = torch.tensor([[0, 40, 51], [0, 7, 8], [0, 90, 3], [0, 22, 22]])


class Bias:
    """A user's logits processor."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.clone()
        scores[:, self.step :: 5] += 2.0
        return scores - input_ids[:, -1:] % 3


class Counts:
    """A user's stopping criterion: a row is done once its ids sum up to ``most``."""

    def __init__(self, most: int) -> None:
        self.most = most

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        assert scores is None or isinstance(scores, tuple)
        return input_ids.sum(1) > self.most


def allowed(row: int, ids: Tensor) -> list[int]:
    return [*range(3 + row, 98, 2 + (int(ids[-1]) + len(ids)) % 4)]


ALONE: list[dict[str, Any]] = [
    {},
    {"eos_token_id": None},
    {"eos_token_id": EOS[3]},
    {"max_length": 5, "max_new_tokens": None},
    {"min_length": 6},
    {"min_new_tokens": 6},
    {"repetition_penalty": 1.7},
    {"no_repeat_ngram_size": 2},
    {"bad_words_ids": [[9], [12, 30], [40, 41], [77], [0, 50]]},
    {"sequence_bias": [[[30], 4.0], [[31], -5.0], [[40, 41], 6.0], [[0, 17], 9.0]]},
    {"suppress_tokens": [*range(10, 60, 3)]},
    {"begin_suppress_tokens": [*range(3, 60)]},
    {"forced_bos_token_id": 20},
    {"forced_eos_token_id": 4},
    {"exponential_decay_length_penalty": (2, 1.7)},
    {"remove_invalid_values": True},
    {"renormalize_logits": True, "output_scores": True},
    {"decoder_start_token_id": 33},
    {"decoder_start_token_id": [33, 0, 7, 60]},
    {"decoder_input_ids": PROMPT},
    {"use_cache": False},
    {"prefix_allowed_tokens_fn": allowed},
    {"logits_processor": [Bias(1), Bias(2)]},
    {"stopping_criteria": [Counts(300), Counts(400)]},
    {"stopping_criteria": [Counts(200)], "eos_token_id": None},
    {"max_time": 60.0},
    {"output_scores": True, "output_logits": True},
]
BEAMS: list[dict[str, Any]] = [
    {"num_return_sequences": 3},
    {"length_penalty": 0.0, "early_stopping": True},
    {"length_penalty": -1.0, "early_stopping": "never"},
    {"length_penalty": 2.0, "early_stopping": "never", "num_return_sequences": 2},
]


def _both(pair: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    """Rows of ids, and scores where there are any, of vedcore and of transformers."""
    theirs = {**options, "output_scores": True}  # without it they do not tell the scores of beams either
    if "logits_processor" in theirs:
        theirs["logits_processor"] = hf.LogitsProcessorList(theirs["logits_processor"])
    if "stopping_criteria" in theirs:
        theirs["stopping_criteria"] = hf.StoppingCriteriaList(theirs["stopping_criteria"])
    return pair.generate(options, theirs)


def _assert_same(pair: Any, options: dict[str, Any]) -> Any:
    ours, theirs = _both(pair, options)
    assert ours.sequences.shape == theirs.sequences.shape, options
    known = torch.where(theirs.sequences < 0, ours.sequences, theirs.sequences)  # they fill with -1 without end ids
    assert ours.sequences.tolist() == known.tolist(), options
    if options.get("num_beams", 1) > 1:
        torch.testing.assert_close(ours.sequences_scores, theirs.sequences_scores, atol=1e-4, rtol=1e-4)
    for name in ("scores", "logits"):
        if options.get(f"output_{name}"):
            for mine, other in zip(ours[name], theirs[name], strict=True):
                torch.testing.assert_close(mine, other, atol=1e-3, rtol=1e-3)
    return ours


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("family", PLAIN)
def test_each_option_alone(pair: Any, family: str, beams: int) -> None:
    reasons = set()
    for extra in [*ALONE, *(BEAMS if beams > 1 else [])]:
        out = _assert_same(pair(family), {**ENDS, "max_new_tokens": 9, "num_beams": beams, **extra})
        reasons.update(out.finish_reasons)
    assert {"eos", "length", "criteria"} <= reasons


def _stop_strings(pair: Any, draw: random.Random) -> list[str]:
    """Strings that occur in its texts."""
    ids = pair.ours.generate(pair.pixels, max_new_tokens=9)
    texts = [pair.ours.processor.decode(row) for row in ids]
    cut = [text[at : at + draw.randint(1, 3)] for text in texts if text for at in [draw.randrange(len(text))]]
    return draw.sample(cut, min(2, len(cut))) or ["a"]


def _random_options(pair: Any, seed: int) -> dict[str, Any]:
    draw = random.Random(seed)
    beams = draw.choice([1, 1, 2, 3, 4, 5])
    options: dict[str, Any] = {
        "max_new_tokens": draw.choice([1, 2, 7, 12]),
        "eos_token_id": draw.choice([None, EOS[2], EOS[:5], EOS, EOS]),
        "pad_token_id": draw.choice([2, 4]),
        "num_beams": beams,
    }
    some: dict[str, Any] = {
        "min_length": 4,
        "repetition_penalty": draw.choice([0.8, 1.3, 2.0]),
        "no_repeat_ngram_size": draw.choice([1, 2, 3]),
        "bad_words_ids": [[draw.randrange(98) for _ in range(n)] for n in (1, 1, 1, 2, 2, 2, 3, 9)],
        "sequence_bias": [[[draw.randrange(98) for _ in range(n)], draw.uniform(-6, 6)] for n in (1, 1, 2, 2, 3)],
        "suppress_tokens": draw.sample(range(10, 98), 25),
        "begin_suppress_tokens": draw.sample(range(10, 98), 40),
        "forced_bos_token_id": draw.randrange(98),
        "forced_eos_token_id": draw.choice([4, 60, [11, 80]]),
        "remove_invalid_values": True,
        "renormalize_logits": True,
        "decoder_start_token_id": draw.choice([5, [9, 5, 5, 30]]),
        "use_cache": False,
        "prefix_allowed_tokens_fn": allowed,
        "logits_processor": [Bias(draw.randrange(5))],
        "stopping_criteria": [Counts(draw.randrange(100, 500))],
        "stop_strings": _stop_strings(pair, draw),
    }
    if options["eos_token_id"] is not None:
        some["exponential_decay_length_penalty"] = (draw.randrange(4), draw.uniform(1.01, 2.0))
    options |= {name: some[name] for name in draw.sample(sorted(some), draw.randint(2, 6))}
    if draw.random() < 0.3 and "decoder_start_token_id" not in options:
        options["decoder_input_ids"] = PROMPT
    for forced in ("forced_bos_token_id", "forced_eos_token_id"):  # ours refuse what theirs pass over
        ids = token_id_tuple(options.get(forced))
        if ids and set(ids) <= set(options.get("suppress_tokens", ())):
            del options[forced]
    if options.get("min_length", 0) > options["max_new_tokens"]:
        del options["min_length"]
    if beams > 1:
        options["early_stopping"] = draw.choice([False, True, "never"])
        options["length_penalty"] = draw.choice([-1.0, 0.0, 0.6, 1.0, 2.0])
        options["num_return_sequences"] = draw.randint(1, beams)
    return options


@pytest.mark.parametrize("family", PLAIN)
def test_random_combinations(pair: Any, family: str) -> None:
    reasons = set()
    for seed in range(30):
        model = pair(family, seed % 3)
        reasons.update(_assert_same(model, _random_options(model, seed + 1000 * PLAIN.index(family))).finish_reasons)
    assert {"eos", "length", "stop_string"} <= reasons


@pytest.mark.parametrize("family", PLAIN)
def test_sampling_under_one_seed(pair: Any, family: str) -> None:
    for seed, options in enumerate(
        (
            {},
            {"temperature": 0.7},
            {"top_k": 7},
            {"top_p": 0.8, "top_k": 0},
            {"min_p": 0.05},
            {"typical_p": 0.8},
            {"epsilon_cutoff": 0.01},
            {"eta_cutoff": 0.01},
            {"num_return_sequences": 3},
            {"num_beams": 3},
            {"num_beams": 4, "num_return_sequences": 2, "top_p": 0.9, "repetition_penalty": 1.3},
        )
    ):
        options = {**ENDS, "max_new_tokens": 9, "do_sample": True, "output_scores": True, **options}
        model = pair(family)
        torch.manual_seed(seed)
        with torch.no_grad():
            theirs = model.theirs.generate(model.pixels, **options)
        assert model.ours.generate(model.pixels, **options, seed=seed).tolist() == theirs.tolist(), options


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"decoder_input_ids": PROMPT},
        {"num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "num_return_sequences": 2, "seed": 0},
        {"use_cache": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("family", PLAIN)
def test_inner_states(pair: Any, family: str, options: dict[str, Any]) -> None:
    options = {**ENDS, "max_new_tokens": 6, **options}
    told = {k: v for k, v in options.items() if k != "seed"}
    torch.manual_seed(0)
    recorded = {"output_attentions": True, "output_hidden_states": True, "output_scores": True, "output_logits": True}
    ours, theirs = pair(family).generate({**options, **recorded}, {**told, **recorded})
    assert ours.sequences.tolist() == theirs.sequences.tolist()
    for name in ("encoder_attentions", "encoder_hidden_states"):
        _assert_close(ours[name], theirs[name], name)
    for name in ("decoder_attentions", "cross_attentions", "decoder_hidden_states", "scores", "logits"):
        _assert_close(ours[name], theirs[name], name)
    if options.get("num_beams", 1) > 1:
        assert ours.beam_indices.tolist() == theirs.beam_indices.tolist()


def _assert_close(ours: Any, theirs: Any, name: str) -> None:
    if isinstance(theirs, tuple):
        assert isinstance(ours, tuple)
        assert len(ours) == len(theirs), name
        for i, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            _assert_close(mine, other, f"{name}[{i}]")
        return
    assert ours.shape == theirs.shape, name
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3, msg=lambda text: f"{name}: {text}")


@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "num_return_sequences": 2}, {"num_beams": 2}], ids=str)
@pytest.mark.parametrize("family", PLAIN)
def test_cache_and_batch_change_nothing(pair: Any, family: str, options: dict[str, Any]) -> None:
    model, pixels = pair(family).ours, pair(family).pixels
    options = {**ENDS, "max_new_tokens": 9, **options, "return_dict_in_generate": True}
    together = model.generate(pixels, **options)
    anew = model.generate(pixels, **options, use_cache=False)
    assert together.sequences.tolist() == anew.sequences.tolist()
    assert together.lengths == anew.lengths
    torch.testing.assert_close(together.token_logprobs, anew.token_logprobs, atol=1e-4, rtol=1e-4)
    copies = options.get("num_return_sequences", 1)
    for i in range(len(pixels)):
        alone = model.generate(pixels[i : i + 1], **options)
        length = alone.sequences.shape[1]
        for row in range(copies):
            here = i * copies + row
            assert together.lengths[here] == alone.lengths[row]
            assert together.sequences[here, :length].tolist() == alone.sequences[row].tolist()
            torch.testing.assert_close(
                together.token_logprobs[here, : length - 1], alone.token_logprobs[row], atol=1e-4, rtol=1e-4
            )


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("family", PLAIN)
def test_padded_prompts_are_as_alone(pair: Any, family: str, beams: int) -> None:
    """A padded row has the positions that it has alone; in transformers they differ."""
    model = pair(family)
    rows = [[0, 40, 51], [0, 7], [0], [0, 22, 22]]
    padded = torch.tensor([[2] * (3 - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (3 - len(row)) + [1] * len(row) for row in rows])
    options = {**ENDS, "max_new_tokens": 9, "num_beams": beams}
    for use_cache in (True, False):
        for kind in (torch.long, torch.bool):
            together = model.ours.generate(
                model.pixels,
                decoder_input_ids=padded,
                decoder_attention_mask=mask.to(kind),
                use_cache=use_cache,
                **options,
            )
            for i, row in enumerate(rows):
                with torch.no_grad():
                    alone = model.theirs.generate(
                        model.pixels[i : i + 1], decoder_input_ids=torch.tensor([row]), **options
                    )
                new = alone[0, len(row) :].tolist()
                assert together[i, 3 : 3 + len(new)].tolist() == new


def test_prompts_that_cannot_be_used(pair: Any) -> None:
    model, pixels = pair("bart").ours, pair("bart").pixels
    for ids in (torch.zeros(4), torch.zeros(4, 2), torch.ones(4, 1, dtype=torch.bool), torch.zeros(4, 0).long(), [[0]]):
        with pytest.raises(UsageError, match="decoder_input_ids"):
            model.generate(pixels, decoder_input_ids=ids, max_new_tokens=2)
    with pytest.raises(UsageError, match="3 prompts for 4 images"):
        model.generate(pixels, decoder_input_ids=PROMPT[:3], max_new_tokens=2)
    for mask in ([[1, 1, 0]] * 4, [[1, 1]] * 4):
        with pytest.raises(UsageError, match="decoder_attention_mask"):
            model.generate(
                pixels, decoder_input_ids=PROMPT, decoder_attention_mask=torch.tensor(mask), max_new_tokens=2
            )
    with pytest.raises(UsageError, match="decoder_start_token_id: 2 ids for 4 images"):
        model.generate(pixels, decoder_start_token_id=[1, 2], max_new_tokens=2)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 3},
        {"do_sample": True, "top_k": 0},
        {"do_sample": True, "num_beams": 2},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0},
        {"num_beams": 3, "force_words_ids": [[5]]},
        {"penalty_alpha": 0.6, "top_k": 4},
        {"prompt_lookup_num_tokens": 3},
    ],
    ids=str,
)
def test_scores_that_processors_make_nan(pair: Any, options: dict[str, Any]) -> None:
    def spoil(input_ids: Tensor, scores: Tensor) -> Tensor:
        scores[:, 3] = torch.nan if input_ids.shape[1] > 2 else 0.0
        return scores

    model = pair("bart")
    with pytest.raises(NonFiniteError, match="NaN after the processors at step 2"):
        model.ours.generate(model.pixels, max_new_tokens=6, logits_processor=spoil, **options)


@pytest.mark.parametrize("more", [{}, {"num_beam_groups": 2, "diversity_penalty": 1.0}], ids=str)
def test_scores_that_are_all_nan_are_no_text(pair: Any, more: dict[str, Any]) -> None:
    """Infinite scores are set to the greatest number, become infinite again, and NaN once normalised."""
    options = {
        "remove_invalid_values": True,
        "renormalize_logits": True,
        "exponential_decay_length_penalty": (0, 1.8),
        "min_length": 4,
        "num_beams": 2,
        "max_new_tokens": 12,
        "eos_token_id": EOS,
    }
    model = pair("bart")
    with pytest.raises(NonFiniteError, match="NaN after the processors at step [123]"):
        model.ours.generate(model.pixels, **options, **more)


def test_texts_that_must_lose_tie_as_in_transformers(pair: Any) -> None:
    """A criterion may end all candidates of a prompt; its later scores and logits are the same too."""
    told = {"output_scores": True, "output_logits": True, "early_stopping": "never", "max_new_tokens": 12}
    for seed, most in enumerate((150, 220, 300, 380)):
        for beams in (2, 4):
            _assert_same(
                pair("bart", seed % 3), {**ENDS, **told, "num_beams": beams, "stopping_criteria": [Counts(most)]}
            )
