"""Greedy search, sampling and beam search over a model's state, with transformers' results token for token.

The model is seen through two calls, ``prefill`` and ``step``; all the arithmetic on scores is in float32. Each step
asks the device for its flags once. The log-probability of a token is its logit less the log-sum-exp of its row, which
is NaN or infinite exactly where the logits are of no use, so that one reduction serves both.

Shape letters: N prompts, W beams or sequences to return for each, B = N W rows, T prompt tokens, V vocabulary size,
K candidates for each prompt, L new tokens, R rows returned for each prompt.
"""

from __future__ import annotations

import math
from typing import NamedTuple, NoReturn, Protocol

import torch
from torch import Tensor

from vedcore.config import TokenIds
from vedcore.errors import GenerationError, NonFiniteError, UsageError
from vedcore.generation.config import GenerationConfig, Limits
from vedcore.generation.logits import Processor, make_processors
from vedcore.generation.stopping import Stopping
from vedcore.generation.streaming import Steps, Streamer, TokenIterator, check_streamer, push
from vedcore.outputs import GenerateOutput

__all__ = ["State", "beam_search", "sample_steps", "search", "stream"]

FAR = -1.0e9
"""Score of what must lose; transformers' number, and finite, so that sums with it stay ordered."""


class State(Protocol):
    """A model in the middle of writing: what it keeps (a cache, or the ids so far) is its own business."""

    def prefill(self, input_ids: Tensor) -> Tensor:
        """Read the (N, T) prompts; return the (N, V) logits that follow."""

    def step(self, tokens: Tensor, reorder: Tensor | None) -> Tensor:
        """Read one more token in each row; return the (B, V) logits that follow.

        Args:
            tokens: (B, 1).
            reorder: (B,) the row so far that each row continues; None when each continues itself. The first one after
                the prefill may have more rows than it: ``[0, 0, 1, 1]`` makes two rows of each prompt.
        """


def search(
    state: State, input_ids: Tensor, options: GenerationConfig, token_ids: TokenIds, limits: Limits, *,
    attention_mask: Tensor | None = None, streamer: Streamer | None = None,
) -> GenerateOutput:  # fmt: skip
    """Write text after the prompts.

    Args:
        state: the model, fresh.
        input_ids: (N, T) prompts, long, start ids included.
        options: of the call.
        token_ids: those in force: ``options.token_ids(...)``.
        limits: ``options.limits(...)``.
        attention_mask: (N, T), 0 where a prompt is padded at the left; the state knows of it too.
        streamer: gets the tokens as they come; not with beams.

    Returns:
        ``num_return_sequences`` rows for each prompt, side by side, best first under beams. Where the options leave
        fewer different texts, the last rows are all padding, with a score of -1e9 and log-probabilities of -Inf.

    Raises:
        NonFiniteError: NaN or Inf logits, with the prompt's row and the step.
        GenerationError: options that leave a row no token at all.
        UsageError: prompts of a wrong shape, a streamer with beams, or an object that is no streamer.
    """
    check_streamer(streamer, options)
    if options.num_beams > 1:
        return beam_search(state, input_ids, options, token_ids, limits, attention_mask)
    steps = sample_steps(state, input_ids, options, token_ids, limits, attention_mask)
    if streamer is not None:
        return push(steps, input_ids.repeat_interleave(options.num_return_sequences, 0), streamer)
    iterator = TokenIterator(steps)
    for _ in iterator:
        pass
    assert iterator.output is not None
    return iterator.output


def stream(
    state: State, input_ids: Tensor, options: GenerationConfig, token_ids: TokenIds, limits: Limits, *,
    attention_mask: Tensor | None = None,
) -> TokenIterator:  # fmt: skip
    """Like ``search``, but the caller pulls the (B,) tokens of each step; what ``search`` returns is in ``.output``."""
    if options.num_beams > 1:
        message = f"{options.num_beams} beams cannot be streamed: they change their minds"
        raise UsageError(message, field="num_beams", hint="pass num_beams=1")
    return TokenIterator(sample_steps(state, input_ids, options, token_ids, limits, attention_mask))


