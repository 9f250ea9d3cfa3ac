"""HTML of results, models and explanations for notebooks: self-contained, escaped, for light and dark pages."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from html import escape

__all__ = ["coloured_tokens", "confidence_bar", "framed", "part_diagram", "picture_html", "shown_text"]

FAINT = "rgba(128,128,128,.35)"
"""Colour of lines, seen on white and on black."""


def framed(*parts: str) -> str:
    """Parts below one another."""
    return f'<div style="max-width:60em;padding:.4em 0">{"".join(parts)}</div>'


def shown_text(text: str) -> str:
    """A text as it is, with its spaces and line breaks."""
    return f'<pre style="margin:.2em 0;white-space:pre-wrap;background:none;color:inherit">{escape(text)}</pre>'


def confidence_bar(confidence: float) -> str:
    """A confidence from 0 to 1 as a bar, and in figures."""
    bar = f'<span style="display:inline-block;height:.6em;width:{confidence:.0%};background:#2a9d5c"></span>'
    return (
        f'<div style="margin:.2em 0"><span style="display:inline-block;width:10em;background:{FAINT};line-height:.6em">'
        f"{bar}</span> confidence {confidence:.3f}</div>"
    )


def coloured_tokens(tokens: Iterable[tuple[str, float]]) -> str:
    """Texts of tokens, the redder the less probable, each with its probability as a tooltip."""
    spans = [
        f'<span title="{probability:.3f}" style="background:rgba(230,60,30,{0.7 * (1 - min(probability, 1)):.2f});'
        f'border-right:1px solid {FAINT}">{escape(text)}</span>'
        for text, probability in tokens
    ]
    return f'<div style="font-family:monospace;white-space:pre-wrap;line-height:1.6">{"".join(spans)}</div>'


def picture_html(image: bytes, described: str) -> str:
    """The bytes of a PNG or a JPEG as a picture."""
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    address = f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
    return f'<img alt="{escape(described)}" style="max-width:100%" src="{address}">'


def part_diagram(parts: Mapping[str, Mapping[str, object]], notes: Mapping[str, object]) -> str:
    """Parts from left to right with an arrow between them, and notes below.

    Args:
        parts: title to lines, each a name and a value.
        notes: names and values that hold for all of them.
    """
    boxes = [
        f'<div style="border:1px solid {FAINT};border-radius:6px;padding:.4em .8em"><b>{escape(title)}</b>'
        f"{_lines(lines)}</div>"
        for title, lines in parts.items()
    ]
    arrow = '<div style="align-self:center;padding:0 .5em">&rarr;</div>'
    row = f'<div style="display:flex;flex-wrap:wrap;align-items:stretch">{arrow.join(boxes)}</div>'
    return framed(row, _lines(notes))


def _lines(values: Mapping[str, object]) -> str:
    return "".join(
        f'<div><span style="opacity:.65">{escape(name)}</span> {escape(str(value))}</div>'
        for name, value in values.items()
    )
