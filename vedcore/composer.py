"""From names or a config to a plan, and from there to a model.

`plan` looks at the parts on torch's meta device, where nothing is allocated, and refuses what cannot work;
`compose` plans first and builds then.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from vedcore.components import Projector, TextDecoder, VisionEncoder
from vedcore.config import (
    ComponentConfig,
    Config,
    DecoderConfig,
    ModelConfig,
    Preprocessing,
    TokenIds,
    token_id_tuple,
)
from vedcore.config_files import read_config_text
from vedcore.errors import ConfigLimitError, IncompatibleError, UsageError, did_you_mean
from vedcore.generation.config import GenerationConfig
from vedcore.model import VisionEncoderDecoder
from vedcore.plugins import load_component, registry
from vedcore.processing import Processor, make_tokenizer, token_ids_of
from vedcore.registry import Entry, Kind

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["PartPlan", "Plan", "build", "compose", "plan"]

MAX_PARAMETERS = 100_000_000_000
SIDES: tuple[Kind, ...] = ("encoder", "decoder", "projector")


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
    """What a model will be, before anything is allocated; ``str(plan)`` is a table."""

    encoder: PartPlan
    """The vision encoder."""
    projector: PartPlan
    """What stands between."""
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
    """Those that start at random: projector and cross-attention when the parts are pretrained, else all."""
    dtype: str
    """Type of the parameters."""
    weight_bytes: int
    """Bytes of the parameters."""
    cache_bytes_per_image: int
    """Bytes of cross-attention keys and values of one image, whatever the beams."""
    cache_bytes_per_token: int
    """Bytes of self-attention keys and values of one token of one text."""
    notes: tuple[str, ...] = ()
    """What is worth knowing before training."""

    def __str__(self) -> str:
        rows = [
            (
                "encoder",
                _describe(self.encoder),
                f"{self.image_size[0]} x {self.image_size[1]} px -> {self.image_tokens} tokens",
            ),
            (
                "projector",
                _describe(self.projector),
                f"width {self.encoder.hidden_size} -> {self.projector.hidden_size}",
            ),
            (
                "decoder",
                _describe(self.decoder),
                f"vocabulary {self.vocab_size:,}, positions {self.max_positions or 'any number'}",
            ),
        ]
        widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
        lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in rows]
        ids = self.token_ids
        lines += [
            f"token ids   start {ids.start}, eos {', '.join(map(str, ids.eos)) or None}, pad {ids.pad}",
            f"parameters  {self.parameters:,} ({self.fresh_parameters:,} fresh), {_size(self.weight_bytes)} as {self.dtype}",
            f"caches      {_size(self.cache_bytes_per_image)} an image, {_size(self.cache_bytes_per_token)} a token of a text",
            *(f"note        {note}" for note in self.notes),
        ]
        return "\n".join(lines)


class _Part(NamedTuple):
    """A part that is resolved and not yet built."""

    entry: Entry
    cls: Any
    config: Any


class _Resolved(NamedTuple):
    """A request with all names looked up and all fields filled in."""

    request: ModelConfig
    encoder: _Part
    decoder: _Part
    tokenizer: Tokenizer | None
    token_ids: TokenIds
    notes: tuple[str, ...]


def plan(encoder: Any, decoder: Any = None, **options: Any) -> Plan:
    """What `compose` would build of the same arguments; nothing is allocated.

    Returns:
        The plan, with widths, tokens, parameters and bytes.

    Raises:
        ConfigError: parts that are unknown, settings that are wrong, parts that do not fit together.
    """
    return _lay_out(_resolve(*_request(encoder, decoder, options)))[0]


def compose(
    encoder: Any, decoder: Any = None, *, device: str | torch.device | None = None, **options: Any
) -> VisionEncoderDecoder:
    """Build a model of a vision encoder and a text decoder, in eval mode.

    Args:
        encoder: a family (``"swin"``), a variant (``"swin_tiny_patch4_window7_224"``, ``"timm/convnext_tiny"``), or a
            mapping of a ``name`` and fields. Or, without ``decoder``, a whole model: the path of a .yaml, .toml or
            .json file, a mapping, or a `ModelConfig`.
        decoder: a family, a variant, or a mapping.
        device: where the parameters go; the CPU by default.
        options: ``projector`` (``"auto"``, ``"identity"``, ``"linear"``, ``"mlp"``, a plugin's, or a mapping),
            ``tokenizer`` (``"char"``, ``"byte"``, a tokenizer.json, a ``tokenizers.Tokenizer``), ``image_size``
            (a number or height and width), ``pretrained`` (published weights), ``seed`` (same seed, same weights),
            ``dtype`` (``"float32"``, ``"float16"``, ``"bfloat16"``), ``token_ids``, ``preprocessing``, and any field
            of a part as ``encoder_<field>``, ``decoder_<field>`` or ``projector_<field>``.

    Raises:
        ConfigError: parts that are unknown, settings that are wrong, parts that do not fit together.
        PluginError: a plugin that fails.
    """
    resolved = _resolve(*_request(encoder, decoder, options))
    _, projector = _lay_out(resolved)
    return _build(resolved, projector, device)


def build(
    config: ModelConfig, *, tokenizer: Tokenizer | None = None, device: str | torch.device | None = None
) -> VisionEncoderDecoder:
    """Build the model of a complete config, with random weights: `compose` for a config and its tokenizer."""
    resolved = _resolve(config, tokenizer, None)
    _, projector = _lay_out(resolved)
    return _build(resolved, projector, device)


# -- from arguments to a request --------------------------------------------------------------------------------


def _request(encoder: Any, decoder: Any, options: dict[str, Any]) -> tuple[ModelConfig, Any, str | None]:
    """The arguments of `compose` as a `ModelConfig`, a tokenizer object if one was given, and the file if any."""
    path: str | None = None
    data: dict[str, Any]
    if isinstance(encoder, ModelConfig):
        data = encoder.model_dump(exclude_unset=True)
    elif isinstance(encoder, Mapping) and "encoder" in encoder:
        data = dict(encoder)
    elif decoder is None and isinstance(encoder, (str, os.PathLike)):
        if isinstance(encoder, str) and not encoder.lower().endswith((".yaml", ".yml", ".toml", ".json")):
            raise UsageError(
                f"compose({encoder!r}) names no decoder", field="decoder",
                hint=f"write compose({encoder!r}, 'gpt2'), or give a .yaml, .toml or .json file",
            )  # fmt: skip
        source = read_config_text(encoder)
        data, path = dict(source.data), os.fspath(encoder)
    else:
        data = {"encoder": encoder}
    if decoder is not None:
        if "decoder" in data:
            raise UsageError(
                "the config has a decoder already", field="decoder", hint="change it with decoder_<field> keywords"
            )
        data["decoder"] = decoder
    elif "decoder" not in data:
        raise UsageError("no decoder is named", field="decoder", path=path, hint="name one, such as 'gpt2'")

    sections = {kind: _section(data.get(kind, {"name": "auto"}), kind, path) for kind in SIDES}
    tokenizer = None
    for key, value in options.items():
        side, _, field = key.partition("_")
        if key == "tokenizer" and value is not None and not isinstance(value, (str, os.PathLike)):
            tokenizer = value
        elif key == "projector":
            sections["projector"] = _section(value, "projector", None)
        elif key == "image_size":
            if value is not None:
                sections["encoder"]["image_size"] = value
        elif side in SIDES and field:
            sections[side][field] = value
        elif key in ModelConfig.model_fields and key not in SIDES:
            data[key] = os.fspath(value) if isinstance(value, os.PathLike) else value
        else:
            known = [*ModelConfig.model_fields, "image_size", "device", "encoder_<field>", "decoder_<field>"]
            raise UsageError(
                "unknown argument", field=key, hint=did_you_mean(key, known) or f"there are: {', '.join(known)}"
            )
    if isinstance(data.get("dtype"), torch.dtype):
        data["dtype"] = str(data["dtype"]).removeprefix("torch.")
    return ModelConfig.parse({**data, **sections}, path=path), tokenizer, path


def _section(value: Any, kind: str, path: str | None) -> dict[str, Any]:
    """A part's section as a mapping; a bare name stands for its name."""
    if isinstance(value, ComponentConfig):
        return {"name": value.name, **value.fields}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, str):
        return {"name": value}
    raise UsageError(f"a name or a mapping expected, got {type(value).__name__}", field=kind, path=path)


