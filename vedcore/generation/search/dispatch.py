"""From a request to the search that it asks for.

Shape letters: N prompts, B rows of text, T prompt tokens.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

from vedcore.errors import UsageError
from vedcore.generation.request import Request
from vedcore.generation.search.microbatches import joined, microbatches
from vedcore.generation.state import State
from vedcore.generation.streaming import Steps, Streamer, TokenIterator, check_streamer, push
from vedcore.outputs import GenerateOutput

__all__ = ["search", "stream"]


def search(state: State, request: Request, streamer: Streamer | None = None) -> GenerateOutput:
    """Write text after the prompts.

    Args:
        state: fresh.
        request: the prompts and the options.
        streamer: gets the tokens as they come.

    Returns:
        ``num_return_sequences`` rows for each prompt, side by side, best first under beams. Where the options leave
        fewer different texts than beams, the last rows are as in transformers: repeats of the others, with scores below
        -1e5, or all padding, with a score of -1e9 and log-probabilities of -Inf.

    Raises:
        NonFiniteError: NaN or Inf logits, with the prompt's row and the step.
        GenerationError: options that leave a row no token at all.
        UsageError: an object that is not a streamer; one for several texts that do not grow in step.
    """
    if streamer is None:
        parts = [TokenIterator(_steps(*part)).finish() for part in microbatches(state, request)]
        return joined(parts, request)
    check_streamer(streamer)
    _check_streamable(request)
    copies = 1 if request.options.num_beams > 1 else request.options.num_return_sequences
    steps = _steps(state, replace(request, streaming=True))
    return push(steps, request.input_ids.repeat_interleave(copies, 0), streamer)


def stream(state: State, request: Request) -> TokenIterator:
    """Like `search`, but the caller pulls the (B,) tokens of each step; the whole is in ``.output`` afterwards.

    Raises:
        UsageError: several texts that do not grow in step.
    """
    _check_streamable(request)
    return TokenIterator(_steps(state, replace(request, streaming=True)))


def _steps(state: State, request: Request) -> Steps:
    strategy = request.strategy
    assert strategy.needs <= state.abilities, f"{strategy.name} needs another state than {type(state).__name__}"
    module, _, function = strategy.steps.partition(":")
    steps: Steps = getattr(import_module(f"vedcore.generation.search.{module}"), function)(state, request)
    return steps


def _check_streamable(request: Request) -> None:
    """Refuse several texts that do not grow in step: beams agree, and guesses are accepted, at their own time."""
    options, strategy = request.options, request.strategy
    texts = request.prompts * (1 if options.num_beams > 1 else options.num_return_sequences)
    if texts == 1 or strategy.in_step:
        return
    beams = options.num_beams > 1
    how = f"{options.num_beams} beams" if beams else "guessed tokens"
    field = "num_beams" if beams else "prompt_lookup_num_tokens" if request.drafter is None else "assistant_model"
    off = {"num_beams": "pass num_beams=1", "assistant_model": "leave it out"}.get(field, f"pass {field}=None")
    raise UsageError(f"{texts} texts by {how} cannot be streamed", field=field, hint=f"give one image, or {off}")
