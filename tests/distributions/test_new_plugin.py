"""``vedcore new-plugin``: each kind installs, is listed, is clean, and passes the tests that come with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

import vedcore
from vedcore import plugins
from vedcore.cli import main
from vedcore.distributions.names import parse_name
from vedcore.distributions.plugin import KINDS, new_plugin

Run = Callable[..., "subprocess.CompletedProcess[str]"]
RUFF = Path(sys.executable).with_name("ruff")
LONG = "vedcore-3.a_rather-Long.name-for-a-small-part"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(["new-plugin", *map(str, arguments)])
        assert isinstance(end.value.code, int)
        return subprocess.CompletedProcess(arguments, end.value.code, *capsys.readouterr())

    return call


def install(folder: Path) -> None:
    """Write the metadata of a project beside its package, as pip does in a site folder."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = folder / f"{parse_name(project['name']).package}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = "".join(f"{key} = {value}\n" for key, value in project["entry-points"]["vedcore"].items())
    (info / "entry_points.txt").write_text("[vedcore]\n" + points)


def apart(folders: list[Path], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run Python where the projects in ``folders`` are installed."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folders[0].parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders)), "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A plugin of each kind, and one with a long name."""
    top = tmp_path_factory.mktemp("plugins")
    folders = [new_plugin(f"vedcore-my-{kind}", kind, top / kind) for kind in KINDS]
    return [*folders, new_plugin(LONG, "encoder", top / "long")]


@pytest.mark.skipif(not RUFF.exists(), reason="ruff is not installed")
@pytest.mark.parametrize(
    "arguments", [["check"], ["check", "--select", "E,F,I,UP,B,SIM,RUF,C4,PT,PLW"], ["format", "--check"]]
)
def test_each_kind_is_clean(written: list[Path], arguments: list[str]) -> None:
    done = subprocess.run([RUFF, *arguments, *written], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_each_kind_passes_its_tests_untouched(written: list[Path]) -> None:
    for folder in written:
        install(folder)
    done = apart(written, "-m", "vedcore", "plugins", "--json")
    found = {plugin["distribution"]: plugin for plugin in json.loads(done.stdout)}
    for kind in KINDS:
        plugin = found[f"vedcore-my-{kind}"]
        assert (plugin["status"], plugin["problems"], plugin["registered"]) == ("loaded", [], {kind: [f"my-{kind}"]})
    assert found[LONG]["registered"] == {"encoder": ["3.a_rather-Long.name-for-a-small-part"]}
    tests = [folder / "tests" for folder in written if folder.name != "long"]
    done = apart(written, "-m", "pytest", "-q", "--import-mode=importlib", "-p", "no:cacheprovider", *tests)
    assert done.returncode == 0, done.stdout[-5000:]


def test_the_folder_is_the_name_and_json_says_what_was_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = json.loads(run("Vedcore_Mine", "--kind", "projector", "--json").stdout)
    assert (found["folder"], found["name"], found["kind"]) == ("Vedcore_Mine", "Mine", "projector")
    assert found["files"] == sorted(
        [
            ".github/workflows/test.yml",
            "README.md",
            "pyproject.toml",
            "tests/test_vedcore_mine.py",
            "vedcore_mine/__init__.py",
            "vedcore_mine/projector.py",
        ]
    )
    assert {path.name for path in tmp_path.iterdir()} == {"Vedcore_Mine"}
    for name in ("mine", "vedcore--mine"):
        assert json.loads(run(name, "--kind", "format", "--json").stdout)["name"] == "mine"


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("", "encoder", "is not the name of a distribution"),
        ("../mine", "encoder", "is not the name of a distribution"),
        ("vedcore-", "encoder", "is not the name of a distribution"),
        ("vedcore mine", "encoder", "is not the name of a distribution"),
        ("vedcore-ü", "encoder", "is not the name of a distribution"),
        ("m" * 101, "encoder", "is not the name of a distribution"),
        ("class", "encoder", "cannot be the name of a package; call it vedcore-class"),
        ("3d", "encoder", "cannot be the name of a package; call it vedcore-3d"),
        ("json", "encoder", "cannot be the name of a package; call it vedcore-json"),
        ("torch", "encoder", "torch is installed already"),
        ("VEDCORE", "encoder", "VEDCORE is installed already"),
        ("vedcore.printed", "decoder", "vedcore.printed is installed already"),
        ("vedcore-encoders", "encoder", "a package 'vedcore_encoders' is installed already"),
        ("vedcore-vit", "encoder", "encoder 'vit' is a name of vedcore"),
        ("vedcore-vit_mine", "encoder", "encoder 'vit_mine' is a name of vedcore"),
        ("vedcore-gpt2-medium", "decoder", "decoder 'gpt2-medium' is a name of vedcore"),
        ("vedcore-native", "format", "format 'native' is a name of vedcore"),
        ("vedcore-plan", "command", "command 'plan' is a name of vedcore"),
        ("vedcore-printed-line", "model", "model 'printed-line' is a name of vedcore-printed"),
    ],
)
def test_bad_names_are_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if "printed" in name and "printed" not in str(plugins.list_plugins()):
        pytest.skip("vedcore-printed is not installed")
    done = run(name, "--kind", kind)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert not list(tmp_path.iterdir())


def test_what_exists_stays(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    done = run("vedcore-mine", "--kind", "encoder", "--output", tmp_path / "mine")
    assert (done.returncode, "exists already" in done.stderr) == (2, True)
    done = run("vedcore-mine", "--kind", "encoder", "--output", tmp_path / "file" / "mine")
    assert done.returncode == 0, "missing parents are created"
    (tmp_path / "text").write_text("mine")
    done = run("vedcore-mine", "--kind", "encoder", "--output", tmp_path / "text" / "mine")
    assert (done.returncode, "not a directory" in done.stderr) == (2, True)
    assert not list(tmp_path.rglob(".vedcore*"))
    assert run("vedcore-mine", "--kind", "engine").returncode == 2
    assert vedcore.list_encoders()
