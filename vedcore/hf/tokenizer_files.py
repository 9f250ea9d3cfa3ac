"""What the files of a transformers tokenizer declare: settings, special tokens and added tokens."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenizers import AddedToken, Tokenizer

from vedcore.config_files.plain import short, unique_keys
from vedcore.errors import CheckpointLimitError, IncompatibleError, TokenizerError
from vedcore.processing.tokenizers import MAX_ID, foreign_errors

SENTENCEPIECE_FILES = ("sentencepiece.bpe.model", "tokenizer.model", "spiece.model")
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
MAX_ADDED = 50_000
"""Tokens beside the vocabulary, which the library adds one by one."""
SAVE_HINT = "save the tokenizer with transformers, which writes a tokenizer.json"


@dataclass
class Folder:
    """The files, and what they declare, as it is found out."""

    files: Mapping[str, bytes]
    folder: object
    kind: Kind
    settings: dict[str, Any] = field(default_factory=dict)
    named: dict[str, str | AddedToken] = field(default_factory=dict)
    """Special tokens by role."""
    extra: list[str | AddedToken] = field(default_factory=list)
    """Special tokens without a role."""
    extra_given: bool = False
    """Whether those are what a file says, so that the kind's own are not special."""
    stated: dict[int, AddedToken] = field(default_factory=dict)
    """Tokens that a file gives an id."""
    stated_in: str = ""

    def path(self, name: str) -> str:
        return os.path.join(str(self.folder), name)

    def token(self, role: str) -> str:
        """The text of the token that has that role."""
        if role not in self.named:
            raise TokenizerError(
                "no such token, but this kind of tokenizer needs it",
                path=self.path("tokenizer_config.json"),
                field=role,
                hint=f"add it, as in {self.kind.defaults.get(role, '<s>')!r}",
            )
        return str(self.named[role])

    def flag(self, name: str, default: bool | None) -> Any:
        """A setting that is true, false, or, where that is its default, null."""
        value = self.settings.get(name, default)
        if not isinstance(value, bool) and not (value is None and default is None):
            raise TokenizerError(
                f"true or false expected, got {short(value)}",
                path=self.path("tokenizer_config.json"),
                field=name,
                hint="correct it",
            )
        return value

    def text(self, name: str, hint: str) -> str:
        """The text of a file that has to be there."""
        if name not in self.files:
            raise TokenizerError("no such file, but its tokenizer needs it", path=self.path(name), hint=hint)
        try:
            return self.files[name].decode("utf-8")
        except UnicodeDecodeError as error:
            raise TokenizerError(f"not UTF-8: {error}", path=self.path(name), hint="copy the file again") from None

    def json(self, name: str) -> dict[str, Any]:
        """The JSON object of a file; empty where there is no such file."""
        if name not in self.files:
            return {}
        hint = "copy the file again"
        text = self.text(name, hint)
        try:
            data = json.loads(text, object_pairs_hook=unique_keys)
            if "\\ud" in text.lower():
                json.dumps(data, ensure_ascii=False).encode()  # fails at half a character, of which no token can be
        except (ValueError, RecursionError) as error:
            reason = (
                "empty"
                if not text.strip()
                else "nested too deeply"
                if isinstance(error, RecursionError)
                else str(error)
            )
            raise TokenizerError(f"not JSON: {reason}", path=self.path(name), hint=hint) from None
        if not isinstance(data, dict):
            raise TokenizerError(f"a JSON object expected, got {short(data)}", path=self.path(name), hint=hint)
        return data


@dataclass(frozen=True)
class Kind:
    """A tokenizer class of transformers.

    Args:
        build: the tokenizer from the files, before special tokens are added.
        defaults: the special tokens that it has without any file that says so.
        around: what is put around a text, and around a pair.
        mask_lstrip: whether the mask takes the space before it along.
    """

    build: Callable[[Folder], Tokenizer]
    defaults: Mapping[str, str]
    around: Callable[[Folder, Tokenizer], Any]
    mask_lstrip: bool = False


