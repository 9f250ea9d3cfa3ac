"""Text to token ids and back, on the ``tokenizers`` library.

Three tokenizers need no file: ``char`` has a token for each printable ASCII character (or for each character of a given
alphabet, ``char:0123456789``, or of given texts); ``byte`` has a token for each byte of UTF-8, and ``bpe`` for pieces
of words that it learns from texts: both take any text. All decode to exactly the text that was encoded. Their first
three ids are ``<s>`` 0, ``</s>`` 1 and ``<pad>`` 2.

A character without a token is an error if the tokenizer has no unknown token, as ``char`` has none. Padding and
truncation are left to the caller: those of a tokenizer file are checked and switched off. Importing this module does
not import torch.
"""

from __future__ import annotations

import contextlib
import json
import operator
import os
from collections.abc import Iterable, Mapping
from types import NoneType
from typing import Any

from tokenizers import Tokenizer, models

from vedcore.config import TokenIds
from vedcore.config_files.plain import short, unique_keys
from vedcore.errors import (
    CheckpointLimitError,
    ConfigLimitError,
    IncompatibleError,
    TokenizerError,
    UsageError,
    did_you_mean,
)
from vedcore.files import open_regular, other_content_error
from vedcore.processing.library_errors import foreign_errors, require_unicode
from vedcore.processing.own_tokenizers import OWN, own_tokenizer

__all__ = [
    "decode_ids",
    "foreign_errors",
    "make_tokenizer",
    "parse_tokenizer",
    "require_unicode",
    "token_ids_of",
    "vocab_size_of",
]

SPACED = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")
"""Punctuation after a space that cleaning up takes out, in transformers' order."""
IGNORE_INDEX = -100
"""Label that the loss ignores."""
MAX_FILE_BYTES = 256_000_000
"""Limit of a tokenizer's file."""
MAX_PADDED_TOKENS = 100_000
"""Limit of the length that a tokenizer file pads or truncates to."""
MAX_TOKEN_ID = (1 << 24) - 1

# common names of special tokens, the first that a tokenizer has counts
START_TOKENS = ("[CLS]", "<s>", "<bos>", "[BOS]", "<|startoftext|>", "<|begin_of_text|>", "<|endoftext|>")
EOS_TOKENS = ("[SEP]", "</s>", "<eos>", "[EOS]", "<|end_of_text|>", "<|endoftext|>")
PAD_TOKENS = ("[PAD]", "<pad>", "<|pad|>", "<|padding|>")


def make_tokenizer(
    spec: str | os.PathLike[str] | Tokenizer, *, texts: Iterable[str] | None = None, vocab_size: int | None = None
) -> Tokenizer:
    """The tokenizer that ``spec`` means.

    Args:
        spec: ``"char"``, ``"char:"`` and an alphabet, ``"byte"``, ``"bpe"``, the path of a tokenizer.json or of its
            folder, or a tokenizer of the tokenizers library or a fast one of transformers, which is copied.
        texts: gives ``"char"`` its alphabet, in the order of Unicode, and ``"bpe"`` what it learns from.
        vocab_size: limit of the tokens of ``"bpe"``, special ones included, 259 or more; 8,000 by default.

    Raises:
        TokenizerError: no such file, not a tokenizer, or a damaged one; names the file. ``"bpe"`` without texts.
        UsageError: arguments that another kind of tokenizer takes.
        IncompatibleError: ids that contradict each other.
        ConfigLimitError: padding or truncation beyond 100,000 tokens.
        CheckpointLimitError: a file of more than 256 MB.
    """
    if isinstance(spec, str) and (spec in OWN or spec.startswith("char:")):
        return own_tokenizer(spec, texts, vocab_size)
    if texts is not None or vocab_size is not None:
        field = "vocab_size" if texts is None else "texts"
        raise UsageError("a tokenizer that is there learns nothing", field=field, hint="give 'char' or 'bpe'")
    if isinstance(spec, (str, os.PathLike)):
        path = os.fsdecode(spec)
        with contextlib.suppress(ValueError):
            path = os.path.join(path, "tokenizer.json") if os.path.isdir(path) else path
        hint = did_you_mean(path, OWN) or "give 'char', 'byte' or the path of a tokenizer.json"
        with open_regular(path, TokenizerError, hint) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_FILE_BYTES:
                raise CheckpointLimitError(
                    f"{size:,} bytes, and a tokenizer has at most {MAX_FILE_BYTES:,}",
                    path=path,
                    hint="give a tokenizer.json that the tokenizers library has written",
                )
            return parse_tokenizer(file.read(MAX_FILE_BYTES + 1), path=path)
    spec = getattr(spec, "backend_tokenizer", spec)
    if not isinstance(spec, Tokenizer):
        raise TokenizerError(
            f"not a tokenizer: {type(spec).__name__}", hint="give 'char', 'byte', a path or a tokenizers.Tokenizer"
        )
    with foreign_errors("the tokenizer cannot be copied", None, "use parts that the tokenizers library can save"):
        text = spec.to_str()
    return parse_tokenizer(text.encode(), path=None)


