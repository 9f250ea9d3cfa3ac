"""The settings that a process has once, read before a plugin's code runs and put back after it."""

from __future__ import annotations

import gc
import locale
import logging
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

__all__ = ["ProcessState"]

Setting = tuple[Callable[[], Any], Callable[[Any], object]]
"""A function that reads a setting, and one that puts it back."""

_ROOT = logging.getLogger()
_OF_TORCH = {
    "is_grad_enabled": "set_grad_enabled",
    "get_default_dtype": "set_default_dtype",
    "get_num_threads": "set_num_threads",
    "get_float32_matmul_precision": "set_float32_matmul_precision",
    "get_deterministic_debug_mode": "set_deterministic_debug_mode",
    "is_anomaly_enabled": "set_anomaly_enabled",
}
"""Settings of torch: the function that reads one to that which sets it."""


class ProcessState:
    """The state of the process when this is made.

    The settings of torch and numpy belong to it where they are imported already. Where the plugin is the first to
    import torch, the defaults of its modes are put back.
    """

    def __init__(self) -> None:
        self._environment = dict(os.environ)
        self._had_torch = "torch" in sys.modules
        self._kept = [(read, write, read()) for read, write in (*_of_python(), *_of_torch(), *_of_numpy())]

    def put_back(self) -> list[str]:
        """Put everything back; the names of the environment variables that were changed."""
        for read, write, value in self._kept:
            if not _same(read(), value):
                write(value)
        if not self._had_torch and (torch := sys.modules.get("torch")) is not None:
            torch.set_grad_enabled(True)
            torch.set_default_dtype(torch.float32)
            torch.set_default_device(None)
        before = self._environment
        changed = sorted(name for name in {*before, *os.environ} if before.get(name) != os.environ.get(name))
        for name in changed:
            if name in before:
                os.environ[name] = before[name]
            else:
                del os.environ[name]
        return changed


def _of_python() -> Iterator[Setting]:
    yield _folder, _enter
    yield lambda: _ROOT.level, _ROOT.setLevel
    yield _elements(_ROOT.handlers)
    yield _attribute(_ROOT.manager, "disable")
    yield logging.getLoggerClass, logging.setLoggerClass
    for name in ("excepthook", "displayhook", "stderr", "stdin"):
        yield _attribute(sys, name)
    yield _attribute(threading, "excepthook")
    yield _elements(sys.argv)
    yield _elements(sys.path)
    yield sys.getrecursionlimit, sys.setrecursionlimit
    yield random.getstate, random.setstate
    yield gc.isenabled, lambda enabled: gc.enable() if enabled else gc.disable()
    yield partial(locale.setlocale, locale.LC_ALL), partial(locale.setlocale, locale.LC_ALL)
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not None:  # else it is of C code, and cannot be put back
                yield partial(signal.getsignal, number), partial(signal.signal, number)


def _of_torch() -> Iterator[Setting]:
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "get_rng_state"):  # absent, or half imported in another thread
        return
    for read, write in _OF_TORCH.items():
        yield getattr(torch, read), getattr(torch, write)
    yield partial(_default_device, torch), torch.set_default_device
    yield torch.get_rng_state, torch.set_rng_state
    for name in ("benchmark", "deterministic", "allow_tf32"):
        yield _attribute(torch.backends.cudnn, name)


def _default_device(torch: Any) -> Any:
    try:
        return torch.get_default_device()
    except AttributeError:  # torch 2.6, where it was set to None
        return None


def _of_numpy() -> Iterator[Setting]:
    numpy = sys.modules.get("numpy")
    if numpy is not None and hasattr(numpy, "random"):
        yield numpy.geterr, lambda value: numpy.seterr(**value)
        yield partial(numpy.random.get_state, legacy=False), numpy.random.set_state


def _attribute(owner: Any, name: str) -> Setting:
    return partial(getattr, owner, name), partial(setattr, owner, name)


def _elements(values: list[Any]) -> Setting:
    """The elements of a list that others hold too."""
    return values.copy, partial(values.__setitem__, slice(None))


def _same(a: Any, b: Any) -> bool:
    """Whether two values of a setting plainly agree; False for arrays, whose setting is put back in any case."""
    try:
        return bool(a == b)
    except (RuntimeError, ValueError):
        return False


def _folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # deleted below us
        return None


def _enter(folder: str | None) -> None:
    if folder is not None:
        os.chdir(folder)
