"""From a request to parts: every name is looked up and every field filled in; nothing is built yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from vedcore.composer.checkpoint_sources import (
    CheckpointSource,
    OpenFolders,
    find_checkpoint,
    has_trained_projector,
    open_projector,
    open_source,
)
from vedcore.composer.request import ModelRequest, locate_errors, with_image_size
from vedcore.composer.snapshot_files import read_preprocessing, read_tokenizer_of
from vedcore.composer.text_settings import TextSettings, for_tokenizer, given_roles, options_of, read_text_settings
from vedcore.config import (
    TOKEN_ID_FIELDS,
    ComponentConfig,
    DecoderConfig,
    ModelConfig,
    Preprocessing,
    TokenIds,
    token_id_tuple,
)
from vedcore.config_files.plain import short
from vedcore.errors import (
    ConfigError,
    IncompatibleError,
    PluginContractError,
    UnknownComponentError,
    UsageError,
    VedcoreError,
    described,
    warn_caller,
)
from vedcore.generation.options.config import GenerationConfig
from vedcore.hub import from_hub
from vedcore.model_files import CONFIG
from vedcore.plugins import load_component, registry
from vedcore.processing.processor import make_tokenizer, token_ids_of, vocab_size_of
from vedcore.registry import BUILT_IN, Entry, Kind

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["ResolvedPart", "ResolvedRequest", "projector_for", "resolve"]

T = TypeVar("T")

_MAX_ATTEMPTS = 20
"""Attempts to resolve a request whose folders other processes keep replacing."""
MAX_TOKENS_SHOWN = 5
"""Added tokens that a warning names."""
_EMPTY: Mapping[str, Any] = MappingProxyType({})


class ResolvedPart(NamedTuple):
    """A part with its class and its complete config, not built yet."""

    kind: Kind
    entry: Entry
    cls: Any
    config: Any
    checkpoint: CheckpointSource | None = None
    """Source of the weights, where the part was named by a folder or a repository."""

    @property
    def is_built_in(self) -> bool:
        """True where vedcore itself brings the part."""
        return self.entry.owner.distribution == BUILT_IN

    def make(self, *arguments: Any, **keywords: Any) -> Any:
        """Build the module.

        Raises:
            PluginContractError: the constructor of a plugin's part raises anything but a `VedcoreError`.
        """
        try:
            return self.cls(self.config, *arguments, **keywords)
        except (VedcoreError, KeyboardInterrupt, MemoryError):
            raise
        except BaseException as error:  # sys.exit too
            if self.is_built_in:
                raise
            raise PluginContractError(
                f"{self.kind} {self.entry.name!r} of {self.entry.owner} does not build: {described(error)}",
                plugin=self.entry.owner.distribution,
                hint="check its settings, or tell its authors",
            ) from error

    def section(self) -> ComponentConfig:
        """The config section that rebuilds this part: it has every field, so that later defaults do not matter."""
        return ComponentConfig(name=registry().shown_name(self.kind, self.entry), **self.config.model_dump())


@dataclass(frozen=True)
class ResolvedRequest:
    """A request with all names looked up and all fields filled in.

    The projector is missing: it depends on the widths of the built parts.
    """

    config: ModelConfig
    """The request's config; ``preprocessing`` comes from the encoder's checkpoint where the request leaves it open."""
    encoder: ResolvedPart
    decoder: ResolvedPart
    tokenizer: Tokenizer | None
    token_ids: TokenIds
    notes: tuple[str, ...]
    """Remarks on the token ids, and on a projector that is left behind with the other half of a checkpoint."""
    generation_config: GenerationConfig
    """The options of the whole checkpoint that the decoder is from."""
    projector: CheckpointSource | None
    """The projector of the checkpoint that both parts are from."""
    dropped: tuple[str, ...]
    """Settings of a checkpoint that do not fit those that were given."""


def resolve(request: ModelRequest, then: Callable[[ResolvedRequest], T]) -> T:
    """Resolve a request and return ``then(resolved)``.

    Checkpoint folders stay open until ``then`` returns, so that all files of a part come from one save. If a folder is
    replaced meanwhile and its files can no longer be read, everything starts again.

    Raises:
        ConfigError, CheckpointError, HubError, PluginError: as `vedcore.compose`; names the line of a config file.
    """
    with locate_errors(request.source, request.keywords):
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            with OpenFolders() as folders:
                try:
                    resolved = _resolve_parts(request, folders)
                    if attempt == _MAX_ATTEMPTS or not folders.replaced():  # else a file may have seemed to be missing
                        return then(resolved)
                except VedcoreError:
                    if attempt == _MAX_ATTEMPTS or not folders.replaced():
                        raise
    raise AssertionError  # the last attempt returns or raises


def _resolve_parts(request: ModelRequest, folders: OpenFolders) -> ResolvedRequest:
    config = request.config
    named = config.tokenizer if request.tokenizer is None else request.tokenizer
    tokenizer = None if named is None else make_tokenizer(named)
    encoder = _part("encoder", config, _checkpoint("encoder", config, folders))
    if (found := encoder.checkpoint) is not None and config.preprocessing is None:
        preprocessing = read_preprocessing(found.snapshot, found.model_type)
        if preprocessing is not None and "image_size" in config.encoder.fields:
            preprocessing = Preprocessing.parse(with_image_size(preprocessing, config.encoder.fields["image_size"]))
        config = config.model_copy(update={"preprocessing": preprocessing})
    checkpoint = _checkpoint("decoder", config, folders)
    if checkpoint is None and config.pretrained:
        checkpoint = _published(config, folders)
    whole, dropped = None if checkpoint is None else read_text_settings(checkpoint), ""
    if checkpoint is not None and tokenizer is None:
        tokenizer = read_tokenizer_of(checkpoint.snapshot, checkpoint.model_type)
    elif checkpoint is not None and tokenizer is not None:
        checkpoint, whole, dropped = for_tokenizer(tokenizer, config, checkpoint, whole)
    decoder, token_ids, notes = _decoder(config, tokenizer, checkpoint, whole)
    sources = [part.checkpoint.snapshot for part in (encoder, decoder) if part.checkpoint is not None]
    projector = open_projector(sources[0]) if len(sources) == 2 and sources[0] is sources[1] else None
    halves = [source.path for source in sources if projector is None and has_trained_projector(source)]
    return ResolvedRequest(
        config,
        encoder,
        decoder,
        tokenizer,
        token_ids,
        (*notes, *(f"the projector of {path} is left behind: it joins both of its parts" for path in halves)),
        options_of(config, whole),
        projector,
        (dropped,) if dropped else (),
    )


def _checkpoint(kind: Kind, config: ModelConfig, folders: OpenFolders) -> CheckpointSource | None:
    """The checkpoint that a config names instead of a family, if it does."""
    folder = find_checkpoint(getattr(config, kind).name)
    return None if folder is None else open_source(kind, folders.open(folder))


def _published(config: ModelConfig, folders: OpenFolders) -> CheckpointSource:
    """The published checkpoint of the decoder's variant."""
    _, cls, variant = _family("decoder", config)
    repositories: Mapping[str, str] = getattr(cls, "hub_repos", _EMPTY)
    if variant not in list(repositories):
        raise UsageError(
            f"{config.decoder.name!r} has no published weights",
            field="pretrained",
            hint=f"choose one of {', '.join(repositories)}" if repositories else "leave it out",
        )
    return open_source("decoder", folders.open(from_hub(repositories[variant])))


