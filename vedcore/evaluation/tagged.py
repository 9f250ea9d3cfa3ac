"""Scores of texts with field tags: the F1 of fields and the accuracy by tree edits of Donut's reports.

Both are those of ``JSONParseEvaluator`` in https://github.com/clovaai/donut (MIT).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from vedcore.errors import VedcoreError
from vedcore.evaluation.trees import Node, distance
from vedcore.fields import parse

__all__ = ["FieldCounts", "field_counts", "has_fields"]

NO_FIELDS = "text_sequence"
"""The key that `vedcore.fields.parse` gives to a text without fields."""


def has_fields(text: str) -> bool:
    """Whether a text holds a field with both its tags."""
    return "<s_" in text and "</s_" in text and NO_FIELDS not in _data_of(text)


class FieldCounts(NamedTuple):
    """The counts of a row whose sums give the F1 of fields, and the accuracy of its tree."""

    right: int
    """Fields of the label with the same path and value in the text."""
    wrong: int
    """Fields that are only in the text or only in the label."""
    accuracy: float
    """1 minus the cost of edits for each unit of the label's tree, at least 0."""


def field_counts(text: str, label: str) -> FieldCounts:
    """Compare the fields of a text with those of its label.

    Fields are compared by their paths, such as ``menu.name``, and values. The order of keys does not count, that of
    items does for the tree.

    Raises:
        MissingExtraError: rapidfuzz is not installed.
    """
    read, expected = _ordered(_data_of(text)), _ordered(_data_of(label))
    there, wanted = Counter(_flat(read)), Counter(_flat(expected))
    right = (there & wanted).total()
    answer = _tree("", expected)
    size = _cost(answer) - answer.cost  # of an empty tree, which has a root
    accuracy = float(read == expected)
    if not accuracy and size:
        accuracy = max(0.0, 1 - distance(_tree("", read), answer) / size)
    return FieldCounts(right, there.total() + wanted.total() - 2 * right, accuracy)


def _data_of(text: str) -> Any:
    try:
        return parse(text)
    except VedcoreError:  # tags in more layers than are read
        return {NO_FIELDS: text}


def _ordered(data: Any) -> Any:
    """The data without empty values, keys by length and alphabet, each value a list."""
    if isinstance(data, Mapping):
        values = {key: _ordered(data[key]) for key in sorted(data, key=lambda key: (len(key), key))}
        return {key: value if isinstance(value, list) else [value] for key, value in values.items() if value}
    if isinstance(data, list):
        if all(isinstance(item, Mapping) for item in data):
            return [item for item in map(_ordered, data) if item]
        return [item.strip() for item in data if isinstance(item, str) and item.strip()]
    return [data.strip()] if data.strip() else []


def _flat(data: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _flat(value, f"{path}.{key}" if path else key)
    elif isinstance(data, list):
        for item in data:
            yield from _flat(item, path)
    else:
        yield path, data


def _tree(name: str, data: Any) -> Node:
    if isinstance(data, dict):
        return Node(name, children=tuple(_tree(key, value) for key, value in data.items()))
    items = [Node(each, is_value=True) if isinstance(each, str) else _tree("<subtree>", each) for each in data]
    return Node(name, children=tuple(items))


def _cost(node: Node) -> int:
    return node.cost + sum(map(_cost, node.children))
