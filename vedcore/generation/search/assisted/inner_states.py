"""Attentions and hidden states of tokens that are read several at once, as a search that reads one at a time has them.

Shape letters: B rows of text, H attention heads, T prompt tokens, Q tokens of one step (1, or all with no cache), L
tokens so far, S encoder tokens, D width.
"""

from __future__ import annotations

from torch import Tensor

from vedcore.generation.search.assisted.ragged_cache import RaggedRows

__all__ = ["InnerStates"]


class InnerStates:
    """A record for each new token, over those that the state of ``rows`` makes for each call of the decoder.

    Args:
        rows: after the prefill, whose record is that of the first new token.
    """

    def __init__(self, rows: RaggedRows) -> None:
        self.rows, self.state = rows, rows.state
        self.on = self.state.output_attentions or self.state.output_hidden_states
        self.attentions: list[tuple[Tensor, ...]] = []
        """For each later token, each layer's (B, H, Q, L); zeros in rows that never write it, as in all three."""
        self.cross_attentions: list[tuple[Tensor, ...]] = []
        """For each later token, each layer's (B, H, Q, S)."""
        self.hidden_states: list[tuple[Tensor, ...]] = []
        """For each later token, (B, Q, D) of the embeddings and of each layer."""

    def add(self, row: int, step: int, position: int) -> None:
        """Take in what new token ``step`` of a row is chosen by: token ``position`` of those that were read last."""
        if not self.on or not step:
            return
        queries, columns = self.rows.seen_from(row, position)
        if self.state.output_attentions:
            weights = [layer[row, :, queries][..., columns] for layer in self.state.attentions[-1]]
            self._put(self.attentions, step, row, weights)
            crossed = [layer[row, :, queries] for layer in self.state.cross_attentions[-1]]
            self._put(self.cross_attentions, step, row, crossed)
        if self.state.output_hidden_states:
            self._put(self.hidden_states, step, row, [layer[row, queries] for layer in self.state.hidden_states[-1]])

    def forget_call(self) -> None:
        """Drop the records of the last call, which has been taken in."""
        for calls in (self.state.attentions, self.state.cross_attentions, self.state.hidden_states):
            del calls[1:]

    def finish(self, steps: int) -> None:
        """Give the state the records of ``steps`` new tokens, in place of those of its calls."""
        self.forget_call()
        self.state.attentions += self.attentions[: steps - 1]
        self.state.cross_attentions += self.cross_attentions[: steps - 1]
        self.state.hidden_states += self.hidden_states[: steps - 1]

    def _put(self, steps: list[tuple[Tensor, ...]], step: int, row: int, layers: list[Tensor]) -> None:
        if step > len(steps):
            steps.append(tuple(layer.new_zeros(len(self.rows.lengths), *layer.shape) for layer in layers))
        for whole, layer in zip(steps[step - 1], layers, strict=True):
            whole[row] = layer
