"""Forced words against a plain reference, and what every text must hold."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vedcore.errors import GenerationError, UsageError
from vedcore.generation.search.beams.forced_words import Progress

VOCAB = 14
EOS = (2, 5)
PROMPT = torch.tensor([[1], [7]])
Words = list[list[list[int]]]


def _holds(text: list[int], run: list[int]) -> bool:
    return any(text[i : i + len(run)] == run for i in range(len(text)))


def _said(text: list[int], run: list[int]) -> int:
    """Number of tokens at the end of the text that begin the run; all of them if the text ends with it."""
    return max(n for n in range(len(run) + 1) if n <= len(text) and text[len(text) - n :] == run[:n])


def _state(text: list[int], words: Words) -> tuple[Words, list[list[int]] | None, list[int]]:
    """Words not begun, the begun word, and its tokens so far."""
    waiting, begun, said = list(words), None, list[int]()
    for token in text:
        if begun is not None:
            said = [*said, token]
            most = max(_said(said, run) for run in begun)
            if any(_said(said, run) == len(run) for run in begun):
                begun, said = None, []
                continue
            if most:
                said = said[-most:]
                continue
            waiting, begun, said = [*waiting, begun], None, []
        for word in waiting:
            if any(run[0] == token for run in word):
                waiting = [w for w in waiting if w is not word]
                begun, said = (None, []) if [token] in word else (word, [token])
                break
    return waiting, begun, said


def _need(text: list[int], words: Words) -> int:
    waiting, begun, said = _state(text, words)
    rest = min(len(run) - _said(said, run) for run in begun) if begun else 0
    return rest + sum(min(map(len, word)) for word in waiting)


def _nearer(text: list[int], words: Words) -> set[int]:
    """Tokens to try besides the best ones."""
    waiting, begun, said = _state(text, words)
    if begun is None:
        return {run[0] for word in waiting for run in word}
    on = [run for run in begun if run[: len(said)] == said]
    least = min(len(run) for run in on) - len(said)
    return {run[len(said)] for run in on} | {
        run[_said(said, run)] for run in begun if len(run) - _said(said, run) < least
    }


def _bank(text: list[int], words: Words) -> int:
    waiting, begun, said = _state(text, words)
    longest = max(len(run) for word in words for run in word)
    done = len(words) - len(waiting) - (begun is not None)
    return done * longest + (longest - (max(map(len, begun)) - len(said)) if begun else 0)


def _by_step(table_state: Any, tables: torch.Tensor) -> Any:
    """A state whose tables (L, V, V) change with each step, so that no two texts have the same score."""

    class Tables(table_state):  # type: ignore[misc]
        def _logits(self, last: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return self.table[self.calls - 1][last]

    return Tables(tables)


def _reference(table: torch.Tensor, start: int, words: Words, beams: int, most: int) -> list[tuple[float, list[int]]]:
    """The best texts of one prompt in plain Python over a table of each step."""
    log_probs = table.log_softmax(2).tolist()
    running: list[tuple[float, list[int]]] = [(0.0, [])]
    pool: list[tuple[float, list[int]]] = []
    for length in range(1, most + 1):
        found = [
            (score + log_probs[length - 1][text[-1] if text else start][token], [*text, token])
            for score, text in running
            for token in range(VOCAB)
        ]
        usual = sorted(found, reverse=True)[: (1 + len(EOS)) * beams]
        ended = [
            one for i, one in enumerate(usual) if one[1][-1] in EOS and i < beams and not _need([start, *one[1]], words)
        ]
        fits = [one for one in found if one[1][-1] not in EOS and _need([start, *one[1]], words) <= most - length]
        kept = [one for one in usual if one in fits][:beams]
        for one in fits:
            if one not in usual and one[1][-1] in _nearer([start, *one[1][:-1]], words):
                kept.append(one)
        banks: dict[int, list[tuple[float, list[int]]]] = {}
        for one in sorted(kept, reverse=True):
            banks.setdefault(_bank([start, *one[1]], words), []).append(one)
        turns = [(i, -bank, one) for bank, ones in banks.items() for i, one in enumerate(ones)]
        running = [one for _, _, one in sorted(turns, key=lambda turn: turn[:2])][:beams]
        if length == most:
            ended += running
        pool = sorted(pool + [(score / length, text) for score, text in ended], reverse=True)[:beams]
        if len(pool) == beams and max(running)[0] / length <= pool[-1][0]:
            break
    return pool


WORDS: list[Words] = [
    [[[3, 4]]],
    [[[3]], [[8, 6, 8]]],
    [[[3, 3, 4]], [[6, 8], [10, 11, 12]]],
    [[[12], [3, 4], [3, 8]], [[4]], [[6, 3]]],
    [[[3, 4, 6, 8], [10], [4, 11]], [[10]]],
]


@pytest.mark.parametrize("words", WORDS, ids=str)
@pytest.mark.parametrize("beams", [2, 3, 5])
def test_reference(table_state: Any, run: Any, words: Words, beams: int) -> None:
    for seed in range(3):
        table = torch.randn(9, VOCAB, VOCAB, generator=torch.Generator().manual_seed(seed)) * 2
        for most in (5 if len(words) < 3 else 6, 9):
            given = [word[0] if len(word) == 1 and seed else word for word in words]
            options = {"num_beams": beams, "num_return_sequences": beams, "max_new_tokens": most, "eos_token_id": EOS}
            out = run(_by_step(table_state, table), PROMPT, vocab=VOCAB, force_words_ids=given, **options)
            for i, start in enumerate(PROMPT[:, 0].tolist()):
                expected = _reference(table, start, words, beams, most)
                rows = range(i * beams, i * beams + len(expected))
                texts = [out.sequences[r, 1 : 1 + out.lengths[r]].tolist() for r in rows]
                assert texts == [text for _, text in expected]
                assert out.lengths[i * beams + len(expected) : (i + 1) * beams] == (0,) * (beams - len(expected))


@pytest.mark.parametrize("seed", range(8))
def test_every_text_holds_every_word(gpt2: Any, gpt2_state: Any, run: Any, seed: int) -> None:
    draw = random.Random(seed)
    tokens = [i for i in range(40) if i not in (2, 11)]
    words = [
        [[draw.choice(tokens) for _ in range(draw.randint(1, 3))] for _ in range(draw.choice([1, 1, 3]))]
        for _ in range(draw.randint(1, 3))
    ]
    need = sum(min(map(len, word)) for word in words)
    options = {
        "eos_token_id": (2, 11),
        "pad_token_id": 0,
        "max_new_tokens": need + draw.choice([0, 1, 4]),
        "num_beams": draw.randint(2, 5),
        "repetition_penalty": draw.choice([1.0, 1.3]),
        "early_stopping": draw.choice([False, True, "never"]),
        "output_scores": draw.choice([False, True]),
    }
    count = options["num_return_sequences"] = draw.randint(1, options["num_beams"])
    prompt = torch.tensor([[1, 5, 9], [1, 7, 3], [1, 30, 22]])
    out = run(gpt2_state(gpt2), prompt, force_words_ids=words, **options)
    for i, (row, length) in enumerate(zip(out.sequences.tolist(), out.lengths, strict=True)):
        assert length or i % count  # the best is always there
        assert not length or all(any(_holds(row[: 3 + length], run) for run in word) for word in words)


def test_progress() -> None:
    start = Progress((((3, 3, 4),), ((6, 8), (6, 9, 9))))
    assert (start.missing, start.next_tokens(), start.bank(2, 3)) == (5, [3, 6], 0)
    assert start.after([3]).bank(2, 3) == 1
    assert start.after([3, 3, 4]).bank(2, 3) == 3
    assert start.after([3, 6]).next_tokens() == [8, 9]  # breaks one off and begins the other
    assert start.after([6, 9]).missing == 4
    assert start.after([6, 9, 3]).missing == 4
    assert start.after([3, 3, 4, 1, 6, 8]).missing == 0
    assert start.after([3, 3, 3, 4]).missing == 2  # the end of what was said holds the word
    either = Progress((((9, 21, 22), (28,), (21, 30)),))
    assert (either.after([9]).missing, either.after([9]).next_tokens()) == (1, [21, 28])  # another run is nearer
    assert (either.after([9, 21]).missing, either.after([9, 21]).next_tokens()) == (1, [22])
    assert either.after([9, 21, 30]).missing == either.after([9, 28]).missing == 0


@given(
    words=st.lists(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1, max_size=3), max_size=3),
    text=st.lists(st.integers(0, 4), max_size=12),
)
def test_progress_is_true_and_there_is_always_a_way_on(words: Words, text: list[int]) -> None:
    now = Progress(tuple(tuple(map(tuple, word)) for word in words)).after(text)
    if not now.missing:
        assert all(any(_holds(text, run) for run in word) for word in words)
    while now.missing:
        now, before = min((now.after([token]) for token in now.next_tokens()), key=lambda n: n.missing), now.missing
        assert now.missing < before


def test_words_that_cannot_be_written(table_state: Any, run: Any) -> None:
    state, options = table_state(torch.zeros(VOCAB, VOCAB)), {"vocab": VOCAB, "num_beams": 2}
    with pytest.raises(UsageError, match=r"force_words_ids: .*need 4 tokens.*leaves 3"):
        run(state, PROMPT, force_words_ids=[[3, 4], [6, 8]], max_new_tokens=3, **options)
    with pytest.raises(UsageError, match=r"leaves 3"):
        run(state, PROMPT, force_words_ids=[[3, 4], [6, 8]], max_new_tokens=4, forced_eos_token_id=2, **options)
    with pytest.raises(UsageError, match=r"force_words_ids: .*end id 5"):
        run(state, PROMPT, force_words_ids=[[3, 5]], max_new_tokens=4, eos_token_id=EOS, **options)
    assert state.calls == 0
    with pytest.raises(GenerationError, match="leave rows 0, 1 no token"):
        run(state, PROMPT, force_words_ids=[[3]], suppress_tokens=[3], max_new_tokens=2, **options)


def test_a_forced_end_comes_after_the_words(table_state: Any, run: Any) -> None:
    table = torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(1))
    options = {"num_beams": 3, "max_new_tokens": 4, "eos_token_id": EOS, "forced_eos_token_id": 2}
    out = run(table_state(table), PROMPT, vocab=VOCAB, force_words_ids=[[3, 4, 6]], **options)
    assert out.sequences[:, 1:].tolist() == [[3, 4, 6, 2]] * 2
    assert out.finish_reasons == ("eos", "eos")


def test_prompts_count(table_state: Any, run: Any) -> None:
    table, prompt = torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(1)), torch.tensor([[1, 3, 4, 6]])
    options = {"vocab": VOCAB, "num_beams": 3, "max_new_tokens": 1, "eos_token_id": ()}
    out = run(table_state(table), prompt, force_words_ids=[[3, 4], [6, 8]], **options)
    assert out.sequences.tolist() == [[1, 3, 4, 6, 8]]
