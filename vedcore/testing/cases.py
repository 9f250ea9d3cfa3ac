"""The part that is checked: how it is built, with which weights, and with which inputs it is called.

Shape letters: N images, B rows of text, T tokens, S encoder tokens, E width of encoder states.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from vedcore.components import Projector, VisionEncoder
from vedcore.errors import UsageError
from vedcore.text_decoder import TextDecoder

__all__ = ["PART_KINDS", "Case", "Kind", "PartKind", "kind_of", "pad_of", "seeded"]

PartKind = Literal["encoder", "decoder", "projector"]
PART_KINDS: tuple[PartKind, ...] = get_args(PartKind)
Kind = Literal["encoder", "decoder", "projector", "format", "model", "wiring"]
"""A part, a checkpoint format, the function of a trained model, or the parts of a model together."""

_CLASSES: dict[PartKind, type[nn.Module]] = {
    "encoder": VisionEncoder,
    "decoder": TextDecoder,
    "projector": Projector,
}
_MARKS: dict[PartKind, tuple[str, ...]] = {
    "encoder": ("preprocessing", "num_tokens"),
    "decoder": ("vocab_size", "cross_attention_size"),
    "projector": ("in_features", "out_features"),
}
"""Attributes by which the kind of a module that subclasses no contract is known."""
IMAGE_TOKENS = 5
"""S of the encoder states that a decoder is given."""
TEXT_TOKENS = 7
"""T of the texts that a decoder is given."""
MAX_IDS = 1000
"""Ids of a large vocabulary that are drawn from."""


@dataclass(frozen=True)
class Case:
    """A part and the seeds of its weights and inputs.

    Args:
        make: builds the part; called several times.
        name: of the part, for messages.
        spread: draw the trainable parameters anew and widely, so that no gate of zero hides a part of the arithmetic.
        seed: of the weights and the inputs.
        made: the kind of what is built; None looks at it.
        make_model: builds the model that a format saves; None takes a small one of ViT and GPT2.
    """

    make: Callable[[], Any]
    name: str
    spread: bool = True
    seed: int = 0
    made: Kind | None = None
    make_model: Callable[[], Any] | None = None

    @classmethod
    def of(cls, part: Any, *, spread: bool = True, seed: int = 0, make_model: Callable[[], Any] | None = None) -> Case:
        """The case of a part.

        Args:
            part: a module, which is built again from its ``config``, with weights of its own; a class, built with the
                defaults of its config; a format or its class; or a function without arguments that returns one of
                them, or the folder of a trained model.
            spread: as `Case` takes it.
            seed: as `Case` takes it.
            make_model: as `Case` takes it.

        Raises:
            UsageError: none of these.
        """
        if isinstance(part, Case):
            return part
        if isinstance(part, nn.Module) and hasattr(part, "config"):
            return cls(lambda: _again(part), type(part).__name__, spread, seed)
        if isinstance(part, type) and hasattr(part, "make_config"):
            made: Any = part
            return cls(lambda: made(made.make_config(None, {})), part.__name__, spread, seed)
        if _is_format(part):
            made = part if isinstance(part, type) else lambda: part
            called = part.__name__ if isinstance(part, type) else type(part).__name__
            return cls(made, called, seed=seed, made="format", make_model=make_model)
        if callable(part) and not isinstance(part, nn.Module):
            named = getattr(part, "__name__", "part")
            return cls(part, named if named.isidentifier() else "part", spread, seed, make_model=make_model)
        raise UsageError(
            f"{type(part).__name__} is not a part", field="part", hint="give a module, its class, or a function"
        )

    @property
    def kind(self) -> Kind:
        """The kind of the part; see `kind_of`."""
        return self.made or kind_of(self.build())

    def build(self, *, draw: int = 0) -> Any:
        """The part in eval mode; another ``draw`` gives other random numbers to its constructor and weights."""
        with seeded(self.seed + draw):
            part = self.make()
            if not isinstance(part, nn.Module):
                return part
            if self.spread:
                _spread(part)
        return part.eval()

    def fresh(self) -> Any:
        """The part as its constructor leaves it, in eval mode, with random numbers of its own."""
        with seeded(self.seed + 1000):
            return self.make().eval()

    def images(self, encoder: Any, rows: int = 2, size: tuple[int, int] | None = None, draw: int = 0) -> Tensor:
        """Images of noise (N, C, H, W), of the encoder's own size unless another is given."""
        height, width = size or encoder.preprocessing.image_size
        return self._drawn(draw, rows, getattr(encoder, "num_channels", 3), height, width)

    def states(self, decoder: Any, rows: int = 2, tokens: int = IMAGE_TOKENS, draw: int = 0) -> Tensor:
        """Encoder states of noise, (N, S, E)."""
        return self._drawn(draw, rows, tokens, decoder.cross_attention_size)

    def ids(self, decoder: Any, rows: int = 2, tokens: int = TEXT_TOKENS, draw: int = 0) -> Tensor:
        """Token ids (B, T), none of them a special token where the vocabulary has others."""
        plain = _plain_ids(decoder)
        generator = torch.Generator().manual_seed(self.seed + draw)
        limit = decoder.max_positions or tokens
        return plain[torch.randint(len(plain), (rows, min(tokens, limit)), generator=generator)]

    def other_ids(self, decoder: Any, ids: Tensor) -> Tensor:
        """Another id, and no special one, in the place of each that `ids` gave."""
        plain = _plain_ids(decoder)
        return plain[(torch.searchsorted(plain, ids.contiguous()) + 1) % len(plain)]

    def _drawn(self, draw: int, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(self.seed + draw))


def kind_of(part: Any) -> Kind:
    """The kind of a part, by its contract or by its attributes; a path is that of a trained model.

    Raises:
        UsageError: neither an encoder, nor a decoder, nor a projector, nor a format, nor a path.
    """
    if isinstance(part, str | os.PathLike):
        return "model"
    if _is_format(part):
        return "format"
    for kind, contract in _CLASSES.items():
        if isinstance(part, contract):
            return kind
    for kind, marks in _MARKS.items():
        if all(hasattr(part, mark) for mark in marks):
            return kind
    raise UsageError(
        f"{type(part).__name__} is neither an encoder nor a decoder nor a projector",
        field="part",
        hint="subclass vedcore.VisionEncoder, vedcore.TextDecoder or vedcore.Projector",
    )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers of ``seed``; afterwards torch's generator stands where it stood."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # the accelerators' generators stay
        yield


def pad_of(decoder: Any) -> int:
    """The id that fills rows; 0 where the decoder has none."""
    return next(iter(_ids_of(decoder, "pad")), 0)


def _is_format(part: Any) -> bool:
    return all(callable(getattr(part, name, None)) for name in ("recognises", "load", "save"))


def _plain_ids(decoder: Any) -> Tensor:
    """Ids of the vocabulary that are not special, in order."""
    special = {i for name in ("bos", "eos", "pad") for i in _ids_of(decoder, name)}
    return torch.tensor([i for i in range(min(decoder.vocab_size, MAX_IDS)) if i not in special])


def _ids_of(decoder: Any, name: str) -> tuple[int, ...]:
    value = getattr(getattr(decoder, "config", None), f"{name}_token_id", None)
    return () if value is None else (value,) if isinstance(value, int) else tuple(value)


def _again(part: Any) -> Any:
    sizes = (part.in_features, part.out_features) if kind_of(part) == "projector" else ()
    return type(part)(part.config, *sizes)


@torch.no_grad()
def _spread(part: nn.Module) -> None:
    """Draw each trainable parameter: matrices so that a sum over their inputs keeps its size, all others by a shift."""
    for parameter in part.parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim in (2, 4):
            parameter.normal_(std=1 / math.sqrt(max(1, parameter[0].numel())))
        else:  # scales, biases, gates: none of them stays at zero
            shift = 0.1 + 0.2 * torch.rand(parameter.shape)
            parameter.add_(torch.where(torch.rand(parameter.shape) < 0.5, -shift, shift).to(parameter.dtype))
