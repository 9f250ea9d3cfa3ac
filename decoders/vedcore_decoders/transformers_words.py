"""Settings that all of transformers' text decoders have, and why one of ours may not be one of theirs."""

from __future__ import annotations

import warnings
from typing import Any

from vedcore.transformers_class import Word

__all__ = ["id_words", "narrow", "narrow_or_unpadded", "unpadded"]


def _token_ids(value: Any) -> Any:
    """One id, or several as a tuple; a negative one is no token, as files of old say "none"."""
    if isinstance(value, list | tuple):
        return tuple(value) or None
    if isinstance(value, int) and value < 0:
        warnings.warn(f"a token id of {value} is read as none", UserWarning, stacklevel=4)
        return None
    return value


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def id_words(
    bos: int | None = None, eos: int | None = None, pad: int | None = None, start: int | None = None
) -> tuple[Word, ...]:
    """Token ids, ties and the width of the encoder, with transformers' own ids where a file does not say."""
    return (
        Word("bos_token_id",                bos, read=_token_ids),
        Word("eos_token_id",                eos, read=_token_ids, write=_listed),
        Word("pad_token_id",                pad, read=_token_ids),
        Word("decoder_start_token_id",      start, read=_token_ids),
        Word("tie_word_embeddings",         True),
        Word("cross_attention_hidden_size", None),
    )  # fmt: skip


def narrow(decoder: Any) -> str:
    """Why a decoder is none of theirs whose cross-attention takes the decoder's own width alone."""
    taken, width = decoder.cross_attention_size, decoder.hidden_size
    return "" if taken == width else f"its cross-attention takes states of {taken}, and theirs the decoder's {width}"


def unpadded(decoder: Any) -> str:
    """Why a decoder is none of theirs whose embedding has a row for padding."""
    pad, rows = decoder.config.pad_token_id, decoder.vocab_size
    return "" if pad is None or pad < rows else f"pad_token_id {pad} is not among its {rows} tokens"


def narrow_or_unpadded(decoder: Any) -> str:
    """The first of the two reasons."""
    return narrow(decoder) or unpadded(decoder)