def parse_tokenizer(data: bytes, *, path: object) -> Tokenizer:
    """The tokenizer of a tokenizer.json.

    Args:
        data: the file's content, UTF-8 JSON.
        path: the file, for messages.

    Raises:
        TokenizerError, IncompatibleError, ConfigLimitError: as `make_tokenizer`.
    """
    hint = "give a tokenizer.json that the tokenizers library has written"
    if (other := other_content_error(data, path, TokenizerError)) is not None:
        raise other
    try:
        text = data.decode("utf-8")
        plain = json.loads(text, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        reason = (
            "empty" if not data.strip() else "nested too deeply" if isinstance(error, RecursionError) else str(error)
        )
        raise TokenizerError(f"not a tokenizer: {reason}", path=path, hint=hint) from None
    if not isinstance(plain, dict) or not isinstance(plain.get("model"), dict):
        raise TokenizerError("not a tokenizer: no model in it", path=path, hint=hint)
    if plain.get("version", "1.0") != "1.0":
        raise TokenizerError(
            f"version {plain['version']!r}, but only 1.0 can be read", path=path, field="version", hint=hint
        )
    _check_lengths(plain, path)
    _check_merges(plain, path)
    with foreign_errors("not a tokenizer", path, hint):
        tokenizer: Tokenizer = Tokenizer.from_str(text)
    _check_ids(plain, tokenizer, path)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _check_lengths(plain: Mapping[str, Any], path: object) -> None:
    """Refuse long padding and truncation: the library allocates it, and aborts the process if it cannot."""
    for section in ("padding", "truncation"):
        pending: list[tuple[str, Any]] = [(section, plain.get(section))]
        while pending:
            field, value = pending.pop()
            if isinstance(value, dict):
                pending += [(f"{field}.{key}", inner) for key, inner in value.items() if not key.endswith("_id")]
            elif isinstance(value, (int, float)) and value > MAX_PADDED_TOKENS:
                raise ConfigLimitError(
                    f"{value:,} tokens are above the limit of {MAX_PADDED_TOKENS:,}",
                    path=path,
                    field=field,
                    hint="make it smaller",
                )


def _check_merges(plain: Mapping[str, Any], path: object) -> None:
    """Refuse merges of byte-pair encoding that do not make a token: the library may abort the process."""
    vocab, merges, prefix = (plain["model"].get(name) for name in ("vocab", "merges", "continuing_subword_prefix"))
    if not isinstance(vocab, dict) or not isinstance(merges, list) or not isinstance(prefix, (str, NoneType)):
        return
    for merge in merges:
        match merge.split(" ") if isinstance(merge, str) else merge:
            case [str(first), str(second)] if (token := first + second.removeprefix(prefix or "")) not in vocab:
                raise TokenizerError(
                    f"{short(first)} and {short(second)} make {short(token)}, which is not a token",
                    path=path,
                    field="model.merges",
                    hint="copy the file again",
                )
            case [str(), str(second)] if not second.startswith(prefix or ""):
                raise TokenizerError(
                    f"{short(second)} does not begin with {short(prefix)}",
                    path=path,
                    field="model.continuing_subword_prefix",
                    hint="make it null if tokens have no such prefix",
                )


def _check_ids(plain: Mapping[str, Any], tokenizer: Tokenizer, path: object) -> None:
    """Refuse ids that two tokens share, ids above the limit, and ids that the library would silently change."""
    vocab = plain["model"].get("vocab")
    if isinstance(vocab, dict):
        if len(set(vocab.values())) < len(vocab):
            by_id: dict[int, str] = {}
            token, other = next((t, by_id[i]) for t, i in vocab.items() if by_id.setdefault(i, t) != t)
            raise IncompatibleError(
                f"tokens {other[:40]!r} and {token[:40]!r} share the id {vocab[token]}",
                path=path,
                field="model.vocab",
                hint="give each token its own id",
            )
        if vocab and (highest := max(vocab.values())) > MAX_TOKEN_ID:
            raise IncompatibleError(
                f"id {highest:,} is above the limit of {MAX_TOKEN_ID:,}",
                path=path,
                field="model.vocab",
                hint="number from 0",
            )
    for added in plain.get("added_tokens") or ():
        token, declared = added["content"], added["id"]
        if (actual := tokenizer.token_to_id(token)) != declared:
            raise IncompatibleError(
                f"{token[:40]!r} is declared with id {declared}, but gets {actual} in a vocabulary of "
                f"{tokenizer.get_vocab_size()}",
                path=path,
                field="added_tokens",
                hint="number added tokens from the end of the vocabulary",
            )


def vocab_size_of(tokenizer: Tokenizer) -> int:
    """Rows that an embedding needs: the highest id plus one, which is above the number of tokens if ids have gaps."""
    return 1 + max(tokenizer.get_vocab().values(), default=-1)


def token_ids_of(tokenizer: Tokenizer) -> TokenIds:
    """The ids that start, end and fill a text, found by common names of special tokens.

    The first name of ``START_TOKENS``, ``EOS_TOKENS`` and ``PAD_TOKENS`` that the tokenizer has counts; special tokens
    come before ordinary ones. An id that is not found is None, or empty for the end ids.
    """
    special = {token.content: i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}

    def find(names: Iterable[str]) -> int | None:
        found = (special.get(name) for name in names), (tokenizer.token_to_id(name) for name in names)
        return next((i for group in found for i in group if i is not None), None)

    eos = find(EOS_TOKENS)
    return TokenIds(start=find(START_TOKENS), eos=() if eos is None else (eos,), pad=find(PAD_TOKENS))


def decode_ids(tokenizer: Tokenizer, ids: Any, skip_special_tokens: bool = True, clean_up: bool = False) -> str:
    """The text of ``ids``, a list, array or tensor with one axis.

    ``-100``, which fills labels, and ids outside of the vocabulary give no text. ``clean_up`` takes out spaces before
    punctuation as transformers does, which leaves byte-pair texts alone.

    Raises:
        TokenizerError: not a single row of ids.
    """
    try:
        row = [operator.index(i) for i in (ids.tolist() if hasattr(ids, "tolist") else ids)]
    except (TypeError, ValueError):
        message = "one row of whole numbers expected"
        raise TokenizerError(message, field="ids", hint="for several rows use batch_decode") from None
    with foreign_errors("the ids cannot be decoded", None, "give ids of this tokenizer"):
        text: str = tokenizer.decode([i for i in row if i != IGNORE_INDEX], skip_special_tokens=skip_special_tokens)
    if clean_up and not isinstance(tokenizer.model, models.BPE):
        for spaced in SPACED:
            text = text.replace(spaced, spaced.strip())
    return text
