"""From parts, as `vedcore.resolving` finds them, to a plan, and from there to a model.

`plan` looks at the parts on torch's meta device, where nothing is allocated, and refuses what cannot work;
`compose` plans first and builds then.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from vedcore.components import Projector, TextDecoder, VisionEncoder
from vedcore.config import ComponentConfig, ModelConfig, Preprocessing
from vedcore.errors import ConfigLimitError, IncompatibleError, UsageError
from vedcore.generation.config import GenerationConfig
from vedcore.layers.drawing import LateDraws
from vedcore.model import VisionEncoderDecoder
from vedcore.planning import PartPlan, Plan, in_units
from vedcore.plugins import registry
from vedcore.plugins.contracts import check_built
from vedcore.processing.processor import Processor
from vedcore.registry import BUILT_IN, Kind
from vedcore.resolving import Part, Resolved, as_request, gather, placed, projector_for, resolve

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from vedcore.weights.loading import LoadReport

__all__ = ["build", "compose", "plan"]

MAX_PARAMETERS = 100_000_000_000
_DRAWING = threading.RLock()
"""Held by the thread that builds: all draw from torch's one generator, which a seed sets."""


class _Parts(nn.Module):
    """The modules of a model, by its names for them."""

    def __init__(self, encoder: VisionEncoder, projector: Projector, decoder: TextDecoder) -> None:
        super().__init__()
        self.encoder, self.projector, self.decoder = encoder, projector, decoder


def plan(encoder: Any, decoder: Any = None, **options: Any) -> Plan:
    """What `compose` would build of the same arguments; nothing is allocated.

    Returns:
        The plan, with widths, tokens, parameters and bytes.

    Raises:
        ConfigError: parts that are unknown, settings that are wrong, parts that do not fit together.
        CheckpointError, HubError: a checkpoint that a part comes from is damaged, does not fit, or is not to be had.
        PluginError: a plugin that fails.
    """
    data, source = gather(encoder, decoder)
    with placed(source, options):
        return _lay_out(resolve(*as_request(data, options)))[0]


def compose(
    encoder: Any, decoder: Any = None, *, device: str | torch.device | None = None, **options: Any
) -> VisionEncoderDecoder:
    """Build a model of a vision encoder and a text decoder, in eval mode.

    Args:
        encoder: a family (``"swin"``), a variant (``"swin_tiny_patch4_window7_224"``, ``"timm/convnext_tiny"``), a
            checkpoint (a folder, or ``"hub:org/name@revision"``; ``model.load_reports`` says what was taken), or a
            mapping of a ``name`` and fields. Or, without ``decoder``, a whole model: the path of a .yaml, .toml or
            .json file, a mapping, or a `ModelConfig`.
        decoder: a family, a variant, a checkpoint, or a mapping. A checkpoint brings its tokenizer.
        device: where the parameters go; the CPU by default.
        options: ``projector`` (``"auto"``, ``"identity"``, ``"linear"``, ``"mlp"``, a plugin's, or a mapping),
            ``tokenizer`` (``"char"``, ``"byte"``, a tokenizer.json, a ``tokenizers.Tokenizer``), ``image_size``
            (a number or height and width), ``pretrained`` (published weights: timm's for the encoder, and for
            the decoder the checkpoint on the hub, with its tokenizer), ``seed`` (same seed, same weights), ``dtype``
            (``"float32"``, ``"float16"``, ``"bfloat16"``, ``"float64"``), ``token_ids``, ``preprocessing``, and any
            field of a part as ``encoder_<field>``, ``decoder_<field>`` or ``projector_<field>``.

    Raises:
        ConfigError: parts that are unknown, settings that are wrong, parts that do not fit together.
        CheckpointError, HubError: a checkpoint that a part comes from is damaged, does not fit, or is not to be had.
        PluginError: a plugin that fails.
    """
    data, source = gather(encoder, decoder)
    with placed(source, options):
        resolved = resolve(*as_request(data, options))
        _check_device(device)
        projector = _lay_out(resolved)[1]
        return _assembled(resolved, projector, *_built(resolved, projector, draw=True), device)


