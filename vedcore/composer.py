"""From names or a config to a plan, and from there to a model.

`plan` looks at the parts on torch's meta device, where nothing is allocated, and refuses what cannot work;
`compose` plans first and builds then.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from vedcore.components import Projector, TextDecoder, VisionEncoder
from vedcore.config import (
    TOKEN_ID_FIELDS,
    ComponentConfig,
    DecoderConfig,
    ModelConfig,
    Preprocessing,
    TokenIds,
    token_id_tuple,
)
from vedcore.config_files import ConfigSource, read_config_text
from vedcore.errors import (
    ConfigError,
    ConfigLimitError,
    ConfigSchemaError,
    IncompatibleError,
    PluginContractError,
    UnknownComponentError,
    UsageError,
    VedcoreError,
    described,
    did_you_mean,
)
from vedcore.generation.config import GenerationConfig
from vedcore.layers.drawing import LateDraws
from vedcore.model import VisionEncoderDecoder
from vedcore.parts import CONFIG, PartCheckpoint, find_part, from_hub, open_part
from vedcore.planning import PartPlan, Plan, in_units
from vedcore.plugins import load_component, registry
from vedcore.plugins.contracts import check_built
from vedcore.processing import Processor, make_tokenizer, token_ids_of, vocab_size_of
from vedcore.registry import BUILT_IN, Entry, Kind

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from vedcore.weights.loading import LoadReport

__all__ = ["build", "compose", "plan"]

MAX_PARAMETERS = 100_000_000_000
SIDES: tuple[Kind, ...] = ("encoder", "decoder", "projector")
EMPTY: Mapping[str, Any] = MappingProxyType({})


class _Part(NamedTuple):
    """A part that is resolved and not yet built."""

    entry: Entry
    cls: Any
    config: Any
    checkpoint: PartCheckpoint | None = None
    """Where its weights come from, if it was named by a folder or a repository."""

    def make(self, kind: Kind, *arguments: Any, **keywords: Any) -> Any:
        """The module; what a plugin's constructor raises is said to be the plugin's."""
        try:
            return self.cls(self.config, *arguments, **keywords)
        except (VedcoreError, KeyboardInterrupt, MemoryError):
            raise
        except BaseException as error:  # sys.exit too
            if self.entry.owner.distribution == BUILT_IN:
                raise
            raise PluginContractError(
                f"{kind} {self.entry.name!r} of {self.entry.owner} does not build: {described(error)}",
                plugin=self.entry.owner.distribution, hint="check its settings, or tell its authors",
            ) from error  # fmt: skip


class _Parts(nn.Module):
    """The modules of a model, by its names for them."""

    def __init__(self, encoder: VisionEncoder, projector: Projector, decoder: TextDecoder) -> None:
        super().__init__()
        self.encoder, self.projector, self.decoder = encoder, projector, decoder


class _Resolved(NamedTuple):
    """A request with all names looked up and all fields filled in, but for the projector."""

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
        CheckpointError, HubError: a checkpoint that a part comes from is damaged, does not fit, or is not to be had.
        PluginError: a plugin that fails.
    """
    data, source = _gather(encoder, decoder)
    with _placed(source, options):
        return _lay_out(_resolve(*_request(data, options)))[0]


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
    data, source = _gather(encoder, decoder)
    with _placed(source, options):
        resolved = _resolve(*_request(data, options))
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
        draw: give parameters random numbers; False leaves them, and buffers that are stored, as memory is, for weights
            that are loaded next.
        check: called with the model's parts on the meta device, before anything is allocated.
    """
    resolved = _resolve(config, tokenizer)
    _, projector, parts = _lay_out(resolved)
    if check is not None:
        check(parts)
    if draw or not _is_all_stored(resolved, projector, parts):
        return _assembled(resolved, projector, *_built(resolved, projector, draw=draw), device)
    _take_memory(parts.to(dtype=getattr(torch, config.dtype)))
    return _assembled(resolved, projector, parts, {}, device)


# -- from arguments to a request --------------------------------------------------------------------------------


def _gather(encoder: Any, decoder: Any) -> tuple[dict[str, Any], ConfigSource | None]:
    """What the two arguments hold of a `ModelConfig`, and the file that it came from."""
    source = None
    if isinstance(encoder, ModelConfig):
        data = encoder.model_dump(exclude_unset=True)
    elif isinstance(encoder, Mapping) and ("encoder" in encoder or decoder is None):
        data = dict(encoder)
    elif decoder is None and isinstance(encoder, (str, os.PathLike)):
        if isinstance(encoder, str) and not encoder.lower().endswith((".yaml", ".yml", ".toml", ".json")):
            raise UsageError(
                f"compose({encoder!r}) names no decoder", field="decoder",
                hint=f"write compose({encoder!r}, 'gpt2'), or give a .yaml, .toml or .json file",
            )  # fmt: skip
        source = read_config_text(encoder)
        data = dict(source.data)
        if isinstance(name := data.get("tokenizer"), str) and name.endswith(".json"):  # meant from the file's folder
            data["tokenizer"] = os.path.join(os.path.dirname(encoder), name)
    else:
        data = {"encoder": encoder}
        if decoder is None:
            raise UsageError("no decoder is named", field="decoder", hint="name one, such as 'gpt2'")
    if decoder is not None:
        if "decoder" in data:
            raise UsageError(
                "the config has a decoder already", field="decoder", hint="change it with decoder_<field> keywords"
            )
        data["decoder"] = decoder
    return data, source


@contextlib.contextmanager
def _placed(source: ConfigSource | None, options: Mapping[str, Any]) -> Iterator[None]:
    """Name file and line in an error about a key of a config file."""
    try:
        yield
    except ConfigError as error:
        keys = tuple(int(key) if key.isdecimal() else key for key in (error.field or "").split("."))
        by_option = {"_".join(map(str, keys[:2])), str(keys[-1])} & set(options)
        if source is None or error.path is not None or by_option:
            raise
        path, line = source.where(keys) or (source.path, None)
        placed = error.at(path if line is None else f"{path}:{line}")
        placed.path = str(path)
        raise placed from error.__cause__


def _request(data: dict[str, Any], options: dict[str, Any]) -> tuple[ModelConfig, Any]:
    """The arguments of `compose` as a `ModelConfig`, and a tokenizer object if one was given."""
    sections: dict[str, Any] = {kind: _section(data[kind], kind) for kind in SIDES if kind in data}
    tokenizer = None
    if options.get("tokenizer") is not None and data.pop("token_ids", None):  # they were another tokenizer's
        for field in TOKEN_ID_FIELDS:
            sections.get("decoder", {}).pop(field, None)
    for key, value in options.items():
        side, _, field = key.partition("_")
        if key == "tokenizer" and value is not None and not isinstance(value, (str, os.PathLike)):
            tokenizer = value
        elif key == "projector":
            sections["projector"] = _section(value, "projector")
        elif key == "image_size":
            if value is not None:
                sections.setdefault("encoder", {})["image_size"] = value
                data["preprocessing"] = _with_image_size(data.get("preprocessing"), value)
        elif side in SIDES and field:
            sections.setdefault(side, {"name": "auto"} if side == "projector" else {})[field] = value
        elif key in ModelConfig.model_fields and key not in SIDES:
            data[key] = os.fspath(value) if isinstance(value, os.PathLike) else value
        else:
            known = [*ModelConfig.model_fields, "image_size", "device", "encoder_<field>", "decoder_<field>"]
            raise UsageError(
                "unknown argument", field=key, hint=did_you_mean(key, known) or f"there are: {', '.join(known)}"
            )
    if isinstance(data.get("dtype"), torch.dtype):
        data["dtype"] = str(data["dtype"]).removeprefix("torch.")
    return ModelConfig.parse({**data, **sections}), tokenizer


def _section(value: Any, kind: str) -> dict[str, Any]:
    """A part's section as a mapping; a bare name stands for its name."""
    if isinstance(value, ComponentConfig):
        return {"name": value.name, **value.fields}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, str):
        return {"name": value}
    raise ConfigSchemaError(
        f"a name or a mapping expected, got {type(value).__name__}", field=kind, hint="see `vedcore list`"
    )


