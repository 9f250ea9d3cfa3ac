"""Checks of projectors.

Shape letters: N images, S encoder tokens, S' tokens after the projector.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vedcore.testing.calls import tokens_taken
from vedcore.testing.cases import Case
from vedcore.testing.checks import NotApplicable, check, fail, same

__all__: list[str] = []


def _states(case: Case, projector: Any, tokens: int) -> Tensor:
    generator = torch.Generator().manual_seed(case.seed)
    return torch.randn(2, tokens, projector.in_features, generator=generator)


@check("projector")
@torch.no_grad()
def width_out_is_published(case: Case) -> None:
    """``out_features`` is the width of the states that come out."""
    projector = case.build()
    out = projector(_states(case, projector, tokens_taken(projector)[0]))
    if out.ndim != 3 or out.shape[0] != 2 or out.shape[-1] != projector.out_features:
        fail(f"states of (N, S', {projector.out_features}), as out_features says", str(tuple(out.shape)))


@check("projector")
@torch.no_grad()
def number_of_tokens_out_is_published(case: Case) -> None:
    """``num_tokens`` is the number of tokens that come out, for every number that it takes."""
    projector = case.build()
    for tokens in tokens_taken(projector):
        said, came = projector.num_tokens(tokens), projector(_states(case, projector, tokens)).shape[1]
        if not isinstance(said, int):
            fail("num_tokens to be an int", type(said).__name__)
        if said != came:
            fail(f"{said} tokens for {tokens}, as num_tokens says", str(came))


@check("projector")
@torch.no_grad()
def mask_is_kept(case: Case) -> None:
    """``project_mask`` gives (N, S') bool: True for an image without padding, False where all is padding."""
    projector = case.build()
    for tokens in tokens_taken(projector):
        mask = torch.ones(3, tokens, dtype=torch.bool)
        mask[1, tokens // 2 :] = False
        mask[2] = False
        came, count = projector.project_mask(mask), projector(_states(case, projector, tokens)).shape[1]
        if not isinstance(came, Tensor) or came.dtype != torch.bool or came.shape != (3, count):
            shape = f"{came.dtype} {tuple(came.shape)}" if isinstance(came, Tensor) else str(came)
            fail(f"a mask of (3, {count}) bool", shape)
        if not bool(came[0].all()):
            fail("True for every token of an image without padding", f"{int((~came[0]).sum())} False")
        if bool(came[2].any()):
            fail("False where every token is padding", f"{int(came[2].sum())} True")
        if count == tokens > 1 and bool(came[1].all()):
            fail("False where a token is padding", "True for all")


@check("projector")
@torch.no_grad()
def image_padding_is_masked(case: Case) -> None:
    """Tokens that the projected mask keeps do not depend on padding, where ``forward`` takes the mask."""
    projector = case.build()
    if not getattr(projector, "takes_attention_mask", False):
        raise NotApplicable("its forward takes no mask")
    for tokens in tokens_taken(projector):
        mask = torch.ones(2, tokens, dtype=torch.bool)
        mask[1, (tokens + 1) // 2 :] = False
        states = _states(case, projector, tokens)
        other = torch.where(mask[..., None], states, states.flip(1) + 3)
        kept = projector.project_mask(mask)
        expected, came = (projector(x, attention_mask=mask)[kept] for x in (states, other))
        same("the same states for other padding", expected, came)
