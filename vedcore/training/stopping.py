"""Signals that end a run: the first is heard at the end of the step, the second at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Stop"]


class Stop:
    """Hears Ctrl-C and SIGTERM while it is entered; outside of the main thread it hears neither."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._give_back()

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.asked = number
        self._give_back()  # the next signal ends the process as it always does

    def is_asked(self, accelerator: Accelerator) -> bool:
        """Whether any process was asked to stop; all processes get the same answer."""
        if accelerator.num_processes > 1:
            asked = torch.tensor(self.asked or 0, device=accelerator.device)
            self.asked = int(accelerator.gather(asked[None]).max()) or None
        return self.asked is not None

    def check(self) -> None:
        """End the run where it was asked to.

        Raises:
            KeyboardInterrupt: after Ctrl-C.
            SystemExit: with 143, after SIGTERM.
        """
        if self.asked == signal.SIGINT:
            raise KeyboardInterrupt
        if self.asked is not None:
            raise SystemExit(128 + self.asked)