def _part(
    kind: Kind,
    config: ModelConfig,
    checkpoint: CheckpointSource | None = None,
    defaults: Mapping[str, Any] = _EMPTY,
) -> ResolvedPart:
    """The part of a config. Fields come from the config, else from the checkpoint, else from ``defaults``."""
    entry, cls, variant = _family(kind, config, checkpoint)
    given = {field: value for field, value in getattr(config, kind).fields.items() if field != "variant"}
    if checkpoint is not None:  # None in a checkpoint leaves a field to the defaults
        stored = checkpoint.fields.items()
        defaults = {**defaults, **{key: value for key, value in stored if value is not None or key not in defaults}}
    aliases: Mapping[str, str] = cls.config_class.attribute_map
    named = {aliases.get(field, field) for field in given}
    fields = {**{key: value for key, value in defaults.items() if aliases.get(key, key) not in named}, **given}
    try:
        made = cls.make_config(variant, fields, prefix=f"{kind}.")
    except ConfigError as error:
        field = error.field or kind
        from_checkpoint = checkpoint is not None and field.removeprefix(f"{kind}.") in checkpoint.fields.keys() - named
        path = checkpoint.snapshot.path / CONFIG if checkpoint and from_checkpoint else error.path
        raise error.at(path, field) from None
    return ResolvedPart(kind, entry, cls, made, checkpoint)


