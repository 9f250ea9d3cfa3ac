"""From names or a config to parts: every name looked up, every field filled in, and nothing built yet."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

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
    ConfigSchemaError,
    IncompatibleError,
    PluginContractError,
    UnknownComponentError,
    UsageError,
    VedcoreError,
    described,
    did_you_mean,
)
from vedcore.hub import from_hub
from vedcore.model_files import CONFIG
from vedcore.parts import PartCheckpoint, find_part, open_part
from vedcore.plugins import load_component
from vedcore.processing.processor import make_tokenizer, token_ids_of, vocab_size_of
from vedcore.registry import BUILT_IN, Entry, Kind

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["Part", "Resolved", "as_request", "gather", "placed", "projector_for", "resolve"]

SIDES: tuple[Kind, ...] = ("encoder", "decoder", "projector")
EMPTY: Mapping[str, Any] = MappingProxyType({})


class Part(NamedTuple):
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


class Resolved(NamedTuple):
    """A request with all names looked up and all fields filled in, but for the projector."""

    request: ModelConfig
    encoder: Part
    decoder: Part
    tokenizer: Tokenizer | None
    token_ids: TokenIds
    notes: tuple[str, ...]


# -- from arguments to a request --------------------------------------------------------------------------------


def gather(encoder: Any, decoder: Any) -> tuple[dict[str, Any], ConfigSource | None]:
    """What the two arguments of `compose` hold of a `ModelConfig`, and the file that it came from.

    Raises:
        ConfigError: a file that cannot be read; no decoder, or two.
    """
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
def placed(source: ConfigSource | None, options: Mapping[str, Any]) -> Iterator[None]:
    """Name file and line in an error about a key of a config file."""
    try:
        yield
    except ConfigError as error:
        keys = tuple(int(key) if key.isdecimal() else key for key in (error.field or "").split("."))
        by_option = {"_".join(map(str, keys[:2])), str(keys[-1])} & set(options)
        if source is None or error.path is not None or by_option:
            raise
        path, line = source.where(keys) or (source.path, None)
        at_line = error.at(path if line is None else f"{path}:{line}")
        at_line.path = str(path)
        raise at_line from error.__cause__


def as_request(data: dict[str, Any], options: dict[str, Any]) -> tuple[ModelConfig, Any]:
    """The arguments of `compose` as a `ModelConfig`, and a tokenizer object if one was given.

    Args:
        data: what `gather` gave; it is changed.
        options: the keywords.

    Raises:
        ConfigError: an unknown keyword, or a value that is none for it.
    """
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


def resolve(request: ModelConfig, tokenizer: Any) -> Resolved:
    """Look up all names, those of checkpoints too, and fill in all fields.

    Args:
        request: what was asked for.
        tokenizer: in place of the one that it names: a tokenizer, or a name or path of one; None for none.

    Raises:
        ConfigError, CheckpointError, HubError, PluginError: as `vedcore.compose`.
    """
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
    return Resolved(request, encoder, decoder, tokenizer, token_ids, notes)


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
) -> Part:
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
    return Part(found, cls, config, checkpoint)


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
) -> tuple[Part, TokenIds, tuple[str, ...]]:
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


def projector_for(request: ModelConfig, encoder_width: int, decoder_width: int) -> Part:
    """The projector that a request names; by itself one where the widths differ, or settings were given."""
    section = request.projector
    if section.name == "auto":
        name = "identity" if encoder_width == decoder_width and not section.fields else "linear"
        section = ComponentConfig(name=name, **section.fields)
    return _part("projector", section, request.plugins.get("projector"))
