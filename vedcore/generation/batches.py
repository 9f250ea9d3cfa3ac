"""Many images on a CPU are written in several batches, one after the other.

A few dozen rows keep a processor as busy as hundreds, so more at a time would only hold more keys and values.

Shape letters: N prompts, B rows of text that come out, L tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vedcore.generation.request import Request
from vedcore.generation.state import DecodingState
from vedcore.outputs import GenerateOutput

__all__ = ["batches", "joined"]

ROWS = 64
"""Rows, the beams of all images, that a CPU writes at a time."""


def batches(state: DecodingState, request: Request) -> Iterator[tuple[DecodingState, Request]]:
    """``state``, which is fresh, and ``request``, for as many images as are to be written at a time.

    All of them where somebody would notice: draws come from one stream for all rows, the clock runs for all, what is
    recorded has all, and so have the rows that the caller's own processors and criteria see.
    """
    options = request.options
    at_once = max(1, ROWS // (options.top_k if options.penalty_alpha else options.num_beams))
    together = (
        options.do_sample
        or options.max_time is not None
        or options.compile
        or options.output_scores
        or options.output_logits
        or options.output_attentions
        or options.output_hidden_states
        or request.logits_processor
        or request.stopping_criteria
    )
    if together or request.prompts <= at_once or request.device.type != "cpu":
        yield state, request
        return
    count = -(-request.prompts // at_once)
    for i in range(count):
        first, last = i * request.prompts // count, (i + 1) * request.prompts // count
        yield state.part(first, last), request.part(first, last)


def joined(parts: Sequence[GenerateOutput], request: Request) -> GenerateOutput:
    """What was written of ``request`` in several batches, as one."""
    if len(parts) == 1:
        return parts[0]
    padding: dict[str, float] = {"sequences": request.padding, "token_logprobs": 0.0, "beam_indices": -1}
    whole: dict[str, Any] = {}
    for name in parts[0]:
        values = [part[name] for part in parts]
        if name in padding:
            longest = max(value.shape[1] for value in values)
            values = [F.pad(value, (0, longest - value.shape[1]), value=padding[name]) for value in values]  # (B, L)
        whole[name] = torch.cat(values) if isinstance(values[0], Tensor) else tuple(chain(*values))
    return GenerateOutput(**whole)
