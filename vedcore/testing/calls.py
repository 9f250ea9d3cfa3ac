"""One call of a part of any kind, and the tensors that a part holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vedcore.errors import IncompatibleError, VedcoreError
from vedcore.testing.cases import Case, kind_of, pad_of

__all__ = [
    "answer",
    "held",
    "logits",
    "padded_image_mask",
    "padded_texts",
    "start",
    "states_of",
    "tokens_taken",
    "unregistered",
]

TOKENS_TRIED = (16, 36, 9, 7, 64, 196, 197, 49, 50, 1, 256, 577)
"""Numbers of tokens that a projector may take: of maps, with and without a class token."""
MAX_DEPTH = 5
"""Levels of containers that are searched for tensors."""
_INTERNAL = frozenset(vars(nn.Module()))
"""Attributes that torch keeps in every module."""


def states_of(encoder: Any, pixel_values: Tensor, **given: Any) -> Tensor:
    """The last states of an encoder, (N, S, D)."""
    out: Tensor = encoder(pixel_values, **given).last_hidden_state
    return out


def logits(decoder: Any, input_ids: Tensor, states: Tensor | None = None, **given: Any) -> Tensor:
    """The logits of a decoder, (B, T, V)."""
    out: Tensor = decoder(input_ids=input_ids, encoder_hidden_states=states, **given).logits
    return out


def start(decoder: Any, ids: Tensor, states: Tensor, **given: Any) -> tuple[Any, Tensor]:
    """A cache of the texts, and their logits."""
    cache = decoder.make_cache()
    return cache, logits(decoder, ids, states, past_key_values=cache, **given)


def padded_texts(case: Case, decoder: Any, side: str) -> tuple[Tensor, Tensor, Tensor]:
    """Texts (2, T) of which the second has 3 tokens of padding, its mask as integers and as bool."""
    ids = case.ids(decoder)
    padded, seen = ids.clone(), torch.ones(ids.shape, dtype=torch.bool)
    count = ids.shape[1] - 3
    place = slice(None, 3) if side == "left" else slice(count, None)
    text = slice(3, None) if side == "left" else slice(None, count)
    padded[1, text], padded[1, place], seen[1, place] = ids[1, :count], pad_of(decoder), False
    return padded, seen.long(), seen


def padded_image_mask(states: Tensor) -> Tensor:
    """(N, S) bool: the second image has padding, in the middle and at the end."""
    mask = torch.ones(states.shape[:2], dtype=torch.bool)
    mask[1, 2] = mask[1, 4:] = False
    return mask


def tokens_taken(projector: Any) -> list[int]:
    """The numbers of tokens, of `TOKENS_TRIED`, that a projector takes.

    Raises:
        IncompatibleError: none of them.
    """
    found = []
    for tokens in TOKENS_TRIED:
        try:
            projector.num_tokens(tokens)
            with torch.no_grad():
                projector(torch.zeros(1, tokens, projector.in_features, dtype=dtype_of(projector)))
        except VedcoreError:
            continue
        found.append(tokens)
    if not found:
        raise IncompatibleError(f"it refuses each of {', '.join(map(str, TOKENS_TRIED))} tokens")
    return found


def answer(case: Case, part: Any, *, rows: int = 2, draw: int = 0) -> Tensor:
    """The output of a part for inputs of noise in its own type and on its own device."""
    call, inputs = inputs_of(case, part, rows=rows, draw=draw)
    out: Tensor = call(*inputs)
    return out


def inputs_of(case: Case, part: Any, *, rows: int = 2, draw: int = 0) -> tuple[Any, list[Tensor]]:
    """A function that calls the part, and the inputs of noise that it takes; the last of them is a float tensor."""
    dtype, device = dtype_of(part), device_of(part)
    match kind_of(part):
        case "encoder":
            return lambda x: states_of(part, x), [case.images(part, rows, draw=draw).to(device, dtype)]
        case "decoder":
            text, states = case.ids(part, rows, draw=draw), case.states(part, rows, draw=draw)
            return lambda i, s: logits(part, i, s), [text.to(device), states.to(device, dtype)]
        case _:
            tokens = tokens_taken(case.build())[0]
            generator = torch.Generator().manual_seed(case.seed + draw)
            return part, [torch.randn(rows, tokens, part.in_features, generator=generator).to(device, dtype)]


def dtype_of(part: nn.Module) -> torch.dtype:
    """The type of the first floating parameter or buffer; float32 where there is none."""
    return next((t.dtype for t in (*part.parameters(), *part.buffers()) if t.is_floating_point()), torch.float32)


def device_of(part: nn.Module) -> torch.device:
    """The device of the first parameter or buffer; the CPU where there is none."""
    return next((t.device for t in (*part.parameters(), *part.buffers())), torch.device("cpu"))


def held(part: nn.Module, *, without: str | None = None) -> Iterator[tuple[str, Any]]:
    """Paths and values of the tensors and numbers that the modules hold beside parameters and buffers.

    Args:
        part: searched with all modules in it.
        without: leave out modules whose classes are defined below this package.
    """
    seen = {id(module) for module in part.modules()}
    for name, module in part.named_modules():
        if without is not None and type(module).__module__.startswith(without):
            continue
        for key, value in list(vars(module).items()):
            if key not in _INTERNAL:
                yield from _within(f"{name}.{key}".lstrip("."), value, seen, 0)


def unregistered(part: nn.Module) -> Iterator[str]:
    """Paths of tensors that are neither parameters nor buffers of the part, in lists, dicts and objects too."""
    known = {id(t) for t in (*part.parameters(), *part.buffers())}
    return (path for path, value in held(part) if isinstance(value, Tensor) and id(value) not in known)


def _within(path: str, value: Any, seen: set[int], depth: int) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Tensor) or (isinstance(value, int | float) and not isinstance(value, bool)):
        yield path, value
        return
    if id(value) in seen or depth > MAX_DEPTH or isinstance(value, type | str | bytes | torch.dtype | torch.device):
        return
    seen.add(id(value))
    if isinstance(value, nn.Module):
        for name, tensor in (*value.named_parameters(), *value.named_buffers()):
            yield f"{path}.{name}", tensor
    elif isinstance(value, dict):
        for key, each in list(value.items()):
            yield from _within(f"{path}[{key!r}]", each, seen, depth + 1)
    elif isinstance(value, list | tuple | set | frozenset):
        for index, each in enumerate(list(value)):
            yield from _within(f"{path}[{index}]", each, seen, depth + 1)
    elif not callable(value) and isinstance(getattr(value, "__dict__", None), dict):
        for key, each in list(vars(value).items()):
            yield from _within(f"{path}.{key}", each, seen, depth + 1)
