"""The plan of a model that is not there yet: its parts laid out on torch's meta device, where nothing is allocated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from vedcore.components import Projector, TextDecoder, VisionEncoder
from vedcore.composer.request import NOT_GIVEN, AnyModel, AnyPart, Request
from vedcore.composer.resolve import Part, Parts, projector_for, resolve
from vedcore.config import Config, Preprocessing, TokenIds
from vedcore.errors import ConfigLimitError, IncompatibleError
from vedcore.layers.lazy_init import LazyInit
from vedcore.plugins.contracts import check_built

__all__ = ["Layout", "Modules", "PartPlan", "Plan", "in_units", "lay_out", "plan"]

MAX_PARAMETERS = 100_000_000_000
_FACTORIES = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn}
"""Functions that parameters are made with."""


class PartPlan(Config):
    """One part of a plan."""

    name: str
    """The family."""
    owner: str
    """The distribution that brought it, and its version."""
    config: dict[str, Any]
    """All of its fields."""
    hidden_size: int
    """Width of what it gives; for a decoder, its own width."""
    parameters: int
    """Number of its parameters, shared ones once."""


class Plan(Config):
    """The plan of a model: sizes and costs before anything is allocated; ``str(plan)`` is a table."""

    encoder: PartPlan
    """The vision encoder."""
    projector: PartPlan
    """The projector between the two."""
    decoder: PartPlan
    """The text decoder."""
    image_size: tuple[int, int]
    """Height and width in pixels of what the encoder sees."""
    image_tokens: int
    """Encoder tokens an image gives, after the projector."""
    vocab_size: int
    """Token ids of the decoder."""
    max_positions: int | None
    """Tokens a text may have."""
    token_ids: TokenIds
    """Start, end and padding."""
    parameters: int
    """All of them."""
    fresh_parameters: int
    """Those that start at random; a checkpoint that has cross-attention leaves fewer than are counted here."""
    dtype: str
    """Type of the parameters."""
    weight_bytes: int
    """Bytes of the parameters."""
    cache_bytes_per_image: int
    """Bytes of cross-attention keys and values of one image, whatever the beams."""
    cache_bytes_per_token: int
    """Bytes of self-attention keys and values of one token of one text."""
    notes: tuple[str, ...] = ()
    """Remarks to read before training."""

    def __str__(self) -> str:
        (height, width), ids, positions = self.image_size, self.token_ids, self.max_positions or "any number"
        rows = [
            ("encoder", _describe(self.encoder), f"{height} x {width} px -> {self.image_tokens} tokens"),
            (
                "projector",
                _describe(self.projector),
                f"width {self.encoder.hidden_size} -> {self.projector.hidden_size}",
            ),
            ("decoder", _describe(self.decoder), f"vocabulary {self.vocab_size:,}, positions {positions}"),
        ]
        widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
        lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in rows]
        image, token = in_units(self.cache_bytes_per_image), in_units(self.cache_bytes_per_token)
        lines += [
            f"token ids   start {ids.start}, eos {', '.join(map(str, ids.eos)) or None}, pad {ids.pad}",
            f"parameters  {self.parameters:,} ({self.fresh_parameters:,} fresh), {in_units(self.weight_bytes)}",
            f"caches      {image} an image, {token} a token of a text, as {self.dtype}",
            *(f"note        {note}" for note in self.notes),
        ]
        return "\n".join(lines)


def _describe(part: PartPlan) -> str:
    return f"{part.config.get('variant') or part.name} ({part.parameters:,} parameters)"


def in_units(count: int) -> str:
    """A number of bytes for people."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


def plan(
    encoder: AnyPart | AnyModel,
    decoder: AnyPart | None = None,
    *,
    projector: AnyPart = NOT_GIVEN,
    tokenizer: Any = NOT_GIVEN,
    preprocessing: Preprocessing | Mapping[str, Any] | None = NOT_GIVEN,
    image_size: int | Sequence[int] | None = None,
    token_ids: TokenIds | Mapping[str, Any] | None = NOT_GIVEN,
    dtype: str | torch.dtype = NOT_GIVEN,
    pretrained: bool = NOT_GIVEN,
    seed: int | None = NOT_GIVEN,
    **fields: Any,
) -> Plan:
    """The widths, tokens, parameters and bytes of what `compose` would build; nothing is allocated.

    Args: as `compose` takes them.

    Raises:
        ConfigError: parts that are unknown, settings that are wrong, parts that do not fit together.
        CheckpointError, HubError: a checkpoint that a part comes from is damaged, does not fit, or is not to be had.
        PluginError: a plugin that fails.
    """
    request = Request.of(
        encoder,
        decoder,
        projector=projector,
        tokenizer=tokenizer,
        preprocessing=preprocessing,
        image_size=image_size,
        token_ids=token_ids,
        dtype=dtype,
        pretrained=pretrained,
        seed=seed,
        **fields,
    )
    return resolve(request, lambda parts: lay_out(parts).plan)


# -- parts on the meta device -----------------------------------------------------------------------------------


class Modules(nn.Module):
    """The parts of a model as modules, by its names for them."""

    def __init__(self, encoder: VisionEncoder, projector: Projector, decoder: TextDecoder) -> None:
        super().__init__()
        self.encoder, self.projector, self.decoder = encoder, projector, decoder


class Layout(NamedTuple):
    """A model that is laid out."""

    parts: Parts
    projector: Part
    """The one that the widths ask for."""
    modules: Modules
    """On the meta device."""
    plan: Plan

    @property
    def made_of(self) -> tuple[Part, Part, Part]:
        """The three parts, in the order of the data."""
        return self.parts.encoder, self.projector, self.parts.decoder


def lay_out(parts: Parts) -> Layout:
    """Build the parts on the meta device, add the projector, and refuse what cannot work.

    Raises:
        ConfigError: parts that do not fit together, or are absurdly large.
        PluginError: a plugin's part that does not build, or is not what it says.
    """
    config, dtype = parts.config, getattr(torch, parts.config.dtype)
    with torch.device("meta"), _Bounded(dtype.itemsize), LazyInit():
        encoder: VisionEncoder = parts.encoder.make()
        decoder: TextDecoder = parts.decoder.make()
        width = getattr(decoder, "cross_attention_size", None)
        if not width:
            raise IncompatibleError(
                f"{config.decoder.name!r} has no cross-attention: it would not see the image",
                field="decoder",
                hint="choose a decoder of `vedcore list decoders`",
            )
        between = projector_for(config, encoder.hidden_size, width)
        projector: Projector = between.make(encoder.hidden_size, width)
    made: list[tuple[Part, Any]] = [(parts.encoder, encoder), (between, projector), (parts.decoder, decoder)]
    for part, module in made:
        if not part.is_built_in:
            check_built(part.kind, part.entry, module)
    size = (config.preprocessing or encoder.preprocessing).image_size
    tokens = projector.num_tokens(encoder.num_tokens(size))
    per_token = 2 * len(getattr(decoder, "layers", ())) * decoder.hidden_size * dtype.itemsize
    planned = {
        part.kind: PartPlan(
            name=part.entry.name,
            owner=str(part.entry.owner),
            config=part.config.model_dump(exclude_none=True),
            hidden_size=width if module is projector else module.hidden_size,
            parameters=sum(p.numel() for p in module.parameters()),
        )
        for part, module in made
    }
    total = sum(part.parameters for part in planned.values())
    return Layout(
        parts,
        between,
        Modules(encoder, projector, decoder),
        Plan(
            **planned,
            image_size=size,
            image_tokens=tokens,
            vocab_size=decoder.vocab_size,
            max_positions=decoder.max_positions,
            token_ids=parts.token_ids,
            parameters=total,
            fresh_parameters=sum(_fresh(part, module, config.pretrained) for part, module in made),
            dtype=config.dtype,
            weight_bytes=total * dtype.itemsize,
            cache_bytes_per_image=per_token * tokens,
            cache_bytes_per_token=per_token,
            notes=parts.notes,
        ),
    )


def _fresh(part: Part, module: Any, pretrained: bool) -> int:
    """How many numbers of a part start at random."""
    names = module.fresh_parameters() if part.kind == "decoder" else ()
    from_checkpoint = part.kind != "projector" and (pretrained or part.checkpoint is not None)
    return sum(p.numel() for name, p in module.named_parameters() if not from_checkpoint or name in names)


class _Bounded(TorchFunctionMode):
    """Refuses an absurd size as soon as what is laid out exceeds it, before the rest is.

    Args:
        itemsize: bytes of a number.
    """

    def __init__(self, itemsize: int) -> None:
        super().__init__()
        self.itemsize, self.total = itemsize, 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if func in _FACTORIES:
            self.total += made.numel()
            if self.total > MAX_PARAMETERS:
                raise ConfigLimitError(
                    f"{self.total:,} parameters and more ({in_units(self.total * self.itemsize)}) "
                    f"where {MAX_PARAMETERS:,} is the limit",
                    hint="make hidden sizes, layers, images or the vocabulary smaller",
                )
        return made
