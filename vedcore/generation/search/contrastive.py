"""Contrastive search (Su et al. 2022, "A Contrastive Framework for Neural Text Generation").

Among the ``top_k`` most probable tokens, the one with the greatest
``(1 - penalty_alpha) * probability - penalty_alpha * likeness`` is written. The likeness is the greatest cosine of its
hidden state, after the decoder's last layer, to that of a token so far, so each candidate is read before one is chosen.
As in transformers up to 4.57, except that candidates which the options bar are never chosen.

Shape letters: B prompts, which are the rows, K candidates of each, L tokens so far, D width, V vocabulary size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from vedcore.generation.processors.chain import apply_processors
from vedcore.generation.request import Request
from vedcore.generation.search.ledger import TextLedger, look
from vedcore.generation.search.scoring import log_sum_exp, nothing_left, usable_logits
from vedcore.generation.state import DecodingState
from vedcore.generation.streaming import Steps

__all__ = ["contrastive_steps"]


@torch.no_grad()
def contrastive_steps(state: DecodingState, request: Request) -> Steps:
    """Contrastive search, a step at a time: yields (B,) tokens, returns the whole.

    Args:
        state: fresh.
        request: the prompts and the options; with more ``top_k`` than tokens, all are candidates.
    """
    options, processors, ledger = request.options, request.processors(1), TextLedger(request, 1)
    state.keeps_last_hidden_state = True
    logits = state.prefill(request.input_ids).float()  # (B, V)
    count = min(options.top_k, logits.shape[1])  # K
    first = torch.arange(request.prompts, device=request.device) * count  # (B,) first row of a prompt's candidates
    seen = _SeenStates(_last_hidden(state), request)
    state.reorder(request.rows(count))
    while True:
        usable = usable_logits(logits, options)
        total = log_sum_exp(usable)[:, 0]  # (B,)
        scores = apply_processors(processors, ledger.rows, logits)
        best = scores.softmax(1).topk(count)  # (B, K)
        next_logits = state.step(best.indices.reshape(-1, 1), None).float()  # (B K, V)
        hidden = _last_hidden(state)[:, -1].reshape(request.prompts, count, -1)  # (B, K, D)
        quality = (1 - options.penalty_alpha) * best.values - options.penalty_alpha * seen.likeness(hidden)
        quality = quality.masked_fill(scores.gather(1, best.indices) == -math.inf, -math.inf)
        choice = quality.argmax(1, keepdim=True)  # (B, 1)
        tokens, row = best.indices.gather(1, choice)[:, 0], first + choice[:, 0]

        going, greatest = ledger.unfinished, scores.amax(1)
        non_finite = going & ~total.isfinite()
        barred = going & nothing_left(greatest, options)
        # a candidate's state was NaN, and argmax chose it
        next_non_finite = going & quality.isnan().any(1) & (not options.remove_invalid_values)
        log_probs = usable.gather(1, tokens[:, None])[:, 0] - total
        tokens = ledger.add_step(tokens, log_probs, scores, logits)
        problems, unfinished = look(
            ledger.unfinished, non_finite=non_finite, barred=barred, next_non_finite=next_non_finite
        )
        if "non_finite" in problems:
            ledger.raise_non_finite(logits, non_finite, ledger.step)
        if "barred" in problems:
            ledger.raise_barred(greatest, barred, ledger.step)
        if "next_non_finite" in problems:
            ledger.raise_non_finite(next_logits.index_select(0, row), next_non_finite, ledger.step + 1)
        yield tokens
        over = not any(unfinished) or ledger.full
        for steps in (state.attentions, state.cross_attentions, state.hidden_states):
            if steps and over:
                steps.pop()  # the last token was chosen by this step, and no other follows
            elif steps:
                steps[-1] = tuple(layer.index_select(0, row) for layer in steps[-1])
        if over:
            return ledger.output()
        if not ledger.shows_ended:
            state.keep(unfinished)
        state.reorder(row.repeat_interleave(count), last=True)
        logits = next_logits.index_select(0, row)
        seen.add(hidden.gather(1, choice[:, :, None].expand(-1, -1, hidden.shape[2])))


class _SeenStates:
    """The directions of the hidden states of the tokens so far.

    Args:
        hidden: (B, T, D) of the prompts.
        request: gives the room to make, and the padding, to which nothing is compared.
    """

    def __init__(self, hidden: Tensor, request: Request) -> None:
        self.length = hidden.shape[1]
        self.states = hidden.new_empty(len(hidden), request.limits.max_length, hidden.shape[2], dtype=torch.float32)
        self.states[:, : self.length] = F.normalize(hidden.float(), dim=2)
        self.padding: Tensor | None = None  # (B, T)
        if request.attention_mask is not None:
            self.padding = request.attention_mask == 0

    def likeness(self, hidden: Tensor) -> Tensor:
        """(B, K) the greatest cosine of candidates' states (B, K, D) to those so far."""
        cosines = F.normalize(hidden.float(), dim=2) @ self.states[:, : self.length].mT  # (B, K, L)
        if self.padding is not None:
            cosines[:, :, : self.padding.shape[1]].masked_fill_(self.padding[:, None], -math.inf)
        return cosines.amax(2)

    def add(self, hidden: Tensor) -> None:
        """Take in (B, 1, D) of the tokens that were written."""
        self.states[:, self.length : self.length + 1] = F.normalize(hidden.float(), dim=2)
        self.length += 1


def _last_hidden(state: DecodingState) -> Tensor:
    assert state.last_hidden_state is not None  # asked for before the prefill
    return state.last_hidden_state
