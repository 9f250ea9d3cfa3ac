"""Saves that are stopped before and after each of their system calls; run as a script, in a process of its own.

``python interrupt_saves.py <how> <exchange> <before> <step> <folder>``; ``how`` is ``kill``, ``interrupt`` (Ctrl-C) or
``full`` (no space left), ``exchange`` is ``yes`` or ``no`` (a system that cannot exchange names), ``before`` is what
stands at the target: ``single``, ``shards`` or ``nothing``; ``step`` 1 takes every point, 5 every fifth. Prints the
number of the last point.
"""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vedcore.errors import CheckpointNotFoundError, CheckpointWriteError
from vedcore.weights import exchange
from vedcore.weights.folder import Written, save_folder
from vedcore.weights.loading import Weights
from vedcore.weights.saving import weight_files
from vedcore.weights.snapshot import Snapshot, read_folder

HOWS: dict[str, Callable[[], object]] = {
    "kill": lambda: os._exit(9),
    "interrupt": KeyboardInterrupt,
    "full": lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
}


def model(value: float) -> torch.nn.Module:
    module = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(3)))
    for parameter in module.parameters():
        torch.nn.init.constant_(parameter, value)
    return module


def files(value: float, sharded: bool) -> dict[str, bytes | Written]:
    return {"config.json": str(value).encode(), **weight_files(model(value).state_dict(), 300 if sharded else "5GB")}


def save(folder: Path, content: dict[str, bytes | Written]) -> None:
    save_folder(folder, content, re.compile(r"config.json|model.*"))


def value_in(folder: Path) -> float:
    """Which save is in the folder; fails unless all of it is of that one."""

    def read(snapshot: Snapshot) -> float:
        module = model(0)
        Weights(snapshot).load_into(module, manifest=snapshot.manifest())
        value = float(snapshot.read("config.json"))
        assert all(bool((p == value).all()) for p in module.parameters()), "a mixture"
        return value

    return read_folder(folder, read)


class Stop:
    """Does what ``how`` says at the n-th entry to or return from a function of the system."""

    def __init__(self, how: str, at: int) -> None:
        self.how, self.left = HOWS[how], at
        self.events = ("c_call",) if how == "full" else ("c_call", "c_return")  # what failed was not done

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


def stopped_save(how: str, at: int, folder: Path, new: dict[str, bytes | Written]) -> bool:
    """Whether the save was stopped; False where it was through before the point."""
    if how == "kill":
        child = os.fork()
        if child == 0:
            sys.setprofile(Stop(how, at))
            save(folder, new)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    stop = Stop(how, at)
    with contextlib.suppress(KeyboardInterrupt):
        sys.setprofile(stop)
        try:
            save(folder, new)
        except CheckpointWriteError:
            sys.setprofile(None)
            assert not folder.exists() or value_in(folder) == 1.0, f"an error at point {at}, and yet the new folder"
        finally:
            sys.setprofile(None)
    return stop.left <= 0


def main(how: str, exchange_works: str, before: str, step: int, workplace: Path) -> None:
    torch.set_num_threads(1)
    if exchange_works == "no":
        exchange._renameat2 = lambda: None
    folder = workplace / "model"
    old, new = files(1.0, before == "shards"), files(2.0, before != "shards")
    seen = set()
    for at in itertools.count(1, step):
        if before == "nothing":
            shutil.rmtree(folder, ignore_errors=True)
        else:
            save(folder, old)
            (folder / "notes.txt").write_text("mine")
        stopped = stopped_save(how, at, folder, new)
        try:
            seen.add(value_in(folder))
        except CheckpointNotFoundError:
            assert before == "nothing", f"the folder is gone at point {at}"
        if how != "kill":
            left = [name for name in os.listdir(workplace) if name.startswith((".vedcore-tmp", ".vedcore-old"))]
            assert not left, f"left at point {at}: {left}"
        save(folder, new)
        assert value_in(folder) == 2.0
        assert before == "nothing" or (folder / "notes.txt").read_text() == "mine", f"notes.txt is lost at point {at}"
        assert os.listdir(workplace) == ["model"], f"left at point {at}: {os.listdir(workplace)}"
        if not stopped:
            break
    assert seen == ({2.0} if before == "nothing" else {1.0, 2.0})
    print(at)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), Path(sys.argv[5]))
