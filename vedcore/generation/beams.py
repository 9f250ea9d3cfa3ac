"""Beam search and beam sampling, with transformers' results token for token; plain, in groups, and with forced words.

All the arithmetic on scores is in float32. Each step asks the device for its flags once.

Shape letters: N prompts, S searches (a prompt's, or each of its groups'), W beams of each search, B = S W rows, V
vocabulary size, K candidates for each search, L new tokens, R texts returned for each prompt.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vedcore.errors import UsageError
from vedcore.generation.candidates import FAR, Beams, Chooser, Step, candidates_for
from vedcore.generation.constrained import ForcedWords
from vedcore.generation.greedy import log_sum_exp
from vedcore.generation.groups import Groups
from vedcore.generation.pool import Agreement, Lived, Pool
from vedcore.generation.request import Request
from vedcore.generation.state import State
from vedcore.generation.streaming import Steps
from vedcore.outputs import GenerateOutput

__all__ = ["beam_search"]


@torch.no_grad()
def beam_search(state: State, request: Request, streaming: bool = False) -> Steps:
    """Beam search, or beam sampling with ``do_sample``: the rules of transformers' vectorised one.

    Enough candidates are looked at (as many for each beam as there are end ids, and one more) that ``num_beams`` can go
    on even if all others end. Only the best ``num_beams`` candidates may end; ended texts are kept in a pool of
    ``num_beams``, by their score over their length to the power of the penalty. Each group of beams is a search with a
    pool of its own.

    Args:
        state: the model, fresh.
        request: the prompts and the options.
        streaming: yield, of one prompt, the (1,) tokens of the text that will be the best, as soon as all texts that
            may still be it agree on them. Of several prompts nothing is yielded.

    Returns:
        The whole, the best R texts of each prompt side by side.
    """
    options, device = request.options, request.device
    prompts, beams, max_length = request.prompts, options.num_beams, request.limits.max_length
    groups = options.num_beam_groups
    searches, width = prompts * groups, beams // groups
    choose, expand = _chooser(request), request.rows(beams)
    own = torch.arange(searches * width, device=device).reshape(searches, width)
    ids = request.buffer(beams) if choose.reads_ids else None
    running = torch.full((searches, width), FAR, device=device)
    running[:, 0] = 0.0  # all beams are the same at first, so only one of them counts
    pool, lived = Pool(searches, width, device), list[Lived]()
    going = torch.ones(searches, 1, dtype=torch.bool, device=device)
    patient = options.early_stopping == "never" and options.length_penalty > 0  # a longer text may still score better
    agreement = Agreement(searches, width) if streaming and prompts == 1 else None
    kept_logits: list[Tensor] = []
    # transformers shows what it computes of ended prompts as well
    shown = any(getattr(options, f"output_{name}") for name in ("scores", "logits", "attentions", "hidden_states"))

    logits = state.prefill(request.input_ids).float()[expand]
    vocab_size = logits.shape[1]
    if vocab_size < (per_beam := candidates_for(request)):
        raise UsageError(
            f"beam search needs {per_beam} tokens to choose from, the vocabulary has {vocab_size}",
            field="num_beams",
            hint="pass num_beams=1, or fewer end ids",
        )
    while True:
        step, length = len(lived) + 1, request.prompt_length + len(lived) + 1
        if options.output_logits:
            kept_logits.append(logits)
        usable = logits.nan_to_num(nan=0.0) if options.remove_invalid_values else logits
        total = log_sum_exp(usable)  # (B, 1)
        so_far = None if ids is None else ids[:, : length - 1]
        choice = choose(Step(logits, usable, total, running, going, so_far, max_length - length))
        unusable = ~total.isfinite() & going.repeat_interleave(width, 0)  # (B, 1)
        nan = choice.found.score.isnan()  # where some may be passed over, all of them are still no text
        barred = (choice.barred | (nan.all(1) if options.remove_invalid_values else nan.any(1))) & going[:, 0]
        pool.add(choice, going, step, options.length_penalty)
        running, beam = choice.running, choice.live.cell // vocab_size

        longest = max_length - request.prompt_length if patient else step
        worst = torch.where(pool.ended, pool.score.amin(1, keepdim=True), FAR)  # (S, W)
        going = going & (running.amax(1, keepdim=True) / longest**options.length_penalty > worst).any(1, keepdim=True)
        going = going & ~choice.over
        if options.early_stopping is True:
            going = going & ~pool.ended.all(1, keepdim=True)
        row = own[:, :1] + beam  # (S, W) that each beam continues
        if not shown:  # what has ended stays where it is
            row = torch.where(going, row, own)
        flags = torch.cat([torch.stack([unusable.any(), barred.any(), (row == own).all()]), going[:, 0]]).tolist()
        if flags[0]:
            request.raise_non_finite(logits, unusable[:, 0], beams, step - 1)
        if flags[1]:
            request.raise_barred(choice.found.score, barred, groups, step - 1)
        lived.append(Lived(row, choice.live.cell % vocab_size, choice.live.log_prob))
        if agreement is not None:
            for token in agreement.update(lived[-1], pool, flags[3:], step, vocab_size):
                yield request.input_ids.new_tensor([token])
        if not any(flags[3:]):
            break
        moved, tokens = None if flags[2] else row.flatten(), lived[-1].token.flatten()  # (B,)
        if ids is not None:
            if moved is not None:
                ids[:, : length - 1] = ids[moved, : length - 1]
            ids[:, length - 1] = tokens
        if not shown:
            state.keep([any(flags[i : i + groups]) for i in range(3, len(flags), groups)])
        del logits, usable  # as much as the step is about to make
        logits = state.step(tokens[:, None], expand if step == 1 else moved).float()

    texts = pool.read_back(lived, prompts, options.num_return_sequences, vocab_size, request.padding)
    if agreement is not None:
        for token in agreement.hand_out(texts.tokens[0, : texts.length[0]].tolist()):
            yield request.input_ids.new_tensor([token])
    return GenerateOutput(
        sequences=torch.cat([request.input_ids.repeat_interleave(options.num_return_sequences, 0), texts.tokens], 1),
        sequences_scores=texts.score,
        token_logprobs=texts.log_probs,
        finish_reasons=choose.stopping.words(texts.why),
        lengths=tuple(texts.length.tolist()),
        scores=tuple(choose.scores) if options.output_scores else None,
        logits=tuple(kept_logits) if options.output_logits else None,
        beam_indices=torch.where(texts.rows < 0, -1, texts.rows + request.first * beams).int(),
    )


def _chooser(request: Request) -> Chooser:
    if request.options.num_beam_groups > 1:
        return Groups(request)
    return ForcedWords(request) if request.options.force_words_ids else Beams(request)
