"""The texts that grow during a search, as the decoder sees them.

Shape letters: N images, B rows of text, S' tokens of an image as cross-attention takes them, E their width, T prompt
tokens, V vocabulary size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vedcore.components import TextDecoder

__all__ = ["DecodingState"]


class DecodingState:
    """The decoder over a batch of texts that grow: what a search steps through.

    Args:
        decoder: the decoder, in eval mode.
        states: (N, S', E) projected encoder states.
        mask: (N, S') or None.
        prompt_mask: (N, T) which tokens of the prompts count, or None.
        capacity: tokens to make room for.
        use_cache: False computes everything anew at each step.
    """

    def __init__(
        self,
        decoder: TextDecoder,
        states: Tensor,
        mask: Tensor | None,
        prompt_mask: Tensor | None,
        capacity: int,
        use_cache: bool,
    ) -> None:
        self.decoder = decoder
        self.states = states
        self.mask = mask
        self.attention_mask = prompt_mask
        self.cache = decoder.make_cache(capacity) if use_cache else None
        self.ids: Tensor | None = None

    def prefill(self, input_ids: Tensor) -> Tensor:
        """The prompts, (N, T), to the logits of the next token, (N, V)."""
        if self.cache is None:
            self.ids = input_ids
        return self._logits(input_ids, self.attention_mask)

    def step(self, tokens: Tensor, reorder: Tensor | None) -> Tensor:
        """One more token a row, (B, 1), to the logits of the next, (B, V).

        Args:
            tokens: the new tokens.
            reorder: (B,) the row that each row continues; None where each continues itself.
        """
        if self.cache is not None:
            if reorder is not None:
                self.cache.reorder(reorder)
            return self._logits(tokens, None)
        assert self.ids is not None
        before = self.ids if reorder is None else self.ids[reorder]
        self.ids = torch.cat([before, tokens], 1)
        if self.attention_mask is not None:
            mask = self.attention_mask if reorder is None else self.attention_mask[reorder]
            self.attention_mask = torch.cat([mask, mask.new_ones(tokens.shape)], 1)
        return self._logits(self.ids, self.attention_mask)

    def _logits(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        first = self.cache is None or self.cache.length == 0
        logits: Tensor = self.decoder(
            input_ids=input_ids,
            attention_mask=attention_mask,
            encoder_hidden_states=self.states if first else None,
            encoder_attention_mask=self.mask if first else None,
            past_key_values=self.cache,
            last_logits_only=True,
        ).logits[:, -1]
        return logits
