"""The words of a text, and their boxes in the image.

Shape letters: Y x X the grid of the image's tokens.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Sequence

import torch

from vedcore.explaining.explanation import ExplainedToken, ExplainedWord
from vedcore.processing.placement import Placement

__all__ = ["explain_words", "split_words"]

EDGE = 0.1
"""Share of a token's strongest cell that a cell beside it needs, to belong to the token's place."""


def split_words(
    decode: Callable[[Sequence[int]], str], row: Sequence[int], positions: Sequence[int], hidden: Collection[int]
) -> list[tuple[str, list[int]]]:
    """The pieces between white space in the text of a row of ids, with the numbers of their tokens.

    Args:
        decode: makes text of ids.
        row: the ids, with those of the prompt.
        positions: where the tokens stand in it, number 0 the first; a word without any is left out.
        hidden: special ids that ``decode`` leaves out, which belong to no word.
    """
    text = decode(row)
    spans, end = [], 0  # of characters of the text that each token gave
    for position in positions:
        begin = max(end, _common(text, decode(row[:position])))
        end = max(begin, _common(text, decode(row[: position + 1])))
        spans.append((begin, end))
    found = []
    for word in re.finditer(r"\S+", text):
        numbers = [
            number
            for number, (begin, end) in enumerate(spans)
            if begin < word.end() and (end > word.start() or begin == end >= word.start())  # a part of a character
            if begin < end or row[positions[number]] not in hidden
        ]
        if numbers:
            found.append((word[0], numbers))
    return found


def explain_words(
    words: Sequence[tuple[str, Sequence[int]]],
    tokens: Sequence[ExplainedToken],
    placement: Placement,
    input_size: tuple[int, int],
    image_size: tuple[int, int],
) -> tuple[ExplainedWord, ...]:
    """Words with their confidence and their box.

    Args:
        words: the text of each, and the numbers of its tokens.
        tokens: all of them.
        placement: from the encoder's pixels to the image's.
        input_size: height and width in pixels of what the encoder gets.
        image_size: width and height of the image.
    """
    found = []
    for text, numbers in words:
        own = [tokens[number] for number in numbers]
        confidence = math.prod(token.probability for token in own) ** (1 / len(own))
        found.append(ExplainedWord(text, confidence, _box(own, placement, input_size, image_size), tuple(numbers)))
    return tuple(found)


def _common(text: str, other: str) -> int:
    """The characters at the head of both."""
    pairs = enumerate(zip(text, other, strict=False))
    return next((number for number, (one, two) in pairs if one != two), min(len(text), len(other)))


def _box(
    tokens: Sequence[ExplainedToken], placement: Placement, size: tuple[int, int], image_size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """The smallest box of the image that holds the place of each token."""
    places = torch.stack([_place(token) for token in tokens]).any(0)  # (Y, X)
    rows, columns = places.any(1).nonzero().flatten().tolist(), places.any(0).nonzero().flatten().tolist()
    height, width = size[0] / places.shape[0], size[1] / places.shape[1]
    cells = columns[0] * width, rows[0] * height, (columns[-1] + 1) * width, (rows[-1] + 1) * height
    left, top, right, bottom = placement.box(cells)
    return (
        min(max(math.floor(left), 0), image_size[0] - 1),
        min(max(math.floor(top), 0), image_size[1] - 1),
        min(max(math.ceil(right), 1), image_size[0]),
        min(max(math.ceil(bottom), 1), image_size[1]),
    )


def _place(token: ExplainedToken) -> torch.Tensor:
    """(Y, X) True where a token is: its strongest cell, and what is joined to it of at least `EDGE` of its share."""
    strong = token.map >= EDGE * token.map.max()
    place = torch.zeros_like(strong)
    place.view(-1)[token.map.argmax()] = True
    while True:
        wider = torch.nn.functional.max_pool2d(place[None].float(), 3, 1, 1)[0].bool() & strong
        if torch.equal(wider, place):
            return place
        place = wider
