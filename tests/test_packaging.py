"""The oldest versions that pyproject.toml allows are the ones that are tested."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_oldest_versions_that_are_tested_are_those_that_are_declared() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    lines = (ROOT / "tests" / "minima.txt").read_text(encoding="utf-8").splitlines()
    pinned = [line.partition("#")[0].strip() for line in lines]
    assert [line.replace("==", ">=") for line in pinned if line and not line.startswith("torchvision")] == declared
