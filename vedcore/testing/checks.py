"""Checks, the errors they raise, and the comparisons they are written in."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Never

import torch
from torch import Tensor

from vedcore.errors import CheckError, UsageError, did_you_mean
from vedcore.model.wiring import Result
from vedcore.testing.cases import PART_KINDS, Case, Kind, seeded

__all__ = ["Check", "NotApplicable", "check", "checks_for", "run_checks"]

CLOSE = 1e-4
"""Largest difference of two computations of one value in different orders, relative to the largest value."""
SAME = 1e-5
"""Likewise, where shapes and order are the same."""
CHANGED = 1e-5
"""Smallest difference, relative to the largest value, that counts as one."""
HALF_ROUNDINGS = 8
"""Roundings of a type below float32 by which two computations of one value may differ."""


class NotApplicable(Exception):
    """The part has no such thing to check: the reason is the message."""


@dataclass(frozen=True)
class Check:
    """One behaviour that a part of some kind has.

    Calling it with a case raises `vedcore.CheckError` where the part has another behaviour, and `NotApplicable` where
    it has nothing to check.
    """

    name: str
    behaviour: str
    kinds: tuple[Kind, ...]
    function: Callable[[Case], None]

    def __call__(self, case: Case) -> None:
        try:
            with seeded(case.seed):
                self.function(case)
        except (NotApplicable, KeyboardInterrupt, MemoryError):
            raise
        except CheckError as error:
            raise CheckError(f"{case.name}: {error.message}", field=self.name, details=self.behaviour) from None
        except Exception as error:
            came = f"{type(error).__name__}: {error}".splitlines()[0]
            raise CheckError(
                f"{case.name}: expected: {self.behaviour} came: {came}", field=self.name, details=self.behaviour
            ) from error

    def __repr__(self) -> str:
        return self.name


_CHECKS: list[Check] = []


def check(*kinds: Kind) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
    """Make a function the check of parts of these kinds; its name is the check's, its first line the behaviour."""

    def added(function: Callable[[Case], None]) -> Callable[[Case], None]:
        behaviour = inspect.cleandoc(function.__doc__ or "").splitlines()[0]
        _CHECKS.append(Check(function.__name__, behaviour, kinds or PART_KINDS, function))
        return function

    return added


def checks_for(kind: Kind) -> tuple[Check, ...]:
    """All checks of a kind of parts, in the order in which they are run."""
    return tuple(each for each in _CHECKS if kind in each.kinds)


def run_checks(part: Any, *, expected_failures: Mapping[str, str] | None = None) -> list[Result]:
    """Run all checks of a part.

    Args:
        part: as `Case.of` takes it.
        expected_failures: names of checks that the part is known to fail, to the reasons.

    Returns:
        One result a check. One that is expected to fail and passes has failed: its reason is gone.

    Raises:
        UsageError: not a part; an expected failure of a check that does not exist.
    """
    case, reasons = Case.of(part), expected_failures or {}
    checks = checks_for(case.kind)
    check_names(reasons, checks)
    return [run_one_check(each, case, reasons.get(each.name)) for each in checks]


def check_names(expected_failures: Mapping[str, str], checks: Iterable[Check]) -> None:
    """Refuse expected failures of checks that do not exist, and those without a reason.

    Raises:
        UsageError: naming the first.
    """
    known = [each.name for each in checks]
    for name, reason in expected_failures.items():
        if name not in known:
            hint = did_you_mean(name, known) or f"choose among {', '.join(known)}"
            raise UsageError(f"there is no check {name!r}", field="expected_failures", hint=hint)
        if not isinstance(reason, str) or not reason.strip():
            raise UsageError(f"{name!r} has no reason", field="expected_failures", hint="say why it fails")


def run_one(each: Check, case: Case, reason: str | None) -> str:
    """Run a check that may be expected to fail; the reason where it fails as expected, else an empty string.

    Raises:
        CheckError: it fails, or passes although it is expected to fail.
        NotApplicable: there is nothing to check.
    """
    try:
        each(case)
    except CheckError:
        if reason is None:
            raise
        return reason
    if reason is not None:
        raise CheckError(f"{case.name}: expected to fail ({reason}), but it passes", field=each.name)
    return ""


def run_one_check(each: Check, case: Case, reason: str | None) -> Result:
    """The result of a check, which has failed where it is expected to fail and passes."""
    try:
        expected = run_one(each, case, reason)
    except NotApplicable as absent:
        return Result(each.name, each.behaviour, "not applicable", str(absent))
    except CheckError as error:
        return Result(each.name, each.behaviour, "failed", error.message)
    return Result(each.name, each.behaviour, "expected" if expected else "passed", expected)


def fail(expected: str, came: str) -> Never:
    """Raise the error of a check.

    Raises:
        CheckError: always.
    """
    raise CheckError(f"expected {expected}, came {came}")


def difference(expected: Tensor, came: Tensor) -> float:
    """The largest difference of two tensors, relative to the largest value of ``expected``; infinite for NaN."""
    scale = expected.detach().double().abs().max().clamp(min=1e-12)
    found = float((expected.detach().double() - came.detach().double()).abs().max() / scale)
    return found if found == found else float("inf")


def same(what: str, expected: Tensor, came: Tensor, tolerance: float = CLOSE) -> None:
    """Refuse two tensors that differ.

    Raises:
        CheckError: other shapes, or a difference above ``tolerance`` relative to the largest value; in a type below
            float32, above what its rounding explains too.
    """
    if expected.shape != came.shape:
        fail(f"{what}, {tuple(expected.shape)}", f"{tuple(came.shape)}")
    if came.dtype.itemsize < 4:
        tolerance = max(tolerance, torch.finfo(came.dtype).eps * (HALF_ROUNDINGS if tolerance > SAME else 1))
    found = difference(expected, came) if expected.numel() else 0.0
    if not found <= tolerance:
        fail(what, f"a relative difference of {found:.2g}")


def each_differs(what: str, first: Tensor, second: Tensor, axes: int) -> None:
    """Refuse two tensors that agree anywhere along their first ``axes`` axes.

    Raises:
        CheckError: naming the first place.
    """
    scale = first.detach().double().abs().max().clamp(min=1e-12)
    gaps = (first.detach().double() - second.detach().double()).abs().flatten(axes).amax(-1) / scale
    if bool((~(gaps > CHANGED)).any()):
        place = (~(gaps > CHANGED)).nonzero()[0].tolist()
        fail(what, f"the same values at {place}")


def all_finite(what: str, tensor: Tensor) -> None:
    """Refuse NaN and Inf.

    Raises:
        CheckError: there is one.
    """
    if not bool(torch.isfinite(tensor).all()):
        fail(f"finite {what}", "NaN or Inf")
