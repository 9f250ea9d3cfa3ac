"""The parts keep vedcore's contracts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vedcore.testing import check_registration, parametrize_with_checks
from vedcore_tiny.decoder import TinyConfig, TinyDecoder
from vedcore_tiny.encoder import PatchEncoder, PatchEncoderConfig


@parametrize_with_checks(
    [
        lambda: PatchEncoder(PatchEncoderConfig(hidden_size=16)),
        lambda: TinyDecoder(TinyConfig(vocab_size=50, hidden_size=16)),
    ]
)
def test_contract(part: Any, check: Callable[[Any], None]) -> None:
    check(part)


def test_registration() -> None:
    check_registration("vedcore_tiny")
