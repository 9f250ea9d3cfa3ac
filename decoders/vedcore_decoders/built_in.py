"""What the built-in decoders share: where their embedding and their output layer stand.

Shape letters: B rows of text, T tokens, D width, V vocabulary size.
"""

from __future__ import annotations

from torch import Tensor, nn

from vedcore.components import TextDecoder

__all__ = ["BuiltInDecoder"]


class BuiltInDecoder(TextDecoder):
    """A decoder with one embedding of tokens, and one linear layer to the vocabulary."""

    embedding: nn.Embedding
    """Tokens, (V, D)."""
    output: nn.Linear
    """D to V, the whole of the head unless a family says otherwise."""

    def get_input_embeddings(self) -> nn.Embedding:
        """(V, D)."""
        return self.embedding

    def get_output_embeddings(self) -> nn.Linear:
        """D to V."""
        return self.output

    def head(self, hidden_states: Tensor) -> Tensor:
        """(B, T, D) to (B, T, V)."""
        out: Tensor = self.output(hidden_states)
        return out
