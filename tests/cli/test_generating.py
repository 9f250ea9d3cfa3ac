"""``vedcore generate``: options of the search from the shell, and streamed texts."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import vedcore
from tests.processing.pictures import several
from vedcore.cli import main

HAS_PDF = importlib.util.find_spec("pypdfium2") is not None
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
    made = vedcore.compose(
        {"name": "vit_tiny_patch16_224", "num_hidden_layers": 1},
        {"name": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2},
        tokenizer="char",
        image_size=32,
        seed=0,
    )
    made.load_state_dict(made.state_dict())  # no longer the numbers that it was composed with
    made.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "a.png"
    Image.linear_gradient("L").save(path)
    return path


OPTIONS: list[tuple[list[str], dict[str, Any]]] = [
    (["--num-beams", "3", "--pattern", r"[ab]+\d"], {"num_beams": 3, "pattern": r"[ab]+\d"}),
    (["--allowed-chars", "0123"], {"allowed_chars": "0123"}),
    (["--prompt", "No. ", "--draft", "int8"], {"prompt": "No. "}),
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


def test_an_untrained_model_is_one_line_of_the_shell(run: Run, image: Path, tmp_path: Path) -> None:
    parts = {"name": "vit", "num_hidden_layers": 1}, {"name": "gpt2", "n_layer": 1, "n_embd": 768, "n_head": 2}
    vedcore.compose(*parts, tokenizer="char", image_size=32).save_pretrained(tmp_path / "new")
    done = run(tmp_path / "new", image, image, "--max-new-tokens", "2")
    assert done.returncode == 0
    assert [line for line in done.stderr.splitlines() if "never trained" in line] == done.stderr.splitlines()[:1]


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
    with pytest.warns(UserWarning, match=r"temperature=0\.5 would do nothing with do_sample=False") as warned:
        assert run(model, image, "--set", "temperature=0.5").returncode == 0
    assert len(warned) == 1


def test_a_warning_is_one_line_of_the_shell(model: Path, image: Path) -> None:
    command = [sys.executable, "-m", "vedcore", "generate", str(model), str(image), "--set", "temperature=0.5"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0
    lines = [line for line in done.stderr.splitlines() if "temperature" in line]
    said = "temperature=0.5 would do nothing with do_sample=False; pass do_sample=True, or leave them out"
    assert lines == [f"warning: {said}"]
    assert "UserWarning" not in done.stderr


def test_a_stream_of_a_file_that_is_not_an_image(run: Run, model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_text("hello")
    done = run(model, broken, "--stream")
    assert (done.returncode, done.stdout) == (1, "")
    assert "broken.png" in done.stderr


# -- pages, failures, special tokens --------------------------------------------------------------------------------


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A folder with a TIFF of three pages, a picture and, where pypdfium2 is installed, a PDF of two."""
    folder = tmp_path / "scans"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    noise = [torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8, generator=generator) for _ in range(6)]
    pages = [Image.fromarray(part.numpy()) for part in noise]
    (folder / "a.tiff").write_bytes(several(pages[:3], "TIFF"))
    pages[3].save(folder / "b.png")
    if HAS_PDF:
        (folder / "c.PDF").write_bytes(several(pages[4:], "PDF"))
    return folder


LENGTH = ["--max-new-tokens", "4"]


def test_every_page_has_a_line(run: Run, model: Path, scans: Path) -> None:
    pages: list[tuple[str, int | None]] = [("a.tiff", 1), ("a.tiff", 2), ("a.tiff", 3), ("b.png", None)]
    pages += [("c.PDF", 1), ("c.PDF", 2)] if HAS_PDF else []
    done = run(model, scans, *LENGTH, "--jsonl", "--batch-size", "2")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(Path(row["image"]).name, row.get("page")) for row in rows] == pages
    files = sorted(scans.iterdir())
    expected = [result.text for result in vedcore.load(model).generate_text(files, max_new_tokens=4)]
    assert [row["text"] for row in rows] == expected
    lines = run(model, scans, *LENGTH).stdout.splitlines()
    names = [f"{scans / name}" + (f", page {page}" if page else "") for name, page in pages]
    assert [line.split("\t")[0] for line in lines] == names
    texts = run(model, scans / "a.tiff", *LENGTH).stdout.splitlines()
    assert texts == [vedcore.errors.printable(text) for text in expected[:3]]


