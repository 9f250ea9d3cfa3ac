"""Checks of trained models: the function that a plugin registers, which gives the model's folder."""

from __future__ import annotations

import contextlib
import os
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Never
from unittest import mock

import torch

from vedcore.checkpoints.formats import load
from vedcore.checkpoints.inspection import inspect_folder
from vedcore.errors import VedcoreError
from vedcore.testing.cases import Case
from vedcore.testing.checks import all_finite, check, fail
from vedcore.testing.format_models import contents, refuse_others
from vedcore.testing.wiring import check_wiring

__all__: list[str] = []

NEW_TOKENS = 4
"""Tokens that are written about an image."""


def _folder(case: Case) -> Path:
    folder = case.build()
    if not isinstance(folder, str | os.PathLike):
        fail("the path of the model's folder", type(folder).__name__)
    if not os.path.isdir(folder):
        fail("a folder that is there", str(folder))
    return Path(folder)


@check("model")
def gives_a_folder(case: Case) -> None:
    """The function gives the path of a folder that is there."""
    _folder(case)


@check("model")
def gives_the_same_folder_again(case: Case) -> None:
    """A second call gives the same path, with the same files."""
    first = _folder(case)
    before = contents(first)
    second = _folder(case)
    if os.path.realpath(first) != os.path.realpath(second):
        fail("the same path", f"{first} and {second}")
    if contents(second) != before:
        fail("the same files", "others")


@check("model")
def files_are_whole(case: Case) -> None:
    """The files are those of the manifest, and no setting is damaged."""
    found = inspect_folder(_folder(case), verify=True)
    if found.problems:
        fail("a folder without problems", found.problems[0])


@check("model")
def loads_the_same_each_time(case: Case) -> None:
    """The folder loads, strictly and in eval mode, twice to the same tensors."""
    folder = _folder(case)
    first, second = load(folder), load(folder)
    if first.training:
        fail("a model in eval mode", "one in training mode")
    refuse_others(first, second)


@check("model")
def loads_offline(case: Case) -> None:
    """The function and ``load`` need no network."""
    with _without_network():
        load(_folder(case))


@check("model")
def loads_without_warnings(case: Case) -> None:
    """Nothing is assumed on loading: no tokenizer and no preprocessing lacks."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load(_folder(case))
    if said := [str(each.message) for each in caught if issubclass(each.category, UserWarning)]:
        fail("no warning", said[0])


@check("model")
def reads_an_image(case: Case) -> None:
    """An image becomes a text, or ids where there is no tokenizer, the same each time, with finite scores."""
    model = load(_folder(case))
    height, width = model.processor.preprocessing.image_size
    generator = torch.Generator().manual_seed(case.seed)
    image = torch.randint(256, (height, width, 3), dtype=torch.uint8, generator=generator).numpy()
    pixels = model.processor([image])["pixel_values"]
    ids = [model.generate(pixels, max_new_tokens=NEW_TOKENS, do_sample=False) for _ in range(2)]
    if not torch.equal(ids[0], ids[1]):
        fail("the same ids for the same image", "others")
    with torch.no_grad():
        all_finite("logits", model(pixel_values=pixels, decoder_input_ids=ids[0]).logits)
    if model.processor.tokenizer is not None:
        (read,) = model.generate_text([image], max_new_tokens=NEW_TOKENS, do_sample=False)
        if not isinstance(read.text, str):
            fail("a text", type(read.text).__name__)


@check("model")
def its_parts_are_wired(case: Case) -> None:
    """`vedcore.check_wiring` finds nothing."""
    if failed := check_wiring(load(_folder(case))).failed:
        fail("a wired model", f"{failed[0].check}: {failed[0].message}")


@check("model")
def its_folder_is_left_alone(case: Case) -> None:
    """Loading and reading write nothing into the folder."""
    folder = _folder(case)
    before = contents(folder)
    with contextlib.suppress(VedcoreError):
        reads_an_image(case)
    if contents(folder) != before:
        fail("the files as they were", "others")


@contextlib.contextmanager
def _without_network() -> Iterator[None]:
    """A time in which each connection is refused, and the hub's client is told that it is offline."""

    def refuse(*arguments: Any, **options: Any) -> Never:
        raise OSError("no network here")

    with (
        mock.patch.object(socket.socket, "connect", refuse),
        mock.patch.object(socket, "getaddrinfo", refuse),
        mock.patch.dict(os.environ, {"HF_HUB_OFFLINE": "1"}),
    ):
        yield
