"""Tokens as they are written: pushed to a streamer, or pulled from an iterator, as ids or as text.

All use the generator of steps that a search is, so no thread is involved.

Shape letters: B rows of text, T prompt tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Protocol, Self, runtime_checkable

from torch import Tensor

from vedcore.errors import UsageError
from vedcore.outputs import GenerateOutput

__all__ = ["Steps", "Streamer", "TokenIterator", "check_streamer", "push", "shared_length", "text_pieces"]

Steps = Generator[Tensor, None, GenerateOutput]
"""Yields the (B,) tokens of each step and returns the whole. Beams of one prompt yield (1,) tokens, once all beams that
may still win agree on them; beams of several yield nothing."""

REPLACEMENT_CHARACTER = "\ufffd"
"""A tokenizer decodes the bytes of an incomplete character to this."""


@runtime_checkable
class Streamer(Protocol):
    """Takes tokens as they come, as transformers' ``TextStreamer`` and ``TextIteratorStreamer`` do."""

    def put(self, value: Tensor) -> None:
        """First the prompt (B, T), then the (B,) tokens of each step, on the CPU; ended rows get the pad id."""

    def end(self) -> None:
        """Nothing more comes."""


def check_streamer(streamer: object) -> None:
    """Refuse an object that is not a streamer, before work begins.

    Raises:
        UsageError: one without ``put`` or ``end``.
    """
    if streamer is not None and not isinstance(streamer, Streamer):
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
        """The whole output, once the last token has been taken."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Tensor:
        try:
            return next(self._steps)
        except StopIteration as stop:
            self.output = stop.value or self.output
            raise StopIteration from None

    def finish(self) -> GenerateOutput:
        """Write the rest; return the whole."""
        for _ in self:
            pass
        assert self.output is not None
        return self.output

    def close(self) -> None:
        """Give up what is left and free the cache."""
        self._steps.close()


def text_pieces(
    tokens: TokenIterator, prompt: Sequence[int], text_of: Callable[[Sequence[int]], str], probe_id: int | None = None
) -> Generator[str, None, GenerateOutput | None]:
    """The text of one row as it grows, in pieces that join to the whole.

    The text so far is decoded anew at each step, because the text of a token depends on the tokens before it. A
    character that lacks bytes waits for them. Nothing is taken back.

    Args:
        tokens: of one row.
        prompt: its ids before the first step, the text of which comes first.
        text_of: ids to text.
        probe_id: probe id that makes an incomplete UTF-8 tail visible; None where the tokenizer has none.
    """
    ids, shown = list(prompt), ""
    try:
        for new in tokens:
            ids += new.tolist()
            text = text_of(ids).rstrip(REPLACEMENT_CHARACTER)
            if probe_id is not None:
                text = text[: shared_length(text, text_of([*ids, probe_id]))]
            if len(text) > len(shown) and text.startswith(shown):
                yield text[len(shown) :]
                shown = text
        assert tokens.output is not None
        whole = text_of(tokens.output.sequences[0].tolist())
        if rest := whole[shared_length(shown, whole) :]:
            yield rest
    finally:
        tokens.close()
    return tokens.output


def shared_length(one: Sequence[object], other: Sequence[object]) -> int:
    """Length of the longest common prefix of two texts, or of two rows of ids."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
