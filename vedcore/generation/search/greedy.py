"""Greedy search and sampling, with transformers' results token for token.

Each step asks the device for its flags once.

Shape letters: N prompts, B rows (N times the sequences to return for each), L tokens so far, V vocabulary size.
"""

from __future__ import annotations

import torch

from vedcore.generation.processors.chain import apply_processors
from vedcore.generation.request import Request
from vedcore.generation.search.ledger import TextLedger, look
from vedcore.generation.search.scoring import draw, log_sum_exp, nothing_left, usable_logits
from vedcore.generation.state import State
from vedcore.generation.streaming import Steps

__all__ = ["sample_steps"]


@torch.no_grad()
def sample_steps(state: State, request: Request) -> Steps:
    """Greedy search or sampling, a step at a time: yields (B,) tokens, returns the whole."""
    options, copies = request.options, request.options.num_return_sequences
    expand = request.rows(copies)  # (B,)
    processors, generator, ledger = request.processors(copies), request.generator(), TextLedger(request, copies)
    reorder = expand if copies > 1 else None

    logits = state.prefill(request.input_ids).float()[expand]
    while True:
        usable = usable_logits(logits, options)
        total = log_sum_exp(usable)[:, 0]  # (B,)
        scores = apply_processors(processors, ledger.rows, logits)
        tokens = draw(scores.softmax(1), 1, generator)[:, 0] if options.do_sample else scores.argmax(1)
        chosen = scores.gather(1, tokens[:, None])[:, 0]  # (B,)
        if options.do_sample:  # one NaN spoils all that is drawn from
            chosen = chosen.masked_fill(scores.amax(1).isnan(), torch.nan)
        non_finite = ledger.unfinished & ~total.isfinite()
        barred = ledger.unfinished & nothing_left(chosen, options)
        log_probs = usable.gather(1, tokens[:, None])[:, 0] - total
        tokens = ledger.add_step(tokens, log_probs, scores, logits)
        problems, going = look(ledger.unfinished, non_finite=non_finite, barred=barred)
        if "non_finite" in problems:
            ledger.raise_non_finite(logits, non_finite, ledger.step)
        if "barred" in problems:
            ledger.raise_barred(chosen, barred, ledger.step)
        yield tokens
        if not any(going) or ledger.full:
            if request.keeps_cache and reorder is not None:
                state.reorder(reorder)
            return ledger.output()
        if not ledger.shows_ended:
            state.keep([any(going[i : i + copies]) for i in range(0, len(going), copies)])
        del logits, usable, scores  # as much as the step is about to make
        logits, reorder = state.step(tokens[:, None], reorder).float(), None