@torch.no_grad()
def sample_steps(
    state: State, input_ids: Tensor, options: GenerationConfig, token_ids: TokenIds, limits: Limits,
    attention_mask: Tensor | None = None,
) -> Steps:  # fmt: skip
    """Greedy search or sampling, a step at a time: yields (B,) tokens, returns the whole."""
    _check_prompts(input_ids, attention_mask)
    (prompts, prompt_length), device, copies = input_ids.shape, input_ids.device, options.num_return_sequences
    expand = torch.arange(prompts, device=device).repeat_interleave(copies)  # (B,) which prompt each row continues
    processors = _processors(options, token_ids, limits, attention_mask, expand, prompt_length)
    stopping, generator = Stopping(token_ids.eos, limits.max_length, device), _generator(options, device)
    ids = input_ids.new_empty(prompts * copies, limits.max_length)  # untouched memory costs nothing
    ids[:, :prompt_length] = input_ids[expand]
    log_probs: list[Tensor] = []
    unfinished = torch.ones(prompts * copies, dtype=torch.bool, device=device)
    reorder = expand if copies > 1 else None

    logits, length = state.prefill(input_ids).float()[expand], prompt_length
    while True:
        total = logits.logsumexp(1)  # (B,)
        scores = _apply(processors, ids[:, :length], logits)
        tokens = _draw(scores.softmax(1), 1, generator)[:, 0] if options.do_sample else scores.argmax(1)
        unusable = unfinished & ~total.isfinite()
        barred = unfinished & (scores.gather(1, tokens[:, None])[:, 0] == -math.inf)
        log_probs.append(torch.where(unfinished, logits.gather(1, tokens[:, None])[:, 0] - total, 0.0))
        if token_ids.eos:
            assert token_ids.pad is not None
            tokens = torch.where(unfinished, tokens, token_ids.pad)
            unfinished = unfinished & ~stopping.is_end(tokens)
        ids[:, length] = tokens
        length += 1
        go_on, any_unusable, any_barred = torch.stack([unfinished.any(), unusable.any(), barred.any()]).tolist()
        if any_unusable:
            _raise_non_finite(logits, unusable, copies, length - prompt_length - 1)
        if any_barred:
            _raise_barred(barred, copies, length - prompt_length - 1)
        yield tokens
        if not go_on or stopping.is_full(length):
            break
        logits, reorder = state.step(tokens[:, None], reorder).float(), None

    sequences = ids[:, :length].clone()
    return GenerateOutput(
        sequences=sequences,
        token_logprobs=torch.stack(log_probs, 1),
        finish_reasons=stopping.finish_reasons(sequences[:, prompt_length:]),
    )


class _Candidates(NamedTuple):
    """Continuations of each prompt's beams; each field (N, K)."""

    score: Tensor
    """Sum of log-probabilities of the new tokens."""
    parent: Tensor
    """The beam, 0 to W - 1, that is continued."""
    token: Tensor
    log_prob: Tensor
    """What the model gave the token, before any processor."""

    def take(self, index: Tensor) -> _Candidates:
        """Those at ``index`` (N, W)."""
        return _Candidates(*(field.gather(1, index) for field in self))


