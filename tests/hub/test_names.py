"""Names of repositories and revisions."""

from __future__ import annotations

import pytest

from tests.hub.client import fails, fetch
from tests.hub.server import Hub
from vedcore import hub as ours


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("hub:org/name", ("org/name", None)),
        ("hub:org/name@v1.0", ("org/name", "v1.0")),
        ("hf://org/name@refs/pr/1", ("org/name", "refs/pr/1")),
        ("hub:gpt2", ("gpt2", None)),
        ("org/na.me-2_b", ("org/na.me-2_b", None)),
        ("org/name@main", ("org/name", "main")),
        ("gpt2", None),
        ("./org/name", None),
        ("/org/name", None),
        ("../name", None),
        ("a/b/c", None),
        ("org/name ", None),
        ("", None),
        ("C:\\models", None),
        ("timm/vit:x", None),
    ],
)
def test_names_of_repos(text: str, named: tuple[str, str | None] | None) -> None:
    assert ours.parse_repo(text) == named


@pytest.mark.parametrize(
    "text",
    [
        "hub:",
        "hub:/",
        "hub:a/b/c",
        "hub:../x",
        "hub:org/..",
        "hub:org/na me",
        "hub:org/name@",
        "hub:org/name@../x",
        "hub:org/name@-x",
        "hub:org/name@a//b",
        "hf://",
        "hub:org/a--b",
        "hub:org/x.git",
        "hub:org/\u202ename",
        f"hub:org/{'x' * 99}",
        "hub:org/name@a\nb",
        f"hub:org/name@{'x' * 999}",
    ],
)
def test_names_that_are_wrong(text: str) -> None:
    fails(lambda: ours.parse_repo(text), " is not ")


@pytest.mark.parametrize("revision", ["../../x", "/x", "a/../b", "", "a b", "x\0", "refs/", "~1"])
def test_revisions_that_are_wrong(hub: Hub, revision: str) -> None:
    fails(lambda: fetch(revision=revision), "is not a revision")
    assert hub.requests == []


def test_a_bad_repo(hub: Hub) -> None:
    fails(lambda: ours.fetch_folder("../x"), "is not the name of a repo")
    fails(lambda: ours.verify("org/none"), "vedcore pull org/none")
    assert ours.verify() == (0, [])