def build(
    config: ModelConfig,
    *,
    tokenizer: Tokenizer | None = None,
    device: str | torch.device | None = None,
    draw: bool = True,
    check: Callable[[nn.Module], object] | None = None,
) -> VisionEncoderDecoder:
    """Build the model of a complete config: `compose` for a config and its tokenizer.

    Args:
        config: the settings.
        tokenizer: in place of the one that the config names.
        device: where the parameters go.
        draw: give parameters random numbers; False leaves them, and buffers that are stored, on the meta device or as
            memory is, for weights that are loaded next.
        check: called with the model's parts on the meta device, before anything is allocated.
    """
    resolved = resolve(config, tokenizer)
    _, projector, parts = _lay_out(resolved)
    if check is not None:
        check(parts)
    if draw or not _is_all_stored(resolved, projector, parts):
        return _assembled(resolved, projector, *_built(resolved, projector, draw=draw), device)
    return _assembled(resolved, projector, parts, {}, None)


# -- from parts to a plan ---------------------------------------------------------------------------------------


def _lay_out(resolved: Resolved) -> tuple[Plan, Part, _Parts]:
    """The plan, the projector that it needs, and the three parts on the meta device, by the names of the model."""
    request = resolved.request
    dtype: torch.dtype = getattr(torch, request.dtype)
    with torch.device("meta"), _bounded(dtype.itemsize), LateDraws():
        encoder: VisionEncoder = resolved.encoder.make("encoder")
        decoder: TextDecoder = resolved.decoder.make("decoder")
        width = getattr(decoder, "cross_attention_size", None)
        if not width:
            raise IncompatibleError(
                f"{request.decoder.name!r} has no cross-attention: it would not see the image", field="decoder",
                hint="choose a decoder of `vedcore list decoders`",
            )  # fmt: skip
        projector_part = projector_for(request, encoder.hidden_size, width)
        projector: Projector = projector_part.make("projector", encoder.hidden_size, width)
    parts: dict[Kind, tuple[Part, Any]] = {
        "encoder": (resolved.encoder, encoder),
        "projector": (projector_part, projector),
        "decoder": (resolved.decoder, decoder),
    }
    for kind, (part, module) in parts.items():
        if part.entry.owner.distribution != BUILT_IN:
            check_built(kind, part.entry, module)
    size = (request.preprocessing or encoder.preprocessing).image_size
    tokens = projector.num_tokens(encoder.num_tokens(size))
    counts = {kind: sum(p.numel() for p in module.parameters()) for kind, (_, module) in parts.items()}
    total = sum(counts.values())
    layers = len(decoder.layers) if hasattr(decoder, "layers") else 0
    per_token = 2 * layers * decoder.hidden_size * dtype.itemsize
    crossing = decoder.fresh_parameters()
    fresh = {
        "encoder": 0, "projector": counts["projector"],
        "decoder": sum(p.numel() for name, p in decoder.named_parameters() if name in crossing),
    }  # fmt: skip
    drawn = [kind for kind, (part, _) in parts.items() if part.checkpoint is None and not request.pretrained]
    result = Plan(
        **{
            kind: PartPlan(
                name=part.entry.name, owner=str(part.entry.owner), config=part.config.model_dump(exclude_none=True),
                hidden_size=width if kind == "projector" else module.hidden_size, parameters=counts[kind],
            )
            for kind, (part, module) in parts.items()
        },
        image_size=size, image_tokens=tokens, vocab_size=decoder.vocab_size, max_positions=decoder.max_positions,
        token_ids=resolved.token_ids, parameters=total,
        fresh_parameters=sum(counts[kind] if kind in drawn else fresh[kind] for kind in counts),
        dtype=request.dtype, weight_bytes=total * dtype.itemsize, cache_bytes_per_image=per_token * tokens,
        cache_bytes_per_token=per_token, notes=resolved.notes,
    )  # fmt: skip
    return result, projector_part, _Parts(encoder, projector, decoder)


class _Bound(threading.local):
    """How much the thread has laid out, while it is not to be absurd."""

    itemsize = 0
    """Bytes a number; 0 where nobody counts."""
    total = 0


_BOUND = _Bound()


@contextlib.contextmanager
def _bounded(itemsize: int) -> Iterator[None]:
    """Refuse an absurd size as soon as the parameters that are laid out exceed it, before the rest is."""
    outer = _BOUND.itemsize, _BOUND.total  # a part may plan another model inside
    _BOUND.itemsize, _BOUND.total = itemsize, 0
    try:
        yield
    finally:
        _BOUND.itemsize, _BOUND.total = outer


