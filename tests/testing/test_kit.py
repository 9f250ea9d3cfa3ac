"""The ways to run the checks: by parametrising, by inheriting, without pytest; expected failures; registering."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import vedcore
from tests.testing.right_parts import Mean, Patches, decoder
from tests.testing.wrong_parts import BufferNotStored, CountsPadding, LosesTheMaskOfImages
from vedcore.testing import (
    Case,
    DecoderTests,
    EncoderTests,
    ProjectorTests,
    check_registration,
    checks_for,
    parametrize_with_checks,
    run_checks,
)

PADDING = "image_padding_is_told"
REASON = "it has no mask yet"


class TestInherited(EncoderTests):
    def make(self) -> Patches:
        return Patches(vedcore.EncoderConfig())


class TestInheritedDecoder(DecoderTests):
    def make(self) -> Any:
        return decoder()


class TestInheritedProjector(ProjectorTests):
    def make(self) -> Mean:
        return Mean(vedcore.ProjectorConfig())


class TestExpected(EncoderTests):
    expected_failures = {PADDING: REASON}  # noqa: RUF012

    def make(self) -> Patches:
        return LosesTheMaskOfImages(vedcore.EncoderConfig())


@parametrize_with_checks([LosesTheMaskOfImages], expected_failures={PADDING: REASON})
def test_parametrised(part: Any, check: Any) -> None:
    check(part)


def test_an_inheriting_class_has_a_test_for_every_check() -> None:
    for cls, kind in ((TestInherited, "encoder"), (TestInheritedDecoder, "decoder")):
        tests = {name for name in dir(cls) if name.startswith("test_")}
        assert tests == {f"test_{each.name}" for each in checks_for(kind)}  # type: ignore[arg-type]


def test_results() -> None:
    results = {each.check: each for each in run_checks(LosesTheMaskOfImages, expected_failures={PADDING: REASON})}
    assert (results[PADDING].outcome, results[PADDING].message) == ("expected", REASON)
    assert results["token_mask_has_the_tokens"].outcome == "not applicable"
    assert not [name for name, each in results.items() if each.outcome == "failed"]
    passing = run_checks(Patches, expected_failures={PADDING: REASON})
    (failed,) = [each for each in passing if each.outcome == "failed"]
    assert failed.message.endswith(f"expected to fail ({REASON}), but it passes")


def test_expected_failures_name_a_check_and_a_reason() -> None:
    with pytest.raises(vedcore.UsageError, match=f"did you mean '{PADDING}'"):
        run_checks(Patches, expected_failures={"image_padding_is_tolled": REASON})
    with pytest.raises(vedcore.UsageError, match="no reason"):
        run_checks(Patches, expected_failures={PADDING: " "})
    with pytest.raises(vedcore.UsageError, match="no check"):
        parametrize_with_checks([Patches], expected_failures={"reordered_rows_continue_as_others": REASON})
    with pytest.raises(vedcore.UsageError, match="no check"):
        type("Named", (EncoderTests,), {"expected_failures": {"nothing": REASON}})


def test_an_error_says_the_check_the_expected_and_the_came() -> None:
    (check,) = [each for each in checks_for("encoder") if each.name == "unstored_buffers_are_rebuilt"]
    with pytest.raises(vedcore.CheckError) as raised:
        check(Case.of(BufferNotStored))
    assert isinstance(raised.value, AssertionError)
    assert raised.value.field == check.name
    assert str(raised.value) == (
        "unstored_buffers_are_rebuilt: BufferNotStored: expected the same values of each buffer that is not stored, "
        "came others in table"
    )


def test_every_check_has_a_line_that_says_the_behaviour() -> None:
    for kind in ("encoder", "decoder", "projector"):
        for each in checks_for(kind):  # type: ignore[arg-type]
            assert each.behaviour.endswith("."), each
            assert (each.function.__doc__ or "").count("\n") == 0, each


def test_parts_are_modules_classes_and_functions() -> None:
    for part in (decoder(CountsPadding), lambda: decoder(CountsPadding)):
        case = Case.of(part)
        assert case.kind == "decoder"
        assert [r.check for r in run_checks(part) if r.outcome == "failed"][:2] == [
            "steps_with_padding_are_as_one_call",
            "left_padding_is_masked",
        ]
    for wrong in (3, torch.nn.Linear(2, 2).weight):
        with pytest.raises(vedcore.UsageError, match="not a part"):
            Case.of(wrong)
    with pytest.raises(vedcore.UsageError, match="neither an encoder"):
        run_checks(lambda: torch.nn.ReLU())


def test_random_numbers_stand_where_they_stood() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    run_checks(Patches)
    assert torch.equal(torch.rand(2), expected)


def test_pytest_is_not_imported() -> None:
    code = "import vedcore.testing, sys; assert not {'pytest', '_pytest', 'transformers', 'timm'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


PLUGIN = """
{imports}
import vedcore


@vedcore.hookimpl
def register_encoders():
    return [vedcore.Entry("patches", "{target}")]
"""


@pytest.mark.parametrize(
    ("name", "imports", "target", "message"),
    [
        ("registers_absent", "", "vedcore.projectors:nothing", "does not load"),
        ("registers_unfit", "", "vedcore.projectors:MLPProjector", "lacks"),
        (
            "registers_heavy",
            "import torch",
            "vedcore.projectors:MLPProjector",
            "no heavy imports to register, came torch",
        ),
        ("registers_broken", "import nothing_here", "vedcore.projectors:MLPProjector", "ModuleNotFoundError"),
    ],
)
def test_registering(
    name: str, imports: str, target: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{name}.py").write_text(PLUGIN.format(imports=imports, target=target))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    with pytest.raises(vedcore.CheckError, match=message):
        check_registration(name)


@pytest.mark.parametrize("module", ["vedcore.builtin", "vedcore_encoders", "vedcore_decoders"])
def test_the_built_in_parts_register(module: str) -> None:
    check_registration(module)
