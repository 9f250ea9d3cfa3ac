"""Greedy search and sampling, with transformers' results token for token.

All the arithmetic on scores is in float32. Each step asks the device for its flags once. The log-probability of a token
is its logit less the log-sum-exp of its row, which is NaN or infinite exactly where the logits are of no use, so that
one reduction serves both.

Shape letters: N prompts, B rows (N times the sequences to return for each), L tokens so far, V vocabulary size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vedcore.generation.request import Request, apply, barring
from vedcore.generation.state import State
from vedcore.generation.stopping import Stopping
from vedcore.generation.streaming import Steps
from vedcore.outputs import GenerateOutput

__all__ = ["draw", "log_sum_exp", "sample_steps"]

ROWS = 32
"""Rows of logits that are copied at a time."""


@torch.no_grad()
def sample_steps(state: State, request: Request) -> Steps:
    """Greedy search or sampling, a step at a time: yields (B,) tokens, returns the whole."""
    options, token_ids, copies = request.options, request.token_ids, request.options.num_return_sequences
    expand = request.rows(copies)  # (B,)
    processors, stopping, generator = request.processors(copies), Stopping(request), request.generator()
    ids, length = request.buffer(copies), request.prompt_length
    log_probs: list[Tensor] = []
    kept_scores: list[Tensor] = []
    kept_logits: list[Tensor] = []
    unfinished = torch.ones(len(ids), dtype=torch.bool, device=request.device)
    reasons = torch.zeros(len(ids), dtype=torch.long, device=request.device)
    lengths = torch.zeros_like(reasons)
    reorder = expand if copies > 1 else None
    pad = token_ids.pad if token_ids.eos else None  # as in transformers, where there are end ids
    seen = pad is None or options.output_scores or options.output_logits  # what rows that have ended go on with

    logits = state.prefill(request.input_ids).float()[expand]
    while True:
        usable = logits.nan_to_num(nan=0.0) if options.remove_invalid_values else logits
        total = log_sum_exp(usable)[:, 0]  # (B,)
        scores = apply(processors, ids[:, :length], logits)
        tokens = draw(scores.softmax(1), 1, generator)[:, 0] if options.do_sample else scores.argmax(1)
        unusable = unfinished & ~total.isfinite()
        chosen = scores.gather(1, tokens[:, None])[:, 0]  # (B,)
        if options.do_sample:  # one NaN spoils all that is drawn from
            chosen = chosen.masked_fill(scores.amax(1).isnan(), torch.nan)
        barred = unfinished & barring(chosen, options)
        log_probs.append(torch.where(unfinished, usable.gather(1, tokens[:, None])[:, 0] - total, 0.0))
        if options.output_scores:
            kept_scores.append(scores)
        if options.output_logits:
            kept_logits.append(logits)
        if pad is not None:
            tokens = torch.where(unfinished, tokens, pad)
        ids[:, length] = tokens
        length += 1
        lengths += unfinished
        why = stopping.reasons(tokens, ids[:, :length], tuple(kept_scores) if options.output_scores else None)  # (B,)
        reasons = torch.where(unfinished, why, reasons)
        unfinished = unfinished & (why == 0)
        flags = torch.cat([torch.stack([unusable.any(), barred.any()]), unfinished]).tolist()
        if flags[0]:
            request.raise_non_finite(logits, unusable, copies, length - request.prompt_length - 1)
        if flags[1]:
            request.raise_barred(chosen, barred, copies, length - request.prompt_length - 1)
        yield tokens
        if not any(flags[2:]) or length >= request.limits.max_length:
            break
        if not seen:
            state.keep([any(flags[2 + i : 2 + i + copies]) for i in range(0, len(ids), copies)])
        del logits, usable, scores  # as much as the step is about to make
        logits, reorder = state.step(tokens[:, None], reorder).float(), None

    return GenerateOutput(
        sequences=ids[:, :length].clone(),
        token_logprobs=torch.stack(log_probs, 1),
        finish_reasons=stopping.words(reasons),
        lengths=tuple(lengths.tolist()),
        scores=tuple(kept_scores) if options.output_scores else None,
        logits=tuple(kept_logits) if options.output_logits else None,
    )


def log_sum_exp(logits: Tensor) -> Tensor:
    """(B, V) to (B, 1), a few rows at a time: torch makes a copy of all that it is given."""
    return torch.cat([rows.logsumexp(1, keepdim=True) for rows in torch.split(logits, ROWS)])


def draw(probabilities: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Indices (rows, count) drawn without replacement: ``torch.multinomial``'s stream, less its check of the numbers.

    An exponential race: the least of the times ``q / p`` wins with probability ``p``. The check would make a GPU wait,
    and fail on what the caller reports better.
    """
    times = torch.empty_like(probabilities).exponential_(generator=generator)
    return (probabilities / times).topk(count).indices if count > 1 else (probabilities / times).argmax(1, keepdim=True)
