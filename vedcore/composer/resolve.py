"""From a request to parts: every name looked up, every field filled in, and nothing built yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from vedcore.composer.folder_files import read_preprocessing, read_tokenizer_of
from vedcore.composer.part_checkpoints import Folders, PartCheckpoint, find_part, open_part
from vedcore.composer.request import Request, placed, with_image_size
from vedcore.config import (
    TOKEN_ID_FIELDS,
    ComponentConfig,
    DecoderConfig,
    ModelConfig,
    Preprocessing,
    TokenIds,
    token_id_tuple,
)
from vedcore.errors import (
    ConfigError,
    IncompatibleError,
    PluginContractError,
    UnknownComponentError,
    UsageError,
    VedcoreError,
    described,
)
from vedcore.hub import from_hub
from vedcore.model_files import CONFIG
from vedcore.plugins import load_component, registry
from vedcore.processing.processor import make_tokenizer, token_ids_of, vocab_size_of
from vedcore.registry import BUILT_IN, Entry, Kind

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["Part", "Parts", "projector_for", "resolve"]

T = TypeVar("T")

_TRIES = 20
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Part(NamedTuple):
    """A part that is resolved and not yet built."""

    kind: Kind
    entry: Entry
    cls: Any
    config: Any
    checkpoint: PartCheckpoint | None = None
    """Where its weights come from, if it was named by a folder or a repository."""

    @property
    def is_built_in(self) -> bool:
        """True where vedcore itself brings it."""
        return self.entry.owner.distribution == BUILT_IN

    def make(self, *arguments: Any, **keywords: Any) -> Any:
        """The module; what a plugin's constructor raises is said to be the plugin's."""
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
        """The section that makes this very part again: all fields, so that later defaults cannot creep in."""
        return ComponentConfig(name=registry().shown_name(self.kind, self.entry), **self.config.model_dump())


@dataclass(frozen=True)
class Parts:
    """A request with all names looked up and all fields filled in, but for the projector, which widths decide."""

    config: ModelConfig
    """As it was asked for, with the preprocessing of the encoder's checkpoint where that decides."""
    encoder: Part
    decoder: Part
    tokenizer: Tokenizer | None
    token_ids: TokenIds
    notes: tuple[str, ...]
    """Remarks on the token ids."""


def resolve(request: Request, then: Callable[[Parts], T]) -> T:
    """The result of ``then`` for the parts that a request means.

    The folders that parts come from stay open until it returns, so that all of a part is of one save. Where one is
    replaced meanwhile, and cannot be read to its end, everything is done again.

    Raises:
        ConfigError, CheckpointError, HubError, PluginError: as `vedcore.compose`; of a config file, with the line.
    """
    with placed(request.source, request.keywords):
        for attempt in range(1, _TRIES + 1):
            with Folders() as folders:
                try:
                    parts = _parts(request, folders)
                    if attempt == _TRIES or not folders.replaced():  # else a file may have seemed not to be there
                        return then(parts)
                except VedcoreError:
                    if attempt == _TRIES or not folders.replaced():
                        raise
    raise AssertionError  # the last attempt returns or raises


def _parts(request: Request, folders: Folders) -> Parts:
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
    if checkpoint is not None and tokenizer is None:
        tokenizer = read_tokenizer_of(checkpoint.snapshot, checkpoint.model_type)
    decoder, token_ids, notes = _decoder(config, tokenizer, checkpoint)
    return Parts(config, encoder, decoder, tokenizer, token_ids, notes)


def _checkpoint(kind: Kind, config: ModelConfig, folders: Folders) -> PartCheckpoint | None:
    """The checkpoint that a config names instead of a family."""
    folder = find_part(getattr(config, kind).name)
    return None if folder is None else open_part(kind, folders.open(folder))


def _published(config: ModelConfig, folders: Folders) -> PartCheckpoint:
    """The checkpoint on the hub that is the decoder's variant."""
    _, cls, variant = _family("decoder", config)
    repositories: Mapping[str, str] = getattr(cls, "hub_repos", _NOTHING)
    if variant not in list(repositories):
        raise UsageError(
            f"{config.decoder.name!r} has no published weights",
            field="pretrained",
            hint=f"choose one of {', '.join(repositories)}" if repositories else "leave it out",
        )
    return open_part("decoder", folders.open(from_hub(repositories[variant])))


