"""The encoder, the model and the registration keep vedcore's contracts."""

from __future__ import annotations

from typing import Any

from vedcore.testing import check_registration, parametrize_with_checks
from vedcore_printed import folder
from vedcore_printed.encoder import PrintedColumnsEncoder

KNOWN = {
    "gradients_reach_every_parameter": "the head that counts characters is trained by a CTC loss on hidden_states",
    "number_of_tokens_is_published": "num_tokens takes any size, and forward refuses lines of another height",
}


@parametrize_with_checks([PrintedColumnsEncoder], expected_failures=KNOWN)
def test_encoder(part: Any, check: Any) -> None:
    check(part)


@parametrize_with_checks([folder])
def test_model(part: Any, check: Any) -> None:
    check(part)


def test_registration() -> None:
    check_registration("vedcore_printed")
