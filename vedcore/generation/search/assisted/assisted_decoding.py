"""Assisted decoding: a drafter guesses the next tokens, and the model reads all guesses at once.

The texts do not depend on the guesses. Each token is chosen as without them, and a guess spares a step where it is the
token that is chosen: greedy search gives the same text, and sampling draws from the same distribution (Leviathan et
al. 2023, https://arxiv.org/abs/2211.17192, has the idea).

Shape letters: N prompts, B rows of text (N times the sequences to return for each), T tokens read at once, L tokens so
far, V vocabulary size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vedcore.generation.processors.chain import apply_processors
from vedcore.generation.request import Drafter, Request
from vedcore.generation.search.assisted.drafters import PromptLookup
from vedcore.generation.search.assisted.inner_states import InnerStates
from vedcore.generation.search.assisted.ragged_cache import RaggedRows, ragged_rows
from vedcore.generation.search.ledger import UnevenLedger
from vedcore.generation.search.scoring import Race, nothing_left, usable_logits
from vedcore.generation.state import DecodingState
from vedcore.generation.streaming import Steps

__all__ = ["assisted_steps", "guessed_steps"]


@torch.no_grad()
def assisted_steps(state: DecodingState, request: Request) -> Steps:
    """Greedy search or sampling with guesses: yields the (1,) tokens of a single row, returns the whole.

    Each row is processed, and tested for its end, by itself: processors and criteria get one row at a time.

    Args:
        state: fresh.
        request: the prompts, the options, and the drafter; without one, `PromptLookup` by the options.
    """
    cache, drafter = ragged_rows(state, request.options.num_return_sequences), request.drafter
    return (yield from guessed_steps(cache, request, drafter or _prompt_lookup(request)))


@torch.no_grad()
def guessed_steps(cache: RaggedRows, request: Request, drafter: Drafter, race: Race | None = None) -> Steps:
    """`assisted_steps` for rows that are fresh.

    Args:
        cache: the rows.
        request: the prompts and the options.
        drafter: guesses.
        race: draws the tokens where the options ask for sampling; by default a new one.
    """
    limit, copies = request.limits.max_length, request.options.num_return_sequences
    logits = cache.prefill(request.input_ids)[:, None]  # (B, 1, V)
    texts: list[list[int]] = request.input_ids.repeat_interleave(copies, 0).tolist()
    chooser = _TokenChooser(request, race or Race(len(texts), request.generator()))
    ledger, inner_states = chooser.ledger, InnerStates(cache)
    guesses: list[list[int]] = [[] for _ in texts]
    first, growing = [0] * len(texts), [True] * len(texts)  # index of the logits after a row's last token
    while True:
        chooser.read(logits.float())
        accepted = [0] * len(texts)
        for row, text in enumerate(texts):
            if not growing[row]:
                continue
            for position, guess in enumerate([*guesses[row], None], start=first[row]):
                token = chooser.choose(row, position)
                inner_states.add(row, len(text) - request.prompt_length, position)
                text.append(token)
                if len(texts) == 1:
                    yield request.input_ids.new_tensor([token])
                if token != guess or ledger.ends[row] == len(text) or len(text) == limit:
                    break
                accepted[row] += 1
        drafter.learn([len(guess) for guess in guesses], accepted)
        growing = _growing(ledger, limit, request.pads_ended)
        if not any(growing):
            out = ledger.output()
            inner_states.finish(out.sequences.shape[1] - request.prompt_length)
            return out
        if request.pads_ended:
            cache.keep([any(growing[i : i + copies]) for i in range(0, len(texts), copies)])
        chooser.race.forget(
            min(len(text) for text, on in zip(texts, growing, strict=True) if on) - request.prompt_length
        )
        cache.rewind([len(text) - 1 if on else 0 for text, on in zip(texts, growing, strict=True)])
        so_far = [text if on else [] for text, on in zip(texts, growing, strict=True)]
        room = limit - max(map(len, so_far)) - 1
        guesses = drafter.guess(so_far, room) if room else [[] for _ in texts]
        unread = [ids[length:] for ids, length in zip(so_far, cache.lengths, strict=True)]
        first = [max(0, len(new) - 1) for new in unread]
        inner_states.forget_call()
        logits = cache.extend([[*new, *guess] for new, guess in zip(unread, guesses, strict=True)])


def _growing(ledger: UnevenLedger, limit: int, padded: bool) -> list[bool]:
    """Which rows go on: those without an end, and, with nothing to pad them, all up to the longest."""
    longest = limit if None in ledger.ends else max(end or 0 for end in ledger.ends)
    return [
        end is None or (not padded and length < longest)
        for end, length in zip(ledger.ends, ledger.lengths, strict=True)
    ]


def _prompt_lookup(request: Request) -> Drafter:
    options = request.options
    assert options.prompt_lookup_num_tokens is not None  # which asked for this search
    ends = frozenset(request.token_ids.eos)
    return PromptLookup(options.prompt_lookup_num_tokens, options.max_matching_ngram_size, ends)


class _TokenChooser:
    """Chooses the tokens of each row by the logits that were read, and writes them into the ledger."""

    def __init__(self, request: Request, race: Race) -> None:
        copies = request.options.num_return_sequences
        self.options, self.ledger, self.race = request.options, UnevenLedger(request, copies), race
        own = [request.part(i, i + 1) for i in range(request.prompts)]
        self.processors = [part.processors(1) for part in own for _ in range(copies)]
        self.plain = not (self.options.do_sample or self.options.output_scores or self.processors[0])
        self.logits = self.usable = torch.empty(0)
        self.argmax: list[list[float]] = []
        self.log_probs: list[list[float]] = []
        self.totals: list[list[float]] = []

    def read(self, logits: Tensor) -> None:
        """Take in (B, T, V); one look at the device, for all rows."""
        usable = usable_logits(logits, self.options)
        total = usable.logsumexp(2)  # (B, T)
        tokens = logits.argmax(2)
        log_probs = usable.gather(2, tokens[:, :, None])[:, :, 0] - total
        self.logits, self.usable = logits, usable
        self.argmax, self.log_probs, self.totals = torch.stack(
            [tokens.double(), log_probs.double(), total.double()]
        ).tolist()

    def choose(self, row: int, position: int) -> int:
        """The next token of a row, by the logits after token ``position`` of those that were read."""
        logits, total = self.logits[row, position], self.totals[row][position]
        token, log_prob = int(self.argmax[row][position]), self.log_probs[row][position]
        scores = None
        if not math.isfinite(total):
            self.ledger.raise_non_finite(logits[None].expand(len(self.processors), -1), *self._where(row))
        if not self.plain:
            scores = apply_processors(self.processors[row], self.ledger.row(row), logits[None])  # (1, V)
            step = self.ledger.lengths[row] - self.ledger.request.prompt_length
            token = int(self.race.winner(scores.softmax(1), step, row) if self.options.do_sample else scores.argmax(1))
            if nothing_left(scores[0, token], self.options):
                self.ledger.raise_barred(scores[:, token].expand(len(self.processors)), *self._where(row))
            log_prob = float(self.usable[row, position, token]) - total
        self.ledger.add_token(row, token, log_prob, None if scores is None else scores[0], logits)
        return token

    def _where(self, row: int) -> tuple[Tensor, int]:
        """A flag for each row, set at ``row``, and the step."""
        flags = torch.arange(len(self.processors)) == row
        return flags, self.ledger.lengths[row] - self.ledger.request.prompt_length
