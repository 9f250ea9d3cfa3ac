"""``vedcore evaluate``."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("jiwer")
pytest.importorskip("sacrebleu")
pytest.importorskip("matplotlib")

import vedcore
from tests.training.data import CONFIG, write_folder
from vedcore.cli import main

Run = Callable[..., "subprocess.CompletedProcess[str]"]
pytestmark = pytest.mark.filterwarnings("ignore:the cross-attention and the projector of this model were never")
SHORT = ["--max-new-tokens", "4"]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(["evaluate", *map(str, arguments)])
        assert isinstance(end.value.code, int)
        return subprocess.CompletedProcess(arguments, end.value.code, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    vedcore.compose(**CONFIG, seed=0).save_pretrained(folder)
    return folder


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "lines", rows=4)


def test_a_table_and_a_page(run: Run, model: Path, lines: Path, tmp_path: Path) -> None:
    done = run(model, lines, *SHORT, "--output", tmp_path / "report", "--batch-size", "3")
    assert done.returncode == 0
    assert done.stdout.startswith(f"{model} on {lines}: 4 rows\nCER: wrong characters")
    assert str(tmp_path / "report" / "evaluation.html") in done.stderr
    page = tmp_path / "report" / "evaluation.html"
    assert page.read_text(encoding="utf-8").count("Explanation of") == 4
    assert run(model, lines, *SHORT, "--output", tmp_path / "report", "--no-explain").returncode == 0
    assert "Explanation of" not in page.read_text(encoding="utf-8")


def test_json_with_options_of_generation(run: Run, model: Path, lines: Path) -> None:
    done = run(model, lines, "--json", "--limit", "2", "--lexicon", _file(lines, "one\ntwo"), "--set", "num_beams=2")
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert [row["label"] for row in found["rows"]] == ["one", "two"]
    assert {row["text"] for row in found["rows"]} <= {"one", "two"}
    assert found["settings"]["generation"]["num_beams"] == 2


def _file(folder: Path, text: str) -> Path:
    path = folder / "lexicon.txt"
    path.write_text(text)
    return path


def test_rows_that_cannot_be_read(run: Run, model: Path, lines: Path) -> None:
    (lines / "002.png").write_text("not an image")
    (lines / "001.png").unlink()
    done = run(model, lines, *SHORT, "--against", model)
    assert done.returncode == 1
    assert "2 rows" in done.stdout
    assert "+0.00 %" in done.stdout
    assert "metadata.jsonl:3" in done.stderr
    assert "metadata.jsonl:2" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--set", "num_beam=2"], 2, "did you mean 'num_beams'"),
        (["--set", "num_return_sequences=2", "--set", "num_beams=2"], 2, "one text is judged"),
        (["--split", "tset"], 2, "give train, validation or test"),
        (["--split", "test"], 1, "no split 'test'"),
        (["--target-error", "2"], 2, "target-error"),
        (["--limit", "0"], 2, "limit"),
        (["--output", "lines/000.png"], 2, "000.png"),
        (["--text-column", "words"], 1, "words"),
    ],
)
def test_bad_usage(
    run: Run, model: Path, lines: Path, words: list[str], code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(lines.parent)
    done = run(model, lines, *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_extra(run: Run, model: Path, lines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jiwer", None)
    done = run(model, lines)
    assert (done.returncode, done.stdout) == (4, "")
    assert 'pip install "vedcore[train]"' in done.stderr
