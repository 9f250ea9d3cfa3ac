"""Config fields that all of transformers' text decoders have, and reasons why its classes cannot hold a decoder."""

from __future__ import annotations

from typing import Any

from vedcore.errors import warn_caller
from vedcore.transformers_class import ConfigField

__all__ = [
    "cross_attention_mismatch",
    "cross_attention_or_padding_mismatch",
    "padding_mismatch",
    "shared_fields",
]


def _read_token_ids(value: Any) -> Any:
    """One id, or several as a tuple; None for a negative id, by which old files mean none."""
    if isinstance(value, list | tuple):
        return tuple(value) or None
    if isinstance(value, int) and value < 0:
        warn_caller(f"a token id of {value} is read as none")
        return None
    return value


def _write_token_ids(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def shared_fields(
    bos: int | None = None, eos: int | None = None, pad: int | None = None, start: int | None = None
) -> tuple[ConfigField, ...]:
    """Token ids, tied embeddings and the encoder's width; the arguments are transformers' default token ids."""
    return (
        ConfigField("bos_token_id",                bos,   read=_read_token_ids),
        ConfigField("eos_token_id",                eos,   read=_read_token_ids, write=_write_token_ids),
        ConfigField("pad_token_id",                pad,   read=_read_token_ids),
        ConfigField("decoder_start_token_id",      start, read=_read_token_ids),
        ConfigField("tie_word_embeddings",         True),
        ConfigField("cross_attention_hidden_size", None),
    )  # fmt: skip


def cross_attention_mismatch(decoder: Any) -> str:
    """The reason against cross-attention that takes another width than the decoder's; empty where it takes that."""
    taken, width = decoder.cross_attention_size, decoder.hidden_size
    return "" if taken == width else f"its cross-attention takes width {taken}, and must take the decoder's {width}"


def padding_mismatch(decoder: Any) -> str:
    """The reason against a padding id without a row of the embedding; empty where it has one."""
    pad, rows = decoder.config.pad_token_id, decoder.vocab_size
    return "" if pad is None or pad < rows else f"pad_token_id {pad} is not among its {rows} tokens"


def cross_attention_or_padding_mismatch(decoder: Any) -> str:
    """The first of the two reasons that holds; empty where neither does."""
    return cross_attention_mismatch(decoder) or padding_mismatch(decoder)