@torch.no_grad()
def beam_search(
    state: State, input_ids: Tensor, options: GenerationConfig, token_ids: TokenIds, limits: Limits,
    attention_mask: Tensor | None = None,
) -> GenerateOutput:  # fmt: skip
    """Beam search, or beam sampling with ``do_sample``: the rules of transformers' vectorised one.

    Enough candidates are looked at (as many for each beam as there are end ids, and one more) that ``num_beams`` can go
    on even if all others end. Only the best ``num_beams`` candidates may end; ended texts are kept in a pool of
    ``num_beams``, by their score over their length to the power of the penalty. The beams' tokens are not copied about
    at every step: each step's tokens and parents are kept, and texts are read backwards from the pool at the end.

    Arguments, result and errors are those of ``search``.
    """
    _check_prompts(input_ids, attention_mask)
    (prompts, prompt_length), device, beams = input_ids.shape, input_ids.device, options.num_beams
    expand = torch.arange(prompts, device=device).repeat_interleave(beams)  # (B,)
    own, first_row = torch.arange(beams, device=device), torch.arange(prompts, device=device)[:, None] * beams
    processors = _processors(options, token_ids, limits, attention_mask, expand, prompt_length)
    stopping, generator = Stopping(token_ids.eos, limits.max_length, device), _generator(options, device)
    if processors:  # nothing else reads the rows so far
        ids = input_ids.new_empty(prompts * beams, limits.max_length)
        ids[:, :prompt_length] = input_ids[expand]
    per_beam = max(2, 1 + len(token_ids.eos))
    running = torch.full((prompts, beams), FAR, device=device)  # (N, W)
    running[:, 0] = 0.0  # all beams are the same at first, so only one of them counts
    pool = _Pool(prompts, beams, device)
    improvable = torch.ones(prompts, 1, dtype=torch.bool, device=device)
    patient = options.early_stopping == "never" and options.length_penalty > 0  # a longer text may still score better
    forced = options.forced_bos_token_id is not None or options.forced_eos_token_id is not None
    lived: list[_Candidates] = []

    logits = state.prefill(input_ids).float()[expand]
    if logits.shape[1] < per_beam:
        raise UsageError(f"beam search needs {per_beam} tokens to choose from, the vocabulary has {logits.shape[1]}")
    while True:
        step, length = len(lived) + 1, prompt_length + len(lived) + 1
        total = logits.logsumexp(1, keepdim=True)  # (B, 1)
        unusable = ~total[:, 0].isfinite()
        processed = _apply(processors, ids[:, : length - 1], logits - total) if processors else None
        if options.do_sample:
            found = _drawn(logits, total, processed, running, per_beam * beams, generator)
        else:
            found = _best(logits, total, processed, running, per_beam * beams, forced)
        barred = (improvable & (found.score.amax(1, keepdim=True) == -math.inf))[:, 0]
        ended = stopping.is_end(found.token) | stopping.is_full(length)

        running, index = torch.where(ended, found.score + FAR, found.score).topk(beams)
        live = found.take(index)
        open_to = improvable & ~pool.full if options.early_stopping is True else improvable
        pool.add(found, ended & open_to, step, options.length_penalty)

        longest = limits.max_length - prompt_length if patient else step
        worst = torch.where(pool.ended, pool.score.amin(1, keepdim=True), FAR)
        improvable = improvable & (running[:, :1] / longest**options.length_penalty > worst).any(1, keepdim=True)
        go_on = improvable.any() & ~ended.all()
        if options.early_stopping is True:
            go_on = go_on & ~pool.full.all()
        unmoved = (live.parent == own).all()
        flags = torch.stack([go_on, unusable.any(), barred.any(), unmoved]).tolist()
        if flags[1]:
            _raise_non_finite(logits, unusable, beams, step - 1)
        if flags[2]:
            _raise_barred(barred, 1, step - 1)
        lived.append(live)
        if not flags[0]:
            break
        moved = None if flags[3] else (first_row + live.parent).flatten()  # (B,)
        tokens = live.token.flatten()
        if processors:
            if moved is not None:
                ids[:, : length - 1] = ids[moved, : length - 1]
            ids[:, length - 1] = tokens
        logits = state.step(tokens[:, None], expand if step == 1 else moved).float()

    # transformers pads ended beams with the first end id where the pad id is 0, and so do we, to give the same ids
    fill = token_ids.pad or (token_ids.eos[0] if token_ids.eos else 0)
    new_tokens, log_probs = pool.read_back(lived, options.num_return_sequences, fill)
    rows = input_ids.repeat_interleave(options.num_return_sequences, 0)
    return GenerateOutput(
        sequences=torch.cat([rows, new_tokens], 1),
        sequences_scores=pool.score[:, : options.num_return_sequences].flatten(),
        token_logprobs=log_probs,
        finish_reasons=stopping.finish_reasons(new_tokens),
    )


