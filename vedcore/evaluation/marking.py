"""Texts of strangers in a page: escaped, made visible, and with their differences marked."""

from __future__ import annotations

import difflib
from html import escape

from vedcore.errors import printable

__all__ = ["marked", "shown"]

MAX_SHOWN = 1000
"""Characters of a text that a page shows."""
BEFORE = 200
"""Characters that are shown before the first difference, where it stands further behind."""
_KEPT = "\n\u200c\u200d"
"""Characters that are not printable and stay: the line break, and the joiners that scripts are written with."""


def shown(text: object, limit: int = MAX_SHOWN) -> str:
    """A text as HTML: control, bidi and undecodable characters are written as escapes, and a long text is cut."""
    whole = str(text)
    return _escaped(whole[:limit]) + _more(len(whole) - limit)


def marked(label: str, text: str) -> tuple[str, str]:
    """A label and a text as HTML. In the label ``del`` marks what the text lacks, in the text ``ins`` what is wrong."""
    same = next((i for i, (a, b) in enumerate(zip(label, text, strict=False)) if a != b), min(len(label), len(text)))
    start = max(0, same - BEFORE)
    first, second = label[start : start + MAX_SHOWN], text[start : start + MAX_SHOWN]
    sides = [["…" if start else ""], ["…" if start else ""]]
    for kind, a, b, c, d in difflib.SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        for side, part, tag in ((sides[0], first[a:b], "del"), (sides[1], second[c:d], "ins")):
            if part:
                side.append(_escaped(part) if kind == "equal" else f"<{tag}>{_escaped(part)}</{tag}>")
    left, right = (
        "".join(side) + _more(len(whole) - start - MAX_SHOWN) for side, whole in zip(sides, (label, text), strict=True)
    )
    return left, right


def _escaped(text: str) -> str:
    return escape("".join(c if c in _KEPT else printable(c) for c in text))


def _more(count: int) -> str:
    return f"… <small>({count:,} more characters)</small>" if count > 0 else ""
