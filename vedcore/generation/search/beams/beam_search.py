"""Beam search and beam sampling, with transformers' results token for token; plain, in groups, and with forced words.

All the arithmetic on scores is in float32. Each step asks the device for its flags once.

Shape letters: N prompts, S searches (one for each prompt, or for each of its groups), W beams of each search, B = S W
rows, V vocabulary size, K candidates for each search, L new tokens, R texts returned for each prompt.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from vedcore.errors import UsageError
from vedcore.generation.request import Request
from vedcore.generation.search.beams.candidates import LOSING_SCORE, Beams, BeamStep, Chooser, candidates_for
from vedcore.generation.search.beams.forced_words import ForcedWords
from vedcore.generation.search.beams.groups import Groups
from vedcore.generation.search.beams.hypotheses import CommonPrefix, Hypotheses, WrittenStep
from vedcore.generation.search.ledger import Ledger, look
from vedcore.generation.search.scoring import log_sum_exp, usable_logits
from vedcore.generation.state import State
from vedcore.generation.streaming import Steps
from vedcore.outputs import GenerateOutput

__all__ = ["beam_steps", "diverse_steps", "forced_words_steps"]


def beam_steps(state: State, request: Request) -> Steps:
    """Plain beam search, or beam sampling with ``do_sample``."""
    return _search(state, request, Beams)


def diverse_steps(state: State, request: Request) -> Steps:
    """Diverse beam search: in groups."""
    return _search(state, request, Groups)


def forced_words_steps(state: State, request: Request) -> Steps:
    """Constrained beam search: with forced words."""
    return _search(state, request, ForcedWords)


@torch.no_grad()
def _search(state: State, request: Request, chooser: Callable[[Request, Ledger], Chooser]) -> Steps:
    """Beam search by the rules of transformers' vectorised one.

    Each step considers enough candidates (for each beam one more than there are end ids) that ``num_beams`` can go on
    even if all others end. Only the best ``num_beams`` candidates may end. Ended texts compete to be among the
    ``num_beams`` hypotheses, by their score over their length to the power of the penalty. Each group of beams is a
    search with hypotheses of its own.

    Yields:
        Of one prompt, if ``request.streaming``: the (1,) tokens on which all texts that may still come out best agree,
        as soon as they do. Of several prompts nothing.

    Returns:
        The whole, the best R texts of each prompt side by side.
    """
    options, device = request.options, request.device
    prompts, beams, max_length = request.prompts, options.num_beams, request.limits.max_length
    groups = options.num_beam_groups
    searches, width = prompts * groups, beams // groups
    ledger = Ledger(request, beams)
    choose, expand = chooser(request, ledger), request.rows(beams)
    own = torch.arange(searches * width, device=device).reshape(searches, width)
    ids = request.buffer(beams) if choose.reads_ids else None
    running = torch.full((searches, width), LOSING_SCORE, device=device)
    running[:, 0] = 0.0  # all beams are the same at first, so only one of them counts
    hypotheses, written = Hypotheses(searches, width, device), list[WrittenStep]()
    going = torch.ones(searches, 1, dtype=torch.bool, device=device)
    patient = options.early_stopping == "never" and options.length_penalty > 0  # a longer text may still score better
    prefix = CommonPrefix(searches, width) if request.streaming and prompts == 1 else None
    # transformers shows ended prompts too
    recorded = ("scores", "logits", "attentions", "hidden_states")
    shown = request.keeps_cache or any(getattr(options, f"output_{name}") for name in recorded)

    logits = state.prefill(request.input_ids).float()[expand]
    vocab_size = logits.shape[1]
    if vocab_size < (per_beam := candidates_for(request)):
        raise UsageError(
            f"beam search needs {per_beam} tokens to choose from, the vocabulary has {vocab_size}",
            field="num_beams",
            hint="pass num_beams=1, or fewer end ids",
        )
    while True:
        step, length = len(written) + 1, request.prompt_length + len(written) + 1
        ledger.add_logits(logits)
        usable = usable_logits(logits, options)
        total = log_sum_exp(usable)  # (B, 1)
        so_far = None if ids is None else ids[:, : length - 1]
        choice = choose(BeamStep(logits, usable, total, running, going, so_far, max_length - length))
        non_finite = ~total.isfinite() & going.repeat_interleave(width, 0)  # (B, 1)
        nan = choice.found.score.isnan()  # invalid values may be removed, but some candidate must be left
        barred = (choice.barred | (nan.all(1) if options.remove_invalid_values else nan.any(1))) & going[:, 0]
        hypotheses.add(choice, going, step, options.length_penalty)
        running, beam = choice.running, choice.live.cell // vocab_size

        longest = max_length - request.prompt_length if patient else step
        worst = torch.where(hypotheses.ended, hypotheses.score.amin(1, keepdim=True), LOSING_SCORE)  # (S, W)
        going = going & (running.amax(1, keepdim=True) / longest**options.length_penalty > worst).any(1, keepdim=True)
        going = going & ~choice.over
        if options.early_stopping is True:
            going = going & ~hypotheses.ended.all(1, keepdim=True)
        row = own[:, :1] + beam  # (S, W) that each beam continues
        if not shown:  # ended searches stay where they are
            row = torch.where(going, row, own)
        found, searching = look(going[:, 0], non_finite=non_finite, barred=barred, moved=row != own)
        if "non_finite" in found:
            ledger.raise_non_finite(logits, non_finite[:, 0], step - 1)
        if "barred" in found:
            ledger.raise_barred(choice.found.score, barred, step - 1)
        written.append(WrittenStep(row, choice.live.cell % vocab_size, choice.live.log_prob))
        if prefix is not None:
            for token in prefix.update(written[-1], hypotheses, searching, step, vocab_size):
                yield request.input_ids.new_tensor([token])
        moved, tokens = row.flatten() if "moved" in found else None, written[-1].token.flatten()  # (B,)
        if step == 1:
            moved = expand
        if not any(searching):
            if request.keeps_cache and moved is not None:
                state.reorder(moved)
            break
        if ids is not None:
            if moved is not None and step > 1:
                ids[:, : length - 1] = ids[moved, : length - 1]
            ids[:, length - 1] = tokens
        if not shown:
            state.keep([any(searching[i : i + groups]) for i in range(0, searches, groups)])
        del logits, usable  # as much as the step is about to make
        logits = state.step(tokens[:, None], moved).float()

    texts = hypotheses.read_back(written, prompts, options.num_return_sequences, vocab_size, request.padding)
    if prefix is not None:
        for token in prefix.hand_out(texts.tokens[0, : texts.length[0]].tolist()):
            yield request.input_ids.new_tensor([token])
    return GenerateOutput(
        sequences=torch.cat([request.input_ids.repeat_interleave(options.num_return_sequences, 0), texts.tokens], 1),
        sequences_scores=texts.score,
        token_logprobs=texts.log_probs,
        finish_reasons=choose.stopping.words(texts.why),
        lengths=tuple(texts.length.tolist()),
        scores=ledger.scores_so_far,
        logits=ledger.logits_so_far,
        beam_indices=torch.where(texts.rows < 0, -1, texts.rows + request.first * beams).int(),
    )