def test_pages_that_are_chosen(run: Run, model: Path, scans: Path) -> None:
    done = run(model, scans / "a.tiff", *LENGTH, "--pages", "3,1", "--json")
    assert [row["page"] for row in json.loads(done.stdout)] == [3, 1]
    [expected] = vedcore.load(model).generate_text(scans / "a.tiff", pages=2, max_new_tokens=4)
    done = run(model, scans / "a.tiff", *LENGTH, "--pages", "2", "--stream")
    assert done.stdout == vedcore.errors.printable(expected.text) + "\n"
    done = run(model, scans / "a.tiff", "--stream")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--pages 1" in done.stderr
    done = run(model, scans, *LENGTH, "--pages", "1-2")
    assert done.returncode == 1
    assert "b.png: pages: no page 2, it has 1 page" in done.stderr
    assert f"{4 if HAS_PDF else 2} read, 1 failed, 0 skipped" in done.stderr
    done = run(model, scans, "--pages", "two")
    assert (done.returncode, done.stdout) == (2, "")
    assert "pages: 'two' does not name pages" in done.stderr


@pytest.mark.skipif(not HAS_PDF, reason="needs pypdfium2")
def test_the_resolution_of_a_pdf(run: Run, model: Path, scans: Path) -> None:
    found = [
        [row["text"] for row in json.loads(run(model, scans / "c.PDF", *LENGTH, "--json", "--dpi", dpi).stdout)]
        for dpi in ("3", "72")
    ]
    for dpi, texts in zip((3, 72), found, strict=True):
        results = vedcore.load(model).generate_text(scans / "c.PDF", dpi=dpi, max_new_tokens=4)
        assert texts == [result.text for result in results]
    assert run(model, scans / "c.PDF", "--dpi", "0").returncode == 2
    done = run(model, scans / "c.PDF", "--dpi", "99999999")
    assert done.returncode == 1
    assert "c.PDF: page 1: " in done.stderr


def test_a_bad_page_is_told_and_the_others_are_read(run: Run, model: Path, scans: Path) -> None:
    whole = (scans / "a.tiff").read_bytes()
    (scans / "a.tiff").write_bytes(whole[: len(whole) * 7 // 8])
    (scans / "empty.pdf").write_bytes(b"")
    done = run(model, scans, *LENGTH, "--jsonl")
    assert done.returncode == 1
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(Path(row["image"]).name, row.get("page")) for row in rows if "error" in row] == [
        ("a.tiff", 3),
        ("empty.pdf", None),
    ]
    assert f"{5 if HAS_PDF else 3} read, 2 failed, 0 skipped" in done.stderr
    assert "a.tiff: page 3: the TIFF data" in done.stderr


def test_a_failure_in_the_model_names_the_image(
    run: Run, model: Path, scans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = vedcore.load(model)
    second = loaded.processor(scans / "a.tiff", pages=2)["pixel_values"]
    encode = loaded.encoder.forward

    def forward(pixels: torch.Tensor, **arguments: Any) -> Any:
        out = encode(pixels, **arguments)
        out.last_hidden_state[(pixels == second).flatten(1).all(1)] = torch.nan
        return out

    monkeypatch.setattr(loaded.encoder, "forward", forward)
    monkeypatch.setattr(vedcore, "load", lambda *_, **__: loaded)
    done = run(model, scans / "a.tiff", *LENGTH, "--jsonl")
    assert (done.returncode, ["error" in json.loads(line) for line in done.stdout.splitlines()]) == (1, [0, 1, 0])
    assert "a.tiff, page 2: the logits of row 1 hold NaN" in done.stderr
    assert "2 read, 1 failed" in done.stderr


def test_a_failure_of_all_images_is_that_of_the_call(run: Run, model: Path, scans: Path) -> None:
    done = run(model, scans, *LENGTH, "--set", "suppress_tokens=[" + ",".join(map(str, range(98))) + "]")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("error: ") == 1
    assert "error: the options leave rows 0, 1, 2" in done.stderr


def test_special_tokens_are_kept_on_demand(run: Run, model: Path, image: Path) -> None:
    loaded = vedcore.load(model)
    [kept] = loaded.generate_text(image, max_new_tokens=4, skip_special_tokens=False)
    [plain] = loaded.generate_text(image, max_new_tokens=4)
    assert kept.text != plain.text
    for words in ([], ["--stream"]):
        done = run(model, image, *LENGTH, "--keep-special-tokens", *words)
        assert done.stdout == vedcore.errors.printable(kept.text) + "\n"
