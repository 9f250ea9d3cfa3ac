"""Nesting depth of text, counted before parsing: parsers recurse, and are quadratic in the length of dotted keys."""

from __future__ import annotations

import re

from vedcore.config_files.plain import MAX_DEPTH

# Strings and comments of TOML, which include those of JSON; a string may be unterminated.
# Possessive and disjoint parts keep a scan linear.
_TOKEN = re.compile(
    r'"""(?s:[^"\\]|\\.|"(?!""))*+(?:"{3,5})?'
    r"|'''(?s:[^']|'(?!''))*+(?:'{3,5})?"
    r'|"(?:[^"\\\n]|\\[^\n])*+"?'
    r"|'[^'\n]*+'?"
    r"|\#[^\n]*+"
    r"|[\[\]{}.,=\n]"
)


def nesting_beyond_limit(text: str) -> int | None:
    """The offset where brackets or dotted keys first nest deeper than 64 levels; None if nowhere.

    It is exact for JSON and TOML, and an estimate for YAML, whose strings need no quotes.
    """
    depth = dots = 0
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token == ".":
            dots += 1
        elif token in "[]{},=\n":
            depth += (token in "[{") - (token in "]}")
            dots = 0
        if depth > MAX_DEPTH or dots >= MAX_DEPTH:
            return match.start()
    return None
