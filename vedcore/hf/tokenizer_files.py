"""The files of a transformers tokenizer, and what they declare: settings, special tokens and added tokens."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenizers import AddedToken, Tokenizer

from vedcore.config_files.plain import short, unique_keys
from vedcore.errors import CheckpointLimitError, IncompatibleError, TokenizerError
from vedcore.processing.tokenizers import MAX_TOKEN_ID

SENTENCEPIECE_FILES = ("sentencepiece.bpe.model", "tokenizer.model", "spiece.model")
"""Names of a SentencePiece model, in the order in which they are looked for."""
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Roles of special tokens, in transformers' order."""
MAX_ADDED_TOKENS = 50_000
"""Limit of tokens beside the vocabulary, which the library adds one by one."""
SAVE_HINT = "save the tokenizer with transformers, which writes a tokenizer.json"


@dataclass
class TokenizerFolder:
    """The files of a tokenizer, and the tokens that they declare; `collect_tokens` fills in the tokens."""

    files: Mapping[str, bytes]
    """Contents by name."""
    location: object
    """The folder that they came from, for messages."""
    family: TokenizerFamily
    settings: dict[str, Any] = field(default_factory=dict)
    """tokenizer_config.json."""
    special_tokens: dict[str, str | AddedToken] = field(default_factory=dict)
    """Special tokens by role."""
    extra_special_tokens: list[str | AddedToken] = field(default_factory=list)
    """Special tokens without a role."""
    extra_declared: bool = False
    """Whether a file declares those, so that the family's default ones are not special."""
    added_tokens: dict[int, AddedToken] = field(default_factory=dict)
    """Added tokens by the ids that a file declares."""
    added_tokens_file: str = ""
    """The file that declares them, for messages."""

    def path(self, name: str) -> str:
        return os.path.join(str(self.location), name)

    def token(self, role: str) -> str:
        """The text of the special token with that role."""
        if role not in self.special_tokens:
            raise TokenizerError(
                "no such token, but tokenizers of this family need it",
                path=self.path("tokenizer_config.json"),
                field=role,
                hint=f"set it, such as {self.family.default_tokens.get(role, '<s>')!r}",
            )
        return str(self.special_tokens[role])

    def flag(self, name: str, default: bool | None) -> Any:
        """A setting that is true or false; it may also be null if ``default`` is None."""
        value = self.settings.get(name, default)
        if not isinstance(value, bool) and not (value is None and default is None):
            raise TokenizerError(
                f"true or false expected, got {short(value)}",
                path=self.path("tokenizer_config.json"),
                field=name,
                hint="write true or false",
            )
        return value

    def text(self, name: str, hint: str) -> str:
        """The text of a file that must be there."""
        if name not in self.files:
            raise TokenizerError("no such file, but this tokenizer needs it", path=self.path(name), hint=hint)
        try:
            return self.files[name].decode("utf-8")
        except UnicodeDecodeError as error:
            raise TokenizerError(f"not UTF-8: {error}", path=self.path(name), hint="copy the file again") from None

    def json(self, name: str) -> dict[str, Any]:
        """The JSON object of a file; empty if there is no such file."""
        if name not in self.files:
            return {}
        hint = "copy the file again"
        text = self.text(name, hint)
        try:
            data = json.loads(text, object_pairs_hook=unique_keys)
            if "\\ud" in text.lower():
                json.dumps(data, ensure_ascii=False).encode()  # fails at a lone surrogate, which no token can hold
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
class TokenizerFamily:
    """A tokenizer class of transformers that is built from a vocabulary.

    Args:
        build: makes the tokenizer from the files, without special tokens.
        default_tokens: special tokens by role, for files that declare none.
        post_processor: makes the post-processor, which puts special tokens around a text or a pair of texts.
        mask_lstrip: whether the mask token includes the space before it.
    """

    build: Callable[[TokenizerFolder], Tokenizer]
    default_tokens: Mapping[str, str]
    post_processor: Callable[[TokenizerFolder, Tokenizer], Any]
    mask_lstrip: bool = False


