"""``vedcore package``: a wheel that pip installs, that is listed, and whose model is the folder's."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from email.parser import Parser
from pathlib import Path

import pytest
import torch

import vedcore
from vedcore.cli import main

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(["package", *map(str, arguments)])
        assert isinstance(end.value.code, int)
        return subprocess.CompletedProcess(arguments, end.value.code, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    encoder = {"name": "vit", "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    decoder = {"name": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 20}
    vedcore.compose(encoder, decoder, image_size=32, tokenizer="char", seed=3).save_pretrained(
        folder, max_shard_size="20KB"
    )
    return folder


@pytest.fixture
def tiny(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


def test_pip_installs_it_and_the_model_is_the_same(run: Run, tiny: Path, tmp_path: Path) -> None:
    card = (tiny / "README.md").read_text().replace("---\n", "---\nlicense: cc-by-4.0\n", 1)
    (tiny / "README.md").write_text(card.replace("# vit and gpt2", '# A "reader", ü'))
    (tiny / "LICENSE").write_text("yours")
    (tiny / "optimizer.bin").write_bytes(bytes(10))
    found = json.loads(run(tiny, "vedcore-hand.Writing", "--version", "1.2rc1", "-o", tmp_path / "d", "--json").stdout)
    wheel = tmp_path / "d" / "vedcore_hand_writing-1.2rc1-py3-none-any.whl"
    assert (found["wheel"], found["name"], found["left_out"]) == (str(wheel), "hand.Writing", ["optimizer.bin"])
    assert found["bytes"] == wheel.stat().st_size
    pip = ["pip", "install", "--quiet", "--no-deps", "--no-index", "--target", tmp_path / "site", wheel]
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", *map(str, pip)], check=True)
    code = f"""
import torch, vedcore
assert "hand.Writing" in vedcore.list_models()
found, due = vedcore.load("hand.Writing"), vedcore.load({str(tiny)!r})
assert all(torch.equal(t, found.state_dict()[name]) for name, t in due.state_dict().items())
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=env, cwd=tmp_path)
    listed = subprocess.run(
        [sys.executable, "-m", "vedcore", "list", "models"], capture_output=True, text=True, env=env, check=True
    )
    assert 'hand.Writing  A "reader", ü (vedcore-hand.Writing==1.2rc1' in listed.stdout
    with zipfile.ZipFile(wheel) as archive:
        said = Parser().parsestr(archive.read("vedcore_hand_writing-1.2rc1.dist-info/METADATA").decode())
    assert (said["Name"], said["License"], said["Version"]) == ("vedcore-hand.Writing", "cc-by-4.0", "1.2rc1")
    assert said.get_all("Requires-Dist") == [f"vedcore>={vedcore.__version__}"]
    assert 'vedcore.load("hand.Writing")' in said.get_payload()


def test_the_same_folder_gives_the_same_bytes_and_each_file_has_its_hash(run: Run, tiny: Path, tmp_path: Path) -> None:
    wheels = []
    for place in ("a", "b"):
        done = run(tiny, "vedcore-mine", "-o", tmp_path / place)
        wheels.append(Path(done.stdout.strip()))
        for path in tiny.iterdir():
            os.utime(path, (0, 0))
    assert wheels[0].read_bytes() == wheels[1].read_bytes()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["vedcore_mine-0.1.0-py3-none-any.whl"]
    with zipfile.ZipFile(wheels[0]) as archive:
        rows = list(csv.reader(io.StringIO(archive.read("vedcore_mine-0.1.0.dist-info/RECORD").decode())))
        assert sorted(name for name, *_ in rows) == sorted(archive.namelist())
        for name, digest, size in rows[:-1]:
            content = archive.read(name)
            due = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            assert (digest, size) == (f"sha256={due}", str(len(content)))


def test_it_needs_the_plugins_of_its_parts(run: Run, tiny: Path, tmp_path: Path) -> None:
    config = json.loads((tiny / "config.json").read_text())
    config["encoder"]["name"], config["plugins"]["encoder"] = "swirl", "vedcore-swirl==2.1+cu126"
    config["plugins"]["decoder"] = "vedcore-evil==1\nRequires-Dist: worse"
    (tiny / "config.json").write_text(json.dumps(config))
    found = json.loads(run(tiny, "vedcore-mine", "-o", tmp_path, "--json").stdout)
    assert found["requirements"] == [f"vedcore>={vedcore.__version__}", "vedcore-swirl>=2.1"]


def shard(folder: Path) -> None:
    path = next(folder.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")


def no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def theirs(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "vision-encoder-decoder", "encoder": {}, "decoder": {}}')


def link(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.rename(folder.with_name("elsewhere.json"))
    path.symlink_to(folder.with_name("elsewhere.json"))


def gone(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize("damage", [shard, no_manifest, no_config, theirs, link, gone])
def test_a_folder_that_would_not_load_is_refused(
    run: Run, tiny: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    damage(tiny)
    done = run(tiny, "vedcore-mine", "--output", tmp_path / "out")
    assert (done.returncode, done.stdout) == (1, ""), done
    assert str(tiny) in done.stderr
    assert not list(tmp_path.rglob("*.whl"))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("no name", [], "is not the name of a distribution"),
        ("class", [], "call it vedcore-class"),
        ("torchvision/../x", [], "is not the name of a distribution"),
        ("vedcore-decoders", [], "'vedcore_decoders' is installed already"),
        ("vedcore", [], "'vedcore' is installed already"),
        ("vedcore-mine", ["--version", "one"], "'one' is not a version"),
        ("vedcore-mine", ["--version", "1.0/../2"], "is not a version"),
        ("vedcore-mine", ["--output", "text"], "cannot be written"),
    ],
)
def test_bad_names_and_versions_are_refused(
    run: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, options: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("")
    done = run(tiny, name, *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert not list(tmp_path.rglob("*.whl"))


def test_a_wheel_that_exists_stays(run: Run, tiny: Path, tmp_path: Path) -> None:
    assert run(tiny, "vedcore-mine", "-o", tmp_path).returncode == 0
    before = (tmp_path / "vedcore_mine-0.1.0-py3-none-any.whl").stat().st_mtime_ns
    done = run(tiny, "vedcore-mine", "-o", tmp_path)
    assert (done.returncode, "exists already" in done.stderr) == (2, True)
    assert (tmp_path / "vedcore_mine-0.1.0-py3-none-any.whl").stat().st_mtime_ns == before
    assert run(tiny, "vedcore-mine", "-o", tmp_path, "--version", "0.2.0").returncode == 0
    assert torch.is_tensor(next(vedcore.load(tiny).parameters()))
