"""Many images on a CPU are written in several microbatches, one after the other.

A few dozen rows keep a processor as busy as hundreds, and more at a time would hold more keys and values.

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
from vedcore.generation.state import State
from vedcore.outputs import GenerateOutput

__all__ = ["joined", "microbatches"]

MAX_ROWS = 64
"""Rows, the beams of all images, that a CPU computes at a time."""
TOGETHER = (
    "do_sample",
    "max_time",
    "compile",
    "output_scores",
    "output_logits",
    "output_attentions",
    "output_hidden_states",
)
"""Options under which all images stay in one batch: one stream of draws, one clock, one record for all rows."""


def microbatches(state: State, request: Request) -> Iterator[tuple[State, Request]]:
    """``state``, which is fresh, and ``request``, split into parts of at most `MAX_ROWS` rows.

    Whole where a caller would notice: by the options in `TOGETHER`, where processors, criteria or a drafter of the
    caller's see all rows, and where the caller has the cache.
    """
    options = request.options
    together = (
        "parts" not in state.abilities
        or request.device.type != "cpu"
        or any(getattr(options, name) for name in TOGETHER)
        or request.logits_processor
        or request.stopping_criteria
        or request.drafter is not None
        or request.keeps_cache
    )
    prompts = max(1, MAX_ROWS // getattr(options, request.strategy.width))
    if together or request.prompts <= prompts:
        yield state, request
        return
    count = -(-request.prompts // prompts)
    for i in range(count):
        first, last = i * request.prompts // count, (i + 1) * request.prompts // count
        yield state.part(first, last), request.part(first, last)


def joined(parts: Sequence[GenerateOutput], request: Request) -> GenerateOutput:
    """The outputs of the microbatches of ``request`` as one."""
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
