"""Files of settings, written for a test, and their refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from vedcore.config_files import read_config_text
from vedcore.errors import VedcoreError

FORMATS = ["yaml", "toml", "json"]


@pytest.fixture(params=["libyaml", "pure Python"])
def each_yaml_parser(request, monkeypatch):
    """Both of PyYAML's parsers: a build without libyaml has only the second."""
    if request.param == "pure Python":
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    elif not hasattr(yaml, "CSafeLoader"):
        pytest.skip("PyYAML was built without libyaml")


def refusal(path: Path, kind: type[VedcoreError], *parts: str, read: Any = read_config_text) -> VedcoreError:
    """The error of reading ``path``: of that class, one short line that names the file and each of ``parts``."""
    with pytest.raises(kind) as caught:
        read(path)
    message = str(caught.value)
    assert type(caught.value) is kind
    assert caught.value.path == str(path)
    assert len(message) <= 300
    assert message.isprintable()
    for part in parts:
        assert part in message
    assert caught.value.hint
    return caught.value


def written(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def nested(levels: int) -> dict[str, Any]:
    data: dict[str, Any] = {"leaf": 1}
    for _ in range(levels - 1):
        data = {"a": data}
    return data