def _count(module: nn.Module, name: str, parameter: Tensor | None) -> None:
    if not _BOUND.itemsize or parameter is None or not parameter.is_meta:
        return
    _BOUND.total += parameter.numel()
    if _BOUND.total > MAX_PARAMETERS:
        raise ConfigLimitError(
            f"{_BOUND.total:,} parameters and more ({in_units(_BOUND.total * _BOUND.itemsize)}) "
            f"where {MAX_PARAMETERS:,} is the limit",
            hint="make hidden sizes, layers, images or the vocabulary smaller",
        )


# once and for good: to come and go would break what other threads build at that moment
register_module_parameter_registration_hook(_count)


# -- from parts to a model --------------------------------------------------------------------------------------


def _check_device(device: str | torch.device | None) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:  # not there, not built for it, no device
        raise UsageError(
            f"{str(device)!r} cannot be used: {str(error).splitlines()[0]}", field="device", hint="try 'cpu' or 'cuda'"
        ) from None


def _built(resolved: Resolved, projector_part: Part, *, draw: bool) -> tuple[_Parts, dict[str, LoadReport]]:
    """The parts, and what was loaded into those that come from checkpoints."""
    request = resolved.request
    with _DRAWING, torch.random.fork_rng(devices=[], enabled=request.seed is not None):
        if request.seed is not None:
            torch.manual_seed(request.seed)
        with LateDraws() as draws:
            from_timm = request.pretrained and resolved.encoder.checkpoint is None
            encoder: VisionEncoder = resolved.encoder.make("encoder", pretrained=from_timm)
            decoder: TextDecoder = resolved.decoder.make("decoder")
            projector = projector_part.make("projector", encoder.hidden_size, decoder.cross_attention_size)
        sides: dict[str, tuple[Part, nn.Module]] = {
            "encoder": (resolved.encoder, encoder), "decoder": (resolved.decoder, decoder),
        }  # fmt: skip
        reports = {
            kind: part.checkpoint.load_into(module)
            for kind, (part, module) in sides.items() if part.checkpoint is not None
        }  # fmt: skip
        for kind, report in reports.items():
            draws.forget(tensor for name, tensor in sides[kind][1].named_parameters() if name in report.loaded)
        if draw:
            draws.draw()
    return _Parts(encoder, projector, decoder), reports


def _is_all_stored(resolved: Resolved, projector_part: Part, parts: _Parts) -> bool:
    """Whether weights to be loaded hold all numbers of the parts, so that what was laid out need not be built again."""
    made = resolved.encoder, projector_part, resolved.decoder
    if resolved.request.pretrained or any(
        part.checkpoint is not None or part.entry.owner.distribution != BUILT_IN for part in made
    ):
        return False  # a plugin may keep numbers where nobody sees them
    stored = {id(tensor) for tensor in parts.state_dict(keep_vars=True).values()}
    return all(id(buffer) in stored for buffer in parts.buffers())


def _assembled(
    resolved: Resolved,
    projector_part: Part,
    modules: _Parts,
    reports: Mapping[str, LoadReport],
    device: str | torch.device | None,
) -> VisionEncoderDecoder:
    request, encoder = resolved.request, modules.encoder
    preprocessing: Preprocessing = request.preprocessing or encoder.preprocessing
    parts: dict[Kind, Part] = {"encoder": resolved.encoder, "decoder": resolved.decoder, "projector": projector_part}
    config = request.model_copy(
        update={
            **{kind: _complete(kind, part) for kind, part in parts.items()},
            "preprocessing": preprocessing,
            "pretrained": False,
            "plugins": {kind: str(part.entry.owner) for kind, part in parts.items()},
        }
    )
    model = VisionEncoderDecoder(
        config, encoder, modules.projector, modules.decoder,
        processor=Processor(preprocessing, resolved.tokenizer, encoder=encoder, token_ids=resolved.token_ids),
        token_ids=resolved.token_ids, generation_config=GenerationConfig(),
    )  # fmt: skip
    model.load_reports = dict(reports)
    return model.to(device=device, dtype=getattr(torch, request.dtype)).eval()


def _complete(kind: Kind, part: Part) -> ComponentConfig:
    """The section that builds this very part again: all fields, so that later defaults cannot creep in."""
    return ComponentConfig(name=registry().shown_name(kind, part.entry), **part.config.model_dump())
