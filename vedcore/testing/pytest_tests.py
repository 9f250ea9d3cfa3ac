"""Checks as tests of pytest, which is imported when these are used."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from vedcore.testing.cases import Case, Kind
from vedcore.testing.checks import Check, NotApplicable, check_names, checks_for, run_one

__all__ = ["DecoderTests", "EncoderTests", "FormatTests", "ModelTests", "ProjectorTests", "parametrize_with_checks"]


def parametrize_with_checks(
    parts: Iterable[Any] | Mapping[str, Any], *, expected_failures: Mapping[str, str] | None = None
) -> Any:
    """A decorator that runs a test with each check of each part::

        @parametrize_with_checks([MyDecoder, lambda: MyEncoder(MyConfig(hidden_size=32))])
        def test_contract(part, check):
            check(part)

    Args:
        parts: as `Case.of` takes them, or such parts by name.
        expected_failures: names of checks to the reasons why every part that has the check fails it. Such a test is
            an expected failure, and fails once the check passes.

    Raises:
        UsageError: not a part; an expected failure of a check that does not exist, or without a reason.
    """
    pytest: Any = importlib.import_module("pytest")
    named = parts.items() if isinstance(parts, Mapping) else [("", part) for part in parts]
    cases = [(name, Case.of(part)) for name, part in named]
    reasons, known, params = expected_failures or {}, {}, []
    for index, (name, case) in enumerate(cases):
        several = sum(other.name == case.name for _, other in cases) > 1
        shown = name or (f"{case.name}{index}" if several else case.name)
        for each in checks_for(case.kind):
            known[each.name] = each
            marks = []
            if each.name in reasons:
                from_vedcore = importlib.import_module("vedcore.errors").CheckError
                marks = [pytest.mark.xfail(reason=reasons[each.name], strict=True, raises=from_vedcore)]
            params.append(pytest.param(case, _skipping(each), marks=marks, id=f"{shown}-{each.name}"))
    check_names(reasons, known.values())
    return pytest.mark.parametrize(("part", "check"), params)


def _skipping(each: Check) -> Callable[[Case], None]:
    def run(part: Case) -> None:
        try:
            each(part)
        except NotApplicable as absent:
            importlib.import_module("pytest").skip(str(absent))

    return run


class _PartTests:
    """A test a check; a subclass whose name begins with ``Test`` gives `make`."""

    expected_failures: ClassVar[Mapping[str, str]] = {}
    """Names of checks that the part is known to fail, to the reasons."""
    kind: ClassVar[Kind]

    def make(self) -> Any:
        """The part, built anew."""
        raise NotImplementedError

    make_model: Callable[[Any], Any] | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "kind" in cls.__dict__:
            for each in checks_for(cls.kind):
                setattr(cls, f"test_{each.name}", _method(each))
        check_names(cls.expected_failures, checks_for(cls.kind))


def _method(each: Check) -> Callable[[_PartTests], None]:
    def test(self: _PartTests) -> None:
        try:
            case = Case(self.make, type(self).__name__, made=self.kind, make_model=self.make_model)
            reason = run_one(each, case, self.expected_failures.get(each.name))
        except NotApplicable as absent:
            importlib.import_module("pytest").skip(str(absent))
        if reason:
            importlib.import_module("pytest").xfail(reason)

    test.__doc__ = each.behaviour
    return test


class EncoderTests(_PartTests):
    """The checks of an encoder as the tests of a class::

    class TestMyEncoder(EncoderTests):
        def make(self):
            return MyEncoder(MyConfig(hidden_size=32))
    """

    kind = "encoder"


class DecoderTests(_PartTests):
    """The checks of a decoder as the tests of a class; see `EncoderTests`."""

    kind = "decoder"


class ProjectorTests(_PartTests):
    """The checks of a projector as the tests of a class; see `EncoderTests`."""

    kind = "projector"


class FormatTests(_PartTests):
    """The checks of a checkpoint format as the tests of a class; `make` gives the format.

    A format that holds only models of some families gives such a one in ``make_model``::

    class TestMyFormat(FormatTests):
        def make(self):
            return MyFormat()

        def make_model(self):
            return vedcore.compose("vit", "my-decoder", seed=0)
    """

    kind = "format"


class ModelTests(_PartTests):
    """The checks of a trained model as the tests of a class; `make` is its function, which gives the folder."""

    kind = "model"