def _with_image_size(preprocessing: Any, size: Any) -> Any:
    """Settings of preprocessing that a config brought, for images of another size."""
    if isinstance(preprocessing, Preprocessing):
        preprocessing = preprocessing.model_dump()
    if not isinstance(preprocessing, Mapping):
        return preprocessing
    size = (size, size) if isinstance(size, int) else size
    before, aim = preprocessing.get("image_size"), preprocessing.get("resize_size")
    if before is not None and aim is not None:  # what is cut away around stays in proportion
        aim = tuple(round(a * new / old) for a, new, old in zip(aim, size, before, strict=True))
    return {**preprocessing, "image_size": size, **({} if aim is None else {"resize_size": aim})}


# -- from a request to parts ------------------------------------------------------------------------------------


def _resolve(request: ModelConfig, tokenizer: Any) -> _Resolved:
    tokenizer = request.tokenizer if tokenizer is None else tokenizer
    tokenizer = None if tokenizer is None else make_tokenizer(tokenizer)
    encoder = _part("encoder", request.encoder, request.plugins.get("encoder"))
    if encoder.checkpoint is not None and request.preprocessing is None:
        found: Any = encoder.checkpoint.preprocessing()
        if "image_size" in request.encoder.fields:
            found = found and Preprocessing.parse(_with_image_size(found, request.encoder.fields["image_size"]))
        request = request.model_copy(update={"preprocessing": found})
    checkpoint = _checkpoint("decoder", request.decoder)
    if checkpoint is None and request.pretrained:
        checkpoint = _published(request.decoder, request.plugins.get("decoder"))
    if checkpoint is not None and tokenizer is None:
        tokenizer = checkpoint.tokenizer()
    decoder, token_ids, notes = _decoder_part(request, tokenizer, checkpoint)
    return _Resolved(request, encoder, decoder, tokenizer, token_ids, notes)


