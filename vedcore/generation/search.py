"""From the options to the search that they mean.

Shape letters: N prompts, B rows of text, T prompt tokens.
"""

from __future__ import annotations

from vedcore.generation.beams import beam_search
from vedcore.generation.greedy import sample_steps
from vedcore.generation.request import Request
from vedcore.generation.state import State
from vedcore.generation.streaming import Steps, Streamer, TokenIterator, check_streamable, check_streamer, push
from vedcore.outputs import GenerateOutput

__all__ = ["search", "stream"]


def search(state: State, request: Request, streamer: Streamer | None = None) -> GenerateOutput:
    """Write text after the prompts.

    Args:
        state: the model, fresh.
        request: the prompts and the options.
        streamer: gets the tokens as they come.

    Returns:
        ``num_return_sequences`` rows for each prompt, side by side, best first under beams. Where the options leave
        fewer different texts, the last rows are all padding, with a score of -1e9 and log-probabilities of -Inf.

    Raises:
        NonFiniteError: NaN or Inf logits, with the prompt's row and the step.
        GenerationError: options that leave a row no token at all.
        UsageError: an object that is no streamer, or one for beams of several texts.
    """
    if streamer is None:
        return TokenIterator(_steps(state, request, False)).finish()
    check_streamer(streamer)
    check_streamable(request.options, request.prompts)
    beams = request.options.num_beams > 1
    copies = 1 if beams else request.options.num_return_sequences
    return push(_steps(state, request, True), request.input_ids.repeat_interleave(copies, 0), streamer)


def stream(state: State, request: Request) -> TokenIterator:
    """Like `search`, but the caller pulls the (B,) tokens of each step; what `search` returns is in ``.output``.

    Raises:
        UsageError: beams of several texts.
    """
    check_streamable(request.options, request.prompts)
    return TokenIterator(_steps(state, request, True))


def _steps(state: State, request: Request, streaming: bool) -> Steps:
    beams = request.options.num_beams > 1
    return beam_search(state, request, streaming) if beams else sample_steps(state, request)
