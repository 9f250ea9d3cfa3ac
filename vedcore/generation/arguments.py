"""What ``generate`` takes besides options, checked and made uniform before work begins.

Shape letters: N images, T prompt tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from vedcore.errors import UsageError

__all__ = ["as_functions", "check_tensors", "prompt_ids"]

Function = TypeVar("Function", bound=Callable[..., Any])


def check_tensors(**arguments: object) -> None:
    """Refuse whatever else than a tensor was given for an argument that takes one.

    Raises:
        UsageError: naming the argument.
    """
    for name, value in arguments.items():
        if value is not None and not isinstance(value, Tensor):
            hint = "give files and pictures to generate_text" if name == "pixel_values" else "wrap it in torch.tensor"
            raise UsageError(f"a tensor expected, got {type(value).__name__}", field=name, hint=hint)


def as_functions(name: str, given: Function | Sequence[Function] | None) -> tuple[Function, ...]:
    """One function, several of them or None as a tuple.

    Raises:
        UsageError: something that cannot be called, naming ``name``.
    """
    functions = () if given is None else tuple(given) if isinstance(given, (list, tuple)) else (given,)
    for function in functions:
        if not callable(function):
            raise UsageError(
                f"{type(function).__name__} cannot be called", field=name,
                hint="give a function of (input_ids, scores), or a list of them",
            )  # fmt: skip
    return functions


def prompt_ids(given: Tensor | None, mask: Tensor | None, starts: Sequence[int] | None) -> tuple[Tensor, Tensor | None]:
    """The prompts (N, T), long, and their mask (N, T) or None.

    Args:
        given: (N, T) of any whole numbers; None for the start ids alone.
        mask: of ``given``.
        starts: N start ids, needed where there are no prompts.

    Raises:
        UsageError: prompts of another shape or type, a mask that does not fit, padding behind a token.
    """
    check_tensors(decoder_input_ids=given, decoder_attention_mask=mask)
    if given is None:
        assert starts is not None
        given = torch.tensor(starts)[:, None]  # (N, 1)
    whole = not (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool)
    if given.ndim != 2 or 0 in given.shape or not whole:
        raise UsageError(
            f"ids of shape {tuple(given.shape)} and type {given.dtype}", field="decoder_input_ids",
            hint="give whole numbers of shape (N, T), at least one of each",
        )  # fmt: skip
    if mask is not None and mask.shape != given.shape:
        raise UsageError(
            f"a mask of shape {tuple(mask.shape)} for prompts of shape {tuple(given.shape)}",
            field="decoder_attention_mask", hint="give one number a token",
        )  # fmt: skip
    if mask is not None and bool((mask[:, -1] == 0).any()):
        raise UsageError("a prompt ends in padding", field="decoder_attention_mask", hint="pad at the left")
    if mask is not None and bool(((mask[:, 1:] == 0) & (mask[:, :-1] != 0)).any()):
        raise UsageError("a prompt has padding inside", field="decoder_attention_mask", hint="pad at the left")
    return given.long(), mask
