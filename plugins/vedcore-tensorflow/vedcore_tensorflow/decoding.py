"""Greedy search, sampling and beam search, each a loop within one graph of TensorFlow.

Shape letters: N images, B rows of text (N times the rows of each), W beams, K candidates for each image, L tokens so
far, V vocabulary size.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from vedcore_tensorflow.options import Options, processed, warped
from vedcore_tensorflow.programs import Cache, Programs, attended

__all__ = ["generate"]

LOSING = -1.0e9
"""Score of candidates that must lose."""


def generate(
    programs: Programs, options: Options, states: Any, ids: Any, counts: Any, max_length: Any
) -> tuple[Any, Any]:
    """Ids of texts, the prompts first, padded behind their ends; and of beams the score of each text.

    Args:
        programs: the model.
        options: of the call.
        states: (N, S, E) encoder states.
        ids: (N, T) prompts, int64.
        counts: (N, T), False where a prompt is padded at the left.
        max_length: greatest length of a row; a number or a tensor.
    """
    beams = options.config.num_beams
    rows = beams if beams > 1 else options.config.num_return_sequences
    images = tf.shape(ids)[0]
    positions = programs.positions(ids, counts)
    logits, cache = programs.step(ids, positions, attended(counts), programs.start(states, images))
    logits = logits[:, -1]
    positions = tf.reduce_sum(tf.cast(tf.cumsum(tf.cast(counts, ids.dtype), 1) > 0, ids.dtype), 1, keepdims=True)
    if rows > 1:
        cache = Cache(_repeated(cache.past, rows), cache.cross)
        ids, counts, logits, positions = (tf.repeat(each, rows, 0) for each in (ids, counts, logits, positions))
    logits = tf.cast(logits, tf.float32)
    max_length = tf.convert_to_tensor(max_length, tf.int32)
    search = _beams if beams > 1 else _greedy
    return search(programs, options, cache, ids, counts, logits, positions, max_length)


def _repeated(past: dict[str, Any], rows: int) -> dict[str, Any]:
    return {name: tf.repeat(each, rows, 0) for name, each in past.items()}


def _growing(tensors: Any, axis: int) -> Any:
    """Shapes of tensors as they are in a loop that makes them longer."""

    def one(tensor: Any) -> Any:
        return tf.TensorShape([None if i == axis else each for i, each in enumerate(tensor.shape)])

    return tf.nest.map_structure(one, tensors)


def _lifted(counts: Any) -> Any:
    """(B, L) to (B, 1, 1, L); a slice with new axes is not of TensorFlow Lite."""
    return tf.expand_dims(tf.expand_dims(counts, 1), 1)


def _next(programs: Programs, cache: Cache, counts: Any, positions: Any, tokens: Any) -> tuple[Any, Any, Any]:
    """Logits (B, V) after one more token a row, the longer past, and which tokens count."""
    counts = tf.concat([counts, tf.ones_like(tokens, tf.bool)], 1)
    positions = programs.written_positions(tokens, positions)
    logits, cache = programs.step(tokens, positions, _lifted(counts), cache)
    return tf.cast(logits[:, -1], tf.float32), cache.past, counts


def _greedy(
    programs: Programs, options: Options, cache: Cache, ids: Any, counts: Any, logits: Any, positions: Any, most: Any
) -> tuple[Any, Any]:
    seed = options.config.seed

    def chosen(ids: Any, counts: Any, logits: Any) -> Any:
        scores = processed(options, ids, counts, logits, most)
        if not options.config.do_sample:
            return tf.argmax(scores, 1, ids.dtype)
        scores = warped(options, scores)
        if seed is None:
            return tf.random.categorical(scores, 1, dtype=ids.dtype)[:, 0]
        drawn = tf.random.stateless_categorical(scores, 1, [seed % 2**31, tf.shape(ids)[1]], dtype=ids.dtype)
        return drawn[:, 0]

    def add(ids: Any, counts: Any, logits: Any, going: Any) -> tuple[Any, Any]:
        tokens = chosen(ids, counts, logits)
        if options.ids.eos:
            tokens = tf.where(going, tokens, tf.cast(options.padding, ids.dtype))
        return tf.concat([ids, tokens[:, None]], 1), going & ~_is_end(options, tokens)

    def goes_on(ids: Any, counts: Any, positions: Any, going: Any, past: Any) -> Any:
        return (tf.shape(ids)[1] < most) & tf.reduce_any(going)

    def body(ids: Any, counts: Any, positions: Any, going: Any, past: Any) -> Any:
        logits, past, counts = _next(programs, Cache(past, cache.cross), counts, positions, ids[:, -1:])
        ids, going = add(ids, counts, logits, going)
        return ids, counts, positions + 1, going, past

    ids, going = add(ids, counts, logits, tf.ones_like(ids[:, 0], tf.bool))
    state = (ids, counts, positions, going, cache.past)
    shapes = (_growing(ids, 1), _growing(counts, 1), positions.shape, going.shape, _growing(cache.past, 2))
    return tf.while_loop(goes_on, body, state, shapes)[0], None


def _is_end(options: Options, tokens: Any) -> Any:
    found = tf.zeros_like(tokens, tf.bool)
    for end in options.ids.eos:
        found = found | (tokens == end)
    return found


def _beams(
    programs: Programs, options: Options, cache: Cache, ids: Any, counts: Any, logits: Any, positions: Any, most: Any
) -> tuple[Any, Any]:
    """As `vedcore`'s: candidates enough that all beams can go on; only the best W may end."""
    config, beams, vocab_size = options.config, options.config.num_beams, programs.graphs.vocab_size
    count = max(2, 1 + len(options.ids.eos)) * beams
    images, prompt = tf.shape(ids)[0] // beams, tf.shape(ids)[1]
    patient = config.early_stopping == "never" and config.length_penalty > 0
    fill = tf.cast(options.padding, ids.dtype)

    def scaled(score: Any, length: Any) -> Any:
        return score / tf.cast(length, tf.float32) ** config.length_penalty

    def choose(ids: Any, counts: Any, logits: Any, running: Any, going: Any, best: Any) -> Any:
        """One more token for each beam: ids (B, L + 1), the row that each continues, scores, ended texts."""
        texts, lengths, scores = best  # (N, W, L), (N, W) new tokens, (N, W)
        length = tf.shape(ids)[1] + 1
        step = length - prompt
        log_probs = processed(options, ids, counts, tf.nn.log_softmax(logits), most)
        total = tf.reshape(log_probs, [-1, beams, vocab_size]) + running[:, :, None]
        score, cell = tf.math.top_k(tf.reshape(total, [-1, beams * vocab_size]), count)  # (N, K)
        beam, token = cell // vocab_size, tf.cast(cell % vocab_size, ids.dtype)
        ended = _is_end(options, token)
        running, live = tf.math.top_k(tf.where(ended, score + LOSING, score), beams)
        before = tf.reshape(ids, [-1, beams, length - 1])
        written = tf.concat([tf.gather(before, beam, batch_dims=1), token[:, :, None]], 2)  # (N, K, L + 1)
        over = tf.reduce_all(ended)
        ended = ended | (length == most)
        complete = ended & (tf.range(count) < beams)[None] & going
        given = scaled(score, step)
        scores, order = tf.math.top_k(tf.concat([scores, tf.where(complete, given, given + LOSING)], 1), beams)
        texts = tf.concat([tf.pad(texts, [[0, 0], [0, 0], [0, 1]], constant_values=fill), written], 1)
        texts = tf.gather(texts, order, batch_dims=1)
        new = tf.where(complete, step, 0)
        lengths = tf.gather(tf.concat([lengths, new], 1), order, batch_dims=1)
        there = lengths > 0
        worst = tf.where(there, tf.reduce_min(scores, 1, keepdims=True), LOSING)
        reach = scaled(tf.reduce_max(running, 1, keepdims=True), most - prompt if patient else step)
        going = going & tf.reduce_any(reach > worst, 1, keepdims=True) & ~over
        if config.early_stopping is True:
            going = going & ~tf.reduce_all(there, 1, keepdims=True)
        ids = tf.reshape(tf.gather(written, live, batch_dims=1), [-1, length])
        rows = tf.range(images)[:, None] * beams + tf.gather(beam, live, batch_dims=1)
        return ids, tf.reshape(rows, [-1]), running, going, (texts, lengths, scores)

    def goes_on(ids: Any, counts: Any, positions: Any, running: Any, going: Any, best: Any, past: Any) -> Any:
        return (tf.shape(ids)[1] < most) & tf.reduce_any(going)

    def body(ids: Any, counts: Any, positions: Any, running: Any, going: Any, best: Any, past: Any) -> Any:
        logits, past, counts = _next(programs, Cache(past, cache.cross), counts, positions, ids[:, -1:])
        ids, rows, running, going, best = choose(ids, counts, logits, running, going, best)
        past = {name: tf.gather(each, rows) for name, each in past.items()}
        return ids, counts, positions + 1, running, going, best, past

    first = tf.tile(tf.constant([[0.0] + [LOSING] * (beams - 1)]), [images, 1])
    none = tf.reshape(ids, [-1, beams, prompt]), tf.zeros([images, beams], tf.int32), tf.fill([images, beams], LOSING)
    going = tf.ones([images, 1], tf.bool)
    ids, _, running, going, best = choose(ids, counts, logits, first, going, none)  # all beams are the same so far
    state = (ids, counts, positions, running, going, best, cache.past)
    kept = [each.shape for each in (positions, running, going)]
    shapes = (_growing(ids, 1), _growing(counts, 1), *kept, (_growing(best[0], 2), *(each.shape for each in best[1:])))
    *_, best, _ = tf.while_loop(goes_on, body, state, (*shapes, _growing(cache.past, 2)))
    texts, lengths, scores = (each[:, : config.num_return_sequences] for each in best)
    end = prompt + tf.reduce_max(lengths)
    return tf.reshape(texts[:, :, :end], [-1, end]), tf.reshape(scores, [-1])
