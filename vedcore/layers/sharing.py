"""A lock by which threads share a module: many compute with it at once, one at a time changes it.

A text that is being written keeps those who want to change the module waiting, and nothing else. A thread that has the
lock never waits for itself, and does not wait behind others who wait. A stream that nobody reads on gives way to a
change after `MAX_REST` seconds, and then ends in an error.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from vedcore.errors import GenerationError

__all__ = ["Hold", "SharedLock", "SharedModule", "alone", "resting", "shares"]

MAX_WAIT = 1.0
"""Seconds after which a thread looks again: the garbage collector ends streams too, in the midst of such a look."""
MAX_REST = 60.0
"""Seconds that a change waits for streams that nobody reads on, and for calls that came after it."""

Method = TypeVar("Method", bound=Callable[..., Any])


class Hold:
    """One entry into a lock, by a thread."""

    def __init__(self, lock: SharedLock) -> None:
        self.lock = lock
        self.thread = threading.current_thread()  # not its number, which another gets when it has ended
        """The thread that entered, or that went on with a stream last."""
        self.alone = False
        self.since = time.monotonic()
        """When it began to wait, or to rest."""
        self.rests = False
        """Whether it is that of a stream whose next piece nobody asks for at the moment."""
        self.set_resting: Callable[[bool], None] = lambda rests: None
        """Called with True where it rests or ends, with False where it goes on."""

    @property
    def is_old(self) -> bool:
        """Whether it has waited, or rested, for long."""
        return time.monotonic() - self.since > MAX_REST

    def end(self) -> None:
        """Leave the lock; a second call does nothing."""
        with SharedLock._changed:
            if self in SharedLock._holds:
                SharedLock._holds.remove(self)
                if not self.rests:
                    self.set_resting(True)
            SharedLock._changed.notify_all()


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
        try:
            with self._changed:
                self._waiting.append(hold)
                try:
                    while not self._may_enter(hold, alone):
                        self._changed.wait(MAX_WAIT)
                    self._holds.append(hold)
                finally:
                    self._waiting.remove(hold)
            yield hold
        finally:
            hold.end()

    def _may_enter(self, hold: Hold, alone: Callable[[], bool]) -> bool:
        for other in self._others(hold):
            if other.rests and other.is_old and (other.alone or alone()):
                other.end()
        hold.alone = alone()
        others, holds = self._others(hold), tuple(self._holds)
        mine = {self, *(other.lock for other in holds if other.thread == hold.thread)}
        if any(other.alone and other.lock in mine and other.thread != hold.thread for other in holds):
            return False
        is_inside = any(other.thread == hold.thread for other in holds)
        if hold.alone:  # of threads that are in the midst of something, one that waits keeps no other from it
            waiting = {other.thread for other in self._waiting if is_inside}
            return all(other.thread in waiting for other in others)
        to_change = [other for other in self._waiting if other.alone and other.lock is self]
        rests = any(other.rests for other in others) and not any(other.is_old for other in to_change)
        return is_inside or not to_change or rests  # the pieces of a stream may need this thread

    def _others(self, hold: Hold) -> list[Hold]:
        """Those of other threads that hold this lock."""
        return [other for other in tuple(self._holds) if other.lock is self and other.thread != hold.thread]


@contextlib.contextmanager
def resting(holds: Sequence[Hold]) -> Iterator[None]:
    """While a stream waits to be asked for its next piece, perhaps by another thread, or for ever."""
    with SharedLock._changed:
        for hold in holds:
            hold.set_resting(True)
            hold.rests, hold.since = True, time.monotonic()
        SharedLock._changed.notify_all()
    yield
    thread = threading.current_thread()
    changed = SharedLock._changed  # after a fork, another
    with changed:
        for hold in holds:
            while hold in SharedLock._holds and _is_changed_by_another(hold, thread):
                changed.wait(MAX_WAIT)
            hold.thread, hold.rests = thread, False
        if any(hold not in SharedLock._holds for hold in holds):
            raise GenerationError(f"nobody read on for {MAX_REST:.0f} s, and the model was changed meanwhile")
        for hold in holds:
            hold.set_resting(False)


def _is_changed_by_another(hold: Hold, thread: threading.Thread) -> bool:
    """Whether another thread is changing the module: the one that went on with the stream before, and may."""
    others = (other for other in tuple(SharedLock._holds) if other is not hold and other.lock is hold.lock)
    return any(other.alone and other.thread != thread and not other.rests for other in others)


def _forget_other_threads() -> None:
    """In a forked process, where only one thread goes on."""
    SharedLock._changed = threading.Condition()
    SharedLock._waiting.clear()
    for hold in tuple(SharedLock._holds):
        if hold.thread != threading.current_thread():
            hold.end()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget_other_threads)


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
