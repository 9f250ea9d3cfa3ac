"""The command line: its output, its streams and its exit codes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import vedcore
from vedcore import plugins
from vedcore.cli import main
from vedcore.cli.images import ImageWalk

TINY = [
    "--set",
    "encoder.num_hidden_layers=1",
    "--set",
    "encoder.hidden_size=32",
    "--set",
    "encoder.num_attention_heads=2",
    "--set",
    "encoder.intermediate_size=64",
    "--set",
    "decoder.n_layer=1",
    "--set",
    "decoder.n_embd=32",
    "--set",
    "decoder.n_head=2",
    "--image-size",
    "32x64",
    "--tokenizer",
    "char",
]


Run = Callable[..., "subprocess.CompletedProcess[str]"]


def run_apart(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run in another process, where the environment and real streams matter."""
    return subprocess.run(
        [sys.executable, "-m", "vedcore", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run in this process, which has loaded torch already."""

    def call(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(list(map(str, arguments)))
        assert isinstance(end.value.code, int)
        return subprocess.CompletedProcess(arguments, end.value.code, *capsys.readouterr())

    yield call
    plugins.configure()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    with pytest.raises(SystemExit) as end:
        main(["compose", "vit", "gpt2", *TINY, "--seed", "7", "--output", str(folder)])
    assert end.value.code == 0
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    for i, name in enumerate(["b.png", "a.jpg", "sub/c.PNG"]):
        Image.new("RGB", (64, 32), (i * 80, 200, 100)).save(folder / name)
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_version_and_help(run: Run) -> None:
    assert run("--version").stdout == f"vedcore, version {vedcore.__version__}\n"
    for arguments in (["--help"], ["-h"], *([name, "--help"] for name in ("list", "plan", "compose", "generate"))):
        done = run(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("Usage: vedcore")


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("encoders", {"vit", "deit", "beit", "swin", "timm"}),
        ("decoders", {"bert", "roberta", "xlm-roberta", "camembert", "distilbert", "gpt2", "bart", "mbart", "trocr"}),
        ("projectors", {"identity", "linear", "mlp"}),
        ("commands", {"list", "plan", "compose", "generate", "plugins"}),
        ("models", set()),
    ],
)
def test_lists_for_people_and_for_machines(run: Run, what: str, expected: set[str]) -> None:
    lines = run("list", what).stdout.splitlines()
    assert expected <= {line.split()[0] for line in lines}
    parts = json.loads(run("list", what, "--json").stdout)
    assert [part["name"] for part in parts] == [line.split()[0] for line in lines]
    assert all(part["owner"] and part["summary"] for part in parts)


def test_a_pattern_matches_names_and_variants(run: Run) -> None:
    assert run("list", "decoders", "gpt2-*").stdout.split()[0] == "gpt2"
    assert [line.split()[0] for line in run("list", "decoders", "*bart").stdout.splitlines()] == ["bart", "mbart"]
    assert run("list", "decoders", "nothing*").stdout == ""


def test_the_plugins(run: Run) -> None:
    records = json.loads(run("plugins", "--json").stdout)
    assert {r["status"] for r in records if r["distribution"] == "vedcore"} == {"loaded"}
    assert "✓ vedcore==" in run("plugins").stdout


def test_a_plan_as_table_and_as_data(run: Run) -> None:
    done = run("plan", "vit", "gpt2", *TINY, "--projector", "mlp", "--json")
    plan = json.loads(done.stdout)
    assert (plan["image_size"], plan["projector"]["name"]) == ([32, 64], "mlp")
    assert (plan["encoder"]["hidden_size"], plan["decoder"]["config"]["n_layer"]) == (32, 1)
    assert "32 x 64 px" in run("plan", "vit", "gpt2", *TINY).stdout


def test_a_config_file_and_settings_on_top(run: Run, tmp_path: Path) -> None:
    config = {
        "encoder": "vit",
        "decoder": {"name": "gpt2", "n_layer": 1, "n_embd": 32, "n_head": 2},
        "tokenizer": "char",
        "preprocessing": {"image_size": [32, 64], "resize_mode": "pad"},
    }
    file = tmp_path / "m.json"
    file.write_text(json.dumps(config))
    changes = ["encoder.num_hidden_layers=1", "preprocessing.interpolation=bilinear", "projector=mlp"]
    settings = [*(word for change in changes for word in ("--set", change)), "--image-size", "32x64"]
    plan = vedcore.plan(file, encoder_num_hidden_layers=1, image_size=(32, 64), projector="mlp")
    assert json.loads(run("plan", file, *settings, "--json").stdout) == json.loads(plan.model_dump_json())
    folder = tmp_path / "out"
    done = run("compose", file, *settings, "--seed", "1", "--output", folder, "--json")
    assert json.loads(done.stdout) == {"folder": str(folder), "parameters": plan.parameters}
    preprocessing = vedcore.load(folder).config.preprocessing
    assert preprocessing is not None
    assert (preprocessing.interpolation, preprocessing.resize_mode) == ("bilinear", "pad")


def test_a_seed_gives_the_same_weights(run: Run, model: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    done = run("compose", "vit", "gpt2", *TINY, "--seed", "7", "--output", again)
    assert (done.returncode, done.stdout) == (0, f"{again}\n")
    first, second = (load_file(folder / "model.safetensors") for folder in (model, again))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        ([], 2, ""),
        (["plan"], 2, "ENCODER|CONFIG"),
        (["list", "encodrs"], 2, "encodrs"),
        (["lst"], 2, "did you mean 'list'"),
        (["plan", "vit", "gpt2", "--image-size", "big"], 2, "is not a size"),
        (["plan", "vit", "gpt2", "--image-size", "1x2x3"], 2, "is not a size"),
        (["plan", "vit", "gpt2", "--set", "nonsense"], 2, "key=value"),
        (["plan", "vit"], 2, "decoder"),
        (["-p", "nobody", "list", "encoders"], 2, "nobody"),
        (["-p", "no:vedcore", "list", "encoders"], 2, "cannot be blocked"),
        (["plan", "vti", "gpt2"], 3, "did you mean 'vit'"),
        (["plan", "os:system", "gpt2"], 3, "os:system"),
        (["plan", "vit", "gpt2", "--set", "decoder.n_layr=3"], 2, "--set decoder.n_layr=3: unknown key; did you mean"),
        (["plan", "vit", "gpt2", "--set", "encoder.hidden_size=abc"], 2, "--set encoder.hidden_size=abc: input should"),
        (["plan", "vit", "gpt2", "--set", "nope.x=1"], 2, "--set nope.x=1: unknown argument"),
        (["plan", "vit", "gpt2", "--set", "encoder.hidden_size.x=3"], 2, "--set encoder.hidden_size.x=3: input should"),
        (["plan", "vit", "gpt2", "--set", "decoder=5"], 2, "--set decoder=5: input should be a valid string"),
        (["plan", "vit", "gpt2", "--set", "__class__=x"], 2, "--set"),
        (["plan", "missing.yaml"], 3, "no such file"),
        (["generate", "no-such-folder", "x.png"], 1, "no-such-folder"),
        (["generate", "m", "x.png", "--device", "toaster"], 2, "is not a device"),
        (["generate", "m", "x.png", "--batch-size", "0"], 2, "batch-size"),
    ],
)
def test_errors_are_one_line_on_stderr(run: Run, arguments: list[str], code: int, expected: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    if code in (1, 3):
        assert done.stderr.startswith("error: ")


def test_debug_shows_where(run: Run) -> None:
    done = run("--debug", "plan", "vti", "gpt2")
    assert done.returncode == 3
    assert "Traceback" in done.stderr


def test_a_reader_that_leaves_early(run: Run) -> None:
    command = f"{sys.executable} -m vedcore list encoders --json | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


GONE = """
import errno, io, os, sys
import click, vedcore, vedcore.builtin

class Pipe(io.StringIO):
    def write(self, text):
        raise {"pipe": BrokenPipeError(), "invalid": OSError(errno.EINVAL, "Invalid argument"),
               "name": OSError(errno.EINVAL, "Invalid argument", "a?b")}[sys.argv[2]]
    def fileno(self):
        return 1

os.name, sys.stdout = sys.argv[1], Pipe()
from vedcore.cli import main
main(["--version"])
"""


@pytest.mark.parametrize(
    ("system", "failure", "reader_has_gone"),
    [("posix", "pipe", True), ("posix", "invalid", False), ("nt", "invalid", True), ("nt", "name", False)],
)
def test_a_pipe_that_nobody_reads(system: str, failure: str, reader_has_gone: bool) -> None:
    """Windows has no EPIPE; it has EINVAL without the name of a file."""
    command = [sys.executable, "-c", GONE, system, failure]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert (done.stderr == "") is reader_has_gone
    assert reader_has_gone or done.stderr.startswith("error: [Errno 22]")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams(closed: str) -> None:
    command = f"{sys.executable} -m vedcore list encoders --json {closed}"
    assert subprocess.run(command, shell=True, capture_output=True, timeout=60).returncode == 0


def test_texts_of_a_folder(run: Run, model: Path, pictures: Path) -> None:
    search = ["--max-new-tokens", "3", "--num-beams", "2"]
    done = run("generate", model, pictures, *search, "--batch-size", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == [
        str(pictures / name) for name in ("a.jpg", "b.png", "sub/c.PNG")
    ]
    rows = json.loads(run("generate", model, pictures, *search, "--json").stdout)
    assert [set(row) for row in rows] == [{"image", "text", "confidence", "finish_reason", "seconds"}] * 3
    expected = vedcore.load(model).generate_text([row["image"] for row in rows], max_new_tokens=3, num_beams=2)
    assert [row["text"] for row in rows] == [result.text for result in expected]


def test_of_one_file_the_text_alone(run: Run, model: Path, pictures: Path) -> None:
    done = run("generate", model, pictures / "b.png", "--max-new-tokens", "2")
    assert done.returncode == 0
    assert "b.png" not in done.stdout
    assert len(done.stdout.splitlines()) == 1


def test_bad_images_are_told_and_the_others_are_read(run: Run, model: Path, pictures: Path, tmp_path: Path) -> None:
    (pictures / "broken.png").write_text("hello")
    os.mkfifo(pictures / "fifo.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(pictures / "s.png"))
    (pictures / "self.png").symlink_to("self.png")
    (pictures / "sub" / "up").symlink_to("..")
    (pictures / "sub" / "top").symlink_to("/")
    output = tmp_path / "out.jsonl"
    done = run("generate", model, pictures, "gone.png", "--max-new-tokens", "1", "--jsonl", "-o", output)
    assert (done.returncode, done.stdout) == (1, "")
    rows = {os.path.basename(row["image"]): row for row in map(json.loads, output.read_text().splitlines())}
    assert {name for name, row in rows.items() if "text" in row} == {"a.jpg", "b.png", "c.PNG"}
    assert {name for name, row in rows.items() if "error" in row} == {"broken.png", "gone.png"}
    for word in ("fifo.png: not a regular", "s.png: not a regular", "self.png", "up: a link to a", "top: a link to a"):
        assert word in done.stderr
    assert "3 read, 2 failed, 5 skipped" in done.stderr


def test_names_survive_the_way_through_json(run: Run, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "names"
    folder.mkdir()
    names = [b"new\nline.png", b"tab\t.png", b"\xff\xfe.png", "ünï☃.png".encode(), b"quote'\".png"]
    for name in names:
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            Image.new("RGB", (64, 32)).save(file, format="PNG")
    done = run("generate", model, folder, "--max-new-tokens", "1", "--jsonl")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {os.path.basename(os.fsencode(row["image"])) for row in rows} == set(names)
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    plain = run_apart("generate", model, folder, "--max-new-tokens", "1", **ascii_only)
    assert (plain.returncode, len(plain.stdout.splitlines())) == (0, len(names)), plain.stderr


def test_a_folder_without_images(run: Run, model: Path, tmp_path: Path) -> None:
    done = run("generate", model, tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no images" in done.stderr


def test_an_output_that_cannot_be_written(run: Run, model: Path, pictures: Path, tmp_path: Path) -> None:
    done = run("generate", model, pictures / "b.png", "-o", tmp_path / "no" / "such" / "file")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_the_walk_is_sorted_and_gives_each_file_once(pictures: Path) -> None:
    walk = ImageWalk([str(pictures), "named.txt", str(pictures / "sub")])
    assert [os.path.basename(path) for path in walk] == ["a.jpg", "b.png", "c.PNG", "named.txt"]
    assert walk.skipped == [f"{pictures / 'sub'}: a folder seen before"]
