"""Plans: the sizes and costs of a model, from its parts on torch's meta device, where nothing is allocated.

A part that cannot be built or tried there is built on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from vedcore.components import Projector, VisionEncoder
from vedcore.composer.request import UNSET, AnyModel, AnyPart, ModelRequest
from vedcore.composer.resolve import ResolvedPart, ResolvedRequest, projector_for, resolve
from vedcore.composer.snapshot_files import assumed_preprocessing
from vedcore.config import Config, Preprocessing, TokenIds
from vedcore.errors import ConfigLimitError, IncompatibleError, PluginContractError, VedcoreError
from vedcore.layers.int8 import int8_bytes
from vedcore.layers.lazy_init import LazyInit
from vedcore.plugins.contracts import call_on_meta, check_built
from vedcore.text_decoder import TextDecoder

__all__ = ["Layout", "Modules", "PartPlan", "Plan", "format_bytes", "lay_out", "plan"]

MAX_PARAMETERS = 100_000_000_000
_TENSOR_FACTORIES = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn}
"""Functions that modules make their parameters with."""


class PartPlan(Config):
    """One part of a plan."""

    name: str
    """Name of the family."""
    owner: str
    """The distribution that brings the part, and its version."""
    config: dict[str, Any]
    """All fields of the part."""
    hidden_size: int
    """Width of the output; for a decoder, its hidden size."""
    parameters: int
    """Number of parameters; shared ones count once."""


class Plan(Config):
    """Sizes and costs of a model before anything is allocated; ``str(plan)`` is a table."""

    encoder: PartPlan
    """The vision encoder."""
    projector: PartPlan
    """The projector between encoder and decoder."""
    decoder: PartPlan
    """The text decoder."""
    image_size: tuple[int, int]
    """Height and width in pixels of the images that the encoder sees."""
    image_tokens: int
    """Tokens of an image after the projector."""
    vocab_size: int
    """Number of token ids of the decoder."""
    max_positions: int | None
    """Most tokens of a text; None for no limit."""
    token_ids: TokenIds
    """Start, end and padding ids."""
    parameters: int
    """Number of parameters of all parts."""
    fresh_parameters: int
    """Number of parameters that start at random."""
    dtype: str
    """Type of the parameters."""
    weight_bytes: int
    """Bytes of the parameters."""
    cache_bytes_per_image: int
    """Bytes of one image's cross-attention keys and values, which all of its beams share."""
    cache_bytes_per_token: int
    """Bytes of self-attention keys and values of one token of one hypothesis."""
    draft_bytes: int
    """Bytes of the int8 weights that ``generate(draft="int8")`` makes; 0 where the type of the weights rules it out."""
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
        image, token = format_bytes(self.cache_bytes_per_image), format_bytes(self.cache_bytes_per_token)
        lines += [
            f"token ids   start {ids.start}, eos {', '.join(map(str, ids.eos)) or None}, pad {ids.pad}",
            f"parameters  {self.parameters:,} ({self.fresh_parameters:,} fresh), {format_bytes(self.weight_bytes)}",
            f"caches      {image} an image, {token} a token of a text, as {self.dtype}",
            *([f'drafts      {format_bytes(self.draft_bytes)} with draft="int8"'] if self.draft_bytes else []),
            *(f"note        {note}" for note in self.notes),
        ]
        return "\n".join(lines)


def _describe(part: PartPlan) -> str:
    return f"{part.config.get('variant') or part.name} ({part.parameters:,} parameters)"


