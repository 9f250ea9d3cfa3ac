"""Words of Japanese text, which has no spaces: split by MeCab before a tokenizer sees them.

The tokenizers library has no such splitter. A tokenizer that needs it carries a mark in its normaliser, which changes
no text and survives copies and files; `split_words` puts spaces between the words of a text for it. MeCab comes with
the extra ``japanese``. Importing this module does not import it.
"""

from __future__ import annotations

import functools
import importlib
import os
import re
import threading
import unicodedata
from typing import Any

from tokenizers import Tokenizer, normalizers

from vedcore.errors import TokenizerError

__all__ = ["DICTIONARIES", "mecab_dictionary", "mecab_mark", "require_mecab", "split_words"]

DICTIONARIES = ("unidic_lite", "ipadic", "unidic")
"""Packages of dictionaries for MeCab."""
_MARK = "\U0010fffdmecab:"
_lock = threading.Lock()  # a tagger keeps the sentence that it parses


def mecab_mark(dictionary: str) -> Any:
    """The part of a normaliser that says which dictionary splits a tokenizer's texts into words."""
    return normalizers.Replace(f"{_MARK}{dictionary}", "")


def mecab_dictionary(tokenizer: Tokenizer) -> str | None:
    """The dictionary of a tokenizer with a mark, else None."""
    normaliser = getattr(tokenizer, "normalizer", None)
    if not isinstance(normaliser, normalizers.Sequence):
        return None
    first = normaliser[0]
    found = (
        re.search(f"{_MARK}({'|'.join(DICTIONARIES)})", repr(first)) if isinstance(first, normalizers.Replace) else None
    )
    return None if found is None else found[1]


def split_words(tokenizer: Tokenizer, text: str, *, untrusted: bool = False) -> str:
    """``text`` with spaces between its words if the tokenizer has a mark, else as it is.

    Args:
        tokenizer: the tokenizer.
        text: names of special and added tokens in it stay whole.
        untrusted: split such names too.

    Raises:
        TokenizerError: MeCab or its dictionary is not installed.
    """
    dictionary = mecab_dictionary(tokenizer)
    if dictionary is None:
        return text
    tagger = require_mecab(dictionary)
    names = [] if untrusted else [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    pattern = "|".join(map(re.escape, sorted(filter(None, names), key=len, reverse=True)))
    parts = re.split(f"({pattern})", text) if pattern else [text]
    with _lock:
        return "".join(
            part if index % 2 else " ".join(word.surface for word in tagger(unicodedata.normalize("NFKC", part)))
            for index, part in enumerate(parts)
        )


@functools.cache
def require_mecab(dictionary: str) -> Any:
    """MeCab with a dictionary.

    Raises:
        TokenizerError: it is not installed.
    """
    try:
        fugashi, package = importlib.import_module("fugashi"), importlib.import_module(dictionary)
    except ImportError as error:
        raise TokenizerError(
            f"Japanese text is split by MeCab, and {error.name or 'its package'} is not installed",
            field="tokenizer",
            hint=f"pip install 'vedcore[japanese]'{' unidic' if dictionary == 'unidic' else ''}",
        ) from None
    folder = package.DICDIR
    return fugashi.GenericTagger(f'-d "{folder}" -r "{os.path.join(folder, "mecabrc")}"')