def _family(kind: Kind, config: ModelConfig, checkpoint: CheckpointSource | None = None) -> tuple[Entry, Any, Any]:
    """Entry, class and variant of the family that the checkpoint names, or else the config."""
    section: ComponentConfig = getattr(config, kind)
    name = section.name if checkpoint is None else checkpoint.name
    try:
        cls, found = load_component(kind, name, recorded=config.plugins.get(kind))
    except UnknownComponentError as error:
        raise error if error.field else error.at(error.path, kind) from None
    return found.entry, cls, section.fields.get("variant", found.variant)


def _decoder(
    config: ModelConfig,
    tokenizer: Tokenizer | None,
    checkpoint: CheckpointSource | None,
    whole: TextSettings | None,
) -> tuple[ResolvedPart, TokenIds, tuple[str, ...]]:
    """The decoder with its final vocabulary size and token ids, those ids, and remarks on them."""
    given, notes, defaults = config.decoder.fields, [], {}
    if checkpoint is not None:
        given = {**checkpoint.fields, **given}
    if tokenizer is not None:
        vocabulary, ids = vocab_size_of(tokenizer), token_ids_of(tokenizer)
        size = given.get("vocab_size")
        if isinstance(size, int) and size < vocabulary:
            _warn_of_added_tokens(tokenizer, size)
            ids = ids.below(size)
        start = given.get("bos_token_id", ids.start)
        pad = ids.pad if ids.pad is not None or not ids.eos else ids.eos[0]
        values = (ids.start, ids.eos or None, pad, start)  # None too: a family's default ids mean other tokens here
        defaults = {"vocab_size": vocabulary, **dict(zip(TOKEN_ID_FIELDS, values, strict=True))}
        if checkpoint is not None:  # None in a checkpoint leaves an id to the tokenizer
            given = {key: value for key, value in given.items() if value is not None or key not in defaults}
    part = _part("decoder", config, checkpoint, defaults)
    settings: DecoderConfig = part.config
    for field in TOKEN_ID_FIELDS:
        largest = max(token_id_tuple(getattr(settings, field)), default=-1)
        if largest < settings.vocab_size:
            continue
        if field in given:
            raise IncompatibleError(
                f"id {largest} is not below vocab_size {settings.vocab_size}",
                field=f"decoder.{field}",
                hint=f"set an id below {settings.vocab_size}",
            )
        outside = f"outside a vocabulary of {settings.vocab_size}"
        notes.append(f"{part.entry.name}'s own {field} {largest} is {outside}: unset")
        settings = settings.changed(**{field: None})
    ids = _ids_of(settings)
    if whole is not None:
        kept = {role: value for role, value in whole.token_ids if value not in (None, ())}
        ids = ids.model_copy(update={role: kept[role] for role in kept.keys() - {*given_roles(config)}})
    if config.token_ids is not None:
        only = config.token_ids.model_fields_set if whole is not None else TokenIds.model_fields
        ids = ids.model_copy(update={role: getattr(config.token_ids, role) for role in only})
    ids.check(settings.vocab_size)
    missing = [role for role in ("start", "eos", "pad") if getattr(ids, role) in (None, ())]
    if missing:
        notes.append(f"no {' or '.join(missing)} token id: set token_ids or a tokenizer before training or generating")
    return part._replace(config=settings), ids, tuple(notes)