# -- from a request to parts ------------------------------------------------------------------------------------


def _resolve(request: ModelConfig, tokenizer: Any, path: str | None) -> _Resolved:
    if tokenizer is not None or request.tokenizer is not None:
        tokenizer = make_tokenizer(tokenizer if tokenizer is not None else _beside(request.tokenizer, path))
    encoder = _part("encoder", request.encoder, request, path, {})
    decoder, token_ids, notes = _decoder_part(request, tokenizer, path)
    return _Resolved(request, encoder, decoder, tokenizer, token_ids, notes)


def _beside(tokenizer: str | None, path: str | None) -> str:
    """A tokenizer file named in a config file is meant from that file's folder."""
    assert tokenizer is not None
    if path is None or not tokenizer.endswith(".json") or os.path.isabs(tokenizer):
        return tokenizer
    return os.path.join(os.path.dirname(path), tokenizer)


def _part(
    kind: Kind, section: ComponentConfig, request: ModelConfig, path: str | None, defaults: dict[str, Any]
) -> _Part:
    cls, found = load_component(kind, section.name, recorded=request.plugins.get(kind))
    fields = {**defaults, **section.fields}
    config = cls.make_config(fields.pop("variant", found.variant), fields, path=path, prefix=f"{kind}.")
    return _Part(found.entry, cls, config)


