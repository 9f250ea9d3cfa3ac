"""From ids and log-probabilities to texts, and from a prompt to ids.

Shape letters: N images, B rows of text, L new tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vedcore.errors import UsageError
from vedcore.generation.constraints import TokenAutomaton, compile_constraint
from vedcore.outputs import EncoderOutput, GenerateOutput, TextResult
from vedcore.processing.encoding import encode_text
from vedcore.processing.processor import Processor

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from vedcore.generation.options.config import GenerationConfig
    from vedcore.generation.state import DecodingState

__all__ = [
    "constraint_of",
    "encode_prompt",
    "require_tokenizer",
    "text_results",
    "transition_scores",
    "with_inner_states",
]


def require_tokenizer(processor: Processor) -> Tokenizer:
    """The tokenizer.

    Raises:
        UsageError: there is none.
    """
    if processor.tokenizer is None:
        raise UsageError(
            "the model has no tokenizer",
            field="tokenizer",
            hint="give tokenizer= to vedcore.load or compose, or put a tokenizer.json into the model's folder",
        )
    return processor.tokenizer.backend_tokenizer


def encode_prompt(processor: Processor, prompt: str, start: int | None, untrusted: bool = False) -> Tensor:
    """(1, T) ids of a prompt.

    Args:
        processor: with the tokenizer.
        prompt: names of special and added tokens in it are those tokens; one that does not begin with the name of a
            special token stands behind the start id.
        start: the start id.
        untrusted: spell out such names, so that only their characters count.

    Raises:
        TokenizerError: a text that cannot be encoded.
        UsageError: no tokenizer, a prompt that is not text, or one of no tokens.
    """
    tokenizer = require_tokenizer(processor)
    if not isinstance(prompt, str):
        raise UsageError(f"text expected, got {type(prompt).__name__}", field="prompt", hint="give one str for all")
    names = tuple(token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special)
    ids = encode_text(tokenizer, prompt, untrusted=untrusted)
    if start is not None and (untrusted or not prompt.startswith(names)):
        ids = [start, *ids]
    if not ids:
        raise UsageError("no token is left of it", field="prompt", hint="give a text, or leave it out")
    return torch.tensor([ids])


def constraint_of(
    tokenizer: Tokenizer | None, options: GenerationConfig, eos: tuple[int, ...], vocab_size: int
) -> TokenAutomaton | None:
    """The automaton of ``allowed_chars``, ``pattern`` and ``lexicon``; None where none of them is set.

    Raises:
        UsageError: there is no tokenizer, or as `compile_constraint` says.
    """
    rules = {"allowed_chars": options.allowed_chars, "pattern": options.pattern, "lexicon": options.lexicon or None}
    if not any(rules.values()):
        return None
    if tokenizer is None:
        field = next(name for name, rule in rules.items() if rule)
        raise UsageError(
            "the model has no tokenizer, which it needs",
            field=field,
            hint="leave it out, or give tokenizer=, such as a tokenizer.json, to vedcore.load or compose",
        )
    tokenizer = getattr(tokenizer, "backend_tokenizer", tokenizer)
    return _compiled(tokenizer, tokenizer.get_vocab_size(), vocab_size, eos, *rules.values())


@lru_cache(maxsize=16)
def _compiled(
    tokenizer: Tokenizer,
    tokens: int,
    vocab_size: int,
    eos: tuple[int, ...],
    allowed_chars: str | None,
    pattern: str | None,
    lexicon: tuple[str, ...] | None,
) -> TokenAutomaton:
    """Compiled once for all calls; ``tokens`` tells a tokenizer from the same one with tokens added."""
    return compile_constraint(
        tokenizer, vocab_size, eos=eos, allowed_chars=allowed_chars, pattern=pattern, lexicon=lexicon
    )


def text_results(
    out: GenerateOutput, processor: Processor, eos: tuple[int, ...], skip_special_tokens: bool = True
) -> list[TextResult]:
    """The text of each row, with its confidence and tokens.

    Args:
        out: the output of `generate`.
        processor: with the tokenizer.
        eos: end ids in force, which are not among the tokens.
        skip_special_tokens: leave special tokens out of the text.
    """
    assert out.token_logprobs is not None
    assert out.finish_reasons is not None
    assert out.lengths is not None
    prompt = out.sequences.shape[1] - out.token_logprobs.shape[1]
    results = []
    for row, logprobs, length, reason in zip(
        out.sequences.tolist(), out.token_logprobs.double().cpu(), out.lengths, out.finish_reasons, strict=True
    ):
        new, probabilities = row[prompt : prompt + length], logprobs[:length].exp()
        results.append(
            TextResult(
                text=processor.decode(row[: prompt + length], skip_special_tokens),
                confidence=float(logprobs[:length].mean().exp()) if length else 0.0,
                tokens=tuple(
                    (processor.token_text(token), p)
                    for token, p in zip(new, probabilities.tolist(), strict=True)
                    if token not in eos
                ),
                finish_reason=reason,
            )
        )
    return results


def with_inner_states(
    out: GenerateOutput, state: DecodingState, encoded: EncoderOutput, expand: Tensor, keeps_cache: bool
) -> GenerateOutput:
    """``out`` with the hidden states and attentions of encoder and decoder, in transformers' shapes, and the cache.

    Args:
        out: the output of a search.
        state: the one that it ran on.
        encoded: output of the encoder.
        expand: (B,) the prompt of each row: the first step ran once for all rows of a prompt, and is repeated for each.
        keeps_cache: put the cache in.
    """

    def whole(steps: list[tuple[Tensor, ...]]) -> tuple[tuple[Tensor, ...], ...] | None:
        if not steps:
            return None
        first = tuple(layer[expand] if len(layer) != len(expand) else layer for layer in steps[0])
        return (first, *steps[1:])

    return replace(
        out,
        encoder_hidden_states=encoded.hidden_states,
        encoder_attentions=encoded.attentions,
        decoder_hidden_states=whole(state.hidden_states),
        decoder_attentions=whole(state.attentions),
        cross_attentions=whole(state.cross_attentions),
        past_key_values=state.cache if keeps_cache else None,
    )


def transition_scores(
    sequences: Tensor, scores: Sequence[Tensor], beam_indices: Tensor | None = None, normalize_logits: bool = False
) -> Tensor:
    """(B, L) the score by which each new token was chosen; see `VisionEncoderDecoder.compute_transition_scores`."""
    shapes = {tuple(step.shape) for step in scores or () if isinstance(step, Tensor) and step.ndim == 2}
    if not isinstance(sequences, Tensor) or sequences.ndim != 2 or len(shapes) != 1:
        raise UsageError(
            "sequences (B, T) and a tuple of scores, each (rows, V), are needed",
            field="scores",
            hint="give out.sequences and out.scores of generate(return_dict_in_generate=True, output_scores=True)",
        )
    rows = len(scores[0])
    if beam_indices is None:
        if rows != len(sequences):
            message = f"{rows} rows of scores for {len(sequences)} sequences"
            raise UsageError(message, field="beam_indices", hint="give out.beam_indices of the same call")
        beam_indices = torch.arange(rows, device=sequences.device)[:, None].expand(-1, len(scores))
    written = beam_indices >= 0  # (B, L)
    steps = int(written.sum(1).max())
    fits = beam_indices.shape[0] == len(sequences) and steps <= min(len(scores), sequences.shape[1])
    if not fits or int(beam_indices.max()) >= rows:
        message = f"beam_indices of shape {tuple(beam_indices.shape)} do not fit the scores of {len(scores)} steps"
        raise UsageError(message, field="beam_indices", hint="give sequences, scores and beam_indices of one call")
    if not steps:
        return sequences.new_zeros(len(sequences), 0, dtype=scores[0].dtype)
    beam, written = beam_indices[:, :steps].long().clamp(min=0), written[:, :steps]
    tokens = sequences[:, sequences.shape[1] - steps :]
    found = []
    for i in range(steps):
        values = scores[i].log_softmax(1) if normalize_logits else scores[i]
        found.append(values[beam[:, i], tokens[:, i]].masked_fill(~written[:, i], 0.0))
    return torch.stack(found, 1)