def _checkpoint(kind: Kind, section: ComponentConfig) -> PartCheckpoint | None:
    """The checkpoint that a section names instead of a family."""
    folder = find_part(section.name)
    return None if folder is None else open_part(kind, folder)


def _published(section: ComponentConfig, owner: str | None) -> PartCheckpoint:
    """The checkpoint on the hub that is the decoder's variant."""
    _, cls, variant = _family("decoder", section, owner)
    repositories: Mapping[str, str] = getattr(cls, "hub_repos", EMPTY)
    if variant not in list(repositories):
        raise UsageError(
            f"{section.name!r} has no published weights", field="pretrained",
            hint=f"choose one of {', '.join(repositories)}" if repositories else "leave it out",
        )  # fmt: skip
    return open_part("decoder", from_hub(repositories[variant]))


def _part(
    kind: Kind,
    section: ComponentConfig,
    owner: str | None,
    defaults: Mapping[str, Any] = EMPTY,
    checkpoint: PartCheckpoint | None = None,
) -> _Part:
    if kind == "encoder":
        checkpoint = _checkpoint(kind, section)
    found, cls, variant = _family(kind, section, owner, checkpoint)
    given = {field: value for field, value in section.fields.items() if field != "variant"}
    if checkpoint is not None:  # whose ids count, but where it leaves them open
        own = checkpoint.fields.items()
        defaults = {**defaults, **{field: value for field, value in own if value is not None or field not in defaults}}
    words: Mapping[str, str] = cls.config_class.attribute_map
    named = {words.get(field, field) for field in given}
    fields = {**{field: value for field, value in defaults.items() if words.get(field, field) not in named}, **given}
    try:
        config = cls.make_config(variant, fields, prefix=f"{kind}.")
    except ConfigError as error:
        field = error.field or kind
        theirs = checkpoint is not None and field.removeprefix(f"{kind}.") in checkpoint.fields.keys() - named
        raise error.at(checkpoint.folder / CONFIG if checkpoint and theirs else error.path, field) from None
    return _Part(found, cls, config, checkpoint)


