"""``vedcore generate``: options of the search from the shell, and streamed texts."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import vedcore
from vedcore.cli import main

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(["generate", *map(str, arguments)])
        assert isinstance(end.value.code, int)
        return subprocess.CompletedProcess(arguments, end.value.code, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    vedcore.compose(
        {"name": "vit_tiny_patch16_224", "num_hidden_layers": 1},
        {"name": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2},
        tokenizer="char",
        image_size=32,
        seed=0,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "a.png"
    Image.linear_gradient("L").save(path)
    return path


OPTIONS: list[tuple[list[str], dict[str, Any]]] = [
    (["--num-beams", "3", "--pattern", r"[ab]+\d"], {"num_beams": 3, "pattern": r"[ab]+\d"}),
    (["--allowed-chars", "0123"], {"allowed_chars": "0123"}),
    (["--prompt", "No. "], {"prompt": "No. "}),
    (
        ["--stop", "a", "--stop", "b", "--do-sample", "--set", "seed=4"],
        {"stop_strings": ["a", "b"], "do_sample": True, "seed": 4},
    ),
    (
        ["--do-sample", "--set", "temperature=3.0", "--set", "seed=1", "--set", "suppress_tokens=[1, 2]"],
        {"do_sample": True, "temperature": 3.0, "seed": 1, "suppress_tokens": [1, 2]},
    ),
]


@pytest.mark.parametrize(("words", "options"), OPTIONS, ids=lambda value: " ".join(value))
def test_options_mean_what_they_do_in_python(
    run: Run, model: Path, image: Path, words: list[str], options: dict[str, Any]
) -> None:
    [expected] = vedcore.load(model).generate_text(image, max_new_tokens=8, **options)
    [row] = json.loads(run(model, image, "--max-new-tokens", "8", *words, "--json").stdout)
    assert row["text"] == expected.text
    assert row["finish_reason"] == expected.finish_reason
    done = run(model, image, "--max-new-tokens", "8", *words, "--stream")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == vedcore.errors.printable(expected.text) + "\n"


def test_a_lexicon(run: Run, model: Path, image: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_bytes(b"\xef\xbb\xbfalpha\r\nbeta\n\ngamma delta")
    done = run(model, image, "--lexicon", words)
    assert done.stdout.strip() in ("alpha", "beta", "gamma delta")
    words.write_bytes(b"caf\xe9")
    done = run(model, image, "--lexicon", words)
    assert done.returncode == 2
    assert "not UTF-8 at byte 3" in done.stderr
    words.write_text("\n\n")
    done = run(model, image, "--lexicon", words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "holds no words" in done.stderr
    assert "no such file" in run(model, image, "--lexicon", tmp_path / "gone.txt").stderr


def test_several_texts_an_image(run: Run, model: Path, image: Path) -> None:
    several = ["--do-sample", "--set", "num_return_sequences=3", "--set", "seed=0", "--max-new-tokens", "4"]
    rows = json.loads(run(model, image, image, *several, "--json").stdout)
    assert [row["image"] for row in rows] == [str(image)] * 6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "num_beam=2"], "num_beam.*num_beams"),
        (["--set", "num_beams=2", "--set", "penalty_alpha=0.5"], "penalty_alpha=0.5 contradicts num_beams"),
        (["--set", "images=3"], "error: images: unknown option"),
        (["--set", "batch_size=3"], "error: batch_size: unknown option"),
        (["--set", "self=3"], "error: self: unknown option"),
        (["--set", "prompt=3"], "error: prompt: text expected, got int"),
        (["--stream", "--set", "image=3"], "error: image: unknown option"),
        (["--set", "temperature"], "not of the form key=value"),
        (["--pattern", "a("], "pattern"),
        (["--stream", "--json"], "--stream writes the text of one image"),
        (["--stream", "x.png"], "--stream writes the text of one image"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_options(run: Run, model: Path, image: Path, words: list[str], said: str) -> None:
    done = run(model, image, *words)
    assert done.returncode == 2
    assert re.search(said, done.stderr)
    assert "Traceback" not in done.stderr


def test_an_idle_option_is_a_warning(run: Run, model: Path, image: Path) -> None:
    done = run(model, image, "--set", "temperature=0.5")
    assert done.returncode == 0
    assert done.stderr.count("temperature=0.5 would do nothing with do_sample=False") == 1


def test_a_stream_of_a_file_that_is_not_an_image(run: Run, model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_text("hello")
    done = run(model, broken, "--stream")
    assert (done.returncode, done.stdout) == (1, "")
    assert "broken.png" in done.stderr
