"""The model that a request means."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vedcore.composer.plan import Layout, Modules, lay_out
from vedcore.composer.request import NOT_GIVEN, AnyModel, AnyPart, Request
from vedcore.composer.resolve import Parts, resolve
from vedcore.config import ModelConfig, Preprocessing, TokenIds
from vedcore.errors import UsageError
from vedcore.generation.config import GenerationConfig
from vedcore.layers.lazy_init import LazyInit
from vedcore.model import VisionEncoderDecoder
from vedcore.processing.processor import Processor
from vedcore.weights.loading import LoadReport

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["build", "compose"]

_DRAWING = threading.RLock()
"""Held by the thread that builds: all draw from torch's one generator, which a seed sets."""


def compose(
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
    device: str | torch.device | None = None,
    **fields: Any,
) -> VisionEncoderDecoder:
    """Build a model of a vision encoder and a text decoder, in eval mode.

    What is given beside a whole model counts in place of what that says.

    Args:
        encoder: a family (``"swin"``), a variant (``"swin_tiny_patch4_window7_224"``, ``"timm/convnext_tiny"``), a
            checkpoint (a folder, or ``"hub:org/name@revision"``; ``model.load_reports`` says what was taken), or a
            mapping of a ``name`` and fields. Or, without ``decoder``, a whole model: the path of a .yaml, .toml or
            .json file, a mapping, or a `ModelConfig`.
        decoder: a family, a variant, a checkpoint, or a mapping. A checkpoint brings its tokenizer.
        projector: ``"auto"``, ``"identity"``, ``"linear"``, ``"mlp"``, a plugin's, or a mapping.
        tokenizer: ``"char"``, ``"byte"``, a tokenizer.json, or a ``tokenizers.Tokenizer``.
        preprocessing: how images are prepared; by default as the encoder says.
        image_size: pixels that the encoder sees, a number or height and width.
        token_ids: start, end and padding; by default those of the tokenizer, else of the decoder.
        dtype: type of the parameters: ``"float32"``, the default, ``"float16"``, ``"bfloat16"`` or ``"float64"``.
        pretrained: take published weights: timm's for the encoder, and for the decoder the checkpoint on the hub,
            with its tokenizer.
        seed: same seed, same weights; by default they follow torch's global generator.
        device: where the parameters go; the CPU by default.
        fields: any field of a part, as ``encoder_<field>``, ``decoder_<field>`` or ``projector_<field>``.

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

    def make(parts: Parts) -> VisionEncoderDecoder:
        _check_device(device)
        layout = lay_out(parts)
        return _assembled(layout, *_built(layout, draw=True), device)

    return resolve(request, make)


def build(
    config: ModelConfig,
    *,
    tokenizer: Tokenizer | None = None,
    draw: bool = True,
    check: Callable[[nn.Module], object] | None = None,
) -> VisionEncoderDecoder:
    """Build the model of a complete config: `compose` for a config and its tokenizer.

    Args:
        config: the settings.
        tokenizer: in place of the one that the config names.
        draw: give parameters random numbers; False leaves them, and buffers that are stored, on the meta device or as
            memory is, for weights that are loaded next.
        check: called with the model's parts on the meta device, before anything is allocated.
    """

    def make(parts: Parts) -> VisionEncoderDecoder:
        layout = lay_out(parts)
        if check is not None:
            check(layout.modules)
        if draw or not _is_all_stored(layout):
            return _assembled(layout, *_built(layout, draw=draw), None)
        return _assembled(layout, layout.modules, {}, None)

    return resolve(Request(config, tokenizer), make)


def _check_device(device: str | torch.device | None) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:  # not there, not built for it, no device
        raise UsageError(
            f"{str(device)!r} cannot be used: {str(error).splitlines()[0]}", field="device", hint="try 'cpu' or 'cuda'"
        ) from None


def _built(layout: Layout, *, draw: bool) -> tuple[Modules, dict[str, LoadReport]]:
    """The parts as modules, and what was loaded into those that come from checkpoints."""
    parts, config = layout.parts, layout.parts.config
    with _DRAWING, torch.random.fork_rng(devices=[], enabled=config.seed is not None):
        if config.seed is not None:
            torch.manual_seed(config.seed)
        with LazyInit() as lazy:
            encoder = parts.encoder.make(pretrained=config.pretrained and parts.encoder.checkpoint is None)
            decoder = parts.decoder.make()
            projector = layout.projector.make(encoder.hidden_size, decoder.cross_attention_size)
        reports: dict[str, LoadReport] = {}
        for part, module in ((parts.encoder, encoder), (parts.decoder, decoder)):
            if part.checkpoint is not None:
                report = reports[part.kind] = part.checkpoint.load_into(module)
                lazy.skip(tensor for name, tensor in module.named_parameters() if name in report.loaded)
        if draw:
            lazy.initialize()
    return Modules(encoder, projector, decoder), reports


def _is_all_stored(layout: Layout) -> bool:
    """True where weights to be loaded hold all numbers of the parts: what was laid out need not be built again."""
    if layout.parts.config.pretrained or any(part.checkpoint or not part.is_built_in for part in layout.made_of):
        return False  # a plugin may keep numbers where nobody sees them
    stored = {id(tensor) for tensor in layout.modules.state_dict(keep_vars=True).values()}
    return all(id(buffer) in stored for buffer in layout.modules.buffers())


def _assembled(
    layout: Layout, modules: Modules, reports: dict[str, LoadReport], device: str | torch.device | None
) -> VisionEncoderDecoder:
    parts, encoder = layout.parts, modules.encoder
    preprocessing: Preprocessing = parts.config.preprocessing or encoder.preprocessing
    config = parts.config.model_copy(
        update={
            **{part.kind: part.section() for part in layout.made_of},
            "preprocessing": preprocessing,
            "pretrained": False,
            "plugins": {part.kind: str(part.entry.owner) for part in layout.made_of},
        }
    )
    model = VisionEncoderDecoder(
        config,
        encoder,
        modules.projector,
        modules.decoder,
        processor=Processor(preprocessing, parts.tokenizer, encoder=encoder, token_ids=parts.token_ids),
        token_ids=parts.token_ids,
        generation_config=GenerationConfig(),
    )
    model.load_reports = reports
    return model.to(device=device, dtype=getattr(torch, config.dtype)).eval()
