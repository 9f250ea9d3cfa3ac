"""Fetches in this process and in others, and the errors that they end in."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.hub.conftest import TOKEN
from tests.hub.server import Hub
from vedcore import hub as ours
from vedcore.errors import HubError, VedcoreError

WANTED = ["config.json", "model.safetensors", "tokenizer.json"]


def fails(call: Callable[[], object], *words: str, kind: type[VedcoreError] = HubError) -> VedcoreError:
    """The error of ``call``: one line, with the words, and without the token anywhere."""
    with pytest.raises(VedcoreError) as caught:
        call()
    error = caught.value
    assert isinstance(error, kind), repr(error)
    message = str(error)
    assert len(message) <= 300
    assert message.isprintable()
    for word in words:
        assert word in message, message
    assert error.hint
    frames = traceback.TracebackException.from_exception(error, capture_locals=True)
    frames.stack = traceback.StackSummary.from_list(
        [f for f in frames.stack if Path(f.filename).parent == Path(ours.__file__).parent]
    )
    dump = "".join(frames.format(chain=True)) + repr(error) + repr(vars(error)) + error.details
    assert TOKEN not in dump
    assert error.__context__ is None or isinstance(error.__context__, VedcoreError)
    pickle.dumps(error.args)
    return error


def fetch(**arguments: object) -> Path:
    return ours.fetch_folder("org/model", **arguments)  # type: ignore[arg-type]


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


CHILD = """
import sys
from vedcore import hub
print(hub.fetch_folder("org/model"), flush=True)
"""


def child(hub: Hub, cache: Path, code: str = CHILD, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(cache), **variables}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )
