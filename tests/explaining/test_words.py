"""Words, their tokens, and the place of each in the image: of attention that is made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import vedcore
from vedcore.explaining.explanation import ExplainedToken, Explanation
from vedcore.explaining.words import explain_words, split_words
from vedcore.processing.placement import Placement
from vedcore.processing.preparation import place_image
from vedcore.processing.processor import Processor, make_tokenizer

PLAIN = vedcore.Preprocessing(image_size=(64, 128))
PREPROCESSING = {
    "squash": PLAIN,
    "crop": PLAIN.changed(resize_mode="crop"),
    "pad": PLAIN.changed(resize_mode="pad"),
    "shortest edge": PLAIN.changed(resize_mode="shortest_edge", do_center_crop=True),
    "larger, then cropped": PLAIN.changed(resize_size=(80, 160), do_center_crop=True),
    "Donut": PLAIN.changed(
        resize_mode="shortest_edge", thumbnail="interpolation", do_pad=True, do_align_long_axis=True
    ),
    "Donut, tall": vedcore.Preprocessing(
        image_size=(128, 64),
        resize_mode="shortest_edge",
        thumbnail="interpolation",
        do_pad=True,
        do_align_long_axis=True,
    ),
    "Nougat": PLAIN.changed(resize_mode="shortest_edge", thumbnail="bicubic", do_pad=True, do_crop_margin=True),
    "margins": PLAIN.changed(do_crop_margin=True),
    "as it is": PLAIN.changed(resize_mode="none", do_pad=True, do_center_crop=True),
}
INK = (210, 120, 260, 160)
"""Left, top, right and bottom of the ink; in the middle of the image, so that no crop cuts it off."""


@pytest.fixture
def drawn() -> Image.Image:
    """Ink on grey paper, with a light margin."""
    image = Image.new("RGB", (400, 300), "white")
    pen = ImageDraw.Draw(image)
    pen.rectangle((20, 10, 379, 269), fill=(150, 150, 150))
    pen.rectangle((INK[0], INK[1], INK[2] - 1, INK[3] - 1), fill="black")
    return image


@pytest.mark.parametrize("name", PREPROCESSING)
def test_what_the_encoder_gets_is_found_in_the_image(name: str, drawn: Image.Image) -> None:
    preprocessing = PREPROCESSING[name]
    if name == "as it is":
        drawn = drawn.resize((130, 100))
        ink = [round(value * 130 / 400) for value in INK]
    else:
        ink = list(INK)
    pixels, placement = place_image(drawn, preprocessing)
    bare = Image.new("RGB", drawn.size, (150, 150, 150))
    bare.paste(drawn)
    ImageDraw.Draw(bare).rectangle((ink[0] - 1, ink[1] - 1, ink[2], ink[3]), fill=(150, 150, 150))
    changed = (place_image(bare, preprocessing)[0] - pixels).abs().sum(0) > 0.5
    assert changed.any()
    rows, columns = (torch.nonzero(changed.any(axis)).flatten() for axis in (1, 0))
    box = placement.box((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))
    cell = max(abs(placement.a) + abs(placement.b), abs(placement.d) + abs(placement.e))  # pixels of the image
    assert box == pytest.approx(ink, abs=1.5 * cell + 1)


def test_placements_are_undone() -> None:
    placement = Placement(0.0, 2.0, 5.0, -3.0, 0.5, 7.0)
    there_and_back = placement @ placement.inverse()
    assert there_and_back == pytest.approx(Placement())


def token(text: str, probability: float, cells: Sequence[tuple[int, int]], grid: tuple[int, int]) -> ExplainedToken:
    """A token whose attention is on some cells, and a little everywhere."""
    weights = torch.full(grid, 0.001)
    for row, column in cells:
        weights[row, column] = 0.4
    return ExplainedToken(text, probability, weights)


@pytest.mark.parametrize("name", ["squash", "pad", "Donut", "Donut, tall"])
def test_the_box_of_a_word_is_where_its_ink_is(name: str, drawn: Image.Image) -> None:
    preprocessing = PREPROCESSING[name]
    height, width = preprocessing.image_size
    _, placement = place_image(drawn, preprocessing)
    left, top, right, bottom = placement.inverse().box(INK)
    rows, columns = height // 8, width // 8
    spots = [(int(top // 8), int(left // 8)), (int((bottom - 0.01) // 8), int((right - 0.01) // 8))]
    tokens = [token("a", 0.9, spots[:1], (rows, columns)), token("b", 0.4, spots[1:], (rows, columns))]
    (word,) = explain_words([("ab", [0, 1])], tokens, placement, (height, width), drawn.size)
    assert (word.text, word.tokens, word.confidence) == ("ab", (0, 1), pytest.approx(0.6))
    cell = 8 * max(abs(placement.a) + abs(placement.b), abs(placement.d) + abs(placement.e)) + 1
    assert word.box == pytest.approx(INK, abs=cell)
    assert word.box[0] <= INK[0] < INK[2] <= word.box[2]
    assert word.box[1] <= INK[1] < INK[3] <= word.box[3]
    found = Explanation("ab", 0.6, tuple(tokens), (word,), drawn, placement, (height, width))
    heat = found.pixel_map(0)
    assert heat.shape == (300, 400)
    y, x = np.unravel_index(int(heat.argmax()), heat.shape)
    assert INK[0] - cell < x < INK[2] + cell
    assert INK[1] - cell < y < INK[3] + cell


def test_words_of_several_tokens_and_characters_of_several_bytes() -> None:
    processor = Processor(PLAIN, make_tokenizer("byte"))
    text = " né à\nb "
    ids = processor.tokenizer(text, add_special_tokens=False).input_ids
    assert len(ids) == len(text.encode())
    width, tokens = 10 * len(ids), [token("?", 1.0, [(0, number)], (1, len(ids))) for number in range(len(ids))]
    split = split_words(processor.decode, ids, range(len(ids)), ())
    assert split == [("né", [1, 2, 3]), ("à", [5, 6]), ("b", [8])]
    words = explain_words(split, tokens, Placement(), (10, width), (width, 10))
    assert [word.box for word in words] == [(10, 0, 40, 10), (50, 0, 70, 10), (80, 0, 90, 10)]


def test_special_tokens_and_a_prompt_belong_to_no_word() -> None:
    processor = Processor(PLAIN, make_tokenizer("char"))
    special = processor.tokenizer.all_special_ids
    a, b, space, c = processor.tokenizer("ab c", add_special_tokens=False).input_ids
    row = [a, special[0], b, space, c, special[0]]
    assert split_words(processor.decode, row, range(1, 6), special) == [("ab", [1]), ("c", [3])]
    shown = partial(processor.decode, skip_special_tokens=False)
    name = processor.tokenizer.id_to_token(special[0])
    assert split_words(shown, row, range(1, 6), ()) == [(f"a{name}b", [0, 1]), (f"c{name}", [3, 4])]
