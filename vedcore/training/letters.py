"""Letters of the labels that the tokenizer of a model cannot spell: found, told, and given tokens."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

from vedcore.data import Data
from vedcore.model import VisionEncoderDecoder
from vedcore.processing.letters import new_letters
from vedcore.training.progress import Display

__all__ = ["add_letters"]

LOOKED_AT = 1000
"""Rows of a stream whose labels are searched for new letters."""
MAX_LETTERS = 20
"""Letters that a message names."""


def add_letters(
    model: VisionEncoderDecoder, training: Data, others: Mapping[str, Data], letters: str, display: Display
) -> None:
    """Give tokenizer and decoder the letters of the training's labels that the tokenizer cannot spell.

    Args:
        model: gets the tokens behind the old ones.
        training: the rows; of a stream, the first 1,000 count.
        others: names to rows that are evaluated; letters that only they have are told.
        letters: further ones to add.
        display: tells.
    """
    if model.processor.tokenizer is None:
        return
    spelling = model.processor.tokenizer.backend_tokenizer
    rows = islice(training, LOOKED_AT) if training.is_stream else training
    found = new_letters(spelling, (row.text for row in rows))
    for letter in new_letters(spelling, letters):
        found.setdefault(letter, 0)
    if found:
        model.extend_alphabet("".join(found))
        display.say(f"{len(found)} new letters of the labels have tokens now: {_counted(found)}")
    if training.is_stream:
        remedy = "a row with others is left out, unless data.letters=… names them"
        display.say(f"only the first {LOOKED_AT:,} rows were searched for new letters; {remedy}")
    spelling = model.processor.tokenizer.backend_tokenizer
    for name, data in others.items():
        if left := new_letters(spelling, (row.text for row in data)):
            display.say(f"{name}: {len(left)} letters without a token, which the model cannot write: {_counted(left)}")


def _counted(letters: Mapping[str, int]) -> str:
    said = ", ".join(f"{letter!r} ({count:,})" for letter, count in list(letters.items())[:MAX_LETTERS])
    return said + (f" and {len(letters) - MAX_LETTERS} more" if len(letters) > MAX_LETTERS else "")
