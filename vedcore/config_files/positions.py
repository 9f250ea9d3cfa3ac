"""Where things stand in JSON and TOML text, which their parsers do not tell.

:func:`nesting_beyond` reads any text, before the parsers see it. The others read text that parsed, or did up to
where they are stopped, and are only asked when an error is about to name a line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from vedcore.config_files.plain import KeyPath

# Strings may be unterminated; no part of a pattern can be read twice, so that a scan stays linear.
_JSON_STRING = r'"(?s:[^"\\]|\\.)*+"?'
_JSON_TOKEN = re.compile(_JSON_STRING + r'|[\[\]{},:]|[^\s\[\]{},:"]++')
_TOML_STRING = (
    r'"""(?s:[^"\\]|\\.|"(?!""))*+(?:"{3,5})?'
    r"|'''(?s:[^']|'(?!''))*+(?:'{3,5})?"
    r'|"(?:[^"\\\n]|\\[^\n])*+"?'
    r"|'[^'\n]*+'?"
)
_TOML_TOKEN = re.compile(_TOML_STRING + r"|\#[^\n]*+|[\[\]{}=,.\n]|[^\s\[\]{}=,.\#\"']++")
_OPEN = frozenset("[{")
_CLOSE = frozenset("]}")


def nesting_beyond(text: str, limit: int, format: str) -> int | None:
    """The offset where brackets, or parts of a dotted TOML key, first nest deeper than ``limit``, or None."""
    depth = dots = 0
    for match in (_JSON_TOKEN if format == "json" else _TOML_TOKEN).finditer(text):
        token = match[0]
        if token in _OPEN:
            depth, dots = depth + 1, 0
        elif token in _CLOSE:
            depth, dots = depth - 1, 0
        elif token == ".":
            dots += 1
        elif token in ("\n", ",", "="):
            dots = 0
        if depth > limit or dots >= limit:
            return match.start()
    return None


def first_duplicate(positions: Iterator[tuple[KeyPath, int]]) -> tuple[KeyPath, int]:
    """The first key path that comes a second time, and where it does so; there has to be one."""
    seen: set[KeyPath] = set()
    for path, offset in positions:
        if path in seen:
            return path, offset
        seen.add(path)
    raise LookupError("no duplicate")


def json_positions(text: str) -> Iterator[tuple[KeyPath, int]]:
    """Each object key and list item of JSON text, with its offset, in the order of the text."""
    path: list[str | int] = []  # one entry a container: the index in a list, the key in an object
    key_due = False
    for match in _JSON_TOKEN.finditer(text):
        token = match[0]
        if token in _CLOSE:
            path.pop()
            key_due = False
        elif token == ",":
            last = path[-1]
            if isinstance(last, int):
                path[-1] = last + 1
            else:
                key_due = True
        elif key_due:
            path[-1] = json.loads(token)
            key_due = False
            yield tuple(path), match.start()
        elif token != ":":
            if path and isinstance(path[-1], int):
                yield tuple(path), match.start()
            if token in _OPEN:
                path.append(0 if token == "[" else "")
                key_due = token == "{"


def toml_positions(text: str) -> Iterator[tuple[KeyPath, int]]:
    """Each key, table and list item of TOML text, with its offset; a table that is reopened comes again."""
    return _TomlPositions(text).document()


class _TomlPositions:
    def __init__(self, text: str) -> None:
        self.tokens = [(m[0], m.start()) for m in _TOML_TOKEN.finditer(text) if not m[0].startswith("#")]
        self.tokens.append(("\n", len(text)))
        self.at = 0
        self.last_index: dict[KeyPath, int] = {}  # of each list of tables, [[so]]

    def document(self) -> Iterator[tuple[KeyPath, int]]:
        table: KeyPath = ()
        while self.at < len(self.tokens):
            token, _ = self.tokens[self.at]
            if token == "\n":
                self.at += 1
            elif token == "[":
                as_list = self.tokens[self.at + 1][0] == "["
                self.at += 2 if as_list else 1
                keys = self.dotted_key()
                table = ()
                for position, (key, offset) in enumerate(keys, 1):
                    table = (*table, key)
                    yield table, offset
                    if as_list and position == len(keys):
                        self.last_index[table] = self.last_index.get(table, -1) + 1
                    if table in self.last_index:
                        table = (*table, self.last_index[table])
                        yield table, offset
                self.at += 2 if as_list else 1
            else:
                yield from self.pair(table)

    def dotted_key(self) -> list[tuple[str, int]]:
        """The parts of ``a."b".c``, and the offset of each."""
        parts = []
        while True:
            token, offset = self.tokens[self.at]
            parts.append((_toml_key(token), offset))
            self.at += 1
            if self.tokens[self.at][0] != ".":
                return parts
            self.at += 1

    def pair(self, table: KeyPath) -> Iterator[tuple[KeyPath, int]]:
        """``key = value``, in the table at ``table``."""
        for key, offset in self.dotted_key():
            table = (*table, key)
            yield table, offset
        self.at += 1  # =
        yield from self.value(table)

    def value(self, path: KeyPath) -> Iterator[tuple[KeyPath, int]]:
        opening = self.tokens[self.at][0]
        if opening not in _OPEN:
            while self.tokens[self.at][0] not in (",", "]", "}", "\n"):
                self.at += 1
            return
        self.at += 1
        index = 0
        while (token := self.tokens[self.at][0]) not in _CLOSE:
            if token in (",", "\n"):
                self.at += 1
            elif opening == "{":
                yield from self.pair(path)
            else:
                yield (*path, index), self.tokens[self.at][1]
                yield from self.value((*path, index))
                index += 1
        self.at += 1


def _toml_key(token: str) -> str:
    if token[0] not in "\"'":
        return token
    import tomllib

    return str(tomllib.loads(f"key = {token}")["key"])
