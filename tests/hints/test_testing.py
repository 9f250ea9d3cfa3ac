"""Hints of the conformance kit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import vedcore
from tests.hints.templates import told
from tests.testing.right_parts import Patches
from vedcore.cli.checking import check
from vedcore.model.wiring import WiringReport
from vedcore.testing import Case, run_checks

NAME = "image_padding_is_told"

PLAIN: dict[str, Any] = {"data": None, "output": None, "overfit": None, "as_json": True}
"""The options of `vedcore check` without data."""


def test_what_is_not_a_part() -> None:
    told("give a module, its class, or a function", Case.of, 3)
    for part in (Patches, lambda: Patches(Patches.config_class())):
        assert Case.of(part).kind == "encoder"


def test_a_module_of_no_kind() -> None:
    told("subclass vedcore.VisionEncoder, vedcore.TextDecoder or vedcore.Projector", run_checks, torch.nn.ReLU)
    assert run_checks(Patches)


def test_expected_failures() -> None:
    error = told("choose among {…}", run_checks, Patches, expected_failures={"xyz": "it is so"})
    assert NAME in error.hint
    told("say why it fails", run_checks, Patches, expected_failures={NAME: ""})
    (result,) = [r for r in run_checks(Patches, expected_failures={NAME: "it is so"}) if r.check == NAME]
    assert result.outcome == "failed"  # the name is known, and the reason is gone


VIT = {"name": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
GPT2 = {"name": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16}


def test_what_is_not_a_model(tmp_path: Path) -> None:
    told("give what vedcore.compose or vedcore.load gave", vedcore.check_wiring, torch.nn.ReLU())
    model = vedcore.compose(VIT, GPT2, image_size=32, seed=0)
    assert not vedcore.check_wiring(model).failed
    model.save_pretrained(tmp_path / "a")
    path = tmp_path / "a/wiring.json"
    path.write_text("{}")
    with pytest.warns(UserWarning, match="delete it, and run `vedcore check`"):
        vedcore.load(tmp_path / "a")
    told("delete it, and run `vedcore check`", WiringReport.parse, {}, path=path)
    path.unlink()
    assert check.callback is not None
    assert check.callback(str(tmp_path / "a"), **PLAIN) == 0
    assert vedcore.load(tmp_path / "a").wiring is not None


def test_a_name_that_is_nothing() -> None:
    told("`vedcore list` and `vedcore plugins` show the names", check.callback, "zzzzzz", **PLAIN)  # type: ignore[arg-type]
