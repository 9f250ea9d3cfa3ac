"""Tokens as they are written: pushed to a streamer, or pulled from an iterator.

Both stand on the same generator of steps (``vedcore.generation.search.sample_steps``), so no thread is involved.

Shape letters: B rows of text, T prompt tokens.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Protocol, Self, runtime_checkable

from torch import Tensor

from vedcore.errors import UsageError
from vedcore.generation.config import GenerationConfig
from vedcore.outputs import GenerateOutput

__all__ = ["Steps", "Streamer", "TokenIterator", "check_streamer", "push"]

Steps = Generator[Tensor, None, GenerateOutput]
"""Yields the (B,) tokens of each step and returns the whole."""


@runtime_checkable
class Streamer(Protocol):
    """Takes tokens as they come; transformers' ``TextStreamer`` and ``TextIteratorStreamer`` are such."""

    def put(self, value: Tensor) -> None:
        """First the prompt (B, T), then the (B,) tokens of each step, on the CPU; ended rows get the pad id."""

    def end(self) -> None:
        """Nothing more comes."""


def check_streamer(streamer: object, options: GenerationConfig) -> None:
    """Refuse what cannot be streamed to, before work begins.

    Raises:
        UsageError: a streamer with beams, or one without ``put`` or ``end``.
    """
    if streamer is None:
        return
    if options.num_beams > 1:
        message = f"contradicts num_beams={options.num_beams}: beams change their minds"
        raise UsageError(message, field="streamer", hint="pass num_beams=1")
    if not isinstance(streamer, Streamer):
        message = f"{type(streamer).__name__} lacks put(ids) or end()"
        raise UsageError(message, field="streamer", hint="pass an object with both methods")


def push(steps: Steps, prompt: Tensor, streamer: Streamer) -> GenerateOutput:
    """Hand the (B, T) prompt and every step's tokens to ``streamer``; it is ended after an error too."""
    try:
        streamer.put(prompt.cpu())
        while True:
            try:
                tokens = next(steps)
            except StopIteration as stop:
                output: GenerateOutput = stop.value
                return output
            streamer.put(tokens.cpu())
    finally:
        steps.close()
        streamer.end()


class TokenIterator:
    """Iterates over the (B,) tokens of each step while they are written; stop any time, nothing runs ahead."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self.output: GenerateOutput | None = None
        """The whole, once the last token has been taken."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Tensor:
        try:
            return next(self._steps)
        except StopIteration as stop:
            self.output = stop.value or self.output
            raise StopIteration from None

    def close(self) -> None:
        """Give up what is left and free the cache."""
        self._steps.close()
