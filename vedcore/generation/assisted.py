"""Assisted decoding: something cheap guesses the next tokens, and the model reads all guesses at once.

What is written does not depend on the guesses: each token is chosen as without them, and a guess only spares a step
where it is what is chosen. So greedy search gives the same text, and sampling draws from the same distribution.

Shape letters: N prompts, B rows of text (N times the sequences to return for each), T tokens read at once, L tokens so
far, V vocabulary size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vedcore.errors import UsageError
from vedcore.generation.config import GenerationConfig
from vedcore.generation.drafters import Drafter
from vedcore.generation.greedy import draw
from vedcore.generation.logits import Processor
from vedcore.generation.ragged import ragged
from vedcore.generation.request import Request, apply, barring
from vedcore.generation.state import DecodingState
from vedcore.generation.stopping import WORDS, Stopping
from vedcore.generation.streaming import Steps
from vedcore.outputs import GenerateOutput

__all__ = ["assisted_steps", "check_assistable"]


def check_assistable(options: GenerationConfig, option: str) -> None:
    """Refuse what does not go with guesses, before work begins.

    Args:
        options: of the call.
        option: what asks for guesses: ``"assistant_model"`` or ``"prompt_lookup_num_tokens"``.

    Raises:
        UsageError: beams, contrastive search, records of inner states.
    """
    for name, idle in (
        ("num_beams", 1),
        ("penalty_alpha", 0.0),
        ("output_attentions", False),
        ("output_hidden_states", False),
    ):
        if (value := getattr(options, name)) != idle:
            raise UsageError(f"{name}={value} contradicts {option}", field=name, hint="leave out one of them")


@dataclass
class _Row:
    """One text, and what is told of each new token."""

    ids: list[int]
    processors: list[Processor]
    log_probs: list[float] = field(default_factory=list)
    scores: list[Tensor] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)
    why: int = 0
    end: int | None = None
    """Tokens at which it ended; it may be written on where there is nothing to pad it with."""


@torch.no_grad()
def assisted_steps(state: DecodingState, request: Request, drafter: Drafter) -> Steps:
    """Greedy search or sampling with guesses: yields the (1,) tokens of a single row, returns the whole.

    A row is processed, and looked at for its end, by itself: processors and criteria get one row at a time.

    Args:
        state: the model, fresh.
        request: the prompts and the options.
        drafter: what guesses.
    """
    limit, texts = request.limits.max_length, ragged(state, request.options.num_return_sequences)
    logits = texts.prefill(request.input_ids)[:, None]  # (B, 1, V)
    rows = _rows_of(request)
    writer = _Writer(request, rows)
    guesses: list[list[int]] = [[] for _ in rows]
    first, opened = [0] * len(rows), [True] * len(rows)  # where the logits after a row's last token stand
    while True:
        writer.read(logits.float())
        right = [0] * len(rows)
        for number, row in enumerate(rows):
            if not opened[number]:
                continue
            for at, guess in enumerate([*guesses[number], None], start=first[number]):
                token = writer.write(number, at)
                if len(rows) == 1:
                    yield request.input_ids.new_tensor([token])
                if token != guess or row.end == len(row.ids) or len(row.ids) == limit:
                    break
                right[number] += 1
        drafter.learn([len(guess) for guess in guesses], right)
        opened = _opened(rows, limit, writer.padded)
        if not any(opened):
            break
        known = [len(row.ids) if on else 0 for row, on in zip(rows, opened, strict=True)]
        copies = texts.copies
        if writer.padded:
            texts.keep([any(opened[i : i + copies]) for i in range(0, len(rows), copies)])
        texts.rewind([max(0, length - 1) for length in known])
        room = limit - max(known) - 1
        so_far = [row.ids if on else [] for row, on in zip(rows, opened, strict=True)]
        guesses = drafter.guess(so_far, room) if room else [[] for _ in rows]
        unread = [ids[length:] for ids, length in zip(so_far, texts.lengths, strict=True)]
        first = [max(0, len(new) - 1) for new in unread]
        logits = texts.extend([[*new, *guess] for new, guess in zip(unread, guesses, strict=True)])
    return writer.output()


def _opened(rows: list[_Row], limit: int, padded: bool) -> list[bool]:
    """Which rows are written on: those not at their end, and with nothing to pad them all up to the longest."""
    longest = limit if any(row.end is None for row in rows) else max(row.end or 0 for row in rows)
    return [row.end is None or (not padded and len(row.ids) < longest) for row in rows]


def _rows_of(request: Request) -> list[_Row]:
    rows = []
    for i, ids in enumerate(request.input_ids.tolist()):
        own, copies = request.part(i, i + 1), request.options.num_return_sequences
        rows += [_Row(list(ids), own.processors(1)) for _ in range(copies)]
    return rows


class _Writer:
    """Chooses tokens by the logits that were read, and keeps what is told of them."""

    def __init__(self, request: Request, rows: list[_Row]) -> None:
        options = request.options
        self.request, self.rows, self.options = request, rows, options
        self.stopping, self.generator = Stopping(request), request.generator()
        self.padded = bool(request.token_ids.eos) and request.token_ids.pad is not None
        self.plain = not (options.do_sample or options.output_scores or rows[0].processors)
        self.logits = self.usable = torch.empty(0)
        self.told: list[list[list[float]]] = []

    def read(self, logits: Tensor) -> None:
        """Take in (B, T, V); one look at the device, for all rows."""
        usable = logits.nan_to_num(nan=0.0) if self.options.remove_invalid_values else logits
        total = usable.logsumexp(2)  # (B, T)
        tokens = logits.argmax(2)
        log_probs = usable.gather(2, tokens[:, :, None])[:, :, 0] - total
        self.logits, self.usable = logits, usable
        self.told = torch.stack([tokens.double(), log_probs.double(), total.double()]).tolist()

    def write(self, number: int, at: int) -> int:
        """The next token of a row, chosen by the logits after its token ``at`` of those that were read."""
        row, logits = self.rows[number], self.logits[number, at]
        token, log_prob, total = (int(self.told[0][number][at]), *(part[number][at] for part in self.told[1:]))
        if not math.isfinite(total):
            self.request.raise_non_finite(logits[None].expand(len(self.rows), -1), *self._where(number))
        if not self.plain:
            scores = apply(row.processors, self._ids(row), logits[None])
            token = int(draw(scores.softmax(1), 1, self.generator) if self.options.do_sample else scores.argmax(1))
            if barring(scores[0, token], self.options):
                self.request.raise_barred(scores[:, token].expand(len(self.rows)), *self._where(number))
            log_prob = float(self.usable[number, at, token]) - total
            row.scores.append(scores)
        row.ids.append(token)
        row.log_probs.append(log_prob)
        if self.options.output_logits:
            row.logits.append(logits[None])
        if row.end is None:
            row.why = self._why(row, token)
            if row.why or len(row.ids) == self.request.limits.max_length:
                row.end = len(row.ids)
        return token

    def output(self) -> GenerateOutput:
        """The whole; of rows that ended before others, scores and logits are zeros from there on."""
        ends, prompt = [row.end or 0 for row in self.rows], self.request.prompt_length
        length = max(ends)
        fill = (self.request.token_ids.pad or 0) if self.padded else 0
        ids = [(row.ids + [fill] * length)[:length] for row in self.rows]
        log_probs = [
            (row.log_probs[: end - prompt] + [0.0] * length)[: length - prompt]
            for row, end in zip(self.rows, ends, strict=True)
        ]
        return GenerateOutput(
            sequences=self.request.input_ids.new_tensor(ids),
            token_logprobs=torch.tensor(log_probs, device=self.request.device),
            finish_reasons=self.stopping.words(torch.tensor([row.why for row in self.rows])),
            lengths=tuple(end - prompt for end in ends),
            scores=self._steps([row.scores for row in self.rows]) if self.options.output_scores else None,
            logits=self._steps([row.logits for row in self.rows]) if self.options.output_logits else None,
        )

    def _steps(self, kept: list[list[Tensor]]) -> tuple[Tensor, ...]:
        """(1, V) of each row and step to (B, V) of each step."""
        steps = max(row.end or 0 for row in self.rows) - self.request.prompt_length
        nothing = torch.zeros_like(kept[0][0])
        return tuple(torch.cat([row[step] if step < len(row) else nothing for row in kept]) for step in range(steps))

    def _why(self, row: _Row, token: int) -> int:
        if self.stopping.only_eos:
            return WORDS.index("eos") if token in self.request.token_ids.eos else 0
        scores = tuple(row.scores) if self.options.output_scores else None
        last = self.request.input_ids.new_tensor([token])
        return int(self.stopping.reasons(last, self._ids(row), scores))

    def _ids(self, row: _Row) -> Tensor:
        return self.request.input_ids.new_tensor([row.ids])  # (1, L)

    def _where(self, number: int) -> tuple[Tensor, int, int]:
        """Which of the rows it is, how many rows a prompt has, and the step."""
        flags = torch.arange(len(self.rows)) == number
        step = len(self.rows[number].ids) - self.request.prompt_length
        return flags, self.options.num_return_sequences, step
