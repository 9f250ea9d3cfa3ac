"""Rows that grow by different numbers of tokens, over a `DecodingState`: guesses are read, and wrong ones taken back.

Shape letters: N prompts, B rows of text (N times the copies of each), B' rows that are computed, T new tokens, L tokens
so far, V vocabulary size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from vedcore.generation.state import DecodingState

__all__ = ["CachedRows", "RaggedRows", "ragged_rows"]

MAX_COLUMNS_PER_TOKEN = 2
"""Compact the cache when it has more columns than this for each token of the longest row."""
SPARE_COLUMNS = 8
"""Columns beyond that which are always allowed."""


class RaggedRows(ABC):
    """Rows that have read different numbers of tokens.

    Args:
        state: fresh.
        copies: rows of each prompt, side by side.
    """

    def __init__(self, state: DecodingState, copies: int) -> None:
        self.state, self.copies = state, copies
        self.lengths: list[int] = []
        """Tokens that each of the B rows has read and not taken back, the prompt's padding among them."""
        self.before: list[int] = []
        """The same before the last tokens were read."""

    def prefill(self, input_ids: Tensor) -> Tensor:
        """The prompts, (N, T), to the logits of the next token, (B, V)."""
        logits = self.state.prefill(input_ids)
        expand = torch.arange(len(input_ids), device=input_ids.device).repeat_interleave(self.copies)
        if self.copies > 1:
            self.state.reorder(expand)
            logits = logits.index_select(0, expand)
        self.lengths = self.before = [input_ids.shape[1]] * len(expand)
        self._begin(input_ids.index_select(0, expand))
        return logits

    @property
    def live(self) -> list[int]:
        """Those of the B rows that are computed."""
        return [prompt * self.copies + i for prompt in self.state.live for i in range(self.copies)]

    def extend(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Read more tokens in each row, none in some; at least one in all.

        Returns:
            (B, T, V) the logits after each new token; behind a row's own tokens they mean nothing.
        """
        logits = self._read([tokens[row] for row in self.live])
        self.before = self.lengths
        self.lengths = [length + len(new) for length, new in zip(self.lengths, tokens, strict=True)]
        return logits

    def rewind(self, lengths: Sequence[int]) -> None:
        """Keep the first ``lengths`` tokens of each row; 0 is a row that reads no more.

        The attribute `lengths` then says how many each row has, which may be fewer.
        """
        self.lengths = [min(pair) for pair in zip(self.lengths, lengths, strict=True)]
        self._take_back([self.lengths[row] for row in self.live])

    def keep(self, going_on: Sequence[bool]) -> None:
        """Say which of the N prompts go on."""
        before = self.live
        self.state.keep(going_on)
        if (after := self.live) != before:
            self._select([before.index(row) for row in after])

    @abstractmethod
    def seen_from(self, row: int, position: int) -> tuple[slice, Tensor]:
        """In the last call, while all rows are computed: the queries that end with token ``position`` of those that a
        row read, one or all, and (L,) the indices of the tokens of the row up to it."""

    @abstractmethod
    def _begin(self, input_ids: Tensor) -> None:
        """The (B, T) prompts have been read."""

    @abstractmethod
    def _read(self, tokens: list[Sequence[int]]) -> Tensor: ...

    @abstractmethod
    def _take_back(self, lengths: list[int]) -> None: ...

    @abstractmethod
    def _select(self, rows: list[int]) -> None: ...

    def _padded(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """(B', longest) with zeros at the right."""
        longest = max(map(len, rows))
        return self._tensor([[*row, *[0] * (longest - len(row))] for row in rows])

    def _tensor(self, values: Sequence[object]) -> Tensor:
        return torch.tensor(values).to(self.state.states.device, non_blocking=True)


class CachedRows(RaggedRows):
    """With a cache: tokens that are taken back are masked, and the cache is compacted once they are too many.

    With a decoder that does not take `TextDecoder.uneven_rows`, all rows go back to the shortest, and the longer ones
    read the rest again.
    """

    def _begin(self, input_ids: Tensor) -> None:
        decoder, mask = self.state.decoder, self.state.attention_mask
        self.in_step = not decoder.uneven_rows
        self.even = True
        """Whether every column of the cache holds a token in every row."""
        self.start = input_ids.shape[1]
        """Columns before the last tokens were read."""
        mask = None if mask is None else mask.bool().repeat_interleave(self.copies, 0)
        self.kept = torch.ones_like(input_ids, dtype=torch.bool)  # (B', L) columns that hold a token of the row
        self.taken = self.kept if mask is None else mask.cumsum(1) > 0  # (B', L) those that take a position

    def seen_from(self, row: int, position: int) -> tuple[slice, Tensor]:
        kept = self.kept[row, : self.start + position + 1]
        return slice(position, position + 1), kept.nonzero()[:, 0]

    def make_room(self, new: int) -> None:
        """Compact the cache if it has no room for so many more columns, or too many without a token."""
        cache, longest = self.state.cache, max(self.lengths[row] for row in self.live)
        assert cache is not None
        if cache.length > longest:
            decoder = self.state.decoder
            room = min(self.state.capacity, decoder.max_positions or self.state.capacity)
            if cache.length + new > room or cache.length > MAX_COLUMNS_PER_TOKEN * longest + SPARE_COLUMNS:
                self._compact(longest)

    def _read(self, tokens: list[Sequence[int]]) -> Tensor:
        cache = self.state.cache
        assert cache is not None
        new = max(map(len, tokens))
        self.make_room(new)
        mask = None
        if any(len(row) < new for row in tokens) and not self.in_step:
            mask = self._tensor([[i < len(row) for i in range(new)] for row in tokens])
        ids = self._padded(tokens)
        self.start = cache.length
        own = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        self.kept, self.taken = torch.cat([self.kept, own], 1), torch.cat([self.taken, own], 1)
        self.even = self.even and mask is None
        return self.state.call(ids, mask, last_only=False)

    def _take_back(self, lengths: list[int]) -> None:
        cache = self.state.cache
        assert cache is not None
        if self.in_step:
            shortest = min(filter(None, lengths), default=0)
            self.lengths = [min(length, shortest) for length in self.lengths]
            self._crop(shortest)
        elif self.even and len(set(lengths)) == 1:
            self._crop(lengths[0])
        else:
            added = max(length - self.before[row] for length, row in zip(lengths, self.live, strict=True))
            self._crop(self.start + max(0, added))
            self.kept = self.kept & (self.kept.cumsum(1) <= self._tensor(lengths)[:, None])
            self.taken = self.taken & self.kept
            self.even = False
            mask = cache.attention_mask
            cache.attention_mask = self.kept if mask is None else mask & self.kept
            cache.positions = self.taken.sum(1, keepdim=True)

    def _crop(self, length: int) -> None:
        cache = self.state.cache
        assert cache is not None
        cache.crop(length)
        self.kept, self.taken = self.kept[:, :length], self.taken[:, :length]
        if cache.positions is not None:
            cache.positions = self.taken.sum(1, keepdim=True)

    def _compact(self, longest: int) -> None:
        """Move the tokens that rows keep to the last of ``longest`` columns."""
        assert self.state.cache is not None
        columns = self.kept.int().argsort(dim=1, stable=True)[:, -longest:]
        self.state.cache.gather(columns)
        self.kept, self.taken = self.kept.gather(1, columns), self.taken.gather(1, columns)

    def _select(self, rows: list[int]) -> None:
        index = self._tensor(rows)
        self.kept, self.taken = self.kept.index_select(0, index), self.taken.index_select(0, index)


class UncachedRows(RaggedRows):
    """Without a cache: all tokens are read anew, padded at the right, where no token looks."""

    def _begin(self, input_ids: Tensor) -> None:
        self.texts: list[list[int]] = input_ids.tolist()

    def seen_from(self, row: int, position: int) -> tuple[slice, Tensor]:
        length = self.before[row] + position + 1
        return slice(length), torch.arange(length, device=self.state.states.device)

    def _read(self, tokens: list[Sequence[int]]) -> Tensor:
        for row, new in zip(self.live, tokens, strict=True):
            self.texts[row] += new
        ids = self._padded([self.texts[row] for row in self.live])
        indices = torch.arange(ids.shape[1], device=ids.device)
        mask = indices < self._tensor([len(self.texts[row]) for row in self.live])[:, None]  # (B', L)
        if (prompt := self.state.attention_mask) is not None:
            mask = torch.cat([prompt.bool() & mask[:, : prompt.shape[1]], mask[:, prompt.shape[1] :]], 1)
        logits = self.state.call(ids, mask, last_only=False)  # (B, L, V)
        new_indices = self._tensor(self.lengths)[:, None] + indices[: max(map(len, tokens))]
        where = new_indices.clamp(max=ids.shape[1] - 1)[:, :, None]  # (B, T, 1)
        return logits.gather(1, where.expand(-1, -1, logits.shape[2]))

    def _take_back(self, lengths: list[int]) -> None:
        for row, length in zip(self.live, lengths, strict=True):
            del self.texts[row][length:]

    def _select(self, rows: list[int]) -> None:
        """Nothing to do: texts are kept for all B rows."""


def ragged_rows(state: DecodingState, copies: int) -> RaggedRows:
    """``copies`` rows of each prompt of ``state``, which is fresh."""
    return UncachedRows(state, copies) if state.cache is None else CachedRows(state, copies)
