"""From a request to a model with parameters."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vedcore.composer.plan import Layout, Modules, lay_out
from vedcore.composer.request import UNSET, AnyModel, AnyPart, ModelRequest
from vedcore.composer.resolve import ResolvedRequest, resolve
from vedcore.config import ModelConfig, Preprocessing, TokenIds
from vedcore.errors import UsageError, warn_caller
from vedcore.hf.generation import within_positions
from vedcore.layers.lazy_init import LazyInit
from vedcore.model import VisionEncoderDecoder
from vedcore.processing.processor import Processor
from vedcore.weights.loading import LoadReport
from vedcore.weights.origins import Origin

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["build", "check_device", "compose", "outline"]

_BUILD_LOCK = threading.RLock()
"""Serialises builds: they share torch's global random generator."""


def compose(
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
    device: str | torch.device | None = None,
    **fields: Any,
) -> VisionEncoderDecoder:
    """Build a model of a vision encoder and a text decoder, in eval mode.

    Keyword arguments override the settings of a whole model.

    Args:
        encoder: a family (``"swin"``), a variant (``"swin_tiny_patch4_window7_224"``, ``"timm/convnext_tiny"``), a
            checkpoint (a folder, or ``"hub:org/name@revision"``; ``model.load_reports`` lists the tensors that were
            taken), or a mapping of a ``name`` and fields. Without ``decoder``, a whole model: the path of a .yaml,
            .toml or .json file, a mapping, or a `ModelConfig`.
        decoder: a family, a variant, a checkpoint, or a mapping. A checkpoint brings its tokenizer; that of a whole
            model brings its token ids and generation options too, and its projector where ``encoder`` is the same one.
        projector: ``"auto"``, ``"identity"``, ``"linear"``, ``"mlp"``, a plugin's name, or a mapping.
        tokenizer: ``"char"``, ``"byte"``, the path of a tokenizer.json, or a ``tokenizers.Tokenizer``.
        preprocessing: how images are prepared; the encoder's by default.
        image_size: size in pixels of the images that the encoder sees: one number, or height and width.
        token_ids: start, end and padding ids; by default those of the tokenizer, else of the decoder.
        dtype: type of the parameters: ``"float32"``, the default, ``"float16"``, ``"bfloat16"`` or ``"float64"``.
        pretrained: take published weights: timm's for the encoder, and for the decoder its checkpoint on the hub, with
            the tokenizer of that checkpoint.
        seed: the same seed gives the same weights; without one they follow torch's global random generator.
        device: device of the parameters; the CPU by default.
        fields: any field of a part, as ``encoder_<field>``, ``decoder_<field>`` or ``projector_<field>``.

    Raises:
        ConfigError: unknown parts, wrong settings, or parts that do not fit together.
        CheckpointError, HubError: a checkpoint of a part is damaged, does not fit, or cannot be fetched.
        PluginError: a plugin fails.

    Warns:
        UserWarning: what stands outside the parts of a checkpoint and does not fit the settings that are given; an
            encoder's checkpoint without settings of images, in whose place its family's are taken.
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

    def make(resolved: ResolvedRequest) -> tuple[VisionEncoderDecoder, Layout]:
        check_device(device)
        with _seeded(resolved.config.seed):
            layout = lay_out(resolved, use="compose")
            model = _assemble(layout, *_build_parts(layout, draw=True), device)
        model.origin_record.begin(model, _origins(layout, model), Origin("random", seed=resolved.config.seed))
        return model, layout

    model, layout = resolve(request, make)
    if layout.assumed:
        warn_caller(layout.assumed)
    if layout.dropped:
        warn_caller(f"not kept: {'; '.join(layout.dropped)}")
    return model


def build(
    config: ModelConfig,
    *,
    tokenizer: Tokenizer | None = None,
    draw: bool = True,
    check: Callable[[nn.Module], object] | None = None,
) -> VisionEncoderDecoder:
    """Build the model of a complete config, before its weights are loaded.

    Args:
        config: the settings.
        tokenizer: used in place of the one that the config names.
        draw: True initialises the parameters at random. False leaves them, and persistent buffers, uninitialised or
            on the meta device, for a loader to fill.
        check: called with the model's parts on the meta device, before anything is allocated.
    """

    def make(resolved: ResolvedRequest) -> VisionEncoderDecoder:
        with _seeded(resolved.config.seed):
            layout = lay_out(resolved, use="load", draw=draw)
            if check is not None:
                check(layout.modules)
            return _assemble(layout, *_build_parts(layout, draw=draw), None)

    return resolve(ModelRequest(config, tokenizer), make)


def outline(config: ModelConfig, tokenizer: Tokenizer | None) -> nn.Module:
    """The parts of a complete config's model on the meta device, where nothing is allocated; arguments as `build`."""
    return resolve(ModelRequest(config, tokenizer), lambda resolved: lay_out(resolved).modules)


