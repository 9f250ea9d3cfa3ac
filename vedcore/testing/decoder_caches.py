"""Checks of text decoders: steps with a cache, rows that share an image, reordering.

Shape letters: N images, B rows of text, T tokens, L tokens so far, S encoder tokens, V vocabulary size, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vedcore.testing.calls import logits, padded_image_mask, padded_texts, start
from vedcore.testing.cases import Case
from vedcore.testing.checks import NotApplicable, check, fail, same

__all__: list[str] = []


@check("decoder")
@torch.no_grad()
def steps_of_one_token_are_as_one_call(case: Case) -> None:
    """With a cache and one token a call the scores are those of one call, where the states come once or each time."""
    decoder = case.build()
    ids, states = case.ids(decoder), case.states(decoder)
    whole, count = logits(decoder, ids, states), ids.shape[1]
    for chunks in ([1] * count, [count - 2, 1, 1]):
        for again in (False, True):
            came = _in_chunks(decoder, ids, states, chunks, again=again)
            same(f"the logits of one call after calls of {chunks} tokens", whole, came)


@check("decoder")
@torch.no_grad()
def steps_of_several_tokens_are_as_one_call(case: Case) -> None:
    """With a cache and several tokens a call the scores are those of one call."""
    decoder = case.build()
    ids, states = case.ids(decoder), case.states(decoder)
    whole, count = logits(decoder, ids, states), ids.shape[1]
    for chunks in ([2] * (count // 2) + [1] * (count % 2), [3, count - 3]):
        same(f"the logits of one call after calls of {chunks} tokens", whole, _in_chunks(decoder, ids, states, chunks))


@check("decoder")
@torch.no_grad()
def steps_with_padding_are_as_one_call(case: Case) -> None:
    """With a cache, padding at the left and a mask of the image, the scores of real tokens are those of one call."""
    decoder = case.build()
    ids, mask, seen = padded_texts(case, decoder, "left")
    states, image_mask = case.states(decoder), padded_image_mask(case.states(decoder))
    whole = logits(decoder, ids, states, attention_mask=mask, encoder_attention_mask=image_mask)
    came = _in_chunks(decoder, ids, states, [2, *[1] * (ids.shape[1] - 2)], mask=mask, image_mask=image_mask)
    same("the logits of one call", whole[seen], came[seen])


@check("decoder")
@torch.no_grad()
def rows_of_an_image_share_its_states(case: Case) -> None:
    """Three texts an image, adjacent, have the scores that they have with a copy of its states each."""
    decoder = case.build()
    ids, states = case.ids(decoder, 6), case.states(decoder)
    mask = padded_image_mask(states)
    copies, copied = states.repeat_interleave(3, 0), mask.repeat_interleave(3, 0)
    whole = logits(decoder, ids, copies, encoder_attention_mask=copied)
    came = logits(decoder, ids, states, encoder_attention_mask=mask)
    same("the logits of rows with a copy of the states each", whole, came)
    stepped = _in_chunks(decoder, ids, states, [3, *[1] * (ids.shape[1] - 3)], image_mask=mask)
    same("the same in steps", whole, stepped)


@check("decoder")
@torch.no_grad()
def reordered_rows_continue_as_others(case: Case) -> None:
    """After ``reorder`` of the cache each row continues the row that the index names: of beams, and of more rows."""
    decoder = case.build()
    ids, states, last = case.ids(decoder, 4), case.states(decoder), case.ids(decoder, 4, draw=1)[:, :2]
    for order, rows in (([1, 0, 3, 3], 4), ([0, 0, 1, 1], 2)):
        index = torch.tensor(order)
        cache, _ = start(decoder, ids[:rows], states)
        cache.reorder(index)
        parts = [logits(decoder, last[:, at : at + 1], past_key_values=cache) for at in range(2)]
        whole = logits(decoder, torch.cat([ids[index], last], 1), states)[:, -2:] if _fits(decoder, ids, 2) else None
        if whole is None:
            raise NotApplicable("it has too few positions")
        same(f"the logits of rows in the order {order}", whole, torch.cat(parts, 1))


@check("decoder")
@torch.no_grad()
def selected_rows_go_on_alone(case: Case) -> None:
    """After ``select`` of the cache the rows and images that are kept continue as in the whole batch."""
    decoder = case.build()
    ids, states = case.ids(decoder, 4), case.states(decoder)
    mask = padded_image_mask(states)
    whole = logits(decoder, ids, states, encoder_attention_mask=mask)[2:, -1:]
    cache, _ = start(decoder, ids[:, :-1], states, encoder_attention_mask=mask)
    cache.select(torch.tensor([2, 3]), torch.tensor([1]))
    same("the logits of the batch", whole, logits(decoder, ids[2:, -1:], past_key_values=cache))


@check("decoder")
@torch.no_grad()
def cropped_cache_goes_on_from_there(case: Case) -> None:
    """After ``crop`` of the cache the text continues from its first tokens, as assisted decoding needs it."""
    decoder = case.build()
    ids, states = case.ids(decoder), case.states(decoder)
    whole = logits(decoder, ids, states)
    cache, _ = start(decoder, torch.cat([ids[:, :3], case.other_ids(decoder, ids)[:, 3:]], 1), states)
    cache.crop(3)
    if cache.length != 3:
        fail("a cache of length 3", str(cache.length))
    same("the logits of the text", whole[:, 3:], logits(decoder, ids[:, 3:], past_key_values=cache))


@check("decoder")
@torch.no_grad()
def cache_is_given_when_asked_for(case: Case) -> None:
    """A cache comes with ``use_cache=True``, holds as many tokens and rows as were given, and does not come unasked."""
    decoder = case.build()
    ids, states = case.ids(decoder), case.states(decoder)
    if decoder(input_ids=ids, encoder_hidden_states=states).past_key_values is not None:
        fail("no cache unasked", "one")
    cache = decoder(input_ids=ids[:, :-1], encoder_hidden_states=states, use_cache=True).past_key_values
    if cache is None:
        fail("a cache with use_cache=True", "None")
    if (cache.length, cache.rows) != (ids.shape[1] - 1, 2):
        fail(f"a cache of {ids.shape[1] - 1} tokens and 2 rows", f"{cache.length} tokens and {cache.rows} rows")
    step = logits(decoder, ids[:, -1:], past_key_values=cache)
    same("the logits of one call", logits(decoder, ids, states)[:, -1:], step)


@check("decoder")
@torch.no_grad()
def last_logits_alone_are_the_last(case: Case) -> None:
    """``last_logits_only=True`` gives the last scores of all, (B, 1, V)."""
    decoder = case.build()
    ids, states = case.ids(decoder), case.states(decoder)
    same("the last logits", logits(decoder, ids, states)[:, -1:], logits(decoder, ids, states, last_logits_only=True))


def _in_chunks(
    decoder: Any,
    ids: Tensor,
    states: Tensor,
    chunks: Sequence[int],
    *,
    again: bool = False,
    mask: Tensor | None = None,
    image_mask: Tensor | None = None,
) -> Tensor:
    """The logits of calls of so many tokens each, with one cache; the states come first, or ``again`` each time."""
    cache, seen, parts = decoder.make_cache(), 0, []
    for count in chunks:
        given: dict[str, Any] = {}
        if again or not seen:
            given = {"states": states, "encoder_attention_mask": image_mask}
        if mask is not None:
            given["attention_mask"] = mask[:, : seen + count]
        parts.append(logits(decoder, ids[:, seen : seen + count], past_key_values=cache, **given))
        seen += count
    return torch.cat(parts, 1)


def _fits(decoder: Any, ids: Tensor, more: int) -> bool:
    return decoder.max_positions is None or ids.shape[1] + more <= decoder.max_positions
