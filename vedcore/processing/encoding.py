"""Texts to token ids: names of special tokens, text that must not hold any, and characters that have no token.

No function changes a tokenizer. Importing this module does not import torch.
"""

from __future__ import annotations

import json
import threading
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tokenizers import AddedToken, Encoding, Tokenizer, models

from vedcore.config_files.plain import short
from vedcore.errors import TokenizerError, UsageError, warn_caller
from vedcore.processing.japanese import split_words
from vedcore.processing.tokenizers import foreign_errors, require_unicode

__all__ = ["OnUnknown", "encode_labels", "encode_text", "encode_texts", "encodings", "unknown_id"]

OnUnknown = Literal["warn", "error", "ignore"]
"""Handling of a piece of text that has no token."""
MAX_TEXT_CHARACTERS = 200_000
"""Limit of a text that is encoded."""
MAX_PIECES_SHOWN = 5
"""Limit of the pieces without a token that a message names."""
_UNUSED = "\U0010fffd"  # the last character for private use, for which tokenizers have no token
_spelling: weakref.WeakKeyDictionary[Tokenizer, tuple[dict[int, str], Tokenizer]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()
_CAN_BE_REMEMBERED = Tokenizer.__weakrefoffset__ > 0
"""Whether a tokenizer can be a key of `_spelling`; not in tokenizers 0.22.1."""


def encode_text(
    tokenizer: Tokenizer, text: str, *, untrusted: bool = False, on_unknown: OnUnknown = "warn"
) -> list[int]:
    """The ids of ``text``; see `encode_texts`."""
    return encode_texts(tokenizer, [text], untrusted=untrusted, on_unknown=on_unknown)[0]


def encode_texts(
    tokenizer: Tokenizer, texts: Sequence[str], *, untrusted: bool = False, on_unknown: OnUnknown = "warn"
) -> list[list[int]]:
    """The ids of each text, without the special tokens that the tokenizer's template adds; see `encodings`."""
    return [encoding.ids for encoding in encodings(tokenizer, texts, untrusted=untrusted, on_unknown=on_unknown)]


def encode_labels(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    eos: int,
    max_length: int | None = None,
    *,
    untrusted: bool = False,
    on_unknown: OnUnknown = "warn",
) -> list[list[int]]:
    """The labels of a decoder for each text: its ids, then ``eos``; the model adds the start id.

    Args:
        tokenizer: the tokenizer.
        texts: the texts.
        eos: the id that ends a text.
        max_length: limit of ids, ``eos`` included, 1 or more; a longer text is cut, and ``eos`` still follows.
        untrusted: see `encodings`.
        on_unknown: see `encodings`.

    Raises:
        TokenizerError: as `encodings`.
    """
    rows = encode_texts(tokenizer, texts, untrusted=untrusted, on_unknown=on_unknown)
    return [[*(ids if max_length is None else ids[: max_length - 1]), eos] for ids in rows]


def encodings(
    tokenizer: Tokenizer, texts: Sequence[str], *, untrusted: bool = False, on_unknown: OnUnknown = "warn"
) -> list[Encoding]:
    """Each text in tokens, without those that the tokenizer's template adds.

    Args:
        tokenizer: the tokenizer; it stays as it is.
        texts: the texts.
        untrusted: spell out the names of special and added tokens in the texts, so that only their characters count;
            by default a name is its token.
        on_unknown: ``"warn"`` warns once of all pieces that become the unknown token, or that a tokenizer without
            such a token leaves out; ``"error"`` raises; ``"ignore"`` does neither.

    Raises:
        TokenizerError: not a str, more than 200,000 characters, a lone surrogate, a character without a token where the
            tokenizer has no unknown token.
        UsageError: another word for ``on_unknown``.
    """
    if on_unknown not in ("warn", "error", "ignore"):
        raise UsageError(f"{short(on_unknown)} is not a choice", field="on_unknown", hint="give warn, error or ignore")
    for text in texts:
        _check(text)
    texts = [split_words(tokenizer, text, untrusted=untrusted) for text in texts]
    found, unknown = [_encode(tokenizer, text, untrusted) for text in texts], Counter[str]()
    if on_unknown != "ignore" and found:
        index = unknown_id(tokenizer)
        for text, encoding in zip(texts, found, strict=True):
            unknown.update(_unknown_pieces(tokenizer, text, encoding, index))
        if unknown:
            _report(unknown, None if index is None else tokenizer.id_to_token(index), on_unknown)
    return found


def _check(text: str) -> None:
    if not isinstance(text, str):
        raise TokenizerError(f"text expected, got {type(text).__name__}", hint="give a str")
    if len(text) > MAX_TEXT_CHARACTERS:
        raise TokenizerError(
            f"a text of {len(text):,} characters, above the limit of {MAX_TEXT_CHARACTERS:,}", hint="shorten it"
        )
    require_unicode(text)


def _encode(tokenizer: Tokenizer, text: str, untrusted: bool) -> Encoding:
    with foreign_errors("the text cannot be encoded", None, "try another text, or another tokenizer"):
        try:
            encoding: Encoding = tokenizer.encode(text, add_special_tokens=False)
            if untrusted:
                encoding = _spelled_out(tokenizer, text, encoding)
            return encoding
        except Exception as error:
            unknown = next((c for c in text if tokenizer.token_to_id(c) is None), None)
            if unknown is None or "Missing [UNK]" not in str(error):
                raise
            raise TokenizerError(
                f"the tokenizer has no token for {unknown!r} (U+{ord(unknown):04X})",
                hint=f"leave it out, or add it with model.extend_alphabet({unknown!r})",
            ) from None


# -- untrusted text -------------------------------------------------------------------------------------------------


def _spelled_out(tokenizer: Tokenizer, text: str, encoding: Encoding) -> Encoding:
    """``encoding`` of ``text``, or another one if that has a special or added token."""
    added = tokenizer.get_added_tokens_decoder()
    if added.keys().isdisjoint(encoding.ids):
        return encoding
    spelled: Encoding = _without_added_tokens(tokenizer, added).encode(text, add_special_tokens=False)
    special = {i for i, token in added.items() if token.special} - {unknown_id(tokenizer)}
    if left := special.intersection(spelled.ids):
        name = tokenizer.id_to_token(min(left))
        raise TokenizerError(f"the tokenizer cannot spell out {name!r}", field="text", hint="leave it out of the text")
    return spelled


def _without_added_tokens(tokenizer: Tokenizer, added: Mapping[int, AddedToken]) -> Tokenizer:
    """A copy without added tokens, whose model does not find the names of special tokens in a text either."""
    names = {i: token.content for i, token in added.items()}
    with _lock:
        known, copy = _spelling.get(tokenizer, ({}, tokenizer)) if _CAN_BE_REMEMBERED else ({}, tokenizer)
        if known != names:
            plain = json.loads(tokenizer.to_str())
            _hide(plain["model"], sorted(token.content for token in added.values() if token.special))
            copy = Tokenizer.from_str(json.dumps({**plain, "added_tokens": []}))
            if _CAN_BE_REMEMBERED:
                _spelling[tokenizer] = names, copy
    return copy


def _hide(model: dict[str, Any], names: Sequence[str]) -> None:
    """Rename the tokens ``names`` in a model of a tokenizer.json; their ids stay."""
    hidden = {name: f"{_UNUSED}{number}" for number, name in enumerate(names)}
    if isinstance(model["vocab"], dict):
        model["vocab"] = {hidden.get(token, token): i for token, i in model["vocab"].items()}
    else:
        model["vocab"] = [[hidden.get(token, token), score] for token, score in model["vocab"]]
    if model.get("unk_token") in hidden:
        model["unk_token"] = hidden[model["unk_token"]]
    if "merges" in model:
        prefix = model.get("continuing_subword_prefix") or ""
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        model["merges"] = [[a, b] for a, b in pairs if hidden.keys().isdisjoint((a, b, a + b.removeprefix(prefix)))]


# -- characters without a token -------------------------------------------------------------------------------------


def unknown_id(tokenizer: Tokenizer) -> int | None:
    """The id of what a tokenizer has no token for; None where it has no such id, as byte-level tokenizers."""
    try:
        with foreign_errors("no unknown token", None, ""):
            tokens = tokenizer.model.tokenize(_UNUSED)
    except TokenizerError:
        return None
    return int(tokens[0].id) if len(tokens) == 1 else None


def _unknown_pieces(tokenizer: Tokenizer, text: str, encoding: Encoding, unknown: int | None) -> list[str]:
    """The pieces of ``text`` that became the unknown token, or are in no token."""
    if unknown is None:
        return _lost(tokenizer, text, encoding) if isinstance(tokenizer.model, models.BPE) else []
    if unknown not in encoding.ids:
        return []
    pieces = [text[a:b] for i, (a, b) in zip(encoding.ids, encoding.offsets, strict=True) if i == unknown]
    name = tokenizer.id_to_token(unknown)  # it may itself stand in the text
    return [piece.strip() or piece for piece in pieces if piece.strip() != name]


def _lost(tokenizer: Tokenizer, text: str, encoding: Encoding) -> list[str]:
    """The characters that a byte-pair model without an unknown token leaves out."""
    added, outside = tokenizer.get_added_tokens_decoder(), list(text)
    for index, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
        if index in added:
            outside[start:end] = " " * (end - start)
    # not by the offsets of the others, which shift where a character is left out
    candidates = [c for c in outside if not c.isspace() and tokenizer.token_to_id(c) is None]
    if not candidates:
        return []
    normal = str if tokenizer.normalizer is None else tokenizer.normalizer.normalize_str
    whole = normal(text)

    def is_lost(character: str) -> bool:
        if tokenizer.encode(character, add_special_tokens=False).ids or not (form := normal(character).strip()):
            return False
        kept = form in whole  # else the normaliser has made another character of it and its neighbours
        return kept and (tokenizer.pre_tokenizer is None or bool(tokenizer.pre_tokenizer.pre_tokenize_str(form)))

    lost = {c for c in set(candidates) if is_lost(c)}
    return [c for c in candidates if c in lost]


def _report(unknown: Counter[str], name: str | None, on_unknown: OnUnknown) -> None:
    """Warn of pieces without a token, or raise."""
    shown = [short(piece) + (f" ({n} times)" if n > 1 else "") for piece, n in unknown.most_common(MAX_PIECES_SHOWN)]
    more = ["and others"] if len(unknown) > MAX_PIECES_SHOWN else []
    one = unknown.total() == 1
    fate = f"{'is' if one else 'are'} left out" if name is None else f"{'becomes' if one else 'become'} {name!r}"
    message = (
        f"the tokenizer has no token for {unknown.total()} {'piece' if one else 'pieces'} of the text: "
        f"{', '.join([*shown, *more])}, which {fate}"
    )
    if on_unknown == "error":
        hint = "add what is missing with model.add_tokens([…]), or pass on_unknown='warn'"
        raise TokenizerError(message, field="text", hint=hint)
    advice = "add what is missing with model.add_tokens([…]), or pass on_unknown='ignore'"
    warn_caller(f"{message}; {advice}")