def format_bytes(count: int) -> str:
    """A number of bytes with a decimal unit, such as ``"1.5 MB"``."""
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
    projector: AnyPart = UNSET,
    tokenizer: Any = UNSET,
    preprocessing: Preprocessing | Mapping[str, Any] | None = UNSET,
    image_size: int | Sequence[int] | None = None,
    token_ids: TokenIds | Mapping[str, Any] | None = UNSET,
    dtype: str | torch.dtype = UNSET,
    pretrained: bool = UNSET,
    seed: int | None = UNSET,
    **fields: Any,
) -> Plan:
    """The widths, tokens, parameters and bytes of the model that `compose` would build; nothing is allocated.

    A part that needs numbers to be built or tried is an exception: it is built once on the CPU, and a note says so.

    Args: as `compose` takes them.

    Raises:
        ConfigError: unknown parts, wrong settings, or parts that do not fit together.
        CheckpointError, HubError: a checkpoint of a part is damaged, does not fit, or cannot be fetched.
        PluginError: a plugin fails.
    """
    request = ModelRequest.of(
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
    return resolve(request, lambda resolved: lay_out(resolved).plan)


# -- parts on the meta device -----------------------------------------------------------------------------------


class Modules(nn.Module):
    """The parts of a model as modules, under the names that `VisionEncoderDecoder` gives them."""

    def __init__(self, encoder: VisionEncoder, projector: Projector, decoder: TextDecoder) -> None:
        super().__init__()
        self.encoder, self.projector, self.decoder = encoder, projector, decoder


class Layout(NamedTuple):
    """The parts of a model as modules, and their plan."""

    resolved: ResolvedRequest
    projector: ResolvedPart
    """The projector that the widths call for."""
    modules: Modules
    """The modules, on the meta device where ``on_cpu`` does not name them."""
    plan: Plan
    dropped: tuple[str, ...]
    """Those notes of the plan that name what could not be kept of a checkpoint."""
    assumed: str
    """The note that the encoder's checkpoint has no settings of images; empty where it has, or there is none."""
    on_cpu: frozenset[str]
    """Kinds of the parts that were built on the CPU, with their numbers, and need not be built again."""

    @property
    def all_parts(self) -> tuple[ResolvedPart, ResolvedPart, ResolvedPart]:
        """Encoder, projector, decoder."""
        return self.resolved.encoder, self.projector, self.resolved.decoder


def lay_out(
    resolved: ResolvedRequest, *, use: Literal["plan", "compose", "load"] = "plan", draw: bool = True
) -> Layout:
    """Build the parts on the meta device, choose the projector, and check that they fit together.

    A part that needs numbers, in its constructor or in a third party's forward, is built once on the CPU.

    Args:
        resolved: the request.
        use: ``"plan"`` draws the numbers of such a part from a copy of torch's generator, ``"compose"`` from the
            generator itself. ``"load"`` builds all parts of third parties on the CPU: their constructors run once.
        draw: False leaves the parameters on the CPU uninitialised, for a loader to fill.

    Raises:
        ConfigError: parts that do not fit together, or more than `MAX_PARAMETERS`.
        PluginError: a plugin's part that does not build or breaks its contract.
    """
    config, dtype = resolved.config, getattr(torch, resolved.config.dtype)
    builder = _Builder(_ParameterLimit(dtype.itemsize), use, draw)
    encoder: VisionEncoder = builder.make(resolved.encoder)
    decoder: TextDecoder = builder.make(resolved.decoder)
    width = getattr(decoder, "cross_attention_size", None)
    if not width:
        raise IncompatibleError(
            f"{config.decoder.name!r} has no cross-attention: it would not see the image",
            field="decoder",
            hint="choose a decoder of `vedcore list decoders`",
        )
    with torch.device("meta"), builder.limit, LazyInit():
        projector_part, left = projector_for(config, encoder.hidden_size, width, resolved.projector)
    projector: Projector = builder.make(projector_part, encoder.hidden_size, width)
    encoder = builder.checked(resolved.encoder, encoder)
    size = (config.preprocessing or encoder.preprocessing).image_size
    image_tokens = encoder.num_tokens(size)
    projector = builder.checked(projector_part, projector, encoder.hidden_size, width, tokens=image_tokens)
    decoder = builder.checked(resolved.decoder, decoder)
    built: list[tuple[ResolvedPart, Any]] = [
        (resolved.encoder, encoder),
        (projector_part, projector),
        (resolved.decoder, decoder),
    ]
    tokens = projector.num_tokens(image_tokens)
    counted = _cache_sizes(decoder)
    by_width = 2 * len(getattr(decoder, "layers", ())) * decoder.hidden_size
    per_token, per_image_token = (count * dtype.itemsize for count in counted or (by_width, by_width))
    planned = {
        part.kind: PartPlan(
            name=part.entry.name,
            owner=str(part.entry.owner),
            config=part.config.model_dump(exclude_none=True),
            hidden_size=width if module is projector else module.hidden_size,
            parameters=sum(p.numel() for p in module.parameters()),
        )
        for part, module in built
    }
    total = sum(part.parameters for part in planned.values())
    dropped = (*resolved.dropped, left) if left else resolved.dropped
    assumed = ""
    if resolved.encoder.checkpoint is not None and config.preprocessing is None:
        assumed = assumed_preprocessing(resolved.encoder.checkpoint.snapshot, encoder.preprocessing)
    return Layout(
        resolved,
        projector_part,
        Modules(encoder, projector, decoder),
        Plan(
            **planned,
            image_size=size,
            image_tokens=tokens,
            vocab_size=decoder.vocab_size,
            max_positions=decoder.max_positions,
            token_ids=resolved.token_ids,
            parameters=total,
            fresh_parameters=sum(_count_fresh(part, module, config.pretrained) for part, module in built),
            dtype=config.dtype,
            weight_bytes=total * dtype.itemsize,
            cache_bytes_per_image=per_image_token * tokens,
            cache_bytes_per_token=per_token,
            draft_bytes=int8_bytes(decoder) if dtype == torch.float32 else 0,
            notes=(
                *resolved.notes,
                *builder.notes,
                *(() if counted else ("the bytes of caches are a guess from the decoder's width",)),
                *([assumed] if assumed else ()),
                *(f"not kept: {what}" for what in dropped),
            ),
        ),
        dropped,
        assumed,
        frozenset(builder.on_cpu),
    )


class _Builder:
    """Builds parts: on the meta device, or once on the CPU where that fails.

    Args:
        limit: counts the parameters of all parts.
        use: as for `lay_out`.
        draw: as for `lay_out`.
    """

    def __init__(self, limit: _ParameterLimit, use: str, draw: bool) -> None:
        self.limit, self.use, self.draw = limit, use, draw
        self.on_cpu: set[str] = set()
        self.notes: list[str] = []

    def make(self, part: ResolvedPart, *arguments: Any) -> Any:
        """The module of a part; ``arguments`` are its constructor's after the config."""
        if self.use == "load" and not part.is_built_in:
            return self._make_on_cpu(part, *arguments)
        try:
            with torch.device("meta"), self.limit, LazyInit():
                return part.make(*arguments)
        except Exception as error:
            raised = error.__cause__ if isinstance(error, PluginContractError) else error
            if raised is None or isinstance(raised, VedcoreError | MemoryError):
                raise
            if part.is_built_in and "meta" not in str(raised).lower():
                raise
        module = self._make_on_cpu(part, *arguments)
        self._note(part, "its constructor")
        return module

    def checked(self, part: ResolvedPart, module: Any, *arguments: Any, tokens: int = 0) -> Any:
        """The module of a third party's part, which keeps its contract; built on the CPU where forward needs numbers.

        Args:
            part: the part.
            module: what `make` gave.
            arguments: as for `make`.
            tokens: tokens of an image that a projector gets.
        """
        if part.is_built_in or check_built(part.kind, part.entry, module, tokens) or self.use == "load":
            return module
        if part.kind not in self.on_cpu:
            module = self._make_on_cpu(part, *arguments)
            self._note(part, "its forward")
        check_built(part.kind, part.entry, module, tokens, on_meta=False)
        return module

    def _make_on_cpu(self, part: ResolvedPart, *arguments: Any) -> Any:
        with torch.random.fork_rng(devices=[], enabled=self.use == "plan"):
            with self.limit, LazyInit() as lazy:
                module = part.make(*arguments)
            if self.draw:
                lazy.initialize()
        self.on_cpu.add(part.kind)
        return module

    def _note(self, part: ResolvedPart, needs: str) -> None:
        self.notes.append(
            f"{part.kind} {part.entry.name!r} of {part.entry.owner} is built on the CPU: {needs} needs numbers, which "
            "the meta device does not have"
        )


@torch.no_grad()
def _cache_sizes(decoder: Any) -> tuple[int, int] | None:
    """Numbers that a cache keeps of one token of a text and of one of an image: those in the cache of one of each.

    None where the decoder cannot be tried on the meta device.
    """
    ids = torch.zeros(1, 1, dtype=torch.long, device="meta")
    states = torch.zeros(1, 1, decoder.cross_attention_size, device="meta")
    try:
        out = call_on_meta(decoder.eval(), input_ids=ids, encoder_hidden_states=states, use_cache=True)
        text = [tensor for layer in out.past_key_values.layers for tensor in layer.since(0) or ()]
        image = [tensor for layer in out.past_key_values.layers for tensor in layer.cross or ()]
    except Exception:  # what it needs, or keeps, is its own
        return None
    return sum(tensor.numel() for tensor in text), sum(tensor.numel() for tensor in image)


def _count_fresh(part: ResolvedPart, module: Any, pretrained: bool) -> int:
    """Number of parameters of a part that start at random."""
    from_checkpoint = part.checkpoint is not None or (pretrained and part.kind != "projector")
    names: Collection[str] = ()
    if part.kind == "decoder" and part.checkpoint is not None:
        names = part.checkpoint.fresh_parameters(module)
    return sum(p.numel() for name, p in module.named_parameters() if not from_checkpoint or name in names)


class _ParameterLimit(TorchFunctionMode):
    """Counts the elements that tensor factories make, and raises once they exceed `MAX_PARAMETERS`.

    Args:
        itemsize: bytes of one element.
    """

    def __init__(self, itemsize: int) -> None:
        super().__init__()
        self.itemsize, self.total = itemsize, 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if func in _TENSOR_FACTORIES:
            self.total += made.numel()
            if self.total > MAX_PARAMETERS:
                raise ConfigLimitError(
                    f"at least {self.total:,} parameters ({format_bytes(self.total * self.itemsize)}), "
                    f"and the limit is {MAX_PARAMETERS:,}",
                    hint="make hidden sizes, layers, images or the vocabulary smaller",
                )
        return made
