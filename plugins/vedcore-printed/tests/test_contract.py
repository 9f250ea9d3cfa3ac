"""The trained model and its encoder keep vedcore's contracts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vedcore.testing import check_registration, parametrize_with_checks
from vedcore_printed import folder
from vedcore_printed.encoder import PrintedColumnsConfig, PrintedColumnsEncoder


def encoder() -> PrintedColumnsEncoder:
    return PrintedColumnsEncoder(PrintedColumnsConfig(stem_width=16, channels=(16, 16, 24, 24)))


@parametrize_with_checks([folder])
def test_model(part: Any, check: Callable[[Any], None]) -> None:
    check(part)


@parametrize_with_checks(
    [encoder],
    expected_failures={
        "gradients_reach_every_parameter": "the head that counts characters is trained by a loss of its own",
        "number_of_tokens_is_published": "lines are 32 pixels high",
    },
)
def test_encoder(part: Any, check: Callable[[Any], None]) -> None:
    check(part)


def test_registration() -> None:
    check_registration("vedcore_printed")
