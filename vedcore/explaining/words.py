"""The words of a text, and their boxes in the image.

Shape letters: Y x X the grid of the image's tokens.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import torch

from vedcore.explaining.explanation import ExplainedToken, ExplainedWord
from vedcore.processing.placement import Placement

__all__ = ["explain_words"]

EDGE = 0.1
"""Share of a token's strongest cell that a cell beside it needs, to belong to the token's place."""


def explain_words(
    processor: Any,
    row: Sequence[int],
    positions: Sequence[int],
    tokens: Sequence[ExplainedToken],
    placement: Placement,
    size: tuple[int, int],
    image_size: tuple[int, int],
) -> tuple[ExplainedWord, ...]:
    """The words of a row of ids: what stands between white space.

    Args:
        processor: makes text of ids.
        row: the ids, with those of the prompt.
        positions: where each of ``tokens`` stands in it.
        tokens: the explained ones.
        placement: from the encoder's pixels to the image's.
        size: height and width in pixels of what the encoder gets.
        image_size: width and height of the image.
    """
    text = processor.decode(row)
    special = {token for token, added in processor.tokenizer.get_added_tokens_decoder().items() if added.special}
    spans, end = [], 0  # of characters of the text that each token gave
    for position in positions:
        begin = max(end, _common(text, processor.decode(row[:position])))
        end = max(begin, _common(text, processor.decode(row[: position + 1])))
        spans.append((begin, end))
    found = []
    for word in re.finditer(r"\S+", text):
        own = [
            number
            for number, (begin, end) in enumerate(spans)
            if begin < word.end() and (end > word.start() or begin == end >= word.start())  # a part of a character
            if begin < end or row[positions[number]] not in special
        ]
        if own:
            of_word = [tokens[number] for number in own]
            confidence = math.prod(token.probability for token in of_word) ** (1 / len(own))
            box = _box(of_word, placement, size, image_size)
            found.append(ExplainedWord(word[0], confidence, box, tuple(own)))
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
