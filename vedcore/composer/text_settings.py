"""The token ids and generation options of a whole checkpoint, which its decoder brings though they stand outside."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from vedcore.composer.checkpoint_sources import CheckpointSource, is_native_whole
from vedcore.composer.snapshot_files import read_generation_of, read_json, read_tokenizer_of
from vedcore.config import MAX_VOCAB_SIZE, TOKEN_ID_FIELDS, ModelConfig, TokenIds
from vedcore.errors import VedcoreError
from vedcore.generation.options.config import GenerationConfig
from vedcore.hf.sections import WHOLE
from vedcore.model_files import CONFIG, GENERATION_CONFIG

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["TextSettings", "for_tokenizer", "given_roles", "options_of", "read_text_settings"]

_ROLE_FIELDS = {
    "start": ("decoder_start_token_id", "bos_token_id"),
    "eos": ("eos_token_id",),
    "pad": ("pad_token_id",),
}
"""Roles of token ids to the decoder's fields that set them; the first is also the option of `GenerationConfig`."""


class TextSettings(NamedTuple):
    """The settings of a whole model that belong to its decoder, though they stand outside of it."""

    token_ids: TokenIds
    generation_config: GenerationConfig


def read_text_settings(decoder: CheckpointSource) -> TextSettings | None:
    """Token ids and generation options of the whole model that a decoder is from; None where it is from none.

    Raises:
        ConfigError: a value of a wrong type or out of bounds, with file and field.
        CheckpointError: a file that is unsafe or too large.

    Warns:
        UserWarning: as `read_generation_of`.
    """
    snapshot = decoder.snapshot
    data, path = read_json(snapshot, CONFIG), snapshot.path / CONFIG
    if data.get("model_type") == WHOLE:
        return TextSettings(*read_generation_of(snapshot, data, decoder.fields.get("vocab_size")))
    if not is_native_whole(data):
        return None
    ids = TokenIds.parse(data.get("token_ids") or {}, path=path, prefix="token_ids.")
    options: Mapping[str, Any] = read_json(snapshot, GENERATION_CONFIG) if snapshot.has(GENERATION_CONFIG) else {}
    return TextSettings(ids, GenerationConfig.parse(options, path=snapshot.path / GENERATION_CONFIG))


def for_tokenizer(
    tokenizer: Tokenizer, config: ModelConfig, checkpoint: CheckpointSource, whole: TextSettings | None
) -> tuple[CheckpointSource, TextSettings | None, str]:
    """The settings of a decoder's checkpoint without the ids that are other tokens in the tokenizer that is given.

    Args:
        tokenizer: the one that is given.
        config: the settings that are given; ids that they replace are not in the remark.
        checkpoint: the decoder's.
        whole: the settings of the whole model that it is from.

    Returns:
        The checkpoint, the settings of the whole model that it is from, and a remark on the ids that were left out.
    """
    own = None
    with contextlib.suppress(VedcoreError):  # another tokenizer may be given because this one cannot be read
        own = read_tokenizer_of(checkpoint.snapshot, checkpoint.model_type)

    def is_other(value: Any) -> bool:
        ids = value if isinstance(value, (list, tuple)) else (value,)
        whole_numbers = [i for i in ids if isinstance(i, int) and 0 <= i < MAX_VOCAB_SIZE]
        return own is not None and any(own.id_to_token(i) != tokenizer.id_to_token(i) for i in whole_numbers)

    stored = {name: value for name in TOKEN_ID_FIELDS if is_other(value := checkpoint.fields.get(name))}
    found = dict(stored)
    if whole is not None:
        roles = {role: value for role, value in whole.token_ids if is_other(value)}
        options = {name: ids for name, ids in whole.generation_config.named_ids().items() if is_other(ids)}
        defaults = {name: GenerationConfig.model_fields[name].default for name in options}
        whole = TextSettings(
            whole.token_ids.model_copy(update=dict.fromkeys(roles) | ({"eos": ()} if "eos" in roles else {})),
            whole.generation_config.model_copy(update=defaults),
        )
        found |= {_ROLE_FIELDS[role][0]: value for role, value in roles.items()} | options
    given = [name for role in given_roles(config) for name in _ROLE_FIELDS[role]]
    found = {name: value for name, value in found.items() if name not in given}
    shown = ", ".join(f"{name} {_shown_ids(value)}" for name, value in found.items())
    fields = {**checkpoint.fields, **dict.fromkeys(stored)}
    remark = f"ids that are other tokens in the tokenizer that is given: {shown}" if shown else ""
    return replace(checkpoint, fields=fields), whole, remark


def _shown_ids(value: Any) -> str:
    ids = value if isinstance(value, (list, tuple)) else (value,)
    return ", ".join(map(str, ids[:3])) + (", …" if len(ids) > 3 else "")


def options_of(config: ModelConfig, whole: TextSettings | None) -> GenerationConfig:
    """The generation options of a whole model, without ids for roles whose ids the caller gives."""
    if whole is None:
        return GenerationConfig()
    given = [_ROLE_FIELDS[role][0] for role in given_roles(config)]
    return whole.generation_config.model_copy(update=dict.fromkeys(given))


def given_roles(config: ModelConfig) -> list[str]:
    """The roles whose token ids the caller gives, as ``token_ids`` or as fields of the decoder."""
    ids = set() if config.token_ids is None else config.token_ids.model_fields_set
    return [role for role, names in _ROLE_FIELDS.items() if role in ids or config.decoder.fields.keys() & {*names}]
