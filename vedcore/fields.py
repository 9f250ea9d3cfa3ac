"""Text with field tags, as Donut writes it, to data and back: ``<s_total>12</s_total>`` is ``{"total": "12"}``.

A field is ``<s_key>…</s_key>``; ``<sep/>`` stands between the items of a list; a value of a closed set may be a token
of its own, ``<yes/>``. The rules are those of Donut's ``json2token`` and of transformers'
``DonutProcessor.token2json``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vedcore.deprecated_names import getattr_for
from vedcore.errors import ConfigLimitError, UsageError

__all__ = ["parse", "tokens", "write"]

SEPARATOR = "<sep/>"
MAX_DEPTH = 100
"""Limit of fields within fields."""


def parse(text: str, categories: Collection[str] = ()) -> Any:
    """The data that a text with field tags holds; any text gives some, broken tags included.

    A field without its end tag loses its start tag. A key that stands within itself ends at its first end tag. Of
    values, the white space around them is dropped.

    Args:
        text: the text, with its tags: as ``generate_text(…, skip_special_tokens=False)`` gives it.
        categories: tokens such as ``<yes/>`` that are read as ``yes``; others keep their brackets.

    Returns:
        A dictionary of fields, whose values are strings, dictionaries and lists of these; a list of dictionaries where
        ``<sep/>`` stands between fields at the top; ``{"text_sequence": text}`` where there are no fields.

    Raises:
        UsageError: not text.
        ConfigLimitError: more than 100 fields within each other.
    """
    if not isinstance(text, str):
        raise UsageError(f"text expected, got {type(text).__name__}", field="text", hint="give one str")
    return _parse(text, categories, 0)


def _parse(text: str, categories: Collection[str], depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ConfigLimitError(
            f"more than {MAX_DEPTH} fields within each other", field="text", hint="cut the text before it is parsed"
        )
    items: list[dict[str, Any]] = []  # of a list, before the one that is being read
    output: dict[str, Any] = {}
    is_list = depth > 0
    while (opening := re.search("<s_", text, re.IGNORECASE)) is not None:
        end = text.find(">", opening.start())
        if end < 0:
            break
        start_tag = text[opening.start() : end + 1]
        key = start_tag[len("<s_") : -1]
        closing = re.search(re.escape(f"</s_{key}>"), text, re.IGNORECASE)
        if closing is None:
            text = text.replace(start_tag, "")
            continue
        end_tag = closing.group()
        inner = re.search(f"{re.escape(start_tag)}(.*?){re.escape(end_tag)}", text, re.IGNORECASE | re.DOTALL)
        if inner is not None:
            content = inner.group(1).strip()
            if "<s_" not in content or "</s_" not in content:
                leaves = [_leaf(leaf.strip(), categories) for leaf in content.split(SEPARATOR)]
                output[key] = leaves if len(leaves) > 1 else leaves[0]
            elif value := _parse(content, categories, depth + 1):
                output[key] = value if len(value) > 1 else value[0]
        text = text[closing.end() :].strip()
        if text.startswith(SEPARATOR):
            items.append(output)
            output, is_list, text = {}, True, text.removeprefix(SEPARATOR)
    if is_list:
        return [*items, output] if output else items
    return output or {"text_sequence": text}


def _leaf(text: str, categories: Collection[str]) -> str:
    return text[1:-2] if text in categories and text.startswith("<") and text.endswith("/>") else text


def write(data: Any, categories: Collection[str] = (), *, sort_keys: bool = True) -> str:
    """The text with field tags that holds ``data``; `parse` gives the data back, with numbers as strings.

    A list of one item is written as the item, and an empty dictionary or list as an empty string.

    Args:
        data: dictionaries and lists of each other; anything else is written as ``str`` gives it.
        categories: tokens such as ``<yes/>`` that are written for ``yes``.
        sort_keys: write the fields of a dictionary in the reverse order of the alphabet, as Donut does; False keeps
            their order.

    Raises:
        UsageError: a key that no tag can hold.
        ConfigLimitError: more than 100 dictionaries and lists within each other.
    """
    return "".join(_pieces(data, categories, sort_keys, 0))


def tokens(data: Any, categories: Collection[str] = ()) -> list[str]:
    """The tags that `write` uses for ``data``, each once: those to give to ``model.add_tokens``.

    Args:
        data: as `write` takes it; for many examples, a list of them.
        categories: as `write` takes them; those that are used are among the tags.

    Raises:
        UsageError, ConfigLimitError: as `write`.
    """
    found = dict.fromkeys(
        piece for piece in _pieces(data, categories, False, 0) if isinstance(piece, _Tag) and piece != ""
    )
    return [str(tag) for tag in found]


class _Tag(str):
    """A piece of the text that is a token."""

    __slots__ = ()


def _pieces(data: Any, categories: Collection[str], sort_keys: bool, depth: int) -> Iterator[str]:
    if depth > MAX_DEPTH:
        raise ConfigLimitError(
            f"more than {MAX_DEPTH} dictionaries and lists within each other", field="data", hint="make it flatter"
        )
    if isinstance(data, Mapping):
        if list(data) == ["text_sequence"]:
            yield str(data["text_sequence"])
            return
        for key in sorted(data, key=str, reverse=True) if sort_keys else data:
            if not isinstance(key, str) or ">" in key:
                raise UsageError(f"{key!r} cannot be a tag", field="data", hint="give keys that are texts without '>'")
            yield _Tag(f"<s_{key}>")
            yield from _pieces(data[key], categories, sort_keys, depth + 1)
            yield _Tag(f"</s_{key}>")
    elif isinstance(data, (list, tuple)):
        for index, item in enumerate(data):
            if index:
                yield _Tag(SEPARATOR)
            yield from _pieces(item, categories, sort_keys, depth + 1)
    else:
        yield _Tag(f"<{data}/>") if f"<{data}/>" in categories else str(data)


if not TYPE_CHECKING:  # a type checker would take any name for one of this module
    __getattr__ = getattr_for(__name__)
