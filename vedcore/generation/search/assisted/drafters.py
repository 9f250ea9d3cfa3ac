"""The drafters of assisted decoding: earlier text, or a smaller model.

Shape letters: B rows of text, T tokens read at once, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import nn

from vedcore.generation.request import Request
from vedcore.generation.search.assisted.ragged_cache import ragged_rows
from vedcore.generation.state import DecodingState
from vedcore.generation.streaming import shared_length

__all__ = ["DraftModel", "PromptLookup"]


@dataclass(frozen=True)
class PromptLookup:
    """Guesses that the last tokens are followed as they were before: transformers' prompt look-up.

    It searches the prompt and the text so far for as many of the last tokens as it can, and takes the first match.
    """

    num_tokens: int
    """Most tokens to guess at once."""
    ngram_size: int = 2
    """Most tokens to look for."""
    end_ids: frozenset[int] = frozenset()
    """Tokens before which a guess ends."""

    def guess(self, texts: Sequence[Sequence[int]], room: int) -> list[list[int]]:
        """Up to ``room`` tokens after each of B texts."""
        return [self._after(list(text))[:room] for text in texts]

    def learn(self, guessed: Sequence[int], accepted: Sequence[int]) -> None:
        """There is nothing to learn."""

    def _after(self, text: list[int]) -> list[int]:
        for size in range(min(self.ngram_size, len(text) - 1), 0, -1):
            ending = text[-size:]
            for end in range(size, len(text)):
                if text[end - 1] == ending[-1] and text[end - size : end] == ending:
                    found = text[end : end + self.num_tokens]
                    return found[: next((i for i, token in enumerate(found) if token in self.end_ids), len(found))]
        return []


_KEPT_COUNTS: WeakKeyDictionary[nn.Module, tuple[int, int]] = WeakKeyDictionary()
"""By draft model, for the schedule ``"heuristic"``: the guesses a step that its last call began and ended with."""


class DraftModel:
    """Guesses the tokens that a smaller model would write.

    Args:
        state: the smaller model, fresh; its vocabulary is the model's.
        request: of the call; gives the prompts, the number of tokens with its schedule, and the confidence.
    """

    def __init__(self, state: DecodingState, request: Request) -> None:
        options = request.options
        self.request, self.rows = request, ragged_rows(state, options.num_return_sequences)
        self.read: list[list[int]] = []
        """Tokens that each row has read."""
        self.followed: list[bool] = []
        """Rows that are guessed for; one that was left out once has no cache to go on from."""
        self.schedule, self.threshold = options.num_assistant_tokens_schedule, options.assistant_confidence_threshold
        self.begun_with = options.num_assistant_tokens
        first, last = _KEPT_COUNTS.get(state.decoder, (self.begun_with, self.begun_with))
        self.num_tokens = last if self.schedule == "heuristic" and first == self.begun_with else self.begun_with

    def guess(self, texts: Sequence[Sequence[int]], room: int) -> list[list[int]]:
        """Up to ``room`` tokens after each of B texts, each the draft model's most probable one."""
        if not self.read:
            self.rows.prefill(self.request.input_ids)
            self.read = self.request.input_ids.repeat_interleave(self.rows.copies, 0).tolist()
            self.followed = [True] * len(self.read)
        count, positions = min(room, self.num_tokens), self.rows.state.decoder.max_positions
        self.followed = [
            before and bool(text) and (positions is None or len(text) + count <= positions)
            for before, text in zip(self.followed, texts, strict=True)
        ]
        if not any(self.followed):
            return [[] for _ in texts]
        copies = self.rows.copies
        self.rows.keep([any(self.followed[i : i + copies]) for i in range(0, len(texts), copies)])
        longer, guesses = [list(text) for text in texts], [list[int]() for _ in texts]
        going = list(self.followed)
        while any(going):
            sure, tokens = self._next(longer, going)
            for row in (row for row, on in enumerate(going) if on):
                token = int(tokens[row])
                guesses[row].append(token)
                longer[row].append(token)
                over = token in self.request.token_ids.eos or sure[row] < self.threshold
                going[row] = not over and len(guesses[row]) < count
        return guesses

    def _next(self, texts: list[list[int]], going: list[bool]) -> tuple[list[float], list[float]]:
        """Probability of the most probable next token of each row that is going, and that token."""
        kept = [
            min(shared_length(read, text), len(text) - on) if followed else 0
            for read, text, on, followed in zip(self.read, texts, going, self.followed, strict=True)
        ]
        self.rows.rewind(kept)
        lengths = self.rows.lengths
        news = [text[length:] if on else [] for text, length, on in zip(texts, lengths, going, strict=True)]
        self.read = [text[:length] + new for text, length, new in zip(texts, lengths, news, strict=True)]
        last = torch.tensor([max(0, len(new) - 1) for new in news]).to(self.request.device, non_blocking=True)
        logits = self.rows.extend(news)  # (B, T, V)
        logits = logits.gather(1, last[:, None, None].expand(-1, 1, logits.shape[2]))[:, 0].float()
        best = logits.softmax(1).max(1)
        sure, tokens = torch.stack([best.values.double(), best.indices.double()]).tolist()
        return sure, tokens

    def learn(self, guessed: Sequence[int], accepted: Sequence[int]) -> None:
        """Guess more where all guesses were accepted, fewer where not, as the schedule says."""
        if self.schedule != "constant" and any(guessed):
            self.num_tokens = self.num_tokens + 2 if list(guessed) == list(accepted) else max(1, self.num_tokens - 1)
            if self.schedule == "heuristic":
                _KEPT_COUNTS[self.rows.state.decoder] = self.begun_with, self.num_tokens
