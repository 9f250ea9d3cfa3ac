"""A format whose tensors are in files of its own: one opened by its name, and numpy's archive, read by the format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import vedcore
from tests.composer.tiny import GPT2, VIT, same_weights
from vedcore.formats import (
    LoadOptions,
    TensorsInMemory,
    Weights,
    load_model,
    open_tensors,
    read_folder,
    save_folder,
    weight_files,
)

Model = vedcore.VisionEncoderDecoder
OPTIONS = LoadOptions(
    device=None,
    dtype=None,
    strict=True,
    check_finite=True,
    verify=True,
    mmap=False,
    image_size=None,
    tokenizer=None,
    preprocessing=None,
)


@pytest.fixture(scope="module")
def model() -> Model:
    return vedcore.compose(VIT, GPT2, seed=1)


def loaded(model: Model, folder: Path, name: str, **options: object) -> Model:
    def read(snapshot: object) -> Model:
        if name.endswith(".npz"):
            with np.load(folder / name) as arrays:
                tensors = {key: torch.from_numpy(arrays[key]) for key in arrays}
            weights = Weights(TensorsInMemory(tensors, folder / name))
        else:
            weights = Weights(open_tensors(snapshot, name))
        return load_model(model.config, weights, {**OPTIONS, **options}, path=folder / "own.json")  # type: ignore[typeddict-item]

    return read_folder(folder, read)


@pytest.fixture(params=["own.safetensors", "own.npz"])
def saved(request: pytest.FixtureRequest, model: Model, tmp_path: Path) -> tuple[Path, str]:
    state = model.state_dict(keep_vars=True)
    files = {"own.safetensors": weight_files(state)["model.safetensors"]}
    save_folder(tmp_path / "a", files)
    np.savez(tmp_path / "a" / "own.npz", **{name: tensor.detach().numpy() for name, tensor in state.items()})
    return tmp_path / "a", request.param


def test_the_model_is_the_same_and_options_are_honoured(saved: tuple[Path, str], model: Model) -> None:
    again = loaded(model, *saved)
    assert same_weights(again, model)
    assert not again.training
    half = loaded(model, *saved, dtype=torch.bfloat16, image_size=(64, 32))
    assert next(half.parameters()).dtype == torch.bfloat16
    assert half.encoder.preprocessing.image_size == (64, 32)


def test_what_does_not_fit_names_the_file(saved: tuple[Path, str], model: Model) -> None:
    deeper = vedcore.compose(VIT, {**GPT2, "n_layer": GPT2["n_layer"] + 1})
    with pytest.raises(vedcore.CheckpointMismatchError, match=saved[1]):
        loaded(deeper, *saved)


def test_numbers_in_memory_are_checked_and_never_mapped(model: Model, tmp_path: Path) -> None:
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    next(iter(state.values())).fill_(torch.nan)
    weights = Weights(TensorsInMemory(state, tmp_path / "own.npz"))
    with pytest.raises(vedcore.NonFiniteError, match=r"own\.npz"):
        load_model(model.config, weights, OPTIONS, path=tmp_path)
    with pytest.raises(vedcore.UsageError, match="cannot be mapped"):
        load_model(model.config, weights, {**OPTIONS, "mmap": True}, path=tmp_path)