def _part(
    kind: Kind,
    config: ModelConfig,
    checkpoint: PartCheckpoint | None = None,
    defaults: Mapping[str, Any] = _NOTHING,
) -> Part:
    """The part that a config means: fields that it gives, then those of a checkpoint, then ``defaults``."""
    entry, cls, variant = _family(kind, config, checkpoint)
    given = {field: value for field, value in getattr(config, kind).fields.items() if field != "variant"}
    if checkpoint is not None:  # whose ids count, but where it leaves them open
        own = checkpoint.fields.items()
        defaults = {**defaults, **{field: value for field, value in own if value is not None or field not in defaults}}
    words: Mapping[str, str] = cls.config_class.attribute_map
    named = {words.get(field, field) for field in given}
    fields = {**{field: value for field, value in defaults.items() if words.get(field, field) not in named}, **given}
    try:
        made = cls.make_config(variant, fields, prefix=f"{kind}.")
    except ConfigError as error:
        field = error.field or kind
        theirs = checkpoint is not None and field.removeprefix(f"{kind}.") in checkpoint.fields.keys() - named
        raise error.at(checkpoint.snapshot.path / CONFIG if checkpoint and theirs else error.path, field) from None
    return Part(kind, entry, cls, made, checkpoint)


def _family(kind: Kind, config: ModelConfig, checkpoint: PartCheckpoint | None = None) -> tuple[Entry, Any, Any]:
    """The family that a checkpoint or else a config names, its class, and the variant of it."""
    section: ComponentConfig = getattr(config, kind)
    name = section.name if checkpoint is None else checkpoint.name
    try:
        cls, found = load_component(kind, name, recorded=config.plugins.get(kind))
    except UnknownComponentError as error:
        raise error if error.field else error.at(error.path, kind) from None
    return found.entry, cls, section.fields.get("variant", found.variant)


def _decoder(
    config: ModelConfig, tokenizer: Tokenizer | None, checkpoint: PartCheckpoint | None
) -> tuple[Part, TokenIds, tuple[str, ...]]:
    """The decoder with the vocabulary and token ids that it shall have, those ids, and notes on them."""
    given, notes, defaults = config.decoder.fields, [], {}
    if checkpoint is not None:
        given = {**checkpoint.fields, **given}
    if tokenizer is not None:
        vocabulary, ids = vocab_size_of(tokenizer), token_ids_of(tokenizer)
        size = given.get("vocab_size")
        if isinstance(size, int) and size < vocabulary:
            raise IncompatibleError(
                f"the tokenizer has {vocabulary} tokens, the decoder {size}",
                field="decoder.vocab_size",
                hint="leave vocab_size out, or use a smaller tokenizer",
            )
        start = given.get("bos_token_id", ids.start)
        pad = ids.pad if ids.pad is not None or not ids.eos else ids.eos[0]
        values = (ids.start, ids.eos or None, pad, start)  # None too: the family's own ids mean other tokens here
        defaults = {"vocab_size": vocabulary, **dict(zip(TOKEN_ID_FIELDS, values, strict=True))}
        if checkpoint is not None:  # which has ids of its own, but where it leaves them open
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
                hint="change the id, or decoder.vocab_size",
            )
        outside = f"outside a vocabulary of {settings.vocab_size}"
        notes.append(f"{part.entry.name}'s own {field} {largest} is {outside}: unset")
        settings = settings.changed(**{field: None})
    ids = config.token_ids or _ids_of(settings)
    ids.check(settings.vocab_size)
    missing = [role for role in ("start", "eos", "pad") if getattr(ids, role) in (None, ())]
    if missing:
        notes.append(f"no {' or '.join(missing)} token id: set token_ids or a tokenizer before training or generating")
    return part._replace(config=settings), ids, tuple(notes)


def _ids_of(config: DecoderConfig) -> TokenIds:
    eos = token_id_tuple(config.eos_token_id)
    start = config.bos_token_id if config.decoder_start_token_id is None else config.decoder_start_token_id
    pad = eos[0] if config.pad_token_id is None and eos else config.pad_token_id
    return TokenIds(start=start, eos=eos, pad=pad)


def projector_for(config: ModelConfig, encoder_width: int, decoder_width: int) -> Part:
    """The projector that a config names; for ``auto`` one where the widths differ, or fields of one are given."""
    section = config.projector
    if section.name == "auto":
        name = "identity" if encoder_width == decoder_width and not section.fields else "linear"
        config = config.model_copy(update={"projector": ComponentConfig(name=name, **section.fields)})
    return _part("projector", config)
