"""Character classes of a regular expression, and the symbols that tell their characters apart.

Python's own ``re`` decides which characters a class holds. Few characters are tested: between two code points that no
class names, and where no category begins, all are alike.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from re import _constants as sre  # type: ignore[attr-defined]
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CODE_POINTS", "CharacterClass", "class_of", "symbols_of"]

CODE_POINTS = 0x110000
ClassItems = tuple[tuple[Any, Any], ...]
"""Contents of a class, in the form of Python's parser."""
CharacterClass = tuple[ClassItems, int]
"""A class and its flags."""
_CATEGORIES = {
    sre.CATEGORY_DIGIT: r"\d",
    sre.CATEGORY_NOT_DIGIT: r"\D",
    sre.CATEGORY_SPACE: r"\s",
    sre.CATEGORY_NOT_SPACE: r"\S",
    sre.CATEGORY_WORD: r"\w",
    sre.CATEGORY_NOT_WORD: r"\W",
}


def symbols_of(
    alphabet: str, classes: Iterable[CharacterClass], limits: list[int], apart: str
) -> tuple[NDArray[np.uint32], list[tuple[int, ...]]]:
    """Symbols of all code points, and for each symbol the classes that hold it."""
    code_points = np.frombuffer(alphabet.encode("utf-32-le"), np.uint32)
    classes = list(classes)
    named = {ord(c) for c in apart} | {n for kept, _ in classes for n in _named(kept)}
    cuts = np.unique([*named, *(n + 1 for n in named), *_category_bounds()])
    if any(flags & re.IGNORECASE for _, flags in classes):
        cuts = np.union1d(cuts, _case_bounds())
    bounds = np.unique(np.append(np.searchsorted(code_points, cuts), 0))
    bounds = bounds[bounds < len(alphabet)]
    tested = "".join(map(alphabet.__getitem__, bounds.tolist()))  # the first of each run of like characters
    rows = [_holds(kept, flags, tested, code_points[bounds]) for kept, flags in classes]
    rows += [code_points[bounds] == ord(c) for c in sorted(set(apart))]
    inside = np.array(rows, bool).reshape(len(rows), len(bounds))
    inside[: len(classes)] &= inside[limits].all(0)
    symbols: dict[bytes, int] = {bytes(len(inside)): 0}
    of_bound = [symbols.setdefault(column.tobytes(), len(symbols)) for column in np.ascontiguousarray(inside.T)]
    symbol_of = np.zeros(CODE_POINTS, np.uint32)
    symbol_of[code_points] = np.repeat(np.array(of_bound, np.uint32), np.diff(bounds, append=len(alphabet)))
    held = [np.frombuffer(key, bool)[: len(classes)].nonzero()[0] for key in symbols]
    return symbol_of, [tuple(keys.tolist()) for keys in held]


def _named(items: ClassItems) -> Iterator[int]:
    """Code points that a class names, and the ends of its ranges."""
    for kind, value in items:
        if kind is sre.LITERAL:
            yield value
        elif kind is sre.RANGE:
            yield from value


def _holds(items: ClassItems, flags: int, tested: str, code_points: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Whether a class holds each of some characters."""
    if flags & re.IGNORECASE:
        return _found(_class_text(items), tested, flags)
    holds = np.isin(code_points, [value for kind, value in items if kind is sre.LITERAL])
    for kind, value in items:
        if kind is sre.RANGE:
            holds |= (code_points >= value[0]) & (code_points <= value[1])
        elif kind is sre.CATEGORY:
            holds |= _found(_CATEGORIES[value], tested, flags)
    return ~holds if (sre.NEGATE, None) in items else holds


def _found(text: str, characters: str, flags: int) -> NDArray[np.bool_]:
    holds = np.zeros(len(characters), bool)
    for match in re.finditer(f"(?:{text})+", characters, flags):
        holds[slice(*match.span())] = True
    return holds


@functools.cache
def _category_bounds() -> list[int]:
    """Code points at which another category begins."""
    every = _every()
    spans = [match.span() for text in (r"\d+", r"\s+", r"\w+") for match in re.finditer(text, every)]
    return sorted({*range(0x81), *(end for span in spans for end in span)})  # with re.ASCII they differ


@functools.cache
def _case_bounds() -> list[int]:
    """Code points of characters that have another case, and their successors."""
    every = _every()
    blocks = (every[at : at + 256] for at in range(0, CODE_POINTS, 256))
    some = [block for block in blocks if block.lower() != block or block.upper() != block]
    cased = {c for block in some for c in block if c.lower() != c or c.upper() != c}
    cased |= {other for c in cased for other in c.lower() + c.upper()}
    return sorted({n for c in cased for n in (ord(c), ord(c) + 1)})


def _every() -> str:
    return np.arange(CODE_POINTS, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")


def _escaped(code_point: int) -> str:
    return f"\\U{code_point:08x}"


def class_of(op: Any, value: Any, flags: int) -> tuple[ClassItems, int]:
    """The class of one character of an expression, and the flags that it is under."""
    if op is sre.ANY:
        return ((sre.NEGATE, None),) if flags & re.DOTALL else ((sre.NEGATE, None), (sre.LITERAL, ord("\n"))), 0
    if op is sre.NOT_LITERAL:
        return ((sre.NEGATE, None), (sre.LITERAL, value)), flags
    return (tuple(value) if op is sre.IN else ((sre.LITERAL, value),)), flags


def _class_text(items: ClassItems) -> str:
    """A class as an expression."""
    written = {
        sre.NEGATE: lambda _: "^",
        sre.LITERAL: _escaped,
        sre.RANGE: lambda ends: f"{_escaped(ends[0])}-{_escaped(ends[1])}",
        sre.CATEGORY: _CATEGORIES.__getitem__,
    }
    return f"[{''.join(written[kind](value) for kind, value in items)}]"
