"""The texts that grow during a search, as the decoder sees them.

Shape letters: N images, B rows of text, S' tokens of an image as cross-attention takes them, E their width, T prompt
tokens, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from vedcore.generation.options.strategies import Ability
from vedcore.layers.cache import DecoderCache
from vedcore.outputs import DecoderOutput
from vedcore.text_decoder import TextDecoder

__all__ = ["DecodingState", "State"]

MAX_FRACTION_TO_COMPACT = 0.75
"""Compact the batch when at most this fraction of its prompts is unfinished."""


class State(Protocol):
    """A model in the middle of writing; whether it keeps a cache or the ids so far is not seen from outside."""

    @property
    def abilities(self) -> frozenset[Ability]:
        """Extras beyond `prefill` and `step`; a strategy that needs others is refused."""

    def prefill(self, input_ids: Tensor) -> Tensor:
        """Read the (N, T) prompts; return the (N, V) logits of the next tokens."""

    def step(self, tokens: Tensor, reorder: Tensor | None) -> Tensor:
        """Read one more token in each row; return the (B, V) logits of the next.

        Args:
            tokens: (B, 1).
            reorder: (B,) the row so far that each row continues; None when each continues itself. The first one after
                the prefill may have more rows than the prefill: ``[0, 0, 1, 1]`` makes two rows of each prompt.
        """

    def reorder(self, index: Tensor) -> None:
        """Make each row continue row ``index``, (B,), as `step` would; called at the end for `Request.keeps_cache`."""

    def part(self, first: int, last: int) -> State:
        """A fresh state over prompts ``first`` to ``last - 1`` of this fresh one, if its abilities have ``parts``."""

    def keep(self, going_on: Sequence[bool]) -> None:
        """Say which of the N prompts still go on; the logits of the others are not read again."""


class DecodingState:
    """The decoder over a batch of texts that grow: what a search steps through.

    Prompts that have ended leave the batch, unless attentions or hidden states are recorded. The decoder then runs on
    fewer rows, while tokens and logits still have all B, with zeros for those that left.

    Args:
        decoder: the decoder, in eval mode.
        states: (N, S', E) projected encoder states.
        mask: (N, S') or None.
        prompt_mask: (N, T) which tokens of the prompts count, or None.
        capacity: tokens to make room for.
        use_cache: False computes everything anew at each step.
        output_attentions: record the attention weights of each call of the decoder.
        output_hidden_states: record its states between the layers.
        compiled: run the decoder through ``torch.compile``.
        cache: goes on with this one, which may hold beginnings of the prompts, and the images.
    """

    abilities: frozenset[Ability] = frozenset({"parts", "hidden_states", "uneven_rows"})

    def __init__(
        self,
        decoder: TextDecoder,
        states: Tensor,
        mask: Tensor | None,
        prompt_mask: Tensor | None,
        capacity: int,
        use_cache: bool,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        compiled: bool = False,
        cache: DecoderCache | None = None,
    ) -> None:
        self.decoder = decoder
        self.run: Callable[..., DecoderOutput] = decoder.compiled() if compiled else decoder
        self.states = states
        self.mask = mask
        self.attention_mask = prompt_mask
        self.capacity = capacity
        self.cache = cache if cache is not None or not use_cache else decoder.make_cache(capacity)
        self.ids: Tensor | None = None
        self.output_attentions = output_attentions
        self.output_hidden_states = output_hidden_states
        self.attentions: list[tuple[Tensor, ...]] = []
        """For each call of the decoder, each layer's (B, H, T, L)."""
        self.cross_attentions: list[tuple[Tensor, ...]] = []
        """For each call of the decoder, each layer's (B, H, T, S')."""
        self.hidden_states: list[tuple[Tensor, ...]] = []
        """For each call of the decoder, (B, T, D) of the embeddings and of each layer."""
        self.keeps_last_hidden_state = False
        """Whether `last_hidden_state` is kept; to be set before the prefill."""
        self.last_hidden_state: Tensor | None = None
        """(B, T, D) the decoder's states of the tokens of the last call, after its last layer and norm."""
        self.prompts = len(states)
        self.total = self.prompts
        """B, rows of the last call, those that left among them."""
        self.live = list(range(self.prompts))
        """Prompts that are still computed."""
        self.prompt_length = 0
        self._computed: dict[int, Tensor] = {}

    def part(self, first: int, last: int) -> DecodingState:
        """A fresh one over images ``first`` to ``last - 1``, which records nothing and is not compiled."""
        mask, prompt_mask = (None if m is None else m[first:last] for m in (self.mask, self.attention_mask))
        return DecodingState(
            self.decoder, self.states[first:last], mask, prompt_mask, self.capacity, self.cache is not None
        )

    def prefill(self, input_ids: Tensor) -> Tensor:
        """The prompts, (N, T), to the logits of the next token, (N, V); tokens in the cache are not read again."""
        self.prompt_length = input_ids.shape[1]
        if self.cache is None:
            self.ids = input_ids
        read = 0 if self.cache is None else self.cache.length
        return self.call(input_ids[:, read:], self.attention_mask)[:, -1]

    def step(self, tokens: Tensor, reorder: Tensor | None) -> Tensor:
        """One more token a row, (B, 1), to the logits of the next, (B, V).

        Args:
            tokens: the new tokens.
            reorder: (B,) the row that each row continues; None where each continues itself.
        """
        if reorder is not None:
            self.reorder(reorder)
        if (rows := self.computed_rows) is not None:
            tokens = tokens.index_select(0, rows)
        if self.cache is not None:
            return self.call(tokens, None)[:, -1]
        assert self.ids is not None
        self.ids = torch.cat([self.ids, tokens], 1)
        if self.attention_mask is not None:
            self.attention_mask = torch.cat([self.attention_mask, self.attention_mask.new_ones(tokens.shape)], 1)
        return self.call(self.ids, self.attention_mask)[:, -1]

    def keep(self, going_on: Sequence[bool]) -> None:
        """Let prompts that have ended leave the batch, once so many have that the copy pays.

        Args:
            going_on: of each of the N prompts.
        """
        staying = [i for i, prompt in enumerate(self.live) if going_on[prompt]]
        if (
            self.output_attentions
            or self.output_hidden_states
            or not 0 < len(staying) <= MAX_FRACTION_TO_COMPACT * len(self.live)
        ):
            return
        each = self.total // self.prompts
        self._select(self._index([i * each + j for i in staying for j in range(each)]), self._index(staying))
        self.live = [self.live[i] for i in staying]
        self._computed.clear()

    @property
    def computed_rows(self) -> Tensor | None:
        """(B',) indices of the ``total`` rows that are computed; None for all."""
        if len(self.live) == self.prompts:
            return None
        if self.total not in self._computed:
            each = self.total // self.prompts
            self._computed[self.total] = self._index([prompt * each + i for prompt in self.live for i in range(each)])
        return self._computed[self.total]

    def reorder(self, index: Tensor, last: bool = False) -> None:
        """Make each row ``i`` of B continue what row ``index[i]`` was.

        Args:
            index: (B,) of the rows so far, which may be fewer.
            last: the rows of a prompt differ in their last token alone, so only that is moved.
        """
        before = self.computed_rows
        computed_index = None if before is None else torch.zeros(self.total, dtype=torch.long, device=index.device)
        self.total = len(index)
        if before is not None and computed_index is not None and self.computed_rows is not None:
            computed_index[before] = torch.arange(len(before), device=index.device)
            index = computed_index[index.index_select(0, self.computed_rows)]
        if self.cache is not None:
            self.cache.reorder(index, self.cache.length - 1 if last else 0)
            return
        assert self.ids is not None
        self.ids = self.ids.index_select(0, index)
        if self.attention_mask is not None:
            self.attention_mask = self.attention_mask.index_select(0, index)

    def call(self, input_ids: Tensor, attention_mask: Tensor | None, last_only: bool = True) -> Tensor:
        """The decoder on the rows that are computed.

        Args:
            input_ids: (B', T) their new tokens, or, without a cache, all of them.
            attention_mask: (B', T) which of these count, or None.
            last_only: compute the logits of the last token alone.

        Returns:
            (B, T or 1, V) logits, zeros for rows that left.
        """
        first = self.cache is None or self.cache.length == 0
        out = self.run(
            input_ids=input_ids,
            attention_mask=attention_mask,
            encoder_hidden_states=self.states if first else None,
            encoder_attention_mask=self.mask if first else None,
            past_key_values=self.cache,
            output_attentions=self.output_attentions,
            output_hidden_states=self.output_hidden_states or self.keeps_last_hidden_state,
            last_logits_only=last_only,
            **({"prompt_length": self.prompt_length} if self.decoder.positions_by_id else {}),
        )
        if self.cache is not None:  # it holds their keys and values
            self.states, self.mask = self.states.new_empty(0), None
        if self.output_attentions:
            self.attentions.append(out.attentions or ())
            self.cross_attentions.append(out.cross_attentions or ())
        if self.output_hidden_states:
            self.hidden_states.append(out.hidden_states or ())
        if self.keeps_last_hidden_state:
            assert out.hidden_states is not None  # the contract of `output_hidden_states`
            self.last_hidden_state = self._spread(out.hidden_states[-1])
        return self._spread(out.logits[:, -1:] if last_only else out.logits)

    def _spread(self, computed: Tensor) -> Tensor:
        """(B', ...) to (B, ...)."""
        rows = self.computed_rows
        if rows is None:
            return computed
        return computed.new_zeros(self.total, *computed.shape[1:]).index_copy_(0, rows, computed)

    def _select(self, rows: Tensor, images: Tensor) -> None:
        if self.cache is not None:
            self.cache.select(rows, images)
            return
        assert self.ids is not None
        self.ids, self.states = self.ids.index_select(0, rows), self.states.index_select(0, images)
        if self.mask is not None:
            self.mask = self.mask.index_select(0, images)
        if self.attention_mask is not None:
            self.attention_mask = self.attention_mask.index_select(0, rows)

    def _index(self, numbers: Sequence[int]) -> Tensor:
        """``numbers`` on the device, without waiting for it."""
        return torch.tensor(numbers).to(self.states.device, non_blocking=True)
