"""The plugin of docs/writing-a-plugin: vedcore-tiny under another name, installed, used, and gone again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TINY = Path(__file__).parents[2] / "plugins" / "vedcore-tiny"
RENAMED = {"vedcore_tiny": "vedcore_mine", "vedcore-tiny": "vedcore-mine", "tiny": "mine", '"patches"': '"squares"'}

USE = """
import torch, vedcore
model = vedcore.compose("squares", "mine", tokenizer="char", seed=0)
out = model(torch.rand(2, 3, 32, 128), labels=torch.tensor([[5, 6], [7, 8]]))
out.loss.backward()
assert all(p.grad is not None for p in model.parameters())
model.save_pretrained("saved")
again = vedcore.load("saved")
assert again.config.plugins["encoder"] == "vedcore-mine==0.1.0"
pixels = torch.rand(1, 3, 32, 128)
assert torch.equal(model.generate(pixels, max_new_tokens=5), again.generate(pixels, max_new_tokens=5))
assert vedcore.plan("squares", "mine-4").projector.name == "linear"
"""


@pytest.fixture(scope="module")
def installed(install: Callable[[Path, Path], None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin's files, as if pip had installed them."""
    site = tmp_path_factory.mktemp("site")
    for file in (TINY / "pyproject.toml", *sorted((TINY / "vedcore_tiny").glob("*.py"))):
        text = file.read_text(encoding="utf-8")
        for old, new in RENAMED.items():
            text = text.replace(old, new)
        target = site / str(file.relative_to(TINY)).replace("vedcore_tiny", "vedcore_mine")
        target.parent.mkdir(exist_ok=True)
        target.write_text(text, encoding="utf-8")
    install(site, site)
    return site


def run(site: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def saved(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a model of the plugin's parts was composed, trained, saved and loaded."""
    folder = tmp_path_factory.mktemp("saved")
    done = run(installed, folder, "-c", USE)
    assert done.returncode == 0, done.stderr
    return folder


def test_it_composes_trains_saves_and_loads(saved: Path) -> None:
    assert (saved / "saved" / "config.json").exists()


def test_it_is_listed_without_torch(installed: Path, tmp_path: Path) -> None:
    listed = run(installed, tmp_path, "-m", "vedcore", "plugins")
    assert "✓ vedcore-mine==0.1.0 (mine = vedcore_mine): encoders squares; decoders mine\n" in listed.stdout
    assert "imports torch" not in listed.stdout


def test_a_saved_model_names_what_to_install_when_it_is_gone(saved: Path, tmp_path: Path) -> None:
    done = run(tmp_path, saved, "-m", "vedcore", "generate", "saved", "x.png")
    assert (done.returncode, done.stdout) == (4, "")
    assert "pip install vedcore-mine==0.1.0" in done.stderr
