"""What models return: frozen dataclasses with named fields.

Each can be read by name (``out.logits``), by key (``out["logits"]``) or by position among the fields
that are set (``out[0]``), as transformers' outputs can.

Shape letters: N images, B rows of text (N times the captions or beams an image has), S encoder tokens,
T text tokens, D hidden size, V vocabulary size, H attention heads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from vedcore.layers.cache import DecoderCache

__all__ = ["DecoderOutput", "EncoderOutput", "GenerateOutput", "Output", "TextResult", "VisionEncoderDecoderOutput"]


class Output:
    """Base of the model outputs: fields that are ``None`` count as absent by key and by position."""

    def keys(self) -> list[str]:
        """Names of the fields that are set, in order."""
        return [f.name for f in fields(self) if getattr(self, f.name) is not None]  # type: ignore[arg-type]

    def to_tuple(self) -> tuple[Any, ...]:
        """Values of the fields that are set, in order."""
        return tuple(getattr(self, name) for name in self.keys())

    def __getitem__(self, key: str | int | slice) -> Any:
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in self.keys():
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __contains__(self, key: object) -> bool:
        return key in self.keys()

    def __len__(self) -> int:
        return len(self.keys())


@dataclass(frozen=True)
class EncoderOutput(Output):
    """What a vision encoder gives."""

    last_hidden_state: Tensor
    """(N, S, D) one vector an image token."""
    attention_mask: Tensor | None = None
    """(N, S) bool, True where the token shows the image and False where it shows padding; None means all True."""
    hidden_states: tuple[Tensor, ...] | None = None
    """On request: the embeddings and the output of each block or stage, each (N, S_i, D_i)."""
    attentions: tuple[Tensor, ...] | None = None
    """On request: attention weights of each block, as the family has them (windows count as rows in Swin)."""


@dataclass(frozen=True)
class DecoderOutput(Output):
    """What a text decoder gives."""

    logits: Tensor
    """(B, T, V) scores of the token that follows each position, before the softmax."""
    past_key_values: DecoderCache | None = None
    """The cache, when ``use_cache=True``."""
    hidden_states: tuple[Tensor, ...] | None = None
    """On request: the embeddings and the output of each layer, each (B, T, D)."""
    attentions: tuple[Tensor, ...] | None = None
    """On request: self-attention weights of each layer, each (B, H, T, T_total)."""
    cross_attentions: tuple[Tensor, ...] | None = None
    """On request: cross-attention weights of each layer, each (B, H, T, S)."""


@dataclass(frozen=True)
class VisionEncoderDecoderOutput(Output):
    """What the composed model gives; the fields of transformers' ``Seq2SeqLMOutput``, in its order."""

    loss: Tensor | None = None
    """Scalar, when ``labels`` are given."""
    logits: Tensor | None = None
    past_key_values: DecoderCache | None = None
    decoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    encoder_last_hidden_state: Tensor | None = None
    """(N, S, D_encoder) before the projector, as transformers gives it."""
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None


@dataclass(frozen=True)
class GenerateOutput(Output):
    """What ``generate(..., return_dict_in_generate=True)`` gives; rows are images times returned sequences."""

    sequences: Tensor
    """(B, L) token ids with the start id first, padded with the pad id."""
    sequences_scores: Tensor | None = None
    """(B,) beam search only: sum of log-probabilities over length to the power of the length penalty."""
    token_logprobs: Tensor | None = None
    """(B, L_new) log-probability the model gave each new token, before any processor; 0 past the end."""
    finish_reasons: tuple[str, ...] | None = None
    """Why each row ended: ``"eos"``, ``"length"``, ``"stop_string"``, ``"repetition"``, ``"criteria"``, ``"time"``."""
    lengths: tuple[int, ...] | None = None
    """New tokens of each row, end token included. What stands behind them is padding, or, where the model has no end id
    and another row goes on, of no meaning."""
    scores: tuple[Tensor, ...] | None = None
    """On request: for each step (B, V) what the tokens were chosen by, after all processors."""
    logits: tuple[Tensor, ...] | None = None
    """On request: for each step (B, V) what the model gave, in float32."""
    beam_indices: Tensor | None = None
    """(B, L_new) beam search only: the row of ``scores`` that each token was chosen from; -1 past the end."""
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None
    decoder_hidden_states: tuple[tuple[Tensor, ...], ...] | None = None
    """On request: for each step what `DecoderOutput.hidden_states` is."""
    decoder_attentions: tuple[tuple[Tensor, ...], ...] | None = None
    cross_attentions: tuple[tuple[Tensor, ...], ...] | None = None


@dataclass(frozen=True)
class TextResult:
    """The text read from one image."""

    text: str
    confidence: float
    """Geometric mean of the probabilities of the tokens, end token included: 0 to 1."""
    tokens: tuple[tuple[str, float], ...]
    """Each token's text and probability; end tokens are not among them."""
    finish_reason: str
    """``"eos"`` when the model ended the text itself, ``"length"`` when the limit did, else ``"stop_string"``,
    ``"repetition"``, ``"criteria"`` or ``"time"``, after the option that did."""
