"""Contrastive search (Su et al. 2022, "A Contrastive Framework for Neural Text Generation").

Of the ``top_k`` most probable tokens that one is written whose probability, times ``1 - penalty_alpha``, less
``penalty_alpha`` times its greatest cosine to a token so far, is the greatest. The cosine is that of the decoder's last
hidden states, so each candidate is read before one is chosen. As transformers did it up to 4.57, but for candidates
that the options bar: they are never chosen.

Shape letters: B prompts, which are the rows, K candidates of each, L tokens so far, D width, V vocabulary size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from vedcore.generation.request import Request, apply, barring
from vedcore.generation.state import DecodingState
from vedcore.generation.stopping import Stopping
from vedcore.generation.streaming import Steps
from vedcore.outputs import GenerateOutput

__all__ = ["contrastive_steps"]


@torch.no_grad()
def contrastive_steps(state: DecodingState, request: Request) -> Steps:
    """Contrastive search, a step at a time: yields (B,) tokens, returns the whole.

    Args:
        state: the model, fresh.
        request: the prompts and the options; with more ``top_k`` than tokens, all are candidates.
    """
    options, token_ids, prompts = request.options, request.token_ids, request.prompts
    processors, stopping = request.processors(1), Stopping(request)
    ids, length = request.buffer(1), request.prompt_length
    log_probs: list[Tensor] = []
    kept_scores: list[Tensor] = []
    kept_logits: list[Tensor] = []
    unfinished = torch.ones(prompts, dtype=torch.bool, device=request.device)
    reasons = torch.zeros(prompts, dtype=torch.long, device=request.device)
    lengths = torch.zeros_like(reasons)
    padded = bool(token_ids.eos) and token_ids.pad is not None

    state.keeps_last_hidden_state = True
    logits = state.prefill(request.input_ids).float()  # (B, V)
    count = min(options.top_k, logits.shape[1])  # K
    first = torch.arange(prompts, device=request.device) * count  # (B,) the first row of each prompt's candidates
    seen = _Seen(_last_hidden(state), request)
    state.reorder(request.rows(count))
    while True:
        usable = logits.nan_to_num(nan=0.0) if options.remove_invalid_values else logits
        total = usable.logsumexp(1)  # (B,)
        scores = apply(processors, ids[:, :length], logits)
        best = scores.softmax(1).topk(count)  # (B, K)
        candidates = state.step(best.indices.reshape(-1, 1), None).float()  # (B K, V)
        hidden = _last_hidden(state)[:, -1].reshape(prompts, count, -1)  # (B, K, D)
        quality = (1 - options.penalty_alpha) * best.values - options.penalty_alpha * seen.likeness(hidden)
        quality = quality.masked_fill(scores.gather(1, best.indices) == -math.inf, -math.inf)
        choice = quality.argmax(1, keepdim=True)  # (B, 1)
        tokens, row = best.indices.gather(1, choice)[:, 0], first + choice[:, 0]

        unusable = unfinished & ~total.isfinite()
        lost = unfinished & quality.isnan().any(1) & (not options.remove_invalid_values)  # and one of these was chosen
        greatest = scores.amax(1)  # (B,)
        barred = unfinished & barring(greatest, options)
        log_probs.append(torch.where(unfinished, usable.gather(1, tokens[:, None])[:, 0] - total, 0.0))
        if options.output_scores:
            kept_scores.append(scores)
        if options.output_logits:
            kept_logits.append(logits)
        if padded and token_ids.pad is not None:
            tokens = torch.where(unfinished, tokens, token_ids.pad)
        ids[:, length] = tokens
        length += 1
        lengths += unfinished
        why = stopping.reasons(tokens, ids[:, :length], tuple(kept_scores) if options.output_scores else None)  # (B,)
        reasons = torch.where(unfinished, why, reasons)
        unfinished = unfinished & (why == 0)
        flags = torch.cat([torch.stack([unusable.any(), barred.any(), lost.any()]), unfinished]).tolist()
        if flags[0]:
            request.raise_non_finite(logits, unusable, 1, length - request.prompt_length - 1)
        if flags[1]:
            request.raise_barred(greatest, barred, 1, length - request.prompt_length - 1)
        if flags[2]:
            request.raise_non_finite(candidates.index_select(0, row), lost, 1, length - request.prompt_length)
        yield tokens
        over = not any(flags[3:]) or length >= request.limits.max_length
        for steps in (state.attentions, state.cross_attentions, state.hidden_states):
            if steps and over:
                steps.pop()  # what the last token was chosen by is no step that another follows
            elif steps:
                steps[-1] = tuple(layer.index_select(0, row) for layer in steps[-1])
        if over:
            break
        if padded and not (options.output_scores or options.output_logits):
            state.keep(flags[3:])
        state.reorder(row.repeat_interleave(count), last=True)
        logits = candidates.index_select(0, row)
        seen.add(hidden.gather(1, choice[:, :, None].expand(-1, -1, hidden.shape[2])))

    return GenerateOutput(
        sequences=ids[:, :length].clone(),
        token_logprobs=torch.stack(log_probs, 1),
        finish_reasons=stopping.words(reasons),
        lengths=tuple(lengths.tolist()),
        scores=tuple(kept_scores) if options.output_scores else None,
        logits=tuple(kept_logits) if options.output_logits else None,
    )


class _Seen:
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
