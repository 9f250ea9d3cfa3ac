"""Hints of the conformance kit."""

from __future__ import annotations

import torch

from tests.hints.templates import told
from tests.testing.right_parts import Patches
from vedcore.testing import Case, run_checks

NAME = "image_padding_is_told"


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
