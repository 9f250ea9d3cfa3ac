"""The conformance kit: what a part, a checkpoint format or a trained model must do, as small checks of behaviour.

    from vedcore.testing import parametrize_with_checks

    @parametrize_with_checks([lambda: TinyDecoder(TinyDecoder.make_config("tiny-2", {"vocab_size": 50}))])
    def test_contract(part, check):
        check(part)

The part is built several times, small or as it is. Its trainable parameters are drawn anew, widely, so that a gate of
zero hides nothing; frozen ones stay. A check raises `vedcore.CheckError` with one line: the check, what was expected,
what came. A check that a part is known to fail is named in ``expected_failures``, with the reason.

Without pytest, `run_checks` gives the results. pytest is imported where `parametrize_with_checks` is used, and not
before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vedcore.deprecated_names import getattr_for
from vedcore.errors import CheckError
from vedcore.model.wiring import Result, WiringReport
from vedcore.testing import any_part as any_part
from vedcore.testing import decoder_caches as decoder_caches
from vedcore.testing import decoder_sight as decoder_sight
from vedcore.testing import decoders as decoders
from vedcore.testing import encoders as encoders
from vedcore.testing import format_options as format_options
from vedcore.testing import formats as formats
from vedcore.testing import key_maps as key_maps
from vedcore.testing import models as models
from vedcore.testing import projectors as projectors
from vedcore.testing.cases import Case
from vedcore.testing.checks import Check, NotApplicable, checks_for, run_checks
from vedcore.testing.pytest_tests import (
    DecoderTests,
    EncoderTests,
    FormatTests,
    ModelTests,
    ProjectorTests,
    parametrize_with_checks,
)
from vedcore.testing.registration import check_registration
from vedcore.testing.wiring import check_wiring

__all__ = [
    "Case",
    "Check",
    "CheckError",
    "DecoderTests",
    "EncoderTests",
    "FormatTests",
    "ModelTests",
    "NotApplicable",
    "ProjectorTests",
    "Result",
    "WiringReport",
    "check_registration",
    "check_wiring",
    "checks_for",
    "parametrize_with_checks",
    "run_checks",
]

if not TYPE_CHECKING:  # a type checker would take any name for one of this module
    __getattr__ = getattr_for(__name__)
