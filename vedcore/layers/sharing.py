"""A lock by which threads share a module: many compute with it at once, one at a time changes it.

A text that is being written keeps those who want to change the module waiting, and nothing else. A thread that has the
lock never waits for itself, and does not wait behind others who wait.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

__all__ = ["Hold", "SharedLock", "SharedModule", "alone", "resting", "shares"]

MAX_WAIT = 1.0
"""Seconds after which a thread looks again: the garbage collector ends streams too, in the midst of such a look."""

Method = TypeVar("Method", bound=Callable[..., Any])


class Hold:
    """One entry into a lock, by a thread."""

    def __init__(self, lock: SharedLock) -> None:
        self.lock = lock
        self.thread = threading.current_thread()  # not its number, which another gets when it has ended
        """The thread that entered, or that went on with a stream last."""
        self.alone = False
        self.rests = False
        """Whether it is that of a stream whose next piece nobody asks for at the moment."""


class SharedLock:
    """Held by many, or by one alone; copies and pickles are new locks."""

    _changed = threading.Condition()
    """Of all locks, so that a thread with two of them is known to each."""
    _holds: list[Hold] = []  # noqa: RUF012
    _waiting: list[Hold] = []  # noqa: RUF012

    def __reduce__(self) -> tuple[type[SharedLock], tuple[()]]:
        return SharedLock, ()

    @contextlib.contextmanager
    def held(self, alone: Callable[[], bool] = lambda: False) -> Iterator[Hold]:
        """Hold the lock for a while; ``alone`` says whether nobody else may, and is asked again after each wait."""
        hold = Hold(self)
        with self._changed:
            self._waiting.append(hold)
            try:
                while not self._may_enter(hold, alone):
                    self._changed.wait(MAX_WAIT)
                self._holds.append(hold)
            finally:
                self._waiting.remove(hold)
                self._changed.notify_all()
        try:
            yield hold
        finally:
            with self._changed:
                self._holds.remove(hold)
                self._changed.notify_all()

    def _may_enter(self, hold: Hold, alone: Callable[[], bool]) -> bool:
        hold.alone = alone()
        holds = tuple(self._holds)
        others = [other for other in holds if other.lock is self and other.thread != hold.thread]
        if any(other.alone for other in others):
            return False
        to_change = [other for other in self._waiting if other.lock is self and other.alone and other is not hold]
        if hold.alone:  # who holds the lock and waits to change the module itself keeps nobody from it
            waiting = {other.thread for other in to_change}
            return all(other.thread in waiting for other in others)
        inside = any(other.thread == hold.thread for other in holds)
        return inside or not to_change or any(other.rests for other in others)  # its pieces may need this thread


@contextlib.contextmanager
def resting(holds: Sequence[Hold]) -> Iterator[None]:
    """While a stream waits to be asked for its next piece, perhaps by another thread, or for ever."""
    changed = SharedLock._changed
    with changed:
        for hold in holds:
            hold.rests = True
        changed.notify_all()
    yield
    thread = threading.current_thread()
    with changed:
        for hold in holds:
            while _is_changed_by_another(hold, thread):
                changed.wait(MAX_WAIT)
            hold.thread, hold.rests = thread, False


def _is_changed_by_another(hold: Hold, thread: threading.Thread) -> bool:
    """Whether another thread is changing the module: the one that went on with the stream before, and may."""
    others = (other for other in tuple(SharedLock._holds) if other is not hold and other.lock is hold.lock)
    return any(other.alone and other.thread != thread and not other.rests for other in others)


def shares(method: Method) -> Method:
    """A method that computes with the module, whose ``lock`` it holds with others; compiled, it has no lock."""

    @functools.wraps(method)
    def call(module: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return method(module, *args, **kwargs)
        with module.lock.held():
            return method(module, *args, **kwargs)

    return call  # type: ignore[return-value]


def alone(method: Method) -> Method:
    """A method that changes the module, whose ``lock`` it holds alone."""

    @functools.wraps(method)
    def call(module: Any, *args: Any, **kwargs: Any) -> Any:
        with module.lock.held(alone=lambda: True):
            return method(module, *args, **kwargs)

    return call  # type: ignore[return-value]


class SharedModule(nn.Module):
    """A module that threads share: moving it, and loading values into it, wait until nobody computes with it."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = SharedLock()

    state_dict = shares(nn.Module.state_dict)
    load_state_dict = alone(nn.Module.load_state_dict)
    _apply = alone(nn.Module._apply)
