"""Drafts of the model by itself: int8 copies of its linear layers guess a run of tokens, which its own weights check.

The copy shares everything else with the model: embeddings, norms, the keys and values of the images, and the cache. It
writes its own keys for the tokens that it guesses; the check takes them back, and reads the tokens again.

How many tokens to guess, and whether to guess at all, follows from what was accepted and from the time of each call so
far (`Account`). A sampled token is drawn with the same random numbers by the copy and by the model (`Race`), so
that seeds give the same texts with drafts as without.

Shape letters: N prompts, B rows of text, B' rows that are computed, L tokens so far, V vocabulary size.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from vedcore.errors import warn_caller
from vedcore.generation.processors.chain import apply_processors
from vedcore.generation.request import Request
from vedcore.generation.search.assisted.assisted_decoding import guessed_steps
from vedcore.generation.search.assisted.ragged_cache import CachedRows
from vedcore.generation.search.greedy import sample_steps
from vedcore.generation.search.scoring import Race
from vedcore.generation.state import DecodingState
from vedcore.generation.streaming import Steps
from vedcore.layers.int8 import int8_copy

__all__ = ["Account", "SelfDrafter", "draft_steps"]

MAX_ROWS = 8
"""Rows for which drafts are tried: more share the reading of the weights, so that a check costs too much."""
MAX_RUN = 15
"""Most tokens that are guessed at once: a check then has 16 rows, of which oneDNN keeps what it compiles."""
MIN_SAMPLES = 3
"""Steps without guesses whose time is taken before the first guess."""
MAX_LOSS = 2.0
"""Steps' worth of time that drafts may lose before they have paid, and the most that they owe."""
MAX_SAVINGS = 8.0
"""Steps' worth of time that drafts save up at most: about the cost of the longest run, should it be all wrong."""
REPAID = 0.02
"""Part of the debt, in steps, that each step without guesses pays back: what drafts may cost where they do not pay."""
MIN_GAIN = 1.03
"""Tokens in the time of one step from which on guesses pay."""
KEPT_SHARE = 0.95
"""Share of the earlier counts that is kept when new ones come in."""

_warned = False
_ACCOUNTS: WeakKeyDictionary[nn.Module, dict[tuple[int, bool], Account]] = WeakKeyDictionary()
"""By the copy that guesses: an account for each number of rows, and for sampling."""


@dataclass
class Account:
    """The costs and gains of drafts: seconds of calls, tokens that were guessed, and those that were accepted."""

    steps: int = 0
    """Steps without guesses."""
    step: float = float("inf")
    """Seconds of one at least."""
    guess: float = float("inf")
    """Seconds of a guess at least."""
    check: dict[int, float] = field(default_factory=dict)
    """Seconds of a check at least, by the number of guesses."""
    tried: float = 2.0
    """Guesses that were compared with the model's tokens: they begin as if 2 had been, and 1.7 right."""
    right: float = 1.7
    credit: float = MAX_LOSS
    """Steps' worth of time that may be lost: no run risks more, but for a trial of one guess."""

    @property
    def acceptance(self) -> float:
        """Probability that a guess is right whose predecessors are."""
        return min(self.right / self.tried, 0.995)

    def cost(self, guesses: int) -> float:
        """Of guessing and checking so many tokens, in steps."""
        known = [max(0.0, seconds / self.step - 1) / count for count, seconds in self.check.items()]
        each = min(known, default=0.1)  # the first check of a length takes longer, and other programs disturb
        return 1 + guesses * (each + (self.guess / self.step if self.guess < float("inf") else 0.4))

    def gain(self, guesses: int) -> float:
        """Tokens in the time of one step, on average."""
        a = self.acceptance
        return (1 - a ** (guesses + 1)) / (1 - a) / self.cost(guesses)

    def run_length(self, room: int) -> int:
        """How many of at most ``room`` tokens to guess now."""
        if self.steps < MIN_SAMPLES or self.credit < 0 or room < 1:
            return 0
        lengths = [n for n in range(1, min(room, MAX_RUN) + 1) if n == 1 or self.cost(n) - 1 <= self.credit]
        best = max(lengths, key=self.gain)
        return best if self.gain(best) >= MIN_GAIN else 1  # a trial

    def add_step(self, seconds: float | None = None, steps: int = 1) -> None:
        """Take in steps without guesses."""
        self.steps += steps
        self.credit = min(max(MAX_LOSS, self.credit), self.credit + REPAID * steps)
        if seconds is not None:
            self.step = min(self.step, seconds)

    def add_round(self, guesses: int, seconds: float, check: float, tried: float, right: float) -> None:
        """Take in a run of guesses: seconds of its fastest, those of its check, and the means of the rows."""
        self.guess = min(self.guess, seconds)
        self.check[guesses] = min(self.check.get(guesses, check), check)
        self.tried, self.right = KEPT_SHARE * self.tried + tried, KEPT_SHARE * self.right + right
        self.credit = max(-MAX_LOSS, min(MAX_SAVINGS, self.credit + right + 1 - self.cost(guesses)))


