"""The settings that a process has once, read before a plugin's code runs and put back after it."""

from __future__ import annotations

import gc
import locale
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

__all__ = ["ProcessState"]

Setting = tuple[Callable[[], Any], Callable[[Any], object]]
"""A function that reads a setting, and one that puts it back."""

_CALLS = [
    ("os", "getcwd", "chdir"),
    ("sys", "getrecursionlimit", "setrecursionlimit"),
    ("logging", "getLoggerClass", "setLoggerClass"),
    ("random", "getstate", "setstate"),
    ("numpy.random", "get_state", "set_state"),
    ("torch", "is_grad_enabled", "set_grad_enabled"),
    ("torch", "get_default_dtype", "set_default_dtype"),
    ("torch", "get_num_threads", "set_num_threads"),
    ("torch", "get_float32_matmul_precision", "set_float32_matmul_precision"),
    ("torch", "get_deterministic_debug_mode", "set_deterministic_debug_mode"),
    ("torch", "is_anomaly_enabled", "set_anomaly_enabled"),
    ("torch", "get_rng_state", "set_rng_state"),
]
"""A module, its function that reads a setting, and the one that sets it."""
_ATTRIBUTES = [
    *(("sys", name) for name in ("excepthook", "displayhook", "stderr", "stdin")),
    ("threading", "excepthook"),
    *(("torch.backends.cudnn", name) for name in ("benchmark", "deterministic", "allow_tf32")),
]
"""A module, and its attribute that is a setting."""


class ProcessState:
    """The state of the process when this is made.

    The settings of torch and numpy belong to it where they are imported already. Where the plugin is the first to
    import torch, the defaults of its modes are put back.
    """

    def __init__(self) -> None:
        self._environment = dict(os.environ)
        self._had_torch = "torch" in sys.modules
        self._kept = []
        for read, write in _settings():
            try:
                self._kept.append((read, write, read()))
            except OSError:  # the folder is deleted below us
                pass

    def put_back(self) -> list[str]:
        """Put everything back; the names of the environment variables that were changed."""
        for read, write, value in self._kept:
            if not _same(read, value):
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


def _settings() -> Iterator[Setting]:
    for name, read, write in _CALLS:
        module = sys.modules.get(name)
        if hasattr(module, write):  # else absent, or half imported in another thread
            yield getattr(module, read), getattr(module, write)
    for name, attribute in _ATTRIBUTES:
        module = sys.modules.get(name)
        if hasattr(module, attribute):
            yield partial(getattr, module, attribute), partial(setattr, module, attribute)
    torch: Any = sys.modules.get("torch")
    if hasattr(torch, "set_default_device"):
        yield partial(_default_device, torch), torch.set_default_device
    numpy: Any = sys.modules.get("numpy")
    if hasattr(numpy, "seterr"):
        yield numpy.geterr, lambda value: numpy.seterr(**value)
    root = logging.getLogger()
    yield lambda: root.level, root.setLevel
    yield lambda: root.manager.disable, partial(setattr, root.manager, "disable")
    for values in (root.handlers, sys.argv, sys.path):  # others hold these lists too
        yield values.copy, partial(values.__setitem__, slice(None))
    yield gc.isenabled, lambda enabled: gc.enable() if enabled else gc.disable()
    yield partial(locale.setlocale, locale.LC_ALL), partial(locale.setlocale, locale.LC_ALL)
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not None:  # else it is of C code, and cannot be put back
                yield partial(signal.getsignal, number), partial(signal.signal, number)


def _default_device(torch: Any) -> Any:
    try:
        return torch.get_default_device()
    except AttributeError:  # torch 2.6, where it was set to None
        return None


def _same(read: Callable[[], Any], value: Any) -> bool:
    """Whether a setting plainly has that value; False for arrays, whose setting is put back in any case."""
    try:
        return bool(read() == value)
    except (OSError, RuntimeError, ValueError):
        return False
