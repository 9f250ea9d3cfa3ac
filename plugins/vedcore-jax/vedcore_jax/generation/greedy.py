"""Greedy search and sampling: one token a row and step.

Shape letters: N images, B rows of text (N times the texts of each), T prompt tokens, M most tokens of a row, V
vocabulary size.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from vedcore_jax.generation.options import Search
from vedcore_jax.generation.scores import processed
from vedcore_jax.programs import Cache, Programs, Tensors

__all__ = ["Texts", "begin", "follow", "rows_of", "write_rows"]


class Texts(NamedTuple):
    """Texts as a search leaves them."""

    sequences: Array
    """(N R, M), padded behind their ends."""
    length: Array
    """() of the longest."""
    scores: Array | None
    """(N R,) of beams."""
    spoilt: Array
    """() whether a score was NaN."""


class _State(NamedTuple):
    ids: Array
    length: Array
    cache: Cache
    done: Array
    key: Array
    spoilt: Array


def rows_of(search: Search, prompt: Array, mask: Array, times: int) -> tuple[Array, Array]:
    """Rows (B, M) that begin with the prompts (N, T), ``times`` for each; and False for their padding at the left."""
    room = search.max_length - prompt.shape[1]
    ids = jnp.pad(prompt, ((0, 0), (0, room)), constant_values=search.pad)
    counts = jnp.pad(mask, ((0, 0), (0, room)), constant_values=True)
    return jnp.repeat(ids, times, 0), jnp.repeat(counts, times, 0)


def begin(
    programs: Programs, search: Search, tensors: Tensors, ids: Array, counts: Array, cache: Cache
) -> tuple[Cache, Array]:
    """The cache with all tokens of the prompts but the last, and the position (B, 1) of that.

    The last one goes through `follow`, so that there is one step to compile.
    """
    length = search.prompt_length
    first = programs.positions(tensors, ids[:, :length], counts[:, :length])[:, -1:]
    if length > 1:
        _, cache = programs.step(tensors, ids[:, : length - 1], cache, counts[:, : length - 1], prompt=True)
    return cache, first


def follow(
    programs: Programs, search: Search, tensors: Tensors, ids: Array, cache: Cache, length: Array, first: Array
) -> tuple[dict[str, Array], Cache]:
    """A step with the last of the ``length`` tokens of each row (B, M)."""
    last = lax.dynamic_slice_in_dim(ids, length - 1, 1, 1)
    return programs.step(tensors, last, cache, first=jnp.where(length == search.prompt_length, first, -2))


def write_rows(
    programs: Programs, search: Search, tensors: Tensors, pixel_values: Array, prompt: Array, mask: Array, key: Array
) -> Texts:
    """Texts of images (N, C, H, W) that go on from prompts (N, T), whose mask (N, T) is False for padding."""
    ids, counts = rows_of(search, prompt, mask, search.rows)
    rows = ids.shape[0]
    eos = jnp.array(search.eos, ids.dtype)
    states = programs.encode(tensors, pixel_values)
    cache = programs.cache(tensors, states, rows, search.max_length - 1)
    cache, first = begin(programs, search, tensors, ids, counts, cache)

    def chosen(state: _State, logits: Array) -> _State:
        scores = processed(search, logits.astype(jnp.float32), state.ids, counts, state.length)
        key, drawn = jax.random.split(state.key)
        token = jax.random.categorical(drawn, scores) if search.do_sample else scores.argmax(1)
        spoilt = jnp.isnan(jnp.take_along_axis(scores, token[:, None], 1)[:, 0]) & ~state.done
        token = token.astype(state.ids.dtype)
        if search.eos:
            token = jnp.where(state.done, search.pad, token)
        ids = lax.dynamic_update_slice(state.ids, token[:, None], (0, state.length))
        done = state.done | jnp.isin(token, eos)
        return _State(ids, state.length + 1, state.cache, done, key, state.spoilt | spoilt.any())

    def goes_on(state: _State) -> Array:
        return (state.length < search.max_length) & ~state.done.all()

    def step(state: _State) -> _State:
        out, cache = follow(programs, search, tensors, state.ids, state.cache, state.length, first)
        return chosen(state._replace(cache=cache), out["logits"][:, -1])

    begun = _State(ids, jnp.array(search.prompt_length), cache, jnp.zeros(rows, bool), key, jnp.array(False))
    state = lax.while_loop(goes_on, step, begun)
    return Texts(state.ids, state.length, None, state.spoilt)