def _decoder_part(
    request: ModelConfig, tokenizer: Tokenizer | None, path: str | None
) -> tuple[_Part, TokenIds, tuple[str, ...]]:
    """The decoder's config with the vocabulary and token ids that it shall have, and those ids."""
    given = request.decoder.fields
    notes: list[str] = []
    defaults: dict[str, Any] = {}
    if tokenizer is not None:
        vocabulary = tokenizer.get_vocab_size()
        ids = token_ids_of(tokenizer)
        found = {
            "bos_token_id": ids.start,
            "decoder_start_token_id": ids.start,
            "eos_token_id": ids.eos or None,
            "pad_token_id": ids.pad,
        }
        defaults = {"vocab_size": vocabulary, **{k: v for k, v in found.items() if v is not None}}
        if "bos_token_id" in given:
            defaults.pop("decoder_start_token_id", None)
        if isinstance(given.get("vocab_size"), int) and given["vocab_size"] < vocabulary:
            raise IncompatibleError(
                f"the tokenizer has {vocabulary} tokens, the decoder {given['vocab_size']}", field="decoder.vocab_size",
                hint="leave vocab_size out, or use a smaller tokenizer",
            )  # fmt: skip
    part = _part("decoder", request.decoder, request, path, defaults)
    config: DecoderConfig = part.config
    for field in ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"):
        ids_here = token_id_tuple(getattr(config, field))
        if all(i < config.vocab_size for i in ids_here):
            continue
        if field in given or field in defaults:
            raise IncompatibleError(
                f"id {max(ids_here)} is not below vocab_size {config.vocab_size}", field=f"decoder.{field}", path=path,
                hint="change the id, or decoder.vocab_size",
            )  # fmt: skip
        notes.append(
            f"{part.entry.name}'s own {field} {max(ids_here)} is outside a vocabulary of {config.vocab_size}: unset"
        )
        config = config.changed(**{field: None})
    if request.token_ids is not None:
        ids = request.token_ids
    else:
        eos = token_id_tuple(config.eos_token_id)
        start = config.decoder_start_token_id if config.decoder_start_token_id is not None else config.bos_token_id
        pad = config.pad_token_id if config.pad_token_id is not None else (eos[0] if eos else None)
        ids = TokenIds(start=start, eos=eos, pad=pad)
    ids.check(config.vocab_size)
    missing = [role for role in ("start", "eos", "pad") if getattr(ids, role) in (None, ())]
    if missing:
        notes.append(f"no {' or '.join(missing)} token id: set token_ids or a tokenizer before training or generating")
    return part._replace(config=config), ids, tuple(notes)


# -- from parts to a plan ---------------------------------------------------------------------------------------


def _lay_out(resolved: _Resolved) -> tuple[Plan, _Part]:
    """The plan, and the projector that it needs."""
    request = resolved.request
    with torch.device("meta"):
        encoder: VisionEncoder = resolved.encoder.cls(resolved.encoder.config)
        decoder: TextDecoder = resolved.decoder.cls(resolved.decoder.config)
        width = getattr(decoder, "cross_attention_size", None)
        if not width:
            raise IncompatibleError(
                f"{request.decoder.name!r} has no cross-attention: it would not see the image", field="decoder",
                hint="choose a decoder of `vedcore list decoders`",
            )  # fmt: skip
        projector_part = _projector_part(request, encoder.hidden_size, width)
        projector: Projector = projector_part.cls(projector_part.config, encoder.hidden_size, width)
    parts: dict[Kind, tuple[_Part, nn.Module]] = {
        "encoder": (resolved.encoder, encoder),
        "projector": (projector_part, projector),
        "decoder": (resolved.decoder, decoder),
    }
    for kind, (part, module) in parts.items():
        if part.entry.owner.distribution != "vedcore":
            _check_stranger(kind, part, module)
    size = (request.preprocessing or encoder.preprocessing).image_size
    tokens = projector.num_tokens(encoder.num_tokens(size))
    counts = {kind: sum(p.numel() for p in module.parameters()) for kind, (_, module) in parts.items()}
    total = sum(counts.values())
    dtype: torch.dtype = getattr(torch, request.dtype)
    if total > MAX_PARAMETERS:
        raise ConfigLimitError(
            f"{total:,} parameters ({_size(total * dtype.itemsize)}) are above the limit of {MAX_PARAMETERS:,}",
            field=max(counts, key=lambda kind: counts[kind]), hint="make hidden sizes, layers or the vocabulary smaller",
        )  # fmt: skip
    fresh = decoder.fresh_parameters()
    fresh_count = counts["projector"] + sum(p.numel() for name, p in decoder.named_parameters() if name in fresh)
    layers = len(decoder.layers) if hasattr(decoder, "layers") else 0
    per_token = 2 * layers * decoder.hidden_size * dtype.itemsize
    result = Plan(
        **{
            kind: PartPlan(
                name=part.entry.name, owner=str(part.entry.owner), config=part.config.model_dump(exclude_none=True),
                hidden_size=width if kind == "projector" else module.hidden_size, parameters=counts[kind],
            )
            for kind, (part, module) in parts.items()
        },
        image_size=size, image_tokens=tokens, vocab_size=decoder.vocab_size, max_positions=decoder.max_positions,
        token_ids=resolved.token_ids, parameters=total, fresh_parameters=fresh_count if request.pretrained else total,
        dtype=request.dtype, weight_bytes=total * dtype.itemsize, cache_bytes_per_image=per_token * tokens,
        cache_bytes_per_token=per_token, notes=resolved.notes,
    )  # fmt: skip
    return result, projector_part


