"""Kinds of failure of a generated text."""

from __future__ import annotations

import unicodedata
from types import MappingProxyType

__all__ = ["KINDS", "kind_of"]

KINDS = MappingProxyType(
    {
        "exact": "exactly right",
        "form": "only case, spaces or punctuation differ",
        "letters": "wrong letters",
        "empty": "no text",
        "loop": "repeats itself",
        "cut_off": "ended by the limit of length",
        "not_read": "not read",
    }
)
"""Kinds of results, and how they are told."""

MAX_UNIT = 50
"""Most characters of a part that repeats."""
MIN_REPEATS = 4
"""Repeats at the end of a text that make a loop."""
MIN_REPEATED = 8
"""Characters that they make together at least."""


def kind_of(text: str, label: str, finish_reason: str) -> str:
    """The kind of a result: a key of `KINDS`.

    A loop is a part of at most 50 characters that ends the text at least four times in a row, where the label does not
    have as many and the text is too long; or a text that the option against repetition ended.

    Args:
        text: generated.
        label: expected.
        finish_reason: as `vedcore.TextResult` has it.
    """
    if text == label:
        return "exact"
    if not text.strip():
        return "empty"
    is_cut = finish_reason in ("length", "time")
    if finish_reason == "repetition" or ((is_cut or len(text) > len(label)) and _loops(text, label)):
        return "loop"
    if is_cut:
        return "cut_off"
    return "form" if _letters(text) == _letters(label) else "letters"


def _loops(text: str, label: str) -> bool:
    for size in range(1, min(MAX_UNIT, len(text) // MIN_REPEATS) + 1):
        unit, repeats = text[-size:], 1
        while text.endswith(unit, 0, len(text) - repeats * size):
            repeats += 1
        if repeats >= MIN_REPEATS and repeats * size >= MIN_REPEATED and unit * repeats not in label:
            return True
    return False


def _letters(text: str) -> str:
    """The letters, digits and symbols of a text, in one case and composed alike."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c for c in folded if unicodedata.category(c)[0] not in "PZC")
