"""The oldest versions that are allowed are the ones that are tested; the Makefile finds every plugin."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_oldest_versions_that_are_tested_are_those_that_are_declared() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    lines = (ROOT / "tests" / "minima.txt").read_text(encoding="utf-8").splitlines()
    pinned = [line.partition("#")[0].strip() for line in lines]
    assert [line.replace("==", ">=") for line in pinned if line and not line.startswith("torchvision")] == declared


@pytest.mark.parametrize(
    "project", sorted((ROOT / "plugins").glob("*/pyproject.toml")), ids=lambda path: path.parent.name
)
def test_a_plugin_is_where_the_makefile_looks_for_it(project: Path) -> None:
    declared = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    assert (name := declared["name"]) == project.parent.name
    assert (project.parent / declared["readme"]).exists()  # pip does not install it without
    assert (project.parent / name.replace("-", "_") / "__init__.py").exists()
    assert list((project.parent / "tests").glob("test_*.py"))
