"""A hub on the loopback, and a client that is bound to it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants

from tests.hub.server import Hub

TOKEN = "hf_" + "Secret0" * 5


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def hub(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with ``org/model``: settings, a tokenizer, weights, and files that no model needs."""
    folder = tmp_path / "repos" / "org" / "model"
    folder.mkdir(parents=True)
    fill(folder)
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    close_session()
    with Hub(tmp_path / "repos") as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server
    close_session()


@pytest.fixture
def no_xet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uploads go to large file storage, the only kind that this hub has."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


def fill(folder: Path, seed: int = 0) -> None:
    """Write files under the names of a model's files; their contents do not matter."""
    (folder / "config.json").write_text(json.dumps({"seed": seed}))
    (folder / "tokenizer.json").write_text(json.dumps({"words": seed}))
    (folder / "README.md").write_text("# A model")
    (folder / "flax_model.msgpack").write_bytes(b"not for us")
    (folder / "onnx").mkdir(exist_ok=True)
    (folder / "onnx" / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes((seed + i) % 251 for i in range(300_000)))
