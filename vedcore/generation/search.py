"""From the options to the search that they mean.

Shape letters: N prompts, B rows of text, T prompt tokens.
"""

from __future__ import annotations

from vedcore.errors import UsageError
from vedcore.generation.assisted import assisted_steps
from vedcore.generation.batches import batches, joined
from vedcore.generation.beams import beam_search
from vedcore.generation.contrastive import contrastive_steps
from vedcore.generation.drafters import Drafter, PromptLookup
from vedcore.generation.greedy import sample_steps
from vedcore.generation.request import Request
from vedcore.generation.state import DecodingState, State
from vedcore.generation.streaming import Steps, Streamer, TokenIterator, check_streamer, push
from vedcore.outputs import GenerateOutput

__all__ = ["search", "stream"]


def search(
    state: State, request: Request, streamer: Streamer | None = None, drafter: Drafter | None = None
) -> GenerateOutput:
    """Write text after the prompts.

    Args:
        state: the model, fresh.
        request: the prompts and the options.
        streamer: gets the tokens as they come.
        drafter: guesses what is written, in place of the prompt look-up that the options may ask for.

    Returns:
        ``num_return_sequences`` rows for each prompt, side by side, best first under beams. Where the options leave
        fewer different texts than beams, the last rows are what they are in transformers: repeats of the others, with
        scores below -1e5, or all padding, with a score of -1e9 and log-probabilities of -Inf.

    Raises:
        NonFiniteError: NaN or Inf logits, with the prompt's row and the step.
        GenerationError: options that leave a row no token at all.
        UsageError: an object that is no streamer; one for several texts that do not grow in step.
    """
    if streamer is None:
        parts = batches(state, request) if isinstance(state, DecodingState) and drafter is None else [(state, request)]
        written = [TokenIterator(_steps(*part, drafter, streaming=False)).finish() for part in parts]
        return joined(written, request)
    check_streamer(streamer)
    _check_streamable(request, drafter)
    copies = 1 if request.options.num_beams > 1 else request.options.num_return_sequences
    return push(
        _steps(state, request, drafter, streaming=True), request.input_ids.repeat_interleave(copies, 0), streamer
    )


def stream(state: State, request: Request, drafter: Drafter | None = None) -> TokenIterator:
    """Like `search`, but the caller pulls the (B,) tokens of each step; what `search` returns is in ``.output``.

    Raises:
        UsageError: several texts that do not grow in step.
    """
    _check_streamable(request, drafter)
    return TokenIterator(_steps(state, request, drafter, streaming=True))


def _steps(state: State, request: Request, drafter: Drafter | None, streaming: bool) -> Steps:
    options = request.options
    if drafter is None and options.prompt_lookup_num_tokens is not None:
        ends = frozenset(request.token_ids.eos)
        drafter = PromptLookup(options.prompt_lookup_num_tokens, options.max_matching_ngram_size, ends)
    if drafter is not None or options.penalty_alpha:
        assert isinstance(state, DecodingState)  # these look into it
        return contrastive_steps(state, request) if drafter is None else assisted_steps(state, request, drafter)
    if options.num_beams > 1:
        return beam_search(state, request, streaming)
    return sample_steps(state, request)


def _check_streamable(request: Request, drafter: Drafter | None) -> None:
    """Refuse several texts that do not grow in step: beams agree, and guesses turn out right, at their own time."""
    options = request.options
    guessed = drafter is not None or options.prompt_lookup_num_tokens is not None
    texts = request.prompts * (1 if options.num_beams > 1 else options.num_return_sequences)
    if texts > 1 and (guessed or options.num_beams > 1):
        how = "guessed tokens" if guessed else f"{options.num_beams} beams"
        field = "num_beams" if not guessed else "prompt_lookup_num_tokens" if drafter is None else "assistant_model"
        raise UsageError(
            f"{texts} texts by {how} cannot be streamed", field=field, hint=f"give one image, or leave out {field}"
        )
