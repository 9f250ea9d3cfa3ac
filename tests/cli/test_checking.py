"""``vedcore check``: a table, JSON, and exit codes."""

from __future__ import annotations

import json

import pytest

from vedcore.cli.app import main


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["check", *arguments])
    return int(ended.value.code or 0)


@pytest.mark.parametrize("name", ["gpt2", "vit", "swin", "mlp", "identity"])
def test_a_right_part(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(f" {name}")
    assert any(line.startswith("  ✓ tensors_are_registered: ") for line in lines)
    assert not [line for line in lines if line.startswith("  ✗")]


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("linear", "--json") == 0
    (part,) = json.loads(capsys.readouterr().out)
    assert (part["kind"], part["name"]) == ("projector", "linear")
    assert {each["outcome"] for each in part["checks"]} == {"passed", "not applicable"}


def test_a_wrong_part(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vedcore.projectors.LinearProjector.num_tokens", lambda self, tokens: tokens + 1)
    assert run("linear") == 1
    assert "✗ number_of_tokens_out_is_published: linear: expected 17 tokens for 16" in capsys.readouterr().out


def test_an_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("nothing-of-that-name") == 3
    assert "no projector named 'nothing-of-that-name'" in capsys.readouterr().err