def _family(
    kind: Kind, section: ComponentConfig, owner: str | None, checkpoint: PartCheckpoint | None = None
) -> tuple[Entry, Any, Any]:
    """The family that a section or its checkpoint names, its class, and the variant of it."""
    try:
        cls, found = load_component(kind, checkpoint.name if checkpoint else section.name, recorded=owner)
    except UnknownComponentError as error:
        raise error if error.field else error.at(error.path, kind) from None
    return found.entry, cls, section.fields.get("variant", found.variant)


def _decoder_part(
    request: ModelConfig, tokenizer: Tokenizer | None, checkpoint: PartCheckpoint | None
) -> tuple[_Part, TokenIds, tuple[str, ...]]:
    """The decoder's config with the vocabulary and token ids that it shall have, and those ids."""
    given, notes, defaults = request.decoder.fields, [], {}
    if checkpoint is not None:
        given = {**checkpoint.fields, **given}
    if tokenizer is not None:
        vocabulary, ids = vocab_size_of(tokenizer), token_ids_of(tokenizer)
        size = given.get("vocab_size")
        if isinstance(size, int) and size < vocabulary:
            raise IncompatibleError(
                f"the tokenizer has {vocabulary} tokens, the decoder {size}", field="decoder.vocab_size",
                hint="leave vocab_size out, or use a smaller tokenizer",
            )  # fmt: skip
        start = given.get("bos_token_id", ids.start)
        pad = ids.pad if ids.pad is not None or not ids.eos else ids.eos[0]
        values = (ids.start, ids.eos or None, pad, start)  # None too: the family's own ids mean other tokens here
        defaults = {"vocab_size": vocabulary, **dict(zip(TOKEN_ID_FIELDS, values, strict=True))}
        if checkpoint is not None:  # which has ids of its own, but where it leaves them open
            given = {key: value for key, value in given.items() if value is not None or key not in defaults}
    part = _part("decoder", request.decoder, request.plugins.get("decoder"), defaults, checkpoint)
    config: DecoderConfig = part.config
    for field in TOKEN_ID_FIELDS:
        largest = max(token_id_tuple(getattr(config, field)), default=-1)
        if largest < config.vocab_size:
            continue
        if field in given:
            raise IncompatibleError(
                f"id {largest} is not below vocab_size {config.vocab_size}", field=f"decoder.{field}",
                hint="change the id, or decoder.vocab_size",
            )  # fmt: skip
        notes.append(f"{part.entry.name}'s own {field} {largest} is outside a vocabulary of {config.vocab_size}: unset")
        config = config.changed(**{field: None})
    ids = request.token_ids or _ids_of(config)
    ids.check(config.vocab_size)
    missing = [role for role in ("start", "eos", "pad") if getattr(ids, role) in (None, ())]
    if missing:
        notes.append(f"no {' or '.join(missing)} token id: set token_ids or a tokenizer before training or generating")
    return part._replace(config=config), ids, tuple(notes)


def _ids_of(config: DecoderConfig) -> TokenIds:
    eos = token_id_tuple(config.eos_token_id)
    start = config.bos_token_id if config.decoder_start_token_id is None else config.decoder_start_token_id
    pad = eos[0] if config.pad_token_id is None and eos else config.pad_token_id
    return TokenIds(start=start, eos=eos, pad=pad)


# -- from parts to a plan ---------------------------------------------------------------------------------------