class SelfDrafter:
    """Guesses tokens with an int8 copy of the decoder, on the cache of the decoder itself.

    Args:
        copy: the decoder with int8 weights.
        request: of the call.
        rows: those that the model reads, with a cache.
        race: the random numbers of the call, if it samples.
    """

    def __init__(self, copy: nn.Module, request: Request, rows: CachedRows, race: Race | None) -> None:
        self.copy, self.request, self.rows, self.race = copy, request, rows, race
        self.accounts = _ACCOUNTS.setdefault(copy, {})
        own = replace(request, logits_processor=(), prefix_allowed_tokens_fn=None)  # the caller's see no guesses
        parts = [own.part(i, i + 1) for i in range(request.prompts)]
        self.processors = [part.processors(1) for part in parts for _ in range(rows.copies)]
        self.plain = race is None and not self.processors[0]
        self.account: Account | None = None
        self.fastest = float("inf")
        """Seconds of the fastest guess so far."""
        self.checking = 0.0
        """When the check began."""

    def guess(self, texts: Sequence[Sequence[int]], room: int) -> list[list[int]]:
        """Up to ``room`` tokens after each of B texts."""
        live = self.rows.live
        self.account = account = self.accounts.setdefault((len(live), self.race is not None), Account())
        going = [bool(texts[row]) for row in live]
        read = self.rows.lengths
        in_step = all(len(texts[row]) == read[row] + 1 for row, on in zip(live, going, strict=True) if on)
        count = account.run_length(room) if in_step else 0
        guesses: list[list[int]] = [[] for _ in texts]
        if count:
            for row, tokens in zip(live, self._run(texts, live, going, count), strict=True):
                guesses[row] = tokens
        self.checking = time.perf_counter()
        return guesses

    def learn(self, guessed: Sequence[int], accepted: Sequence[int]) -> None:
        """Take in what was accepted, and the time since the guesses."""
        if self.account is None:  # the prefill
            return
        seconds, most = time.perf_counter() - self.checking, max(guessed)
        if not most:
            self.account.add_step(seconds)
            return
        rows = [(count, right) for count, right in zip(guessed, accepted, strict=True) if count]
        tried = sum(min(count, right + 1) for count, right in rows) / len(rows)
        self.account.add_round(most, self.fastest, seconds, tried, sum(right for _, right in rows) / len(rows))

    def _run(self, texts: Sequence[Sequence[int]], live: list[int], going: list[bool], count: int) -> list[list[int]]:
        """The guesses of each of the B' rows that are computed, none where it is not going."""
        state, request = self.rows.state, self.request
        self.rows.make_room(count + 1)
        cache = state.cache
        assert cache is not None
        before = cache.length, cache.attention_mask, cache.positions
        longer = [[*texts[row]] or [0] for row in live]
        tokens = torch.tensor([text[-1:] for text in longer], device=request.device)  # (B', 1)
        mask = None if all(going) or self.rows.in_step else torch.tensor(going, device=request.device)[:, None]
        more: dict[str, Any] = {"prompt_length": state.prompt_length} if state.decoder.positions_by_id else {}
        found, ends = [list[int]() for _ in live], set(request.end_ids)
        for _ in range(count):
            begun = time.perf_counter()
            logits = self.copy(
                input_ids=tokens, attention_mask=mask, past_key_values=cache, last_logits_only=True, **more
            ).logits[:, -1].float()  # fmt: skip
            tokens = logits.max(1, keepdim=True).indices  # in half of the time of `argmax`
            if not self.plain:
                for i in (i for i, on in enumerate(going) if on):
                    tokens[i] = self._next(live[i], longer[i], logits[i : i + 1])
            new = tokens[:, 0].tolist()
            self.fastest = min(self.fastest, time.perf_counter() - begun)
            for text, guess, token in zip(longer, found, new, strict=True):
                text.append(token)
                guess.append(token)
            if all(not on or token in ends for on, token in zip(going, new, strict=True)):
                break
        cache.crop(before[0])
        _, cache.attention_mask, cache.positions = before
        return [_to_first(guess, ends) if on else [] for guess, on in zip(found, going, strict=True)]

    def _next(self, row: int, text: list[int], logits: Tensor) -> Tensor:
        """(1,) the next token of one of the B rows, by its logits (1, V)."""
        scores = logits
        if self.processors[row]:
            scores = apply_processors(self.processors[row], torch.tensor([text], device=logits.device), logits)
        if self.race is None:
            return scores.argmax(1)
        return self.race.winner(scores.softmax(1), len(text) - self.request.prompt_length, row)


def _to_first(tokens: list[int], ends: set[int]) -> list[int]:
    """The tokens up to the first that is in ``ends``."""
    return tokens[: next((i + 1 for i, token in enumerate(tokens) if token in ends), len(tokens))]


@torch.no_grad()
def draft_steps(state: DecodingState, request: Request) -> Steps:
    """Greedy search or sampling with guesses by an int8 copy of the decoder; without, where they do not pay.

    Args:
        state: fresh, with a cache.
        request: the prompts and the options.
    """
    rows = request.prompts * request.options.num_return_sequences
    if rows > MAX_ROWS or (rows > 1 and (request.streaming or request.keeps_cache)):
        return (yield from sample_steps(state, request))
    copy = int8_copy(state.decoder)
    if copy is None:
        _warn_once()
        return (yield from sample_steps(state, request))
    accounts = _ACCOUNTS.setdefault(copy, {})
    account = accounts.setdefault((rows, request.options.do_sample), Account())
    if account.steps >= MIN_SAMPLES and not account.run_length(MAX_RUN):
        out = yield from sample_steps(state, request)
        account.add_step(steps=max(out.lengths or (0,)))
        return out
    cached = CachedRows(state, request.options.num_return_sequences)
    race = Race(rows, request.generator()) if request.options.do_sample else None
    out = yield from guessed_steps(cached, request, SelfDrafter(copy, request, cached, race), race)
    if request.keeps_cache:
        cached.rewind([out.sequences.shape[1] - 1])
    return out


def _warn_once() -> None:
    global _warned
    if not _warned:
        _warned = True
        warn_caller("draft='int8' does nothing here: int8 is faster with weights of float32 on some CPUs alone")
