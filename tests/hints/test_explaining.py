"""Hints of `explain` and of explanations, each given and followed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.hints.templates import told
from tests.model.tiny import BERT, VIT, spread
from vedcore import TokenGrid, compose
from vedcore.config import ProjectorConfig
from vedcore.outputs import RunOutput

PICTURE = Image.new("RGB", (40, 30), (10, 90, 200))
GIVE_GRID = "give grid=(rows, columns), --grid in a shell, or give the part a method token_grid"

pytestmark = pytest.mark.filterwarnings("ignore:.*never trained")


@pytest.fixture
def model() -> Any:
    decoder = {key: value for key, value in BERT.items() if key != "vocab_size"}
    made = compose({"name": "vit", **VIT}, {"name": "bert", **decoder}, tokenizer="char", seed=0)
    spread(made, 5)
    return made


def explained(model: Any, **options: Any) -> Any:
    return model.explain(PICTURE, max_new_tokens=3, eos_token_id=(), **options)


def test_layers_and_heads(model: Any) -> None:
    told("give one from 0 to {…}", explained, model, layer=2)
    told("give one from 0 to {…}", explained, model, head=-1)
    assert len(explained(model, layer=1, head=2).tokens) == 3


def test_a_grid_of_more_cells_than_tokens(model: Any) -> None:
    told("give no more cells than tokens, such as 1 x {…}", explained, model, grid=(4, 2))
    assert explained(model, grid=(1, 7)).grid == (1, 7)


def test_an_encoder_that_does_not_say_where_its_tokens_lie(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(type(model.encoder), "token_grid")
    monkeypatch.setattr(type(model.encoder), "num_tokens", lambda self, size=None: 7)
    told(GIVE_GRID, explained, model)
    assert explained(model, grid=(2, 3)).grid == (2, 3)
    monkeypatch.setattr(type(model.encoder), "token_grid", lambda self, size: (2, 3, 1), raising=False)
    assert explained(model).grid == (2, 3)
    monkeypatch.setattr(type(model.encoder), "token_grid", lambda self, size: (2, 3, 0))
    told("give grid=(rows, columns), such as grid=(1, {…})", explained, model)
    assert explained(model, grid=(1, 7)).grid == (1, 7)


class Halved(torch.nn.Module):
    """Every second token, by linear layer."""

    config = ProjectorConfig()

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def num_tokens(self, tokens: int) -> int:
        return (tokens + 1) // 2

    def forward(self, states: Tensor) -> Tensor:
        return self.inner(states)[:, ::2]


def test_a_projector_that_does_not_say_where_its_tokens_lie(model: Any) -> None:
    model.projector = Halved(model.projector)
    told(GIVE_GRID, explained, model)
    assert explained(model, grid=(1, 4)).grid == (1, 4)
    Halved.token_grid = lambda self, grid: TokenGrid(1, 4)  # type: ignore[attr-defined]
    assert explained(model).grid == (1, 4)


def test_an_encoder_that_does_not_say_where_its_pixels_lie(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(model.encoder), "preprocess", lambda self, image: torch.zeros(3, 16, 24))
    told("give {…} a method placement, as vedcore.VisionEncoder has it", explained, model)
    monkeypatch.setattr(type(model.encoder), "placement", lambda self, image: (1.0, 0.0, 5.0, 0.0, 1.0, 5.0))
    assert explained(model).placement.c == 5


def test_a_decoder_without_attention_to_the_image(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = type(model.decoder).run

    def silent(self: Any, *args: Any, **kwargs: Any) -> RunOutput:
        return run(self, *args, **kwargs)._replace(cross_attentions=None)

    with monkeypatch.context() as patched:
        patched.setattr(type(model.decoder), "run", silent)
        told("explain a model with another decoder", explained, model)
    assert explained(model).tokens


def test_several_pages(model: Any, tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "two.tif", save_all=True, append_images=[PICTURE])
    told("choose one, such as pages={…}", model.explain, tmp_path / "two.tif", pages="1-2")
    assert model.explain(tmp_path / "two.tif", pages=1, max_new_tokens=3).original.size == (40, 30)


def test_pictures(model: Any, tmp_path: Path) -> None:
    found = explained(model)
    told("end it in .png", found.save, tmp_path / "maps.txt")
    found.save(tmp_path / "maps.png")
    told("leave it out for all of them", found.image, 3)
    assert found.image()