def _projector_part(request: ModelConfig, encoder_width: int, decoder_width: int) -> _Part:
    section = request.projector
    if section.name == "auto":
        name = "identity" if encoder_width == decoder_width and not section.fields else "linear"
        section = ComponentConfig(name=name, **section.fields)
    return _part("projector", section, request, None, {})


def _check_stranger(kind: Kind, part: _Part, module: Any) -> None:
    """Refuse a third party's part that would fail later and less clearly."""
    whose = f"{kind} {part.entry.name!r} of {part.entry.owner}"
    for name, inner in module.named_modules():
        loose = [k for k, v in vars(inner).items() if isinstance(v, Tensor)]
        if loose:
            raise IncompatibleError(
                f"{whose}: tensor {'.'.join(filter(None, [name, loose[0]]))} is neither a parameter nor a buffer",
                plugin=part.entry.owner.distribution, hint="use register_buffer, or it stays behind on .to(device)",
            )  # fmt: skip
    if kind != "encoder":
        return
    height, width = module.preprocessing.image_size
    with torch.device("meta"), torch.no_grad():
        states = module.eval()(torch.empty(1, 3, height, width)).last_hidden_state
    expected = (1, module.num_tokens((height, width)), module.hidden_size)
    if tuple(states.shape) != expected:
        raise IncompatibleError(
            f"{whose} gives states of shape {tuple(states.shape)}, but publishes {expected}",
            plugin=part.entry.owner.distribution, hint="correct hidden_size or num_tokens",
        )  # fmt: skip


# -- from parts to a model --------------------------------------------------------------------------------------


def _build(resolved: _Resolved, projector_part: _Part, device: str | torch.device | None) -> VisionEncoderDecoder:
    request = resolved.request
    with torch.random.fork_rng(devices=[], enabled=request.seed is not None):
        if request.seed is not None:
            torch.manual_seed(request.seed)
        encoder: VisionEncoder = resolved.encoder.cls(resolved.encoder.config, pretrained=request.pretrained)
        decoder: TextDecoder = resolved.decoder.cls(resolved.decoder.config)
        width = decoder.cross_attention_size
        projector: Projector = projector_part.cls(projector_part.config, encoder.hidden_size, width)
    preprocessing: Preprocessing = request.preprocessing or encoder.preprocessing
    config = request.model_copy(
        update={
            "encoder": _complete("encoder", resolved.encoder),
            "decoder": _complete("decoder", resolved.decoder),
            "projector": _complete("projector", projector_part),
            "preprocessing": preprocessing,
            "pretrained": False,
            "plugins": {
                "encoder": str(resolved.encoder.entry.owner),
                "decoder": str(resolved.decoder.entry.owner),
                "projector": str(projector_part.entry.owner),
            },
        }
    )
    model = VisionEncoderDecoder(
        config, encoder, projector, decoder,
        processor=Processor(preprocessing, resolved.tokenizer, encoder=encoder),
        token_ids=resolved.token_ids, generation_config=GenerationConfig(),
    )  # fmt: skip
    return model.to(device=device, dtype=getattr(torch, request.dtype)).eval()


def _complete(kind: Kind, part: _Part) -> ComponentConfig:
    """The section that builds this very part again: all fields, so that later defaults cannot creep in."""
    name = part.entry.name
    if registry().owner_count(kind, name) > 1:
        name = f"{part.entry.owner.distribution}:{name}"
    return ComponentConfig(name=name, **part.config.model_dump())


def _describe(part: PartPlan) -> str:
    return f"{part.config.get('variant') or part.name} ({part.parameters:,} parameters)"


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"
