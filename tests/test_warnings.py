"""A warning stands at the line of the user's call, whatever lies between, so that each line gets its own."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from torch import nn

import vedcore
from tests.model.tiny import IMAGE, START, tiny

PIXELS = torch.zeros(1, 3, *IMAGE)
LABELS = torch.tensor([[START, 5, 6]])


class Wrapped(nn.Module):
    """A module of torch between the line and the model."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleList([tiny()])

    def forward(self, pixels: torch.Tensor, labels: torch.Tensor) -> Any:
        (model,) = self.inner
        return model(pixels, labels=labels)


def processor() -> vedcore.Processor:
    words = Tokenizer(models.WordLevel({"a": 0, "<unk>": 1, "</s>": 2}, unk_token="<unk>"))
    return vedcore.Processor(vedcore.Preprocessing(image_size=(8, 8)), words)


def start_twice(folder: Path) -> None:
    tiny()(PIXELS, labels=LABELS)


def start_twice_in_a_module(folder: Path) -> None:
    Wrapped()(PIXELS, labels=LABELS)


def start_twice_in_parallel(folder: Path) -> None:
    nn.DataParallel(tiny())(PIXELS, labels=LABELS)


def no_token(folder: Path) -> None:
    processor()(text=["é"])


def no_token_in_a_call(folder: Path) -> None:
    processor().tokenizer("é")


def idle_option(folder: Path) -> None:
    tiny().generate(PIXELS, num_beams=1, early_stopping=True, max_new_tokens=2)


def wrapped_weights(folder: Path) -> None:
    model = tiny()
    model.save_pretrained(folder)
    save_file(
        {f"module.{name}": each.clone() for name, each in model.state_dict().items()}, folder / "model.safetensors"
    )
    vedcore.load(folder, verify=False)


@pytest.mark.parametrize(
    "call",
    [
        start_twice,
        start_twice_in_a_module,
        start_twice_in_parallel,
        no_token,
        no_token_in_a_call,
        idle_option,
        wrapped_weights,
    ],
)
def test_a_warning_is_at_the_line_of_the_call(call: Any, tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call(tmp_path)
    ours = [each for each in found if issubclass(each.category, UserWarning)]
    assert ours
    assert {each.filename for each in ours} == {__file__}