def declare(here: Folder, tokenizer: Tokenizer | None) -> None:
    """Gather the special and added tokens of all files, in transformers' order of precedence.

    ``added_tokens_decoder`` of tokenizer_config.json stands for special_tokens_map.json and added_tokens.json.
    """
    config = "tokenizer_config.json"
    given = dict(here.settings)
    mapped: dict[str, Any] = {}
    if given.get("additional_special_tokens") is not None and not given.get("extra_special_tokens"):
        given["extra_special_tokens"] = given.pop("additional_special_tokens")
    explicit = given.pop("extra_special_tokens") if isinstance(given.get("extra_special_tokens"), dict) else {}
    if given.get("added_tokens_decoder") is not None:
        here.stated_in = config
        stated = _mapping(here, config, "added_tokens_decoder", given["added_tokens_decoder"])
        for index, value in stated.items():
            token = _token(here, config, "added_tokens_decoder", value, False)
            here.stated[_id(here, config, index)] = AddedToken(token, special=True) if isinstance(token, str) else token
    else:
        name = "special_tokens_map.json"
        for role, value in here.json(name).items():
            if isinstance(value, dict) and "content" in value:
                value = _token(here, name, role, value, True)
            elif isinstance(value, list):
                value = [_token(here, name, role, each, True) for each in value]
                if role == "extra_special_tokens" and isinstance(given.get(role), list):
                    value = [*given[role], *(each for each in value if each not in given[role])]
            mapped[role] = value
        given.update(mapped)
    # Roles of a model's own: transformers adds those of the map before those of the config
    roles = [key for key in {**mapped, **given} if key.endswith("_token") and key not in ROLES]
    specific = {key: given[key] for key in roles if isinstance(given[key], (str, dict, AddedToken))}
    specific |= explicit
    if isinstance(given.get("extra_special_tokens"), dict):
        specific.update(given.pop("extra_special_tokens"))
    extra = given.get("extra_special_tokens", given.get("additional_special_tokens"))
    if extra is not None and not isinstance(extra, list):
        raise TokenizerError(
            f"a list of tokens expected, got {short(extra)}",
            path=here.path(config),
            field="extra_special_tokens",
            hint="correct it",
        )
    given_extra = given.get("extra_special_tokens") or ()
    here.extra_given = "extra_special_tokens" in given
    here.extra = [_token(here, config, "extra_special_tokens", value, False) for value in extra or ()]
    for role in ROLES:
        value = given.get(role, here.kind.defaults.get(role))
        if value is not None:
            here.named[role] = _token(here, config, role, value, False)
            if role == "mask_token" and here.kind.mask_lstrip and isinstance(value, str):
                here.named[role] = AddedToken(value, lstrip=True, special=True)
    here.named |= {role: _token(here, config, role, value, False) for role, value in specific.items()}
    if here.stated_in != config:
        # As in transformers, by the texts alone that the files give: neither objects nor the kind's own tokens count
        special = {str(value) for value in [*(given.get(role) for role in ROLES), *given_extra]}
        here.stated_in = "added_tokens.json"
        for text, index in here.json(here.stated_in).items():
            here.stated[_id(here, here.stated_in, index)] = AddedToken(
                text, special=text in special, normalized=text not in special
            )
    if tokenizer is not None:
        whole = tokenizer.get_added_tokens_decoder()
        here.stated = {**whole, **here.stated} if here.stated_in == config else {**here.stated, **whole}
    by_text = {token.content: token for token in here.stated.values()}
    here.named = {role: by_text.get(str(token), token) for role, token in here.named.items()}


def _mapping(here: Folder, name: str, key: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TokenizerError(
            f"a JSON object expected, got {short(value)}", path=here.path(name), field=key, hint="correct it"
        )
    return value


def _id(here: Folder, name: str, value: object) -> int:
    index = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20 else value
    if type(index) is not int or not 0 <= index <= MAX_ID:
        raise IncompatibleError(
            f"id {short(value)} is no whole number from 0 to {MAX_ID:,}", path=here.path(name), hint="number from 0"
        )
    return index


def _token(here: Folder, name: str, key: str, value: object, special: bool) -> str | AddedToken:
    """A token that a file writes as its text, or as an object with what is around it and maybe whether ``special``."""
    if isinstance(value, (str, AddedToken)):
        return value
    if isinstance(value, dict) and isinstance(value.get("content"), str):
        flags = {k: v for k, v in value.items() if k not in ("__type", "content", "special")}
        names = {"single_word", "lstrip", "rstrip", "normalized"}
        if flags.keys() <= names and all(isinstance(v, bool) for v in flags.values()):
            return AddedToken(value["content"], special=special or value.get("special") is True, **flags)
    raise TokenizerError(
        f"a token expected, got {short(value)}",
        path=here.path(name),
        field=key,
        hint='write its text, or {"content": "<s>", "lstrip": false}',
    )


def add_tokens(here: Folder, tokenizer: Tokenizer) -> None:
    """Give the tokenizer what is declared and not in its vocabulary, and check the ids that files state."""
    tokens: list[str | AddedToken] = [token for _, token in sorted(here.stated.items())]
    known = {str(token) for token in [*tokens, *tokenizer.get_added_tokens_decoder().values()]}
    for value in [*here.named.values(), *here.extra]:
        # One text with different flags is added twice, and the last one stands, as in transformers
        if str(value) not in known and value not in tokens:
            tokens.append(value)
    if len(tokens) > MAX_ADDED:
        raise CheckpointLimitError(
            f"{len(tokens):,} added tokens are above the limit of {MAX_ADDED:,}",
            path=here.folder,
            hint="put them into the vocabulary",
        )
    named = set(map(str, here.named.values()))
    adding = [AddedToken(token, special=True) if isinstance(token, str) else token for token in tokens]
    for token in adding:
        token.special = token.special or token.content in named
    with foreign_errors("the special tokens cannot be added", here.folder, SAVE_HINT):
        tokenizer.add_tokens(adding)
    for index, token in sorted(here.stated.items()):
        if token.content and (actual := tokenizer.token_to_id(token.content)) != index:
            raise IncompatibleError(
                f"{token.content[:40]!r} says id {index}, but gets {actual} in a vocabulary of "
                f"{tokenizer.get_vocab_size()}",
                path=here.path(here.stated_in),
                hint="number added tokens on from the vocabulary",
            )
