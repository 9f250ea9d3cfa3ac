"""Linear layers and embeddings that initialise themselves once, the way language models do."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["Embedding", "Linear", "output_layer"]


class Linear(nn.Linear):
    """``nn.Linear`` whose fresh weight is normal with standard deviation ``std`` and whose bias is zero.

    torch's own initialisation would be drawn and thrown away: half of the time of building a model.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, std: float = 0.02) -> None:
        self.std = std
        super().__init__(in_features, out_features, bias)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Embedding(nn.Embedding):
    """``nn.Embedding`` whose fresh rows are normal with standard deviation ``std``."""

    def __init__(self, num_embeddings: int, embedding_dim: int, *, std: float = 0.02) -> None:
        self.std = std
        super().__init__(num_embeddings, embedding_dim)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.std)


def output_layer(embedding: nn.Embedding, *, tied: bool, bias: bool = False, std: float = 0.02) -> Linear:
    """The layer from the width D to the V scores of the vocabulary.

    Args:
        embedding: the input embedding, (V, D).
        tied: whether its weight is the layer's too; nothing is drawn then.
        bias: whether the layer has a bias, which starts at zero.
        std: spread of a fresh weight.
    """
    if not tied:
        return Linear(embedding.embedding_dim, embedding.num_embeddings, bias, std=std)
    with torch.device("meta"):  # allocates nothing for the weight that is replaced
        layer = Linear(embedding.embedding_dim, embedding.num_embeddings, bias)
    layer.weight = embedding.weight
    if bias:
        layer.bias = nn.Parameter(torch.zeros(embedding.num_embeddings))
    return layer