def _warn_of_added_tokens(tokenizer: Tokenizer, vocab_size: int) -> None:
    """Warn of special tokens that were added to the tokenizer alone: the decoder has no rows for them.

    Raises:
        IncompatibleError: ordinary tokens beyond the decoder's vocabulary.
    """
    beyond = {i: token for token, i in tokenizer.get_vocab().items() if i >= vocab_size}
    added = tokenizer.get_added_tokens_decoder()
    if not all(i in added and added[i].special for i in beyond):
        raise IncompatibleError(
            f"the tokenizer has {vocab_size_of(tokenizer)} tokens, the decoder {vocab_size}",
            field="decoder.vocab_size",
            hint=f"give a tokenizer whose ids are below {vocab_size}",
        )
    first = sorted(beyond)[:MAX_TOKENS_SHOWN]
    more = f" and {len(beyond) - len(first)} more" if len(beyond) > len(first) else ""
    warn_caller(
        f"the tokenizer's added tokens {', '.join(f'{short(beyond[i])} ({i})' for i in first)}{more} are beyond the "
        f"decoder's vocabulary of {vocab_size}: none is in model.token_ids, and using one is an error before "
        f"model.resize_vocabulary({vocab_size_of(tokenizer)})"
    )


def _ids_of(config: DecoderConfig) -> TokenIds:
    eos = token_id_tuple(config.eos_token_id)
    start = config.bos_token_id if config.decoder_start_token_id is None else config.decoder_start_token_id
    pad = eos[0] if config.pad_token_id is None and eos else config.pad_token_id
    return TokenIds(start=start, eos=eos, pad=pad)


def projector_for(
    config: ModelConfig, encoder_width: int, decoder_width: int, stored: CheckpointSource | None = None
) -> tuple[ResolvedPart, str]:
    """The projector that a config names, and a remark where that of a checkpoint does not fit it.

    ``auto`` is the checkpoint's; without one it is ``identity`` where the widths agree and the config gives no fields,
    else ``linear``. Call it within the meta device.

    Args:
        config: the settings.
        encoder_width: width of the encoder states.
        decoder_width: width that cross-attention takes.
        stored: the projector of the checkpoint that both parts are from.
    """
    agree = encoder_width == decoder_width
    if stored is not None and stored.name == "auto":
        stored = replace(stored, name="identity" if agree else "linear")
    if stored is not None and stored.name == "identity":
        stored = None  # no weights
    section = config.projector
    if section.name == "auto" and stored is None:
        name = "identity" if agree and not section.fields else "linear"
        config = config.model_copy(update={"projector": ComponentConfig(name=name, **section.fields)})
    part = _part("projector", config, stored if section.name == "auto" else None)
    if stored is None:
        return part, ""
    try:
        own = _part("projector", config.model_copy(update={"projector": ComponentConfig(name=stored.name)}), stored)
        shapes = [_shapes(each.make(encoder_width, decoder_width)) for each in (own, part)]
    except VedcoreError:  # its plugin may be gone
        if section.name == "auto":
            raise
        shapes = [{"": ()}, {}]
    if shapes[0] == shapes[1] and own.entry == part.entry:
        return part._replace(checkpoint=stored), ""
    left = f"the trained {stored.name!r} projector of {stored.snapshot.path} does not fit the settings that are given"
    return part._replace(checkpoint=None), left if shapes[0] else ""


def _shapes(module: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
