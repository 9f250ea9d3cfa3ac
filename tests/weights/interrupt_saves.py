"""Saves that are stopped before and after each of their system calls; run as a script, in a process of its own.

``python interrupt_saves.py <what> <how> <exchange> <before> <step> <folder>``:

- ``what`` is saved: ``tensors``, or a model as ``native`` or ``transformers``
- ``how`` it is stopped: ``kill``, ``interrupt`` (Ctrl-C) or ``full`` (no space left)
- ``exchange`` of two names in one step: ``yes``, or ``no`` for a system that cannot do it
- ``before``, the content of the target: ``single``, ``shards`` or ``nothing``
- ``step``: 1 takes every point, 5 every fifth

Prints the number of the last point.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import itertools
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch

import vedcore
from vedcore.errors import CheckpointNotFoundError, CheckpointWriteError
from vedcore.weights.folder import save_folder
from vedcore.weights.loading import Weights
from vedcore.weights.saving import weight_files
from vedcore.weights.snapshot import Snapshot, read_folder

HOWS: dict[str, Callable[[], object]] = {
    "kill": lambda: os._exit(9),
    "interrupt": KeyboardInterrupt,
    "full": lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
}


real_library: Any = ctypes.CDLL


def library(name: str | None, *rest: Any, **more: Any) -> Any:
    """``ctypes.CDLL`` of a system whose C library cannot exchange two names."""
    return object() if name is None else real_library(name, *rest, **more)


class Tensors:
    """Some tensors, and a file beside them."""

    def __init__(self, value: float) -> None:
        self.value = value
        self.module = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(3)))
        for parameter in self.module.parameters():
            torch.nn.init.constant_(parameter, value)

    def save(self, folder: Path, sharded: bool) -> None:
        files = weight_files(self.module.state_dict(), 300 if sharded else "5GB")
        save_folder(folder, {"config.json": str(self.value).encode(), **files}, re.compile(r"config.json|model.*"))

    @staticmethod
    def value_in(folder: Path) -> float:
        """The value of the save in the folder; fails unless all of it is of one save."""

        def read(snapshot: Snapshot) -> float:
            module = Tensors(0).module
            Weights(snapshot).load_into(module, manifest=snapshot.manifest())
            return same_value(module, float(snapshot.read("config.json")))

        return read_folder(folder, read)


class Model:
    """A whole model; its configuration holds the value too."""

    ENCODER: ClassVar = {
        "name": "vit",
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 8,
        "patch_size": 8,
        "image_size": (8, 8),
    }
    format: ClassVar[str]

    def __init__(self, value: float) -> None:
        decoder = {"name": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 1, "n_positions": int(10 * value)}
        self.module = vedcore.compose(self.ENCODER, decoder, tokenizer="char")
        for parameter in self.module.parameters():
            torch.nn.init.constant_(parameter, value)

    def save(self, folder: Path, sharded: bool) -> None:
        self.module.save_pretrained(folder, format=self.format, max_shard_size=3000 if sharded else "5GB")

    @staticmethod
    def value_in(folder: Path) -> float:
        """The value of the save in the folder; fails unless all of it is of one save."""
        module = vedcore.load(folder)
        assert module.processor.tokenizer is not None
        return same_value(module, float(module.decoder.max_positions or 0) / 10)


class Native(Model):
    format = "native"


class Transformers(Model):
    format = "transformers"


WHATS: dict[str, type[Tensors | Model]] = {"tensors": Tensors, "native": Native, "transformers": Transformers}


def same_value(module: torch.nn.Module, value: float) -> float:
    assert all(bool((p == value).all()) for p in module.parameters()), "a mixture"
    return value


class Stop:
    """Kills, interrupts or fails at the n-th entry to, or return from, a function of the system."""

    def __init__(self, how: str, at: int) -> None:
        self.how, self.left = HOWS[how], at
        self.events = ("c_call",) if how == "full" else ("c_call", "c_return")  # a call that fails has no effect

    def __call__(self, frame: Any, event: str, function: Any) -> None:
        if event not in self.events:
            return
        owner = getattr(function, "__self__", None)
        module = getattr(function, "__module__", None)
        if function is os.fspath:  # no call of the system
            return
        if module not in ("posix", "fcntl", "_io", "shutil") and not isinstance(owner, io.IOBase):
            return
        self.left -= 1
        if self.left == 0:
            sys.setprofile(None)
            outcome = self.how()
            assert isinstance(outcome, BaseException)
            raise outcome


def stopped_save(how: str, at: int, folder: Path, new: Tensors | Model, sharded: bool) -> bool:
    """Whether the save was stopped; False where it was through before the point."""
    if how == "kill":
        child = os.fork()
        if child == 0:
            sys.setprofile(Stop(how, at))
            new.save(folder, sharded)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    stop = Stop(how, at)
    with contextlib.suppress(KeyboardInterrupt):
        sys.setprofile(stop)
        try:
            new.save(folder, sharded)
        except CheckpointWriteError as error:
            sys.setprofile(None)
            assert not folder.exists() or new.value_in(folder) == 1.0, f"an error at {at}, and yet the new folder"
            assert re.search(r"no space left on device: [\d,]+ bytes needed, [\d,]+ free", str(error)), error
        finally:
            sys.setprofile(None)
    return stop.left <= 0


def main(what: str, how: str, exchange_works: str, before: str, step: int, workplace: Path) -> None:
    torch.set_num_threads(1)
    if exchange_works == "no":
        ctypes.CDLL = library  # type: ignore[misc, assignment]
    folder = workplace / "model"
    old, new, sharded = WHATS[what](1.0), WHATS[what](2.0), before != "shards"
    seen = set()
    for at in itertools.count(1, step):
        if before == "nothing":
            shutil.rmtree(folder, ignore_errors=True)
        else:
            old.save(folder, before == "shards")
            (folder / "notes.txt").write_text("mine")
        stopped = stopped_save(how, at, folder, new, sharded)
        try:
            seen.add(new.value_in(folder))
        except CheckpointNotFoundError:
            assert before == "nothing", f"the folder is gone at point {at}"
        if how != "kill":
            left = [name for name in os.listdir(workplace) if name.startswith((".vedcore-tmp", ".vedcore-old"))]
            assert not left, f"left at point {at}: {left}"
        new.save(folder, sharded)
        assert new.value_in(folder) == 2.0
        assert before == "nothing" or (folder / "notes.txt").read_text() == "mine", f"notes.txt is lost at point {at}"
        assert os.listdir(workplace) == ["model"], f"left at point {at}: {os.listdir(workplace)}"
        if not stopped:
            break
    assert seen == ({2.0} if before == "nothing" else {1.0, 2.0})
    print(at)


if __name__ == "__main__":
    what, how, exchange_works, before, step, workplace = sys.argv[1:]
    main(what, how, exchange_works, before, int(step), Path(workplace))
