"""Kept states of a frozen encoder: those of this encoder and this image, or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import vedcore
from tests.data.sources import labelled, png
from tests.model.tiny import tiny
from vedcore.data import Loader, keep_states, open_data


@pytest.fixture(params=["tiny", "printed-line"])
def model(request: pytest.FixtureRequest) -> Any:
    """A model of one size of images, and one of several."""
    if request.param == "tiny":
        return tiny("bert", tokenizer="char", token_ids=None, decoder_vocab_size=98)
    return vedcore.load(request.param)


def test_kept_states_give_the_losses_of_the_images(model: Any, tmp_path: Path) -> None:
    data = open_data(labelled(tmp_path / "data", 6))
    (tmp_path / "data/2.png").write_bytes(b"x")
    model.freeze("encoder").train()
    told: list[str] = []
    states = keep_states(model.eval(), data, tmp_path / "states", tell=told.append, workers=2)
    assert ": 5 encoded in " in told[0]
    assert [problem.name for problem in data.problems] == ["2.png"]
    keep_states(model, data, tmp_path / "states", tell=told.append)
    assert "all there already" in told[1]
    kept = list(Loader(data, model.processor, 3, states=states, workers=1).epoch())
    shown = list(Loader(data, model.processor, 3).epoch())
    for a, b in zip(kept, shown, strict=True):
        assert a.names == b.names
        assert a.to("cpu").inputs.keys() == {"encoder_outputs", "labels"}
        with torch.no_grad():
            torch.testing.assert_close(model(**a.inputs).loss, model(**b.inputs).loss)


def test_another_encoder_and_another_image_have_other_states(tmp_path: Path) -> None:
    model = tiny("bert", tokenizer="char", token_ids=None, decoder_vocab_size=98)
    model.freeze("encoder")
    data = open_data(labelled(tmp_path / "data", 2))
    states = keep_states(model, data, tmp_path / "states")
    (tmp_path / "data/1.png").write_bytes(png("another"))
    with pytest.raises(vedcore.DataError, match="no states are kept"):
        states.load(data.rows[1])
    with torch.no_grad():
        next(model.encoder.parameters()).add_(1)
    assert keep_states(model, data, tmp_path / "states").folder != states.folder
