"""Checks of text decoders: what the scores of a token depend on, and what is masked.

Shape letters: N images, B rows of text, T tokens, L tokens so far, S encoder tokens, V vocabulary size, H heads.
"""

from __future__ import annotations

import torch

from vedcore.testing.calls import logits, padded_image_mask, padded_texts, start
from vedcore.testing.cases import Case
from vedcore.testing.checks import SAME, check, each_differs, same

__all__: list[str] = []


@check("decoder")
@torch.no_grad()
def image_changes_every_token(case: Case) -> None:
    """Another image changes the scores at every token: in one call, and in each step of the same text with a cache."""
    decoder = case.build()
    ids, states = case.ids(decoder), case.states(decoder)
    other = case.states(decoder, draw=1)
    each_differs("other logits for another image", logits(decoder, ids, states), logits(decoder, ids, other), 2)
    text = ids[:1].expand(2, -1)
    for at in range(1, ids.shape[1]):
        cache, _ = start(decoder, text[:, :at], states)
        cache.select(
            torch.tensor([0, 0]), torch.tensor([0, 1])
        )  # one row's tokens and keys, and the keys of each image
        step = logits(decoder, text[:, at : at + 1], past_key_values=cache)
        each_differs(f"other logits for another image in the step of token {at}", step[:1], step[1:], 2)


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
def left_padding_is_masked(case: Case) -> None:
    """A text with masked padding before it has the scores that it has alone."""
    _check_padding(case, "left")


@check("decoder")
@torch.no_grad()
def right_padding_is_masked(case: Case) -> None:
    """A text with masked padding behind it has the scores that it has alone."""
    _check_padding(case, "right")


@check("decoder")
@torch.no_grad()
def image_padding_is_masked(case: Case) -> None:
    """Masked encoder tokens are as if they were not there, whatever they hold."""
    decoder = case.build()
    ids, states = case.ids(decoder), case.states(decoder)
    mask = padded_image_mask(states)
    states[~mask] = 30.0
    came = logits(decoder, ids, states, encoder_attention_mask=mask)
    for row in range(2):
        alone = logits(decoder, ids[row : row + 1], states[row : row + 1, mask[row]])
        same("the logits of the image without its padding", alone, came[row : row + 1])


def _check_padding(case: Case, side: str) -> None:
    decoder = case.build()
    ids, states = case.ids(decoder), case.states(decoder)
    padded, mask, seen = padded_texts(case, decoder, side)
    came = logits(decoder, padded, states, attention_mask=mask)
    same("the logits of the row without padding", logits(decoder, ids[:1], states[:1])[0], came[0])
    count = int(seen[1].sum())
    alone = logits(decoder, ids[1:, :count], states[1:])[0]
    same("the logits of the text without its padding", alone, came[1][seen[1]])
