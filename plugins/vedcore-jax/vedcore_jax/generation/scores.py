"""Changes to the scores of the next tokens, with transformers' arithmetic and in its order.

Shape letters: B rows of text, M most tokens of a row, V vocabulary size, G n-gram size.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax

from vedcore_jax.generation.options import Search

__all__ = ["processed"]


def processed(search: Search, scores: Array, ids: Array, counts: Array, length: Array) -> Array:
    """(B, V) scores after all that ``search`` asks for.

    Args:
        search: of the call.
        scores: (B, V) float32.
        ids: (B, M) rows, of which the first ``length`` tokens are written.
        counts: (B, M) False for padding at the left of a prompt.
        length: () tokens so far.
    """
    written = counts & (jnp.arange(ids.shape[1]) < length)
    if search.repetition_penalty != 1.0:
        held = _marked(ids, written, scores)
        repeated = jnp.where(scores < 0, scores * search.repetition_penalty, scores / search.repetition_penalty)
        scores = jnp.where(held, repeated, scores)
    if 0 < search.no_repeat_ngram_size <= ids.shape[1]:
        scores = jnp.where(_repeated(search.no_repeat_ngram_size, ids, length, scores), -jnp.inf, scores)
    if search.min_length and search.eos:
        scores = jnp.where(length < search.min_length, _without(scores, search.eos), scores)
    if search.forced_first:
        scores = jnp.where(length == 1, _only(scores, search.forced_first), scores)
    if search.forced_last:
        scores = jnp.where(length == search.max_length - 1, _only(scores, search.forced_last), scores)
    if search.suppressed:
        scores = _without(scores, search.suppressed)
    if search.suppressed_first:
        begin = search.prompt_length + bool(search.forced_first and search.prompt_length == 1)
        scores = jnp.where(length == begin, _without(scores, search.suppressed_first), scores)
    return _narrowed(search, scores) if search.do_sample else scores


def _narrowed(search: Search, scores: Array) -> Array:
    """The distribution that tokens are drawn from."""
    if search.temperature != 1.0:
        scores = scores / search.temperature
    vocab_size = scores.shape[1]
    if search.top_k > 0:
        least = lax.top_k(scores, min(max(search.top_k, search.least_kept), vocab_size))[0][:, -1:]
        scores = jnp.where(scores < least, -jnp.inf, scores)
    if search.top_p < 1.0:
        order = jnp.argsort(scores, 1)
        ascending = jnp.take_along_axis(scores, order, 1)
        drop = jnp.cumsum(jax.nn.softmax(ascending, 1), 1) <= 1 - search.top_p
        drop = drop.at[:, -search.least_kept :].set(False)
        places = jnp.argsort(order, 1)
        scores = jnp.where(jnp.take_along_axis(drop, places, 1), -jnp.inf, scores)
    if search.min_p > 0.0:
        probabilities = jax.nn.softmax(scores, 1)
        drop = probabilities < search.min_p * probabilities.max(1, keepdims=True)
        best = lax.top_k(probabilities, min(search.least_kept, vocab_size))[0][:, -1:]
        scores = jnp.where(drop & (probabilities < best), -jnp.inf, scores)
    return scores


def _marked(ids: Array, chosen: Array, scores: Array) -> Array:
    """(B, V) True for the ids (B, any) that are chosen (B, any)."""
    rows = jnp.arange(ids.shape[0])[:, None]
    return jnp.zeros(scores.shape, bool).at[rows, ids].max(chosen)


def _repeated(size: int, ids: Array, length: Array, scores: Array) -> Array:
    """(B, V) the tokens that would complete an n-gram that the row already holds."""
    first = jnp.arange(ids.shape[1] - size + 1)
    windows = ids[:, first[:, None] + jnp.arange(size)]  # (B, windows, G)
    ending = lax.dynamic_slice_in_dim(ids, length - size + 1, size - 1, 1) if size > 1 else ids[:, :0]
    same = (windows[:, :, :-1] == ending[:, None]).all(2)
    return _marked(windows[:, :, -1], same & (first + size <= length), scores)


def _without(scores: Array, tokens: Sequence[int]) -> Array:
    return scores.at[:, jnp.array(tokens)].set(-jnp.inf)


def _only(scores: Array, tokens: Sequence[int]) -> Array:
    return jnp.full_like(scores, -jnp.inf).at[:, jnp.array(tokens)].set(0.0)
