"""The trained model keeps vedcore's contract of models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vedcore.testing import check_registration, parametrize_with_checks
from vedcore_printed import folder


@parametrize_with_checks([folder])
def test_contract(part: Any, check: Callable[[Any], None]) -> None:
    check(part)


def test_registration() -> None:
    check_registration("vedcore_printed")
