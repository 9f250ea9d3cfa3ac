"""Checks of text decoders.

Shape letters: N images, B rows of text, T tokens, L tokens so far, S encoder tokens, V vocabulary size, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vedcore.errors import VedcoreError
from vedcore.testing.any_part import dead_parameters
from vedcore.testing.calls import logits
from vedcore.testing.cases import Case, pad_of
from vedcore.testing.checks import (
    SAME,
    NotApplicable,
    all_finite,
    check,
    each_differs,
    fail,
    same,
)

__all__: list[str] = []

GROWN = 7
"""Token ids by which the vocabulary grows when it is resized."""


@check("decoder")
@torch.no_grad()
def vocabulary_is_published(case: Case) -> None:
    """``vocab_size`` is the number of scores of a token, and of the rows of the token embedding."""
    decoder = case.build()
    ids = case.ids(decoder)
    expected = (*ids.shape, decoder.vocab_size)
    came = tuple(logits(decoder, ids, case.states(decoder)).shape)
    if came != expected:
        fail(f"logits of {expected}, as vocab_size says", str(came))
    rows = decoder.get_input_embeddings().weight.shape[0]
    if rows != decoder.vocab_size:
        fail(f"a token embedding of {decoder.vocab_size} rows, as vocab_size says", str(rows))


@check("decoder")
@torch.no_grad()
def width_of_the_image_is_published(case: Case) -> None:
    """Encoder states of ``cross_attention_size`` are taken, in any number, and those of another width refused."""
    decoder = case.build()
    ids = case.ids(decoder)
    for tokens in (1, 2, 50):
        all_finite(f"logits for {tokens} encoder tokens", logits(decoder, ids, case.states(decoder, 2, tokens)))
    narrow = case.states(decoder)[..., 1:]
    try:
        logits(decoder, ids, narrow)
    except VedcoreError:
        return
    except Exception as error:
        fail("an error of vedcore for encoder states of another width", type(error).__name__)
    fail("encoder states of another width to be refused", "logits")


@check("decoder")
@torch.no_grad()
def image_changes_every_token(case: Case) -> None:
    """Another image changes the scores at every token: in one call, and in each step of the same text with a cache."""
    decoder = case.build()
    ids, states = case.ids(decoder), case.states(decoder)
    other = case.states(decoder, draw=1)
    each_differs("other logits for another image", logits(decoder, ids, states), logits(decoder, ids, other), 2)
    text = ids[:1].expand(2, -1)  # the same tokens before, and the keys of either image: nothing else may tell them
    for at in range(1, ids.shape[1]):
        steps = []
        for image in (0, 1):
            cache, _ = _start(decoder, text[:, :at], states)
            cache.select(torch.tensor([0]), torch.tensor([image]))
            steps.append(logits(decoder, text[:1, at : at + 1], past_key_values=cache))
        each_differs(f"other logits for another image in the step of token {at}", steps[0], steps[1], 2)


@check("decoder")
@torch.no_grad()
def later_tokens_change_nothing_before(case: Case) -> None:
    """The scores at a token depend on it and on the tokens before it, and on none after it."""
    decoder = case.build()
    ids, states = case.ids(decoder), case.states(decoder)
    other = case.other_ids(decoder, ids)
    before = logits(decoder, ids, states)
    for at in range(1, ids.shape[1]):
        after = logits(decoder, torch.cat([ids[:, :at], other[:, at:]], 1), states)
        same(f"the same logits before token {at}, where the text changes", before[:, :at], after[:, :at], SAME)
    each_differs("other logits at another token", before, logits(decoder, other, states), 2)


@check("decoder")
@torch.no_grad()
def first_token_changes_those_after(case: Case) -> None:
    """The scores at a token depend on the first token."""
    decoder = case.build()
    ids, states = case.ids(decoder), case.states(decoder)
    first = torch.cat([case.other_ids(decoder, ids[:, :1]), ids[:, 1:]], 1)
    before = logits(decoder, ids, states)
    each_differs("other logits after another token", before[:, 1:], logits(decoder, first, states)[:, 1:], 2)


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
    ids, mask, seen = _padded(case, decoder, "left")
    states, image_mask = case.states(decoder), _image_mask(case.states(decoder))
    whole = logits(decoder, ids, states, attention_mask=mask, encoder_attention_mask=image_mask)
    came = _in_chunks(decoder, ids, states, [2, *[1] * (ids.shape[1] - 2)], mask=mask, image_mask=image_mask)
    same("the logits of one call", whole[seen], came[seen])


@check("decoder")
@torch.no_grad()
def padding_at_the_left_counts_for_nothing(case: Case) -> None:
    """A text with masked padding before it has the scores that it has alone."""
    _check_padding(case, "left")


@check("decoder")
@torch.no_grad()
def padding_at_the_right_counts_for_nothing(case: Case) -> None:
    """A text with masked padding behind it has the scores that it has alone."""
    _check_padding(case, "right")


@check("decoder")
@torch.no_grad()
def padding_of_an_image_counts_for_nothing(case: Case) -> None:
    """Masked encoder tokens are as if they were not there, whatever they hold."""
    decoder = case.build()
    ids, states = case.ids(decoder), case.states(decoder)
    mask = _image_mask(states)
    states[~mask] = 30.0
    came = logits(decoder, ids, states, encoder_attention_mask=mask)
    for row in range(2):
        alone = logits(decoder, ids[row : row + 1], states[row : row + 1, mask[row]])
        same("the logits of the image without its padding", alone, came[row : row + 1])


@check("decoder")
@torch.no_grad()
def rows_of_an_image_share_its_states(case: Case) -> None:
    """Three texts an image, adjacent, have the scores that they have with a copy of its states each."""
    decoder = case.build()
    ids, states = case.ids(decoder, 6), case.states(decoder)
    mask = _image_mask(states)
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
        cache, _ = _start(decoder, ids[:rows], states)
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
    mask = _image_mask(states)
    whole = logits(decoder, ids, states, encoder_attention_mask=mask)[2:, -1:]
    cache, _ = _start(decoder, ids[:, :-1], states, encoder_attention_mask=mask)
    cache.select(torch.tensor([2, 3]), torch.tensor([1]))
    same("the logits of the batch", whole, logits(decoder, ids[2:, -1:], past_key_values=cache))


@check("decoder")
@torch.no_grad()
def cropped_cache_goes_on_from_there(case: Case) -> None:
    """After ``crop`` of the cache the text continues from its first tokens, as assisted decoding needs it."""
    decoder = case.build()
    ids, states = case.ids(decoder), case.states(decoder)
    whole = logits(decoder, ids, states)
    cache, _ = _start(decoder, torch.cat([ids[:, :3], case.other_ids(decoder, ids)[:, 3:]], 1), states)
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


@check("decoder")
@torch.no_grad()
def embeddings_stand_for_ids(case: Case) -> None:
    """``inputs_embeds`` of ``embed_tokens`` give the scores of the ids."""
    decoder = case.build()
    ids, states = case.ids(decoder), case.states(decoder)
    given = decoder.embed_tokens(ids)
    came = decoder(inputs_embeds=given, encoder_hidden_states=states).logits
    same("the logits of the ids", logits(decoder, ids, states), came)


@check("decoder")
@torch.no_grad()
def records_of_layers_are_given_when_asked_for(case: Case) -> None:
    """Hidden states and attentions come when they are asked for, in the shapes of the contract, and change nothing."""
    decoder = case.build()
    ids, states = case.ids(decoder), case.states(decoder)
    plain = decoder(input_ids=ids, encoder_hidden_states=states)
    asked = decoder(input_ids=ids, encoder_hidden_states=states, output_attentions=True, output_hidden_states=True)
    (rows, tokens), heads = ids.shape, decoder.num_attention_heads
    shapes = {
        "hidden_states": (rows, tokens, decoder.hidden_size),
        "attentions": (rows, heads, tokens, tokens),
        "cross_attentions": (rows, heads, tokens, states.shape[1]),
    }
    for name, shape in shapes.items():
        if getattr(plain, name) is not None:
            fail(f"no {name} unasked", f"{len(getattr(plain, name))}")
        if name == "attentions" and not getattr(decoder, "records_attention", True):
            continue  # as the decoder declares
        records = getattr(asked, name)
        if not isinstance(records, tuple) or not records:
            fail(f"{name} as a tuple of tensors", type(records).__name__)
        for record in records:
            if tuple(record.shape) != shape:
                fail(f"each of {name} as {shape}", str(tuple(record.shape)))
            if name != "hidden_states":
                same(f"rows of {name} that sum to 1", torch.ones(shape[:-1]), record.sum(-1))
    same("the logits of a call that asks for neither", plain.logits, asked.logits)


@check("decoder")
@torch.no_grad()
def texts_that_do_not_fit_are_refused(case: Case) -> None:
    """Ids outside the vocabulary and more tokens than positions raise an error of vedcore."""
    decoder = case.build()
    ids, states = case.ids(decoder), case.states(decoder)
    wrong = {"an id outside the vocabulary": ids.clone(), "a negative id": ids.clone()}
    wrong["an id outside the vocabulary"][0, 0] = decoder.vocab_size
    wrong["a negative id"][0, 0] = -1
    if decoder.max_positions is not None:
        few = ids[:1, :1].expand(2, decoder.max_positions + 1)
        wrong[f"{decoder.max_positions + 1} tokens for max_positions {decoder.max_positions}"] = few
    for what, text in wrong.items():
        try:
            logits(decoder, text, states)
            came = "logits"
        except VedcoreError:
            continue
        except Exception as error:
            came = type(error).__name__
        fail(f"an error of vedcore for {what}", came)


@check("decoder")
@torch.no_grad()
def every_position_is_taken(case: Case) -> None:
    """A text as long as ``max_positions`` has finite scores."""
    decoder = case.build()
    if decoder.max_positions is None:
        raise NotApplicable("a text may have any number of tokens")
    ids = case.ids(decoder, 1, 1).expand(1, decoder.max_positions)
    all_finite(f"logits for {decoder.max_positions} tokens", logits(decoder, ids, case.states(decoder, 1)))


@check("decoder")
@torch.no_grad()
def resizing_keeps_the_scores(case: Case) -> None:
    """A vocabulary that grows or shrinks keeps the scores of the ids that stay, and its ties; new ones are finite."""
    for step in (GROWN, -GROWN):
        decoder = case.build()
        size = decoder.vocab_size + step
        ids, states = case.ids(decoder) % size, case.states(decoder)
        before, tied = logits(decoder, ids, states), _is_tied(decoder)
        decoder.resize_token_embeddings(size)
        after, kept = logits(decoder, ids, states), min(size, before.shape[-1])
        if decoder.vocab_size != size or after.shape[-1] != size:
            fail(f"{size} scores and vocab_size {size}", f"{after.shape[-1]} and {decoder.vocab_size}")
        if decoder.config.vocab_size != size:
            fail(f"a config of vocab_size {size}", str(decoder.config.vocab_size))
        same("the scores of the ids that stay", before[..., :kept], after[..., :kept], SAME)
        all_finite("scores of new ids", after)
        if _is_tied(decoder) != tied:
            fail("the output layer tied as before", "untied" if tied else "tied")


@check("decoder")
def ties_hold(case: Case) -> None:
    """The output layer is the embedding where the config says so, also in another type, and once it is loaded."""
    decoder = case.build()
    said = bool(getattr(decoder.config, "tie_word_embeddings", _is_tied(decoder)))
    for when in ("as built", "in float64", "loaded"):
        if when == "in float64":
            decoder = decoder.to(torch.float64)
        elif when == "loaded":
            decoder.load_state_dict({n: t.clone() for n, t in decoder.state_dict().items()})
        if _is_tied(decoder) != said:
            fail(f"tie_word_embeddings {said} to hold {when}", "untied" if said else "tied")


@check("decoder")
def fresh_parameters_are_those_of_the_image(case: Case) -> None:
    """``fresh_parameters`` names those, and all those, that a text without an image does not reach."""
    decoder = case.build()
    names = dict(decoder.named_parameters())
    fresh = decoder.fresh_parameters()
    unknown = sorted(fresh - names.keys())
    if unknown:
        fail("names of parameters", ", ".join(unknown[:3]))
    ids = case.ids(decoder)
    try:
        out = logits(decoder, ids)
    except VedcoreError:
        raise NotApplicable("it reads no text without an image") from None
    if not out.requires_grad:
        raise NotApplicable("none of its parameters is trained")
    (out * torch.randn_like(out)).sum().backward()  # type: ignore[no-untyped-call]
    unreached = {n for n, p in names.items() if p.requires_grad and p.grad is None}
    reached = sorted(n for n in fresh if names[n].requires_grad and n not in unreached)
    if reached:
        fail("no fresh parameter to be one that a text alone trains", ", ".join(reached[:3]))
    left = sorted(unreached - fresh - set(dead_parameters(case)))
    if left:
        fail("every parameter of the image to be fresh", f"not among them: {', '.join(left[:3])}")


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


def _start(decoder: Any, ids: Tensor, states: Tensor, **given: Any) -> tuple[Any, Tensor]:
    """A cache of the texts, and their logits."""
    cache = decoder.make_cache()
    return cache, logits(decoder, ids, states, past_key_values=cache, **given)


def _check_padding(case: Case, side: str) -> None:
    decoder = case.build()
    ids, states = case.ids(decoder), case.states(decoder)
    padded, mask, seen = _padded(case, decoder, side)
    came = logits(decoder, padded, states, attention_mask=mask)
    same("the logits of the row without padding", logits(decoder, ids[:1], states[:1])[0], came[0])
    count = int(seen[1].sum())
    alone = logits(decoder, ids[1:, :count], states[1:])[0]
    same("the logits of the text without its padding", alone, came[1][seen[1]])


def _padded(case: Case, decoder: Any, side: str) -> tuple[Tensor, Tensor, Tensor]:
    """Texts (2, T) of which the second has 3 tokens of padding, its mask as integers and as bool."""
    ids = case.ids(decoder)
    padded, seen = ids.clone(), torch.ones(ids.shape, dtype=torch.bool)
    count = ids.shape[1] - 3
    place = slice(None, 3) if side == "left" else slice(count, None)
    text = slice(3, None) if side == "left" else slice(None, count)
    padded[1, text], padded[1, place], seen[1, place] = ids[1, :count], pad_of(decoder), False
    return padded, seen.long(), seen


def _image_mask(states: Tensor) -> Tensor:
    """(N, S) bool: the second image has padding, in the middle and at the end."""
    mask = torch.ones(states.shape[:2], dtype=torch.bool)
    mask[1, 2] = mask[1, 4:] = False
    return mask


def _fits(decoder: Any, ids: Tensor, more: int) -> bool:
    return decoder.max_positions is None or ids.shape[1] + more <= decoder.max_positions


def _is_tied(decoder: Any) -> bool:
    return decoder.get_output_embeddings().weight is decoder.get_input_embeddings().weight