def collect_tokens(folder: TokenizerFolder, tokenizer: Tokenizer | None) -> None:
    """Collect the special and added tokens of all files, in transformers' order of precedence.

    If tokenizer_config.json has ``added_tokens_decoder``, special_tokens_map.json and added_tokens.json are not read.

    Args:
        folder: the files; the tokens are set on it.
        tokenizer: that of tokenizer.json; None where there is no such file.
    """
    config = "tokenizer_config.json"
    given = dict(folder.settings)
    mapped: dict[str, Any] = {}
    if given.get("additional_special_tokens") is not None and not given.get("extra_special_tokens"):
        given["extra_special_tokens"] = given.pop("additional_special_tokens")
    explicit = given.pop("extra_special_tokens") if isinstance(given.get("extra_special_tokens"), dict) else {}
    if given.get("added_tokens_decoder") is not None:
        folder.added_tokens_file = config
        declared = _mapping(folder, config, "added_tokens_decoder", given["added_tokens_decoder"])
        for index, value in declared.items():
            token = _token(folder, config, "added_tokens_decoder", value, False)
            folder.added_tokens[_id(folder, config, index)] = (
                AddedToken(token, special=True) if isinstance(token, str) else token
            )
    else:
        name = "special_tokens_map.json"
        for role, value in folder.json(name).items():
            if isinstance(value, dict) and "content" in value:
                value = _token(folder, name, role, value, True)
            elif isinstance(value, list):
                value = [_token(folder, name, role, each, True) for each in value]
                if role == "extra_special_tokens" and isinstance(given.get(role), list):
                    value = [*given[role], *(each for each in value if each not in given[role])]
            mapped[role] = value
        given.update(mapped)
    # roles that only this model has: transformers adds those of the map before those of the config
    roles = [key for key in {**mapped, **given} if key.endswith("_token") and key not in ROLES]
    specific = {key: given[key] for key in roles if isinstance(given[key], (str, dict, AddedToken))}
    specific |= explicit
    if isinstance(given.get("extra_special_tokens"), dict):
        specific.update(given.pop("extra_special_tokens"))
    extra = given.get("extra_special_tokens", given.get("additional_special_tokens"))
    if extra is not None and not isinstance(extra, list):
        raise TokenizerError(
            f"a list of tokens expected, got {short(extra)}",
            path=folder.path(config),
            field="extra_special_tokens",
            hint='write a list, such as ["<a>", "<b>"]',
        )
    given_extra = given.get("extra_special_tokens") or ()
    folder.extra_declared = "extra_special_tokens" in given
    folder.extra_special_tokens = [
        _token(folder, config, "extra_special_tokens", value, False) for value in extra or ()
    ]
    for role in ROLES:
        value = given.get(role, folder.family.default_tokens.get(role))
        if value is not None:
            folder.special_tokens[role] = _token(folder, config, role, value, False)
            if role == "mask_token" and folder.family.mask_lstrip and isinstance(value, str):
                folder.special_tokens[role] = AddedToken(value, lstrip=True, special=True)
    folder.special_tokens |= {role: _token(folder, config, role, value, False) for role, value in specific.items()}
    if folder.added_tokens_file != config:
        # as in transformers only texts in the files count: neither objects nor the family's default tokens
        special = {str(value) for value in [*(given.get(role) for role in ROLES), *given_extra]}
        folder.added_tokens_file = "added_tokens.json"
        for text, index in folder.json(folder.added_tokens_file).items():
            folder.added_tokens[_id(folder, folder.added_tokens_file, index)] = AddedToken(
                text, special=text in special, normalized=text not in special
            )
    if tokenizer is not None:
        existing = tokenizer.get_added_tokens_decoder()
        folder.added_tokens = (
            {**existing, **folder.added_tokens}
            if folder.added_tokens_file == config
            else {**folder.added_tokens, **existing}
        )
    by_text = {token.content: token for token in folder.added_tokens.values()}
    folder.special_tokens = {role: by_text.get(str(token), token) for role, token in folder.special_tokens.items()}


def _mapping(folder: TokenizerFolder, name: str, key: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TokenizerError(
            f"a JSON object expected, got {short(value)}",
            path=folder.path(name),
            field=key,
            hint="write ids and their tokens",
        )
    return value


def _id(folder: TokenizerFolder, name: str, value: object) -> int:
    index = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20 else value
    if type(index) is not int or not 0 <= index <= MAX_TOKEN_ID:
        raise IncompatibleError(
            f"id {short(value)} is not a whole number from 0 to {MAX_TOKEN_ID:,}",
            path=folder.path(name),
            hint="number from 0",
        )
    return index


def _token(folder: TokenizerFolder, name: str, key: str, value: object, special: bool) -> str | AddedToken:
    """A token that a file writes as text, or as an object with flags; with ``special`` an object is always special."""
    if isinstance(value, (str, AddedToken)):
        return value
    if isinstance(value, dict) and isinstance(value.get("content"), str):
        flags = {k: v for k, v in value.items() if k not in ("__type", "content", "special")}
        names = {"single_word", "lstrip", "rstrip", "normalized"}
        if flags.keys() <= names and all(isinstance(v, bool) for v in flags.values()):
            return AddedToken(value["content"], special=special or value.get("special") is True, **flags)
    raise TokenizerError(
        f"a token expected, got {short(value)}",
        path=folder.path(name),
        field=key,
        hint='write its text, or {"content": "<s>", "lstrip": false}',
    )


def add_tokens(folder: TokenizerFolder, tokenizer: Tokenizer) -> None:
    """Add the declared tokens that the tokenizer lacks, and check the ids that the files declare."""
    tokens: list[str | AddedToken] = [token for _, token in sorted(folder.added_tokens.items())]
    known = {str(token) for token in [*tokens, *tokenizer.get_added_tokens_decoder().values()]}
    new = [*folder.special_tokens.values(), *folder.extra_special_tokens]
    # as in transformers, a text with different flags is added twice, and the last flags count
    tokens += dict.fromkeys(token for token in new if str(token) not in known)
    if len(tokens) > MAX_ADDED_TOKENS:
        raise CheckpointLimitError(
            f"{len(tokens):,} added tokens are above the limit of {MAX_ADDED_TOKENS:,}",
            path=folder.location,
            hint="move them into the vocabulary",
        )
    special_texts = set(map(str, folder.special_tokens.values()))
    adding = [AddedToken(token, special=True) if isinstance(token, str) else token for token in tokens]
    for token in adding:
        token.special = token.special or token.content in special_texts
    tokenizer.add_tokens(adding)
    for index, token in sorted(folder.added_tokens.items()):
        if token.content and (actual := tokenizer.token_to_id(token.content)) != index:
            raise IncompatibleError(
                f"{token.content[:40]!r} is declared with id {index}, but gets {actual} in a vocabulary of "
                f"{tokenizer.get_vocab_size()}",
                path=folder.path(folder.added_tokens_file),
                hint="number added tokens from the end of the vocabulary",
            )
