"""Characters that a tokenizer has no token for, and a tokenizer that has tokens for them too.

A new token is one of the tokenizer's model, and not an added one, which would take the word around it apart. Importing
this module does not import torch.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from tokenizers import Tokenizer

from vedcore.processing.library_errors import foreign_errors, require_unicode
from vedcore.processing.tokenizers import parse_tokenizer, vocab_size_of

__all__ = ["new_letters", "with_letters"]

_UNUSED = "\U0010fffd"  # the last character for private use


def new_letters(tokenizer: Tokenizer, texts: Iterable[str]) -> dict[str, int]:
    """The characters of texts that a tokenizer cannot spell, in the order of Unicode, and how often each comes.

    A tokenizer of bytes, or one that falls back to them, spells all.

    Raises:
        TokenizerError: a text with a lone surrogate.
    """
    counts = Counter[str]()
    for text in texts:
        require_unicode(text)
        counts.update(text)
    spelling = _Spelling(tokenizer)
    return {character: counts[character] for character in sorted(counts) if spelling.missing(character)}


def with_letters(tokenizer: Tokenizer, characters: str) -> Tokenizer:
    """A copy of a tokenizer that spells some characters too: their tokens come behind all others, in their order.

    Args:
        tokenizer: stays as it is.
        characters: those that `new_letters` finds.
    """
    spelling = _Spelling(tokenizer)
    tokens = list(dict.fromkeys(token for character in characters for token in spelling.missing(character)))
    plain, vocab = spelling.plain, spelling.plain["model"]["vocab"]
    # added tokens become tokens of the model as well, as the library numbers those that are not from its end on
    added = sorted((each["id"], each["content"]) for each in plain["added_tokens"])
    if isinstance(vocab, dict):
        for index, token in [*added, *enumerate(tokens, vocab_size_of(tokenizer))]:
            vocab.setdefault(token, index)
    else:
        lowest = min((score for _, score in vocab), default=0.0)
        for index, token in [*added, *enumerate(tokens, vocab_size_of(tokenizer))]:
            vocab += [[f"{_UNUSED}{gap}", lowest] for gap in range(len(vocab), index)]
            vocab += [[token, lowest]] if index == len(vocab) else []
    return parse_tokenizer(json.dumps(plain).encode(), path=None)


class _Spelling:
    """The tokens of single characters in a tokenizer's model."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.plain: dict[str, Any] = json.loads(tokenizer.to_str())
        self._tokenizer = tokenizer
        self._tokens = tokenizer.get_vocab().keys()
        self._added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
        model = self.plain["model"]
        bytes_ = (f"<0x{byte:02X}>" for byte in range(256))
        self._spells_all = bool(model.get("byte_fallback")) and all(token in self._tokens for token in bytes_)
        self._before = model.get("continuing_subword_prefix") or ""
        self._behind = model.get("end_of_word_suffix") or ""

    def missing(self, character: str) -> list[str]:
        """The tokens to add, so that a character can be spelt alone and within a word."""
        if self._spells_all or character in self._added:
            return []
        other = "b" if character == "a" else "a"
        within = (form for part, form in self._forms(other + character + other) if part != other)
        needed = dict.fromkeys([*(form for _, form in self._forms(character)), *within])
        return [form for form in needed if form not in self._tokens]

    def _forms(self, text: str) -> Iterator[tuple[str, str]]:
        """Each character that the model gets for a text, and the token that it looks up for it."""
        with foreign_errors("the text cannot be encoded", None, "try another text, or another tokenizer"):
            normalizer, pre_tokenizer = self._tokenizer.normalizer, self._tokenizer.pre_tokenizer
            normal = text if normalizer is None else normalizer.normalize_str(text)
            words = [(normal, None)] if pre_tokenizer is None else pre_tokenizer.pre_tokenize_str(normal)
        for word, _ in words:
            for place, part in enumerate(word):
                before = self._before if place else ""
                yield part, before + part + (self._behind if place + 1 == len(word) else "")
