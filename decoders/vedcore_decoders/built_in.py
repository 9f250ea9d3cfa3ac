"""The base of the built-in decoders: the names of their input embedding and output layer.

Shape letters: B rows of text, T tokens, D width, V vocabulary size.
"""

from __future__ import annotations

from torch import Tensor, nn

from vedcore.text_decoder import TextDecoder

__all__ = ["BuiltInDecoder"]


class BuiltInDecoder(TextDecoder):
    """A decoder with one token embedding, and one linear layer to the vocabulary."""

    embedding: nn.Embedding
    """Token embedding, (V, D)."""
    output: nn.Linear
    """Linear layer from D to V; the whole head, unless a family overrides `head`."""

    def get_input_embeddings(self) -> nn.Embedding:
        """The token embedding, (V, D)."""
        return self.embedding

    def get_output_embeddings(self) -> nn.Linear:
        """The linear layer from D to V."""
        return self.output

    def head(self, hidden_states: Tensor) -> Tensor:
        """(B, T, D) to (B, T, V) logits."""
        out: Tensor = self.output(hidden_states)
        return out
