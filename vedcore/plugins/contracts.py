"""Checks that a part keeps its contract: its class, and the module that is built from it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from vedcore.components import Component, Projector, VisionEncoder
from vedcore.config import Config, DecoderConfig, EncoderConfig, ProjectorConfig
from vedcore.errors import IncompatibleError, PluginContractError, VedcoreError, described
from vedcore.registry import Entry, Kind
from vedcore.text_decoder import TextDecoder

__all__ = ["call_on_meta", "check_built", "check_part"]

_CONTRACTS: dict[Kind, tuple[type[Component], type[Config]]] = {
    "encoder": (VisionEncoder, EncoderConfig),
    "decoder": (TextDecoder, DecoderConfig),
    "projector": (Projector, ProjectorConfig),
}
_OPTIONAL = {"fit_tensor"}
"""Methods that a module which subclasses no contract may lack."""


def check_part(kind: Kind, entry: Entry, target: Any) -> None:
    """Refuse a target that breaks the contract of an encoder, decoder or projector.

    It must be a subclass of the contract without abstract methods, or a module class with all of its methods but
    `fit_tensor`.

    Raises:
        PluginContractError: naming the first violation.
    """

    def refuse(message: str, hint: str) -> PluginContractError:
        where = f"{kind} {entry.name!r} of {entry.owner}: {entry.target}"
        return PluginContractError(f"{where} {message}", plugin=entry.owner.distribution, hint=hint)

    contract, config_base = _CONTRACTS[kind]
    hint = f"subclass vedcore.{contract.__name__}"
    if not isinstance(target, type) or not issubclass(target, nn.Module):
        raise refuse("is not a subclass of torch.nn.Module", hint)
    missing = set(getattr(target, "__abstractmethods__", ()))
    if not issubclass(target, contract):
        public = {n for c in (Component, contract) for n, v in vars(c).items() if n[0] != "_" and hasattr(v, "__get__")}
        missing |= {*public, "variants"} - _OPTIONAL - set(dir(target))
    if missing:
        raise refuse(f"lacks {', '.join(sorted(missing)[:5])}", hint)
    config_class = getattr(target, "config_class", None)
    if not isinstance(config_class, type) or not issubclass(config_class, config_base):
        raise refuse("has no config_class", f"set config_class to a subclass of vedcore.{config_base.__name__}")


def check_built(kind: Kind, entry: Entry, module: Any, tokens: int, *, on_meta: bool = True) -> bool:
    """Refuse a part that would fail later with a worse message.

    Args:
        kind: the kind of part.
        entry: the part's entry.
        module: the part; it becomes one in eval mode.
        tokens: tokens of an image that a projector gets.
        on_meta: True runs it on torch's meta device, wherever its tensors are; False runs it with numbers.

    Returns:
        Whether it was run; False where it needs numbers.

    Raises:
        IncompatibleError: no forward, one whose shapes differ from the published ones, or a tensor that is neither
            a parameter nor a buffer.
    """

    def refuse(message: str, hint: str) -> IncompatibleError:
        whose = f"{kind} {entry.name!r} of {entry.owner}"
        return IncompatibleError(f"{whose}: {message}", plugin=entry.owner.distribution, hint=hint)

    for name, inner in module.named_modules():
        for key in (k for k, v in vars(inner).items() if isinstance(v, Tensor)):
            tensor = f"{name}.{key}".lstrip(".")
            hint = "use register_buffer, or it stays behind on .to(device)"
            raise refuse(f"tensor {tensor} is neither a parameter nor a buffer", hint)
    if type(module).forward is nn.Module.forward:
        raise refuse("it has no forward", "write one")
    hint = "correct forward, or the sizes that the part publishes"
    try:
        with torch.no_grad():
            given, published = _shapes(kind, module.eval(), tokens, "meta" if on_meta else "cpu")
    except (VedcoreError, MemoryError):
        raise
    except Exception as error:
        text = described(error)
        if on_meta and "meta" in text.lower():
            return False  # an operation that needs values
        if isinstance(error, RuntimeError):
            raise refuse(f"forward fails: {text}", hint) from error
        contract = f"vedcore.{_CONTRACTS[kind][0].__name__}"
        raise refuse(f"forward fails: {text}", f"see help({contract}.forward)") from error
    if given != published:
        raise refuse(f"it gives {given}, but publishes {published}", hint)
    return True


def call_on_meta(module: nn.Module, *arguments: Any, **keywords: Any) -> Any:
    """Call a module on torch's meta device, wherever its tensors are; they stay there."""
    moved: dict[int, Tensor] = {}  # shared tensors stay shared
    named = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    state = {name: moved.setdefault(id(tensor), tensor.to("meta")) for name, tensor in named}
    with torch.device("meta"):
        return torch.func.functional_call(module, state, arguments, keywords)


def _shapes(kind: Kind, module: Any, tokens: int, device: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The output shape of a part for a small input, and the shape that it publishes."""

    def run(*arguments: Tensor, **keywords: Tensor) -> Any:
        if device != "meta":
            return module(*arguments, **keywords)
        return call_on_meta(module, *arguments, **keywords)

    def numbers(*shape: int) -> Tensor:
        return torch.linspace(0, 1, math.prod(shape), device=device).view(shape)

    if kind == "encoder":
        size = module.preprocessing.image_size
        channels = getattr(module, "num_channels", 3)
        out: Tensor = run(numbers(1, channels, *size)).last_hidden_state
        return tuple(out.shape), (1, module.num_tokens(size), module.hidden_size)
    if kind == "projector":
        mask = torch.ones(1, tokens, dtype=torch.bool, device=device)
        seen = {"attention_mask": mask} if getattr(module, "takes_attention_mask", False) else {}
        out = run(numbers(1, tokens, module.in_features), **seen)
        return tuple(out.shape), (1, module.num_tokens(tokens), module.out_features)
    ids = torch.zeros(1, 2, dtype=torch.long, device=device)
    out = run(input_ids=ids, encoder_hidden_states=numbers(1, 3, module.cross_attention_size)).logits
    return tuple(out.shape), (1, 2, module.vocab_size)
