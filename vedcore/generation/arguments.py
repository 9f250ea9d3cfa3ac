"""Tensors and functions that a model and its ``generate`` take, checked and made uniform before work begins.

Shape letters: N images, C channels, H x W pixels, T prompt tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from vedcore.errors import UsageError
from vedcore.layers.attention import SelfAttention
from vedcore.layers.cache import DecoderCache
from vedcore.outputs import EncoderOutput
from vedcore.text_decoder import TextDecoder

__all__ = [
    "as_cache",
    "as_encoder_output",
    "as_functions",
    "check_cache",
    "check_pixels",
    "check_synced",
    "check_tensors",
    "prompt_ids",
]

Function = TypeVar("Function", bound=Callable[..., Any])


def check_tensors(**arguments: object) -> None:
    """Refuse arguments that are not tensors.

    Raises:
        UsageError: naming the argument.
    """
    for name, value in arguments.items():
        if value is not None and not isinstance(value, Tensor):
            texts = value if isinstance(value, (list, tuple)) else (value,)
            if name == "pixel_values" and isinstance(value, Mapping):
                hint = "unpack it: **batch"
            elif name == "pixel_values":
                hint = "give what model.processor makes of files and pictures, or give them to generate_text"
            elif not any(isinstance(text, str) for text in texts):
                hint = "wrap it in torch.tensor"
            elif name == "labels":
                hint = "give ids: model.processor(text=…).labels"
            else:
                hint = "give ids, as model.processor.tokenizer makes them"
            raise UsageError(f"a tensor expected, got {type(value).__name__}", field=name, hint=hint)


def check_pixels(pixel_values: Tensor, channels: int = 3) -> None:
    """Refuse a tensor that is not a batch of images, (N, C, H, W) of floats with that many channels.

    Raises:
        UsageError: naming its shape and type.
    """
    check_tensors(pixel_values=pixel_values)
    shaped = pixel_values.ndim == 4 and pixel_values.shape[1] == channels and pixel_values.shape[0] > 0
    if not shaped or not pixel_values.is_floating_point():
        raise UsageError(
            f"images of shape {tuple(pixel_values.shape)} and type {pixel_values.dtype}",
            field="pixel_values",
            hint=f"give (N, {channels}, H, W) of floats, N at least 1, as model.processor makes them, "
            "or call generate_text",
        )


def check_synced() -> None:
    """Refuse ``synced_gpus=True`` but for the only process of a group.

    Raises:
        UsageError: there is no group, or one of several processes.
    """
    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not there:
        message, hint = "no process group of torch.distributed is initialised", "leave it out"
        raise UsageError(message, field="synced_gpus", hint=hint)
    if (processes := torch.distributed.get_world_size()) > 1:
        raise UsageError(
            f"{processes} processes do not generate in step",
            field="synced_gpus",
            hint="pass synced_gpus=False, in FSDP within summon_full_params",
        )


def as_functions(name: str, given: Function | Sequence[Function] | None) -> tuple[Function, ...]:
    """One function, several of them or None as a tuple.

    Raises:
        UsageError: something that cannot be called, naming ``name``.
    """
    functions = () if given is None else tuple(given) if isinstance(given, (list, tuple)) else (given,)
    for function in functions:
        if not callable(function):
            raise UsageError(
                f"{type(function).__name__} cannot be called",
                field=name,
                hint="give a function as generate describes it, or a list of them",
            )
    return functions


def prompt_ids(given: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The prompts (N, T), long, and their mask (N, T) or None.

    Args:
        given: (N, T) of any whole numbers.
        mask: of ``given``.

    Raises:
        UsageError: prompts of another shape or type, a mask that does not fit, one that ends in padding.
    """
    check_tensors(decoder_input_ids=given, decoder_attention_mask=mask)
    whole = not (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool)
    if given.ndim != 2 or 0 in given.shape or not whole:
        raise UsageError(
            f"ids of shape {tuple(given.shape)} and type {given.dtype}",
            field="decoder_input_ids",
            hint="give whole numbers of shape (N, T), at least one of each",
        )
    if mask is not None and mask.shape != given.shape:
        raise UsageError(
            f"a mask of shape {tuple(mask.shape)} for prompts of shape {tuple(given.shape)}",
            field="decoder_attention_mask",
            hint="give one number a token",
        )
    if mask is not None and bool((mask[:, -1] == 0).any()):
        raise UsageError("a prompt ends in padding", field="decoder_attention_mask", hint="pad at the left")
    return given.long(), mask


def as_cache(given: object) -> DecoderCache | None:
    """``past_key_values`` as a cache of ours.

    Raises:
        UsageError: something else.
    """
    if given is None or isinstance(given, DecoderCache):
        return given
    hint = "give what an earlier call returned with use_cache=True"
    raise UsageError(f"a cache expected, got {type(given).__name__}", field="past_key_values", hint=hint)


def check_cache(cache: DecoderCache, decoder: TextDecoder, prompts: Tensor) -> None:
    """Refuse a cache that does not hold the beginnings of ``prompts`` (N, T), as far as can be seen.

    Raises:
        UsageError: another decoder's, one of other rows, or one that leaves nothing to read.
    """
    name = "past_key_values"
    layers = len(decoder.make_cache().layers)
    if len(cache.layers) != layers:
        message = f"a cache of {len(cache.layers)} layers for a decoder of {layers}"
        raise UsageError(message, field=name, hint="give one of this model's")
    if not cache.length:
        return
    cross, rows = next((layer.cross for layer in cache.layers if layer.cross is not None), None), len(prompts)
    heads = {part.num_key_value_heads for part in decoder.modules() if isinstance(part, SelfAttention)}
    if cross is None or cache.heads not in (heads or {cache.heads}):
        raise UsageError("it is not a cache of this model over images", field=name, hint="give one of this model's")
    if cache.rows != rows or rows % len(cross[0]):
        message = f"a cache of {cache.rows} rows for {rows} prompts"
        raise UsageError(message, field=name, hint="give decoder_input_ids for each of its rows")
    if cache.length >= prompts.shape[1]:
        raise UsageError(
            f"it holds {cache.length} tokens, and the prompts have {prompts.shape[1]}",
            field=name,
            hint="give the whole text so far as decoder_input_ids, with a token or more that are not in the cache",
        )


def as_encoder_output(outputs: Any) -> EncoderOutput | None:
    """Encoder states from our own output, a tuple, or any object with ``last_hidden_state``.

    Raises:
        UsageError: something else.
    """
    if outputs is None or isinstance(outputs, EncoderOutput):
        return outputs
    if isinstance(outputs, Tensor):
        return EncoderOutput(outputs)
    if isinstance(outputs, (tuple, list)) and outputs and isinstance(outputs[0], Tensor):
        return EncoderOutput(outputs[0], None, *outputs[1:3])  # transformers' order: states, hidden states, attentions
    states = getattr(outputs, "last_hidden_state", None)
    if isinstance(states, Tensor):
        return EncoderOutput(
            states, *(getattr(outputs, name, None) for name in ("attention_mask", "hidden_states", "attentions"))
        )
    raise UsageError(
        f"encoder_outputs of type {type(outputs).__name__}", field="encoder_outputs", hint="give what model.encode gave"
    )
