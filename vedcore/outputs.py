"""The outputs of models: frozen dataclasses with named fields.

A field is read by name (``out.logits``), by key (``out["logits"]``) or by index among the fields that are set
(``out[0]``), as in transformers' outputs.

Shape letters: N images, B rows of text (N times the captions or beams of an image), S encoder tokens,
T text tokens, D hidden size, V vocabulary size, H attention heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from vedcore.notebook import coloured_tokens, confidence_bar, framed, shown_text

if TYPE_CHECKING:
    from torch import Tensor

    from vedcore.errors import VedcoreError
    from vedcore.layers.cache import DecoderCache

__all__ = [
    "DecoderOutput",
    "EncoderOutput",
    "GenerateOutput",
    "Output",
    "RunOutput",
    "TextResult",
    "VisionEncoderDecoderOutput",
]


class Output(dict[str, Any]):
    """Base of the model outputs: a dict of the fields that are set, which does not change.

    As in transformers' outputs, a mapping or pairs in place of the first field give all fields: so trainers and
    gatherers build an output of the same class from what they made of each value.
    """

    def __post_init__(self) -> None:
        values = self.__dict__  # the fields, in order
        first = next(iter(values))
        if isinstance(given := values[first], (Mapping, Iterator)):
            values[first] = None
            for name, value in dict(given).items():
                if name not in values:
                    raise TypeError(f"{type(self).__name__} has no field {name!r}")
                values[name] = value
        super().update({name: value for name, value in values.items() if value is not None})

    def to_tuple(self) -> tuple[Any, ...]:
        """Values of the fields that are set, in order."""
        return tuple(self.values())

    def __getitem__(self, key: str | int | slice) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, f.name) for f in fields(self))  # type: ignore[arg-type]

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError(f"{type(self).__name__} does not change: dict(output) gives a dict that does")

    __setitem__ = __delitem__ = __ior__ = update = pop = popitem = setdefault = clear = _refuse


@dataclass(frozen=True)
class EncoderOutput(Output):
    """The output of a vision encoder."""

    last_hidden_state: Tensor
    """(N, S, D), one vector per image token."""
    attention_mask: Tensor | None = None
    """(N, S) bool, False where a token shows padding only; None means all True."""
    hidden_states: tuple[Tensor, ...] | None = None
    """On request: the embeddings and the output of each block or stage, each (N, S_i, D_i)."""
    attentions: tuple[Tensor, ...] | None = None
    """On request: attention weights of each block, shaped as in the family (in Swin, windows count as rows)."""


@dataclass(frozen=True)
class DecoderOutput(Output):
    """The output of a text decoder."""

    logits: Tensor
    """(B, T, V) scores of the next token at each position, before the softmax."""
    past_key_values: DecoderCache | None = None
    """The cache, with ``use_cache=True``."""
    hidden_states: tuple[Tensor, ...] | None = None
    """On request: the embeddings and the output of each layer, each (B, T, D)."""
    attentions: tuple[Tensor, ...] | None = None
    """On request: self-attention weights of each layer, each (B, H, T, T_total)."""
    cross_attentions: tuple[Tensor, ...] | None = None
    """On request: cross-attention weights of each layer, each (B, H, T, S)."""


class RunOutput(NamedTuple):
    """The output of `TextDecoder.run`, of which `TextDecoder.forward` makes a `DecoderOutput`."""

    logits: Tensor
    """(B, T, V), or (B, 1, V) of the last position."""
    last_hidden_state: Tensor
    """(B, T, D) after the last norm."""
    new: tuple[tuple[Tensor, Tensor] | None, ...] | None = None
    """With a cache: each layer's keys and values (B, H, T, K) of the new tokens; None of a layer that has none."""
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


@dataclass(frozen=True)
class VisionEncoderDecoderOutput(Output):
    """The output of a composed model: the fields of transformers' ``Seq2SeqLMOutput``, in its order."""

    loss: Tensor | None = None
    """Scalar, where ``labels`` are given."""
    logits: Tensor | None = None
    past_key_values: DecoderCache | None = None
    decoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    encoder_last_hidden_state: Tensor | None = None
    """(N, S, D_encoder) before the projector, as in transformers."""
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None


@dataclass(frozen=True)
class GenerateOutput(Output):
    """The output of ``generate(..., return_dict_in_generate=True)``; rows are images times returned sequences."""

    sequences: Tensor
    """(B, L) token ids with the start id first, padded with the pad id."""
    sequences_scores: Tensor | None = None
    """(B,) with beam search: sum of log-probabilities, divided by length to the power of the length penalty."""
    token_logprobs: Tensor | None = None
    """(B, L_new) log-probability of each new token by the model, before any logits processor; 0 after the end."""
    finish_reasons: tuple[str, ...] | None = None
    """Why each row ended: ``"eos"``, ``"length"``, ``"stop_string"``, ``"repetition"``, ``"criteria"``, ``"time"``."""
    lengths: tuple[int, ...] | None = None
    """New tokens of each row, end token included. Later tokens are padding, or meaningless where the model has no end
    id and another row continues."""
    scores: tuple[Tensor, ...] | None = None
    """On request: for each step (B, V) scores after all logits processors, from which the token is chosen."""
    logits: tuple[Tensor, ...] | None = None
    """On request: for each step (B, V) scores of the model, in float32."""
    beam_indices: Tensor | None = None
    """(B, L_new) with beam search: the row of ``scores`` that each token was chosen from; -1 after the end."""
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None
    decoder_hidden_states: tuple[tuple[Tensor, ...], ...] | None = None
    """On request: for each new token, `DecoderOutput.hidden_states` of the step that chose it: of the prompt for the
    first, (B, T, D), of one token for each later one, (B, 1, D), and of all with ``use_cache=False``. Assisted decoding
    gives what greedy search and sampling give for the same text, and zeros behind the end of a row."""
    decoder_attentions: tuple[tuple[Tensor, ...], ...] | None = None
    """On request: likewise, each layer's (B, H, T, T), then (B, H, 1, L) over the L tokens so far."""
    cross_attentions: tuple[tuple[Tensor, ...], ...] | None = None
    """On request: likewise, each layer's (B, H, T, S), then (B, H, 1, S)."""
    past_key_values: DecoderCache | None = None
    """The cache after greedy search, sampling or beams: of all tokens but the last, ended rows and beams among them."""


@dataclass(frozen=True)
class TextResult:
    """The text read from one image, or from one page of a file; from which does not count where two are compared."""

    text: str
    """Empty where there is an error."""
    confidence: float
    """Geometric mean of the probabilities of the tokens, end token included; from 0 to 1."""
    tokens: tuple[tuple[str, float], ...]
    """Text and probability of each token, without end tokens."""
    finish_reason: str
    """``"eos"`` where the model ended the text, ``"length"`` where the limit did; else the option that did:
    ``"stop_string"``, ``"repetition"``, ``"criteria"`` or ``"time"``. ``"error"`` where there is an error."""
    source: int = field(default=0, compare=False)
    """Index of the image or the file in the list that was given."""
    page: int | None = field(default=None, compare=False)
    """Number of the page, from 1, in a file of several pages; else None."""
    error: VedcoreError | None = None
    """Why there is no text, with ``on_error="return"``."""

    def _repr_html_(self) -> str:
        if self.error is not None:
            return framed(shown_text(f"{type(self.error).__name__}: {self.error}"))
        return framed(shown_text(self.text), confidence_bar(self.confidence), coloured_tokens(self.tokens))
