"""Beam search and beam sampling, with the results of the core's, which are transformers'.

Shape letters: N images, W beams of each, B = N W rows, K candidates of an image, M most tokens of a row, V vocabulary
size.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from vedcore_jax.generation.greedy import Texts, begin, follow, rows_of
from vedcore_jax.generation.options import Search
from vedcore_jax.generation.scores import processed
from vedcore_jax.programs import Cache, Programs, Tensors

__all__ = ["write_beams"]

LOSING_SCORE = -1.0e9
"""Score of candidates that must lose; transformers' number, and finite, so that sums with it stay ordered."""


class _Ended(NamedTuple):
    """The best ended texts of each image, best first."""

    score: Array
    """(N, W)."""
    length: Array
    """(N, W) tokens, the prompt's too; 0 where there is no text yet."""
    ids: Array
    """(N, W, M)."""


class _State(NamedTuple):
    ids: Array
    """(N, W, M)."""
    length: Array
    running: Array
    """(N, W) scores of the beams."""
    ended: _Ended
    going: Array
    """(N, 1) images whose search is not over."""
    cache: Cache
    key: Array
    spoilt: Array


def _losing(score: Array) -> Array:
    """Scores that lose to all others, in their own order."""
    return jnp.where(score == jnp.inf, LOSING_SCORE, score + LOSING_SCORE)


def _rows(cache: Cache, row: Array) -> Cache:
    """The cache of some rows (B,); what belongs to an image stays as it is."""
    past = {name: each[row] for name, each in cache.past.items()}
    return cache.replace(past=past, mask=cache.mask[row], taken=cache.taken[row])  # type: ignore[attr-defined, no-any-return]


def write_beams(
    programs: Programs, search: Search, tensors: Tensors, pixel_values: Array, prompt: Array, mask: Array, key: Array
) -> Texts:
    """Texts of images (N, C, H, W) that go on from prompts (N, T), whose mask (N, T) is False for padding."""
    images, beams = prompt.shape[0], search.num_beams
    ids, counts = rows_of(search, prompt, mask, beams)
    states = programs.encode(tensors, pixel_values)
    cache = programs.cache(tensors, states, images, search.max_length - 1)
    cache, first = begin(programs, search, tensors, prompt, mask, cache)
    first = jnp.repeat(first, beams, 0)
    expand = jnp.repeat(jnp.arange(images), beams)
    own = jnp.arange(images * beams).reshape(images, beams)
    count = beams * max(2, 1 + len(search.eos))
    patient = search.early_stopping == "never" and search.length_penalty > 0
    eos = jnp.array(search.eos, ids.dtype)

    def candidates(state: _State, logits: Array, drawn: Array) -> tuple[Array, Array, Array]:
        """(N, K) scores, beams and tokens."""
        scores = jax.nn.log_softmax(logits.astype(jnp.float32), 1)
        scores = processed(search, scores, state.ids.reshape(images * beams, -1), counts, state.length)
        vocab_size = scores.shape[1]
        if search.do_sample:
            whole = (scores.reshape(images, beams, -1) + state.running[:, :, None]).reshape(images, -1)
            _, cell = lax.top_k(whole + jax.random.gumbel(drawn, whole.shape), count)
            return jnp.take_along_axis(whole, cell, 1), cell // vocab_size, cell % vocab_size
        each = min(count, vocab_size)
        value, token = lax.top_k(scores, each)  # the best of all are among the best of each beam
        value = (value.reshape(images, beams, each) + state.running[:, :, None]).reshape(images, -1)
        score, place = lax.top_k(value, count)
        return score, place // each, jnp.take_along_axis(token.reshape(images, -1), place, 1)

    def added(state: _State, score: Array, beam: Array, token: Array, complete: Array) -> _Ended:
        """The ended texts, among which complete candidates (N, K) compete."""
        new = state.length + 1 - search.prompt_length
        scaled = score / new.astype(jnp.float32) ** search.length_penalty
        scaled = jnp.nan_to_num(
            jnp.where(complete, scaled, _losing(scaled)), nan=-jnp.inf, posinf=jnp.inf, neginf=-jnp.inf
        )
        best, place = lax.top_k(jnp.concatenate([state.ended.score, scaled], 1), beams)
        length = jnp.concatenate([state.ended.length, jnp.where(complete, state.length + 1, 0)], 1)
        source = jnp.concatenate([jnp.broadcast_to(jnp.arange(beams), (images, beams)), beams + beam], 1)
        last = jnp.concatenate([jnp.zeros((images, beams), token.dtype), token], 1)
        source, last, length = (jnp.take_along_axis(each, place, 1) for each in (source, last, length))
        texts = jnp.take_along_axis(jnp.concatenate([state.ended.ids, state.ids], 1), source[:, :, None], 1)
        ends_here = (source >= beams)[:, :, None] & (jnp.arange(texts.shape[2]) == state.length)
        return _Ended(best, length, jnp.where(ends_here, last[:, :, None].astype(texts.dtype), texts))

    def chosen(state: _State, logits: Array) -> _State:
        key, drawn = jax.random.split(state.key)
        score, beam, token = candidates(state, logits, drawn)
        ends = jnp.isin(token, eos)
        running, place = lax.top_k(jnp.where(ends, _losing(score), score), beams)
        ends = ends | (state.length + 1 >= search.max_length)
        complete = ends & (jnp.arange(count) < beams) & state.going
        ended = added(state, score, beam, token, complete)
        new = state.length + 1 - search.prompt_length
        longest = (search.max_length - search.prompt_length if patient else new) * jnp.float32(1)
        worst = jnp.where(ended.length > 0, ended.score.min(1, keepdims=True), LOSING_SCORE)
        attainable = running.max(1, keepdims=True) / longest**search.length_penalty
        going = state.going & (attainable > worst).any(1, keepdims=True) & ~ends.all()
        if search.early_stopping is True:
            going = going & ~(ended.length > 0).all(1, keepdims=True)
        spoilt = (jnp.isnan(score).any(1, keepdims=True) & state.going).any()
        beam, token = (jnp.take_along_axis(each, place, 1) for each in (beam, token))
        ids = jnp.take_along_axis(state.ids, beam[:, :, None], 1)
        ids = jnp.where(jnp.arange(ids.shape[2]) == state.length, token[:, :, None].astype(ids.dtype), ids)
        cache = _rows(state.cache, (own[:, :1] + beam).reshape(-1))
        return _State(ids, state.length + 1, running, ended, going, cache, key, state.spoilt | spoilt)

    def step(state: _State) -> _State:
        rows = state.ids.reshape(images * beams, -1)
        out, cache = follow(programs, search, tensors, rows, state.cache, state.length, first)
        return chosen(state._replace(cache=cache), out["logits"][:, -1])

    ids = ids.reshape(images, beams, -1)
    begun = _State(
        ids,
        jnp.array(search.prompt_length),
        jnp.full((images, beams), LOSING_SCORE).at[:, 0].set(0.0),  # all beams are the same at first
        _Ended(jnp.full((images, beams), LOSING_SCORE), jnp.zeros((images, beams), int), ids),
        jnp.ones((images, 1), bool),
        _rows(cache, expand),
        key,
        jnp.array(False),
    )
    state = lax.while_loop(lambda state: state.going.any(), step, begun)
    score, length, texts = (each[:, : search.returned].reshape(-1, *each.shape[2:]) for each in state.ended)
    texts = jnp.where(jnp.arange(texts.shape[1]) < length[:, None], texts, search.pad)
    return Texts(texts, length.max(), score, state.spoilt)
