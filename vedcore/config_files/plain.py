"""Plain data: the values that a configuration may hold."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from vedcore.errors import ConfigError, ConfigLimitError, ConfigSchemaError

MAX_DEPTH = 64
TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"
TOO_LONG = "a number has thousands of digits"
ENCODABLE_HINT = "write text that UTF-8 can encode"

KeyPath = tuple[str | int, ...]


def not_plain(data: Any) -> tuple[type[ConfigError], KeyPath, str, str] | None:
    """The first value in ``data`` that is not plain data, as (error class, key path, message, hint); or None.

    Plain data is ``dict`` with ``str`` keys, ``list``, ``str``, ``int``, finite ``float``, ``bool`` and ``None``, in at
    most 64 levels of containers.
    """
    return _not_plain(data, ())


def _not_plain(value: Any, path: KeyPath) -> tuple[type[ConfigError], KeyPath, str, str] | None:
    kind = type(value)
    if kind in (dict, list):
        if len(path) >= MAX_DEPTH:
            return ConfigLimitError, path, TOO_DEEP, "flatten it"
        for key, item in value.items() if kind is dict else enumerate(value):
            if isinstance(key, str) and not _encodable(key):
                return ConfigSchemaError, path, f"lone surrogate in the key {short(key)}", ENCODABLE_HINT
            if found := _not_plain(item, (*path, key)):
                return found
    elif kind is float and not math.isfinite(value):
        return ConfigSchemaError, path, f"number expected, got {value}", "write a finite number"
    elif kind is str and not _encodable(value):
        return ConfigSchemaError, path, "lone surrogate in a string", ENCODABLE_HINT
    elif kind is int and not _printable_int(value):
        return ConfigLimitError, path, TOO_LONG, "shorten it"
    elif kind not in (str, int, float, bool, type(None)):
        return ConfigSchemaError, path, f"{kind.__name__} is not plain data", "write it as a quoted string"
    return None


def dotted(path: KeyPath) -> str:
    """``("encoder", "sizes", 0)`` as ``encoder.sizes.0``, without its middle where it is longer than 80 characters."""
    text = ".".join(map(str, path))
    return text if len(text) <= 80 else f"{text[:39]}…{text[-40:]}"


class DuplicateKeyError(ValueError):
    """Two equal keys in one JSON object; the message names the key."""


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An ``object_pairs_hook`` for ``json`` that refuses duplicate keys, of which json would keep the last.

    Raises:
        DuplicateKeyError: naming the most frequent key.
    """
    data = dict(pairs)
    if len(data) < len(pairs):
        twice, count = Counter(key for key, _ in pairs).most_common(1)[0]
        raise DuplicateKeyError(f"duplicate key {short(twice)}, given {'twice' if count == 2 else f'{count} times'}")
    return data


def short(value: object) -> str:
    """``repr`` of a value from outside, cut to 60 characters."""
    text = repr(value[:80] if isinstance(value, str) else value)
    return text if len(text) <= 60 else text[:59] + "…"


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _printable_int(value: int) -> bool:
    if value.bit_length() < 2000:
        return True
    try:
        str(value)
    except ValueError:  # sys.set_int_max_str_digits
        return False
    return True