class _Pool:
    """The best ended texts of each prompt, best first, each known by its last token and parent; fields are (N, W)."""

    def __init__(self, prompts: int, beams: int, device: torch.device) -> None:
        self.score = torch.full((prompts, beams), FAR, device=device)
        self.ended = torch.zeros(prompts, beams, dtype=torch.bool, device=device)
        self.length = torch.zeros(prompts, beams, dtype=torch.long, device=device)  # new tokens
        self.last = _Candidates(self.score, self.length, self.length, self.score)  # read only where there is a length

    @property
    def full(self) -> Tensor:
        """(N, 1) whether a prompt has as many ended texts as beams."""
        return self.ended.all(1, keepdim=True)

    def add(self, found: _Candidates, may_end: Tensor, length: int, length_penalty: float) -> None:
        """Let those of the best W candidates that ``may_end``, (N, K), compete for a place.

        The others compete as well, at a score that loses, so that ties are broken as in transformers.
        """
        beams = self.score.shape[1]
        may_end = may_end & (torch.arange(may_end.shape[1], device=may_end.device) < beams)
        score = found.score / length**length_penalty
        score = torch.where(may_end, score, score + FAR)
        self.score, index = torch.cat([self.score, score], 1).topk(beams)
        self.ended = torch.cat([self.ended, may_end], 1).gather(1, index)
        self.length = torch.cat([self.length, may_end * length], 1).gather(1, index)
        self.last = _Candidates(*(torch.cat(pair, 1) for pair in zip(self.last, found, strict=True))).take(index)

    def read_back(self, lived: list[_Candidates], count: int, fill: int) -> tuple[Tensor, Tensor]:
        """New tokens (N R, L), padded with ``fill``, and their log-probabilities: the best ``count`` of each prompt."""
        length, device = self.length[:, :count].cpu(), self.score.device
        last = _Candidates(*(field[:, :count].cpu() for field in self.last))
        history = [torch.stack(field).cpu() for field in zip(*lived, strict=True)]  # (L, N, W) each
        longest = int(length.max())
        tokens = torch.full((longest, *length.shape), fill)  # (L, N, R)
        log_probs = torch.zeros(longest, *length.shape)
        log_probs[:, length == 0] = -math.inf  # no such text: the options left fewer than were asked for
        parent = last.parent
        for i in reversed(range(longest)):
            before = _Candidates(*(field[i] for field in history)).take(parent)
            is_last, is_before = length == i + 1, length > i + 1
            tokens[i] = torch.where(is_last, last.token, torch.where(is_before, before.token, tokens[i]))
            log_probs[i] = torch.where(is_last, last.log_prob, torch.where(is_before, before.log_prob, log_probs[i]))
            parent = torch.where(is_before, before.parent, parent)
        return tokens.flatten(1).T.contiguous().to(device), log_probs.flatten(1).T.contiguous().to(device)


