"""The encoder, the model and the registration keep vedcore's contracts."""

from __future__ import annotations

from typing import Any

from vedcore.testing import check_registration, parametrize_with_checks
from vedcore_printed import folder
from vedcore_printed.encoder import PrintedColumnsEncoder


@parametrize_with_checks([PrintedColumnsEncoder, folder])
def test_contract(part: Any, check: Any) -> None:
    check(part)


def test_registration() -> None:
    check_registration("vedcore_printed")
