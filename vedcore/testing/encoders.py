"""Checks of vision encoders.

Shape letters: N images, C channels, H x W pixels, S tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from vedcore.errors import VedcoreError
from vedcore.testing.calls import states_of
from vedcore.testing.cases import Case, seeded
from vedcore.testing.checks import NotApplicable, all_finite, check, fail, same

__all__: list[str] = []

Size = tuple[int, int]


def _sizes(encoder: Any) -> list[Size]:
    """Sizes of images that an encoder may take: its own, rectangles, and one that patches do not cover."""
    height, width = encoder.preprocessing.image_size
    return [
        (height, width),
        (2 * height, width),
        (height, 2 * width),
        (2 * height, 2 * width),
        (height + 5, width + 3),
    ]


def _rebuilt(case: Case, encoder: Any) -> Iterator[tuple[Any, Size]]:
    """Encoders of the same settings for images of each size that their config takes."""
    config: Any = getattr(encoder, "config", None)
    if "image_size" not in getattr(type(config), "model_fields", {}):
        return
    for size in _sizes(encoder)[1:]:
        try:
            with seeded(case.seed):
                yield type(encoder)(config.changed(image_size=size)).eval(), size
        except VedcoreError:
            continue


@check("encoder")
@torch.no_grad()
def width_is_published(case: Case) -> None:
    """``hidden_size`` is the width of the states."""
    encoder = case.build()
    out = states_of(encoder, case.images(encoder))
    if out.ndim != 3 or out.shape[-1] != encoder.hidden_size:
        fail(f"states of (N, S, {encoder.hidden_size}), as hidden_size says", str(tuple(out.shape)))


@check("encoder")
@torch.no_grad()
def number_of_tokens_is_published(case: Case) -> None:
    """``num_tokens`` is the number of tokens, for images of every size that the encoder takes."""
    encoder = case.build()
    own = encoder.preprocessing.image_size
    if encoder.num_tokens() != encoder.num_tokens(own):
        fail(f"num_tokens() to be num_tokens({own}), {encoder.num_tokens(own)}", str(encoder.num_tokens()))
    sized = [(encoder, size) for size in _sizes(encoder)]
    for each, size in (*sized, *_rebuilt(case, encoder)):
        try:
            said = each.num_tokens(size)
        except VedcoreError:
            if size == own:
                raise
            continue
        shown = f"{said} tokens for images of {size[0]} x {size[1]}, as num_tokens says"
        if not isinstance(said, int):
            fail("num_tokens to be an int", type(said).__name__)
        try:
            came = states_of(each, case.images(each, 1, size)).shape[1]
        except Exception as error:
            fail(
                shown,
                f"{type(error).__name__}: {error}",
            )
        if said != came:
            fail(shown, str(came))


@check("encoder")
@torch.no_grad()
def positions_are_resampled_for_one_call(case: Case) -> None:
    """With ``interpolate_pos_encoding=True`` images of another size give finite states of the same width."""
    encoder = case.build()
    if not getattr(encoder, "interpolates_positions", False):
        raise NotApplicable("it does not resample its positions")
    own = encoder.preprocessing.image_size
    plain = states_of(encoder, case.images(encoder))
    given = states_of(encoder, case.images(encoder), interpolate_pos_encoding=True)
    same("the same states for images of its own size", plain, given)
    for size in _sizes(encoder)[1:4]:
        out = states_of(encoder, case.images(encoder, 1, size), interpolate_pos_encoding=True)
        all_finite(f"states for images of {size[0]} x {size[1]}", out)
        if out.shape[-1] != encoder.hidden_size:
            fail(f"states of width {encoder.hidden_size}", str(out.shape[-1]))
    same("the states of before for images of its own size", plain, states_of(encoder, case.images(encoder, 2, own)))


@check("encoder")
@torch.no_grad()
def image_padding_is_told(case: Case) -> None:
    """A mask that is given comes back as (N, S) bool, so that cross-attention skips padding."""
    encoder = case.build()
    pixels = case.images(encoder)
    out = states_of(encoder, pixels)
    mask = torch.ones(out.shape[:2], dtype=torch.bool)
    mask[1, out.shape[1] // 2 :] = False
    if bool(mask.all()):
        raise NotApplicable("it gives a single token")
    masked = encoder(pixels, attention_mask=mask)
    came = masked.attention_mask
    if not isinstance(came, Tensor) or came.dtype != torch.bool or came.shape != masked.last_hidden_state.shape[:2]:
        shape = f"{came.dtype} {tuple(came.shape)}" if isinstance(came, Tensor) else str(came)
        fail("an attention_mask of (N, S) bool in the output", shape)
    if bool(came[1].all()) or not bool(came[0].all()):
        fail("padding in the second image's mask alone", f"{(~came).sum(1).tolist()} masked tokens")
    same("the states of the image without padding", out[:1], masked.last_hidden_state[:1])


@check("encoder")
def token_mask_has_the_tokens(case: Case) -> None:
    """``token_mask`` gives None, or one bool a token, True all over an image without padding."""
    encoder = case.build()
    height, width = encoder.preprocessing.image_size
    sizes = torch.tensor([[height, width], [max(1, height // 2), width]])
    if not hasattr(encoder, "token_mask"):
        raise NotApplicable("it has no token_mask")
    mask = encoder.token_mask(sizes, (height, width))
    if mask is None:
        raise NotApplicable("it cannot tell padding from image")
    if mask.dtype != torch.bool or mask.shape != (2, encoder.num_tokens()):
        fail(f"a mask of (2, {encoder.num_tokens()}) bool", f"{mask.dtype} {tuple(mask.shape)}")
    if not bool(mask[0].all()):
        fail("True all over an image without padding", "False")


@check("encoder")
@torch.no_grad()
def records_are_given_when_asked_for(case: Case) -> None:
    """Hidden states and attentions come when they are asked for, change nothing, and do not come otherwise."""
    encoder = case.build()
    pixels = case.images(encoder)
    plain = encoder(pixels)
    try:
        asked = encoder(pixels, output_attentions=True, output_hidden_states=True)
    except VedcoreError:  # it has no attentions, and says so
        asked = encoder(pixels, output_hidden_states=True)
    for name in ("hidden_states", "attentions"):
        if getattr(plain, name) is not None:
            fail(f"no {name} unasked", f"{len(getattr(plain, name))}")
        records = getattr(asked, name)
        if records is not None and (
            not isinstance(records, tuple) or not records or not all(isinstance(r, Tensor) for r in records)
        ):
            fail(f"{name} as a tuple of tensors", type(records).__name__)
    for states in asked.hidden_states or ():
        if states.ndim != 3 or states.shape[0] != 2:
            fail("each hidden state as (N, S, D)", str(tuple(states.shape)))
    same("the states of a call that asks for neither", plain.last_hidden_state, asked.last_hidden_state)
