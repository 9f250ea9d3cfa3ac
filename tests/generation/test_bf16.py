"""Decoders in bfloat16, with plain and with packed weights: the same text whatever way it is computed.

Sums in another order round otherwise, so ids are compared up to the first step at which two tokens are nearly as good,
by how far bfloat16 is from float32.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.generation.tiny import FAMILIES, decoder, image_mask, images, state_and_request
from vedcore.generation.search import search
from vedcore.layers.linear import pack
from vedcore.outputs import GenerateOutput
from vedcore.text_decoder import TextDecoder

NAMES = [name for name in FAMILIES if name != "whole"]
THEIRS = ["bert", "roberta", "gpt2", "bart", "mbart", "trocr"]  # it has no DistilBERT, and its sinusoids stay float32
PROMPT = torch.tensor([[1, 1, 3], [5, 6, 5], [1, 9, 7], [8, 8, 8]])
MASK = torch.tensor([[0, 0, 1], [1, 1, 1], [0, 1, 1], [1, 1, 1]])
PADDED: dict[str, Any] = {"prompt": PROMPT, "mask": MASK}
SCALE = 0.15
"""Spread of the weights; with more, some of these decoders amplify a rounding to the size of the logits."""


@functools.cache
def half(family: str, packed: bool) -> TextDecoder:
    made = copy.deepcopy(decoder(family, 0, SCALE)).bfloat16()
    if packed:
        pack(made)
    return made


@functools.cache
def noise(family: str) -> float:
    """Root mean square of the difference between logits in bfloat16 and float32."""
    exact, made = decoder(family, 0, SCALE), half(family, False)
    ids, shown = torch.arange(32).reshape(4, 8), {"encoder_attention_mask": image_mask(4)}
    with torch.inference_mode():
        due = exact(ids, encoder_hidden_states=images(4), **shown).logits
        ours = made(ids, encoder_hidden_states=images(4).bfloat16(), **shown).logits
    found = rms(ours - due)
    assert 0 < found < 0.03 * due.std()
    return found


def rms(numbers: Tensor) -> float:
    return numbers.float().square().mean().sqrt().item()


class Told:
    """Guesses the next two tokens of known texts."""

    def __init__(self, texts: list[list[int]]) -> None:
        self.texts, self.right = texts, 0

    def guess(self, texts: Sequence[Sequence[int]], room: int) -> list[list[int]]:
        return [
            whole[len(text) :][: min(room, 2)] if text else [] for text, whole in zip(texts, self.texts, strict=True)
        ]

    def learn(self, guessed: Sequence[int], right: Sequence[int]) -> None:
        self.right += sum(right)


def write(made: TextDecoder, drafter: Any = None, **options: Any) -> GenerateOutput:
    """Output for four images in bfloat16."""
    state, request = state_and_request(made, 4, **options)
    state.states = images(4).bfloat16()
    return search(state, replace(request, drafter=drafter))


def firm(logits: tuple[Tensor, ...], near: float) -> list[int]:
    """For each row, the steps before the first close decision between the two best tokens."""
    best, second = torch.stack(logits, 1).topk(2).values.unbind(-1)
    return (best - second > near).int().cumprod(1).sum(1).tolist()


def assert_same(ours: Any, other: Any, off: float, width: int = 1) -> None:
    """The ids are those of ``other``, up to decisions closer than ``off``, after ``width`` tokens."""
    counts = firm(other.logits, 4 * off)
    assert sum(counts) >= 0.2 * len(counts) * len(other.logits), "too little is compared"
    for mine, theirs, count in zip(ours.sequences.tolist(), other.sequences.tolist(), counts, strict=True):
        assert mine[: width + count] == theirs[: width + count]


@pytest.fixture(params=[False, True], ids=["plain", "packed"])
def packed(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.mark.parametrize("options", [{}, PADDED], ids=["alone", "padded"])
@pytest.mark.parametrize("family", NAMES)
def test_cache_and_guesses_change_nothing(family: str, packed: bool, options: dict[str, Any]) -> None:
    made = half(family, packed)
    options = {**options, "max_new_tokens": 8}
    width = PROMPT.shape[1] if "prompt" in options else 1
    anew = write(made, **options, use_cache=False, output_logits=True)
    cached = write(made, **options, output_logits=True)
    assert_same(cached, anew, noise(family), width)
    assert torch.equal(write(made, **options).sequences, cached.sequences)
    looked_up = {"prompt_lookup_num_tokens": 3, "max_matching_ngram_size": 1}
    assert_same(write(made, **options, **looked_up), anew, noise(family), width)
    told = Told(cached.sequences.tolist())
    assert_same(write(made, **options, drafter=told), anew, noise(family), width)
    assert told.right


@pytest.mark.parametrize("family", NAMES)
def test_packed_is_plain(family: str) -> None:
    options = {"max_new_tokens": 8, "output_logits": True}
    assert_same(write(half(family, True), **options), write(half(family, False), **options), noise(family))


@pytest.mark.parametrize("family", NAMES)
def test_beams(family: str, packed: bool) -> None:
    """Beams have the scores that their texts have, and the cache makes them no worse."""
    made: TextDecoder = half(family, packed)
    options: dict[str, Any] = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 6}
    options["suppress_tokens"] = [1]  # TrOCR's sinusoids have no position for a pad of the prompt
    cached, anew = write(made, **options), write(made, **options, use_cache=False)
    assert cached.sequences_scores is not None
    assert anew.sequences_scores is not None
    assert torch.allclose(cached.sequences_scores[::3], anew.sequences_scores[::3], atol=4 * noise(family))
    assert (cached.sequences_scores.reshape(4, 3).diff(dim=1) <= 0).all()
    states, shown = (t.repeat_interleave(3, 0) for t in (images(4).bfloat16(), image_mask(4)))
    with torch.inference_mode():
        logits = made(cached.sequences[:, :-1], encoder_hidden_states=states, encoder_attention_mask=shown).logits
    told = logits.float().log_softmax(-1).gather(2, cached.sequences[:, 1:, None])[..., 0]
    torch.testing.assert_close(told, cached.token_logprobs, atol=8 * noise(family), rtol=0)
    torch.testing.assert_close(told.mean(1), cached.sequences_scores, atol=4 * noise(family), rtol=0)


@pytest.mark.parametrize("family", NAMES)
def test_everything_is_bfloat16(family: str, packed: bool) -> None:
    """The output of every layer, the cache and the logits, at the first step and at later ones."""
    made = half(family, packed)
    state, _ = state_and_request(made, 4, prompt=PROMPT, mask=MASK, output_hidden_states=True)
    state.states = images(4).bfloat16()
    seen: dict[str, set[torch.dtype]] = {}

    def look(name: str, out: Any) -> None:
        tensors = out if isinstance(out, tuple) else (out,)
        kinds = {t.dtype for t in tensors if isinstance(t, Tensor) and t.is_floating_point()}
        seen.setdefault(name, set()).update(kinds)

    hooks = [
        module.register_forward_hook(lambda _, __, out, name=name: look(name, out))
        for name, module in made.named_modules()
    ]
    try:
        with torch.inference_mode():
            logits = [state.prefill(PROMPT), state.step(torch.full((4, 1), 5), None)]
            logits.append(state.step(torch.full((4, 1), 6), torch.tensor([1, 0, 2, 2])))
    finally:
        for hook in hooks:
            hook.remove()
    assert {t.dtype for t in logits} == {torch.bfloat16}
    assert {t.dtype for call in state.hidden_states for t in call} == {torch.bfloat16}
    assert {name for name, kinds in seen.items() if kinds - {torch.bfloat16}} == set()
    assert sum(bool(kinds) for kinds in seen.values()) > 8
    held = list(tensors_in(state.cache))
    assert len(held) >= 4
    assert {t.dtype for t in held if t.is_floating_point()} == {torch.bfloat16}


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors that an object holds."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from tensors_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from tensors_in(inner)
    elif type(value).__module__.startswith("vedcore"):
        slots = [getattr(value, name, None) for name in getattr(type(value), "__slots__", ())]
        yield from tensors_in([*slots, *vars(value).values()] if hasattr(value, "__dict__") else slots)


@pytest.mark.parametrize("family", THEIRS)
def test_text_is_that_of_transformers(pair: Any, family: str) -> None:
    """Both round as much against float32, and write the same text while no decision is as close as that."""
    whole = pair(family)
    exact, due = (copy.deepcopy(model) for model in (whole.ours, whole.theirs))
    with torch.no_grad():
        for parameter in (*exact.parameters(), *due.parameters()):
            parameter.mul_(SCALE / 0.4 if parameter.ndim > 1 else 1.0)
    ours = copy.deepcopy(exact).optimize_for_inference("bfloat16")
    theirs = due.bfloat16()
    pixels, ids = whole.pixels.bfloat16(), torch.arange(32).reshape(4, 8)
    with torch.inference_mode():
        right = exact(whole.pixels, decoder_input_ids=ids).logits
        mine, other = (model(pixels, decoder_input_ids=ids).logits for model in (ours, theirs))
    assert mine.dtype == other.dtype == torch.bfloat16
    off = rms(other - right)
    assert rms(mine - right) < 1.5 * off
    options: dict[str, Any] = {"max_new_tokens": 8, "output_logits": True, "return_dict_in_generate": True}
    with torch.inference_mode():
        written = theirs.generate(pixels, **options, pad_token_id=None, max_length=None)
    assert_same(ours.generate(pixels, **options), written, off)
