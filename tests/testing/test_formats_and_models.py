"""The built-in formats and a saved model pass every check; each wrong one fails the check that is its own."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

import vedcore
from tests.testing.right_parts import Marked
from tests.testing.wrong_formats import WRONG_FORMATS, wrong_models
from vedcore.checkpoints.native import NativeFormat
from vedcore.checkpoints.transformers import TransformersFormat
from vedcore.testing import Case, FormatTests, ModelTests, checks_for, parametrize_with_checks, run_checks

VIT = {"name": "vit", "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 40}
BERT = {"name": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 20}
CHECKS = {each.name: each for each in (*checks_for("format"), *checks_for("model"))}


@parametrize_with_checks([TransformersFormat, Marked])
def test_formats(part: Any, check: Any) -> None:
    check(part)


class TestNative(FormatTests):
    def make(self) -> NativeFormat:
        return NativeFormat()

    def make_model(self) -> vedcore.VisionEncoderDecoder:
        return vedcore.compose(VIT, BERT, image_size=32, tokenizer="char", seed=0)


@pytest.mark.parametrize(("format", "own"), WRONG_FORMATS)
def test_a_wrong_format_fails_its_own_check(format: type[Marked], own: str) -> None:
    with pytest.raises(vedcore.CheckError, match=own):
        CHECKS[own](Case.of(format))


def test_a_format_that_holds_no_such_model_is_told_of_make_model() -> None:
    class Picky(Marked):
        def save(self, model: Any, folder: Any, **options: Any) -> None:
            raise vedcore.IncompatibleError("BERT alone")

    with pytest.raises(vedcore.CheckError, match="came BERT alone; give Case.of.format, make_model"):
        CHECKS["claims_what_it_saved"](Case.of(Picky))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = vedcore.compose(VIT, BERT, image_size=32, tokenizer="char", seed=0)
    target = tmp_path_factory.mktemp("models") / "model"
    model.save_pretrained(target)
    return target


class TestModel(ModelTests):
    @pytest.fixture(autouse=True)
    def _folder(self, folder: Path) -> None:
        self.folder = folder

    def make(self) -> Path:
        return self.folder


@pytest.mark.parametrize("at", range(5))
def test_a_wrong_model_fails_its_own_check(at: int, folder: Path, tmp_path: Path) -> None:
    function, own = wrong_models(shutil.copytree(folder, tmp_path / "a"), shutil.copytree(folder, tmp_path / "b"))[at]
    with pytest.raises(vedcore.CheckError, match=own):
        CHECKS[own](Case(function, "model", made="model"))


def test_a_model_that_needs_the_network(folder: Path) -> None:
    def fetch() -> Path:
        socket.create_connection(("127.0.0.1", 9), timeout=1)
        return folder

    with pytest.raises(vedcore.CheckError, match="loads_offline.*no network here"):
        CHECKS["loads_offline"](Case(fetch, "model", made="model"))


def test_a_function_of_a_model_is_known_by_its_path(folder: Path) -> None:
    results = {each.check: each.outcome for each in run_checks(lambda: folder)}
    assert results.keys() == {each.name for each in checks_for("model")}
    assert set(results.values()) == {"passed"}


def test_a_model_that_ignores_the_image(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = vedcore.TextDecoder.forward

    def blind(self: Any, *arguments: Any, encoder_hidden_states: Any = None, **given: Any) -> Any:
        states = None if encoder_hidden_states is None else torch.zeros_like(encoder_hidden_states)
        return forward(self, *arguments, encoder_hidden_states=states, **given)

    monkeypatch.setattr(vedcore.TextDecoder, "forward", blind)
    with pytest.raises(vedcore.CheckError, match="image_changes_every_token"):
        CHECKS["its_parts_are_wired"](Case(lambda: folder, "model", made="model"))
