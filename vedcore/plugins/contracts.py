"""Checks that a part keeps its contract: its class, and the module that is built from it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vedcore.components import Component, Projector, VisionEncoder
from vedcore.config import Config, DecoderConfig, EncoderConfig, ProjectorConfig
from vedcore.errors import IncompatibleError, PluginContractError, VedcoreError, described
from vedcore.registry import Entry, Kind
from vedcore.text_decoder import TextDecoder

__all__ = ["check_built", "check_part"]

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


def check_built(kind: Kind, entry: Entry, module: Any) -> None:
    """Refuse a part, built on the meta device, that would fail later with a worse message.

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
        with torch.device("meta"), torch.no_grad():
            given, published = _shapes(kind, module.eval())
    except (NotImplementedError, RuntimeError) as error:
        if "meta" in str(error).lower():  # an operation that needs values
            return
        raise refuse(f"forward fails: {error}", hint) from error
    except (VedcoreError, MemoryError):
        raise
    except Exception as error:
        contract = f"vedcore.{_CONTRACTS[kind][0].__name__}"
        raise refuse(f"forward fails: {described(error)}", f"see help({contract}.forward)") from error
    if given != published:
        raise refuse(f"it gives {given}, but publishes {published}", hint)


def _shapes(kind: Kind, module: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The output shape of a part for a small input, and the shape that it publishes."""
    if kind == "encoder":
        size = module.preprocessing.image_size
        channels = getattr(module, "num_channels", 3)
        out: Tensor = module(torch.empty(1, channels, *size)).last_hidden_state
        return tuple(out.shape), (1, module.num_tokens(size), module.hidden_size)
    if kind == "projector":
        out = module(torch.empty(1, 16, module.in_features))
        return tuple(out.shape), (1, module.num_tokens(16), module.out_features)
    ids, states = torch.empty(1, 2, dtype=torch.long), torch.empty(1, 3, module.cross_attention_size)
    out = module(input_ids=ids, encoder_hidden_states=states).logits
    return tuple(out.shape), (1, 2, module.vocab_size)
