"""The options of ``generate`` that are here, and how scores change by them. Nothing here imports torch.

Shape letters: B rows of text, L tokens so far, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from vedcore import GenerationConfig, TokenIds, UsageError
from vedcore.config import token_id_tuple
from vedcore.export import Graphs

__all__ = ["Options", "options_for", "processed", "warped"]

HERE = {
    "max_new_tokens",
    "max_length",
    "min_new_tokens",
    "min_length",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "seed",
    "num_beams",
    "early_stopping",
    "length_penalty",
    "num_return_sequences",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "use_cache",
    "return_dict_in_generate",
}
"""Options of `vedcore.GenerationConfig`; the others are refused."""
LOWEST = -float("inf")


@dataclass(frozen=True)
class Options:
    """The settings of a call of ``generate``."""

    config: GenerationConfig
    ids: TokenIds
    min_length: int
    """Tokens before which no row ends, prompt included."""
    prompt_length: int

    @property
    def padding(self) -> int:
        """Fills the rows behind their ends, as in `vedcore`."""
        ends = self.ids.eos if self.config.num_beams > 1 else ()
        return self.ids.pad or (ends[0] if ends else 0)


def options_for(config: GenerationConfig, graphs: Graphs, prompt_length: int, **given: Any) -> tuple[Options, int]:
    """The options of a call, and the greatest length of a row.

    Args:
        config: the model's own.
        graphs: of the model.
        prompt_length: tokens of a prompt.
        given: those of the call.

    Raises:
        UsageError: an option that is not here, or that contradicts another.
    """
    config = config.with_options(**given)
    for name in type(config).model_fields:
        if name not in HERE and config.asks_for(name):
            hint = "leave it out, or generate with the model in torch"
            raise UsageError("an option that vedcore-tensorflow lacks", field=name, hint=hint)
    if config.do_sample and config.num_beams > 1:
        hint = "pass num_beams=1, or do_sample=False"
        raise UsageError("beams are not drawn by vedcore-tensorflow", field="do_sample", hint=hint)
    own = graphs.token_ids
    ids = config.token_ids(TokenIds(start=own["start"], eos=tuple(own["eos"]), pad=own["pad"]), graphs.vocab_size)
    limits = config.limits(prompt_length, graphs.max_positions)
    return Options(config, ids, limits.min_length, prompt_length), limits.max_length


def processed(options: Options, ids: Any, counts: Any, scores: Any, max_length: Any) -> Any:
    """(B, V) scores after the processors that are asked for, in transformers' order.

    Args:
        options: of the call.
        ids: (B, L) rows so far.
        counts: (B, L), False for the padding of prompts.
        scores: (B, V) logits or log-probabilities of the next tokens.
        max_length: greatest length of a row.
    """
    config, length, vocab_size = options.config, tf.shape(ids)[1], scores.shape[1]
    if config.repetition_penalty != 1.0:
        held = _marked(tf.where(counts, ids, tf.cast(vocab_size, ids.dtype)), vocab_size)
        penalty = tf.cast(config.repetition_penalty, scores.dtype)
        scores = tf.where(held, tf.where(scores < 0, scores * penalty, scores / penalty), scores)
    if config.no_repeat_ngram_size:
        scores = tf.where(_repeated(ids, config.no_repeat_ngram_size, vocab_size), LOWEST, scores)
    for word in config.bad_words_ids:
        if len(word) > 1 or word[0] not in options.ids.eos:
            before = tf.equal(_last(ids, len(word) - 1), tf.constant(word[:-1], ids.dtype))
            forbidden = tf.reduce_all(before, 1)[:, None] & _one_of(word[-1:], vocab_size)
            scores = tf.where(forbidden, LOWEST, scores)
    if options.min_length and options.ids.eos:
        scores = tf.where(_one_of(options.ids.eos, vocab_size) & (length < options.min_length), LOWEST, scores)
    if config.forced_bos_token_id is not None:
        scores = _forced(scores, (config.forced_bos_token_id,), length == 1)
    if forced := token_id_tuple(config.forced_eos_token_id):
        scores = _forced(scores, forced, length == max_length - 1)
    if config.suppress_tokens:
        scores = tf.where(_one_of(config.suppress_tokens, vocab_size), LOWEST, scores)
    if config.begin_suppress_tokens:
        begin = options.prompt_length + (config.forced_bos_token_id is not None and options.prompt_length == 1)
        scores = tf.where(_one_of(config.begin_suppress_tokens, vocab_size) & (length == begin), LOWEST, scores)
    return scores


def warped(options: Options, scores: Any) -> Any:
    """(B, V) scores as tokens are drawn from them."""
    config = options.config
    if config.temperature != 1.0:
        scores = scores / config.temperature
    if config.top_k:
        least = tf.math.top_k(scores, min(config.top_k, scores.shape[1])).values[:, -1:]
        scores = tf.where(scores < least, LOWEST, scores)
    if config.top_p < 1.0:
        descending = tf.sort(scores, direction="DESCENDING")
        share = tf.cumsum(tf.nn.softmax(descending), 1, exclusive=True)  # of those before
        kept = tf.maximum(tf.reduce_sum(tf.cast(share < config.top_p, tf.int32), 1), 1)
        least = tf.gather(descending, kept - 1, batch_dims=1)[:, None]
        scores = tf.where(scores < least, LOWEST, scores)
    return scores


def _one_of(tokens: Sequence[int], vocab_size: int) -> Any:
    """(1, V), True for some tokens."""
    return tf.constant([[token in set(tokens) for token in range(vocab_size)]])


def _forced(scores: Any, tokens: Sequence[int], here: Any) -> Any:
    only = tf.where(_one_of(tokens, scores.shape[1]), tf.zeros((), scores.dtype), LOWEST)
    return tf.where(here, only, scores)


def _marked(ids: Any, vocab_size: int) -> Any:
    """(B, V), True for the ids (B, L) of a row; one of V marks nothing."""
    rows, length = tf.shape(ids)[0], tf.shape(ids)[1]
    row = tf.repeat(tf.range(rows, dtype=ids.dtype), length)
    places = tf.stack([row, tf.reshape(ids, [-1])], 1)
    marks = tf.zeros([rows, vocab_size + 1], tf.int32)
    return tf.tensor_scatter_nd_update(marks, places, tf.ones([rows * length], tf.int32))[:, :vocab_size] > 0


def _last(ids: Any, count: int) -> Any:
    """(B, count) last ids of each row, -1 where it is shorter."""
    padded = tf.pad(ids, [[0, 0], [count, 0]], constant_values=-1)
    return padded[:, tf.shape(padded)[1] - count :]


def _repeated(ids: Any, size: int, vocab_size: int) -> Any:
    """(B, V), True for tokens that would complete a run of ``size`` which the row (B, L) holds."""
    padded, length = tf.pad(ids, [[0, 0], [size - 1, 0]], constant_values=-1), tf.shape(ids)[1]
    windows = tf.stack(
        [padded[:, i : i + length] for i in range(size)], 2
    )  # (B, L, size), each run that ends at a token
    ending = _last(ids, size - 1)[:, None]
    same = tf.reduce_all(tf.equal(windows[:, :, :-1], ending) & (ending >= 0), 2)
    return _marked(tf.where(same, windows[:, :, -1], tf.cast(vocab_size, ids.dtype)), vocab_size)
