"""Arrays and tensors as images: axes, scales, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.processing.pictures import check_message, refused
from vedcore.errors import ImageDecodeError
from vedcore.processing.images import load_image


def test_the_axis_of_channels() -> None:
    assert load_image(np.zeros((7, 5), np.uint8)).size == (5, 7)
    assert load_image(np.zeros((7, 5, 1), np.uint8)).size == (5, 7)
    assert load_image(np.zeros((3, 7, 5), np.uint8)).size == (5, 7)
    assert load_image(np.zeros((1, 7, 5), np.uint8)).size == (5, 7)
    assert load_image(np.zeros((3, 7, 4), np.uint8)).size == (7, 3)  # both could be: last for NumPy
    assert load_image(torch.zeros(3, 7, 4)).size == (4, 7)  # first for torch
    assert load_image(torch.zeros(7, 5, 3)).size == (5, 7)
    assert load_image(torch.zeros(7, 5)).size == (5, 7)
    transparent = np.zeros((2, 2, 4), np.uint8)
    assert load_image(transparent).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("value", "dtype", "grey"),
    [
        (True, bool, 255),
        (200, np.uint8, 200),
        (65535, np.uint16, 255),
        (257, np.uint16, 1),
        (257, ">u2", 1),
        (0.5, np.float16, 128),
        (1.0, np.float32, 255),
        (0.2, np.float64, 51),
        (255, np.int64, 255),
        (7, np.int8, 7),
        (255, np.uint32, 255),
        (9, np.int16, 9),
    ],
)
def test_scales_of_types(value: float, dtype: object, grey: int) -> None:
    assert load_image(np.full((2, 3), value, dtype)).getpixel((0, 0)) == (grey,) * 3


def test_scales_of_tensors() -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        assert load_image(torch.ones(3, 4, 5, dtype=dtype)).getpixel((0, 0)) == (255, 255, 255)
    assert load_image(torch.full((3, 4, 5), 9, dtype=torch.uint8)).getpixel((0, 0)) == (9, 9, 9)
    assert load_image(torch.ones(4, 5, dtype=torch.bool)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.full((2, 3), np.nan), ["6 of 6", "NaN"]),
        (np.array([[0.0, np.inf]]), ["1 of 2"]),
        (np.full((2, 3), 1.5), ["1.5", "0 to 1", "divide by 255"]),
        (np.array([[-2.1, 2.6]]), ["-2.1", "2.6", "model.generate"]),
        (np.full((2, 3), 256), ["256", "0 to 255"]),
        (np.full((2, 3), -1, np.int8), ["-1"]),
        (np.zeros((0, 3), np.uint8), ["(0, 3)", "no pixels"]),
        (np.zeros((3, 0, 3), np.uint8), ["no pixels"]),
        (np.zeros(9, np.uint8), ["(9,)"]),
        (np.zeros((2, 3, 4, 4), np.uint8), ["(2, 3, 4, 4)", "list"]),
        (np.uint8(3) + np.zeros((), np.uint8), ["int"]),
        (np.zeros((5, 6, 2), np.uint8), ["(5, 6, 2)", "channels"]),
        (np.zeros((5, 6, 7), np.uint8), ["channels"]),
        (np.zeros((2, 3), complex), ["complex128"]),
        (np.full((2, 3), "x"), ["<U1"]),
        (np.full((2, 3), None), ["object"]),
        (torch.zeros(3, 4, 5, device="meta"), ["meta"]),
        (torch.zeros(3, 4, 5).to_sparse(), ["dense"]),
        (torch.full((3, 4, 5), float("nan")), ["NaN"]),
        (torch.full((3, 4, 5), 300), ["300"]),
        (torch.zeros(3, 4, 5, dtype=torch.complex64), ["complex64"]),
        (torch.zeros(0), ["(0,)"]),
    ],
)
def test_arrays_that_are_not_an_image(array: object, words: list[str]) -> None:
    refused(ImageDecodeError, array, *words)


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(
        st.one_of(
            hnp.integer_dtypes(),
            hnp.unsigned_integer_dtypes(),
            hnp.floating_dtypes(),
            hnp.boolean_dtypes(),
            hnp.complex_number_dtypes(),
        ),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6),
    )
)
def test_any_array_gives_an_image_or_our_error(array: np.ndarray) -> None:
    try:
        image = load_image(array)
    except ImageDecodeError as error:
        check_message(error)
    else:
        assert image.mode == "RGB"
        assert image.size in [(array.shape[1], array.shape[0]), (array.shape[-1], array.shape[-2])]