def _best(
    logits: Tensor, total: Tensor, processed: Tensor | None, running: Tensor, count: int, forced: bool
) -> _Candidates:
    """The ``count`` best continuations of each prompt: the best of the best of each beam.

    Forced tokens tie, so with them all beams are looked at together, slower, to break ties as transformers does.
    """
    (prompts, beams), vocab_size = running.shape, logits.shape[1]
    if forced and processed is not None:
        scores = (processed.reshape(prompts, beams, -1) + running[:, :, None]).flatten(1)  # (N, W V)
        score, index = scores.topk(count)
        return _candidates(logits, total, score, index // vocab_size, index % vocab_size)
    each = min(count, vocab_size)
    if processed is None:  # the order within a row is that of the logits, so only the winners are normalised
        top, token = logits.topk(each)
        top = top - total
    else:
        top, token = processed.topk(each)
    score = (top.reshape(prompts, beams, each) + running[:, :, None]).flatten(1)  # (N, W each)
    score, index = score.topk(count)
    return _candidates(logits, total, score, index // each, token.reshape(prompts, -1).gather(1, index))


def _drawn(
    logits: Tensor, total: Tensor, processed: Tensor | None, running: Tensor, count: int,
    generator: torch.Generator | None,
) -> _Candidates:  # fmt: skip
    """``count`` different continuations of each prompt, drawn by the probability of the whole text."""
    prompts, beams = running.shape
    scores = logits - total if processed is None else processed
    scores = (scores.reshape(prompts, beams, -1) + running[:, :, None]).flatten(1)  # (N, W V)
    index = _draw(scores.softmax(1), count, generator)
    vocab_size = logits.shape[1]
    return _candidates(logits, total, scores.gather(1, index), index // vocab_size, index % vocab_size)


def _candidates(logits: Tensor, total: Tensor, score: Tensor, parent: Tensor, token: Tensor) -> _Candidates:
    prompts, vocab_size = score.shape[0], logits.shape[1]
    logit = logits.reshape(prompts, -1).gather(1, parent * vocab_size + token)  # (N, K)
    return _Candidates(score, parent, token, logit - total.reshape(prompts, -1).gather(1, parent))


def _draw(probabilities: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Indices (rows, count) drawn without replacement: ``torch.multinomial``'s stream, less its check of the numbers.

    An exponential race: the least of the times ``q / p`` wins with probability ``p``. The check would make a GPU wait,
    and fail on what the caller reports better.
    """
    times = torch.empty_like(probabilities).exponential_(generator=generator)
    return (probabilities / times).topk(count).indices if count > 1 else (probabilities / times).argmax(1, keepdim=True)


def _generator(options: GenerationConfig, device: torch.device) -> torch.Generator | None:
    return None if options.seed is None else torch.Generator(device).manual_seed(options.seed)


def _processors(
    options: GenerationConfig, token_ids: TokenIds, limits: Limits, attention_mask: Tensor | None, expand: Tensor,
    prompt_length: int,
) -> list[Processor]:  # fmt: skip
    mask = None if attention_mask is None else attention_mask[expand]
    return make_processors(options, token_ids, limits, prompt_length, expand.device, mask)


def _apply(processors: list[Processor], input_ids: Tensor, scores: Tensor) -> Tensor:
    for processor in processors:
        scores = processor(input_ids, scores)
    return scores


def _check_prompts(input_ids: Tensor, attention_mask: Tensor | None) -> None:
    if input_ids.ndim != 2 or 0 in input_ids.shape or input_ids.dtype != torch.long:
        raise UsageError(
            f"prompts of shape {tuple(input_ids.shape)} and type {input_ids.dtype}", field="decoder_input_ids",
            hint="give long ids of shape (prompts, tokens), at least one of each",
        )  # fmt: skip
    if attention_mask is not None and attention_mask.shape != input_ids.shape:
        raise UsageError(
            f"a mask of shape {tuple(attention_mask.shape)} for prompts of shape {tuple(input_ids.shape)}",
            field="decoder_attention_mask", hint="give one number a token",
        )  # fmt: skip


def _where(step: int) -> str:
    return f"step {step}" if step else "prefill"


def _rows(flags: Tensor, copies: int) -> str:
    rows = sorted({row // copies for row in flags.nonzero()[:, 0].tolist()})
    shown = ", ".join(map(str, rows[:8])) + (", …" if len(rows) > 8 else "")
    return f"row {shown}" if len(rows) == 1 else f"rows {shown}"


def _raise_non_finite(logits: Tensor, unusable: Tensor, copies: int, step: int) -> NoReturn:
    bad = logits[unusable]
    what = "NaN" if bad.isnan().any() else "+Inf" if (bad == math.inf).any() else "nothing but -Inf"
    raise NonFiniteError(
        f"the logits of {_rows(unusable, copies)} hold {what} at {_where(step)}",
        hint="check the weights and the images for NaN, or run in float32",
    )


def _raise_barred(barred: Tensor, copies: int, step: int) -> NoReturn:
    raise GenerationError(
        f"the options leave {_rows(barred, copies)} no token to go on with at {_where(step)}",
        hint="relax no_repeat_ngram_size, min_length or suppress_tokens, or pass a smaller max_new_tokens",
    )
