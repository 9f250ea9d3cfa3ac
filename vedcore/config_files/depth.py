"""How deep text nests, counted before a parser sees it: parsers recurse, and pay for a dotted key by its square."""

from __future__ import annotations

import re

from vedcore.config_files.plain import MAX_DEPTH

# Strings and comments of TOML, of which those of JSON are a part; a string may lack its end.
# No part of the pattern can be read twice, so that a scan stays linear.
_TOKEN = re.compile(
    r'"""(?s:[^"\\]|\\.|"(?!""))*+(?:"{3,5})?'
    r"|'''(?s:[^']|'(?!''))*+(?:'{3,5})?"
    r'|"(?:[^"\\\n]|\\[^\n])*+"?'
    r"|'[^'\n]*+'?"
    r"|\#[^\n]*+"
    r"|[\[\]{}.,=\n]"
)


def nesting_beyond_limit(text: str) -> int | None:
    """The offset where brackets, or the parts of a dotted key, first nest deeper than 64 levels; None if nowhere.

    Exact for JSON and TOML; an estimate for YAML, whose strings need no quotes.
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