def _lay_out(resolved: _Resolved) -> tuple[Plan, _Part, _Parts]:
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
        projector_part = _projector_part(request, encoder.hidden_size, width)
        projector: Projector = projector_part.make("projector", encoder.hidden_size, width)
    parts: dict[Kind, tuple[_Part, Any]] = {
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


@contextlib.contextmanager
def _bounded(itemsize: int) -> Iterator[None]:
    """Refuse an absurd size as soon as the parameters that are laid out exceed it, before the rest is."""
    total = 0

    def count(module: nn.Module, name: str, parameter: Tensor | None) -> None:
        nonlocal total
        if parameter is not None and parameter.is_meta:
            total += parameter.numel()
        if total > MAX_PARAMETERS:
            raise ConfigLimitError(
                f"{total:,} parameters and more ({in_units(total * itemsize)}) where {MAX_PARAMETERS:,} is the limit",
                hint="make hidden sizes, layers, images or the vocabulary smaller",
            )

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def _projector_part(request: ModelConfig, encoder_width: int, decoder_width: int) -> _Part:
    section = request.projector
    if section.name == "auto":
        name = "identity" if encoder_width == decoder_width and not section.fields else "linear"
        section = ComponentConfig(name=name, **section.fields)
    return _part("projector", section, request.plugins.get("projector"))


# -- from parts to a model --------------------------------------------------------------------------------------


def _check_device(device: str | torch.device | None) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:  # not there, not built for it, no device
        raise UsageError(
            f"{str(device)!r} cannot be used: {str(error).splitlines()[0]}", field="device", hint="try 'cpu' or 'cuda'"
        ) from None


def _built(resolved: _Resolved, projector_part: _Part, *, draw: bool) -> tuple[_Parts, dict[str, LoadReport]]:
    """The parts, and what was loaded into those that come from checkpoints."""
    request = resolved.request
    with torch.random.fork_rng(devices=[], enabled=request.seed is not None):
        if request.seed is not None:
            torch.manual_seed(request.seed)
        with LateDraws() as draws:
            from_timm = request.pretrained and resolved.encoder.checkpoint is None
            encoder: VisionEncoder = resolved.encoder.make("encoder", pretrained=from_timm)
            decoder: TextDecoder = resolved.decoder.make("decoder")
            projector = projector_part.make("projector", encoder.hidden_size, decoder.cross_attention_size)
        sides: dict[str, tuple[_Part, nn.Module]] = {
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


def _is_all_stored(resolved: _Resolved, projector_part: _Part, parts: _Parts) -> bool:
    """Whether weights to be loaded hold all numbers of the parts, so that what was laid out need not be built again."""
    made = resolved.encoder, projector_part, resolved.decoder
    if resolved.request.pretrained or any(
        part.checkpoint is not None or part.entry.owner.distribution != BUILT_IN for part in made
    ):
        return False  # a plugin may keep numbers where nobody sees them
    stored = {id(tensor) for tensor in parts.state_dict(keep_vars=True).values()}
    return all(id(buffer) in stored for buffer in parts.buffers())


def _take_memory(parts: nn.Module) -> None:
    """Move what is on the meta device to the CPU, as memory is; a tensor of several modules stays one."""
    made: dict[int, Any] = {}
    for module in parts.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and id(tensor) not in made:
                    memory = torch.empty(tensor.shape, dtype=tensor.dtype)
                    is_parameter = isinstance(tensor, nn.Parameter)
                    made[id(tensor)] = nn.Parameter(memory, tensor.requires_grad) if is_parameter else memory
                tensors[name] = None if tensor is None else made[id(tensor)]


def _assembled(
    resolved: _Resolved,
    projector_part: _Part,
    modules: _Parts,
    reports: Mapping[str, LoadReport],
    device: str | torch.device | None,
) -> VisionEncoderDecoder:
    request, encoder = resolved.request, modules.encoder
    preprocessing: Preprocessing = request.preprocessing or encoder.preprocessing
    parts: dict[Kind, _Part] = {"encoder": resolved.encoder, "decoder": resolved.decoder, "projector": projector_part}
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


def _complete(kind: Kind, part: _Part) -> ComponentConfig:
    """The section that builds this very part again: all fields, so that later defaults cannot creep in."""
    return ComponentConfig(name=registry().shown_name(kind, part.entry), **part.config.model_dump())