def check_device(device: str | torch.device | None) -> None:
    """Refuse a device that torch does not have here.

    Raises:
        UsageError: an unknown or absent device.
    """
    try:
        torch.empty(0, device=device)
    except (
        RuntimeError,
        AssertionError,
        TypeError,
        ValueError,
    ) as error:  # absent, unsupported, or not a device
        raise UsageError(
            f"{str(device)!r} cannot be used: {str(error).splitlines()[0]}", field="device", hint="try 'cpu'"
        ) from None


@contextlib.contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """A context that draws from torch's global generator, alone; with a seed, from that one, and puts it back."""
    with _BUILD_LOCK, torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        yield


def _build_parts(layout: Layout, *, draw: bool) -> tuple[Modules, dict[str, LoadReport]]:
    """The parts as modules, and the load reports of those that come from checkpoints."""
    resolved, config = layout.resolved, layout.resolved.config
    made: dict[str, Any] = {
        kind: module for kind, module in layout.modules.named_children() if _is_ready(layout, kind, module, draw)
    }
    with LazyInit() as lazy:
        pretrained = config.pretrained and resolved.encoder.checkpoint is None
        encoder = made["encoder"] if "encoder" in made else resolved.encoder.make(pretrained=pretrained)
        decoder = made["decoder"] if "decoder" in made else resolved.decoder.make()
        widths = encoder.hidden_size, decoder.cross_attention_size
        projector = made["projector"] if "projector" in made else layout.projector.make(*widths)
    reports: dict[str, LoadReport] = {}
    for part, module in zip(layout.all_parts, (encoder, projector, decoder), strict=True):
        if part.checkpoint is not None:
            report = reports[part.kind] = part.checkpoint.load_into(module)
            lazy.skip(tensor for name, tensor in module.named_parameters() if name in report.loaded)
    if draw:
        lazy.initialize()
    return Modules(encoder, projector, decoder), reports


def _is_ready(layout: Layout, kind: str, module: nn.Module, draw: bool) -> bool:
    """True where a part of the layout needs not be built again: it is on the CPU, or a loader fills all its tensors."""
    part = next(part for part in layout.all_parts if part.kind == kind)
    if kind == "encoder" and layout.resolved.config.pretrained and part.checkpoint is None:
        return False
    if kind in layout.on_cpu:
        return True
    if draw or part.checkpoint is not None or layout.resolved.config.pretrained:
        return False
    stored = {id(tensor) for tensor in module.state_dict(keep_vars=True).values()}
    return all(id(buffer) in stored for buffer in module.buffers())


def _origins(layout: Layout, model: VisionEncoderDecoder) -> dict[str, Origin]:
    """The origins of the tensors that are not random, by name."""
    origins = {
        f"{kind}.{name}": origin
        for kind, report in model.load_reports.items()
        for name, origin in report.origins.items()
    }
    encoder = layout.resolved.encoder
    if layout.resolved.config.pretrained and encoder.checkpoint is None:
        variant = getattr(encoder.config, "variant", None)
        published = Origin("published", str(variant or encoder.entry.name))
        origins |= dict.fromkeys((f"encoder.{name}" for name in model.encoder.state_dict()), published)
    return origins


def _assemble(
    layout: Layout, modules: Modules, reports: dict[str, LoadReport], device: str | torch.device | None
) -> VisionEncoderDecoder:
    resolved, encoder = layout.resolved, modules.encoder
    preprocessing: Preprocessing = resolved.config.preprocessing or encoder.preprocessing
    preprocessing = preprocessing.with_channels(getattr(encoder, "num_channels", 3))
    config = resolved.config.model_copy(
        update={
            **{part.kind: part.section() for part in layout.all_parts},
            "preprocessing": preprocessing,
            "pretrained": False,
            "plugins": {part.kind: str(part.entry.owner) for part in layout.all_parts},
        }
    )
    model = VisionEncoderDecoder(
        config,
        encoder,
        modules.projector,
        modules.decoder,
        processor=Processor(preprocessing, resolved.tokenizer, encoder=encoder, token_ids=resolved.token_ids),
        token_ids=resolved.token_ids,
    )
    model.load_reports = reports
    model.generation_config = resolved.generation_config
    if (source := resolved.decoder.checkpoint) is not None and source.model_type is not None:
        model.generation_config = within_positions(model.generation_config, model.decoder.max_positions)
    return model.to(device=device, dtype=getattr(torch, config.dtype)).eval()
