"""A regular expression as an automaton over characters.

Python's own parser reads the expression and Python's own ``re`` says which characters a class holds, so both mean
exactly what they do there. Characters that no part of the expression tells apart are one symbol: ``\\d{4}`` knows two,
digits and others.

Shape letters: Q states, A symbols, the first of which is what no part accepts.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vedcore.errors import ConfigLimitError, UsageError

__all__ = ["CODE_POINTS", "CharacterAutomaton", "before_replacement", "compile_pattern"]

MAX_PATTERN = 10_000
"""Characters of an expression."""
MAX_STATES = 10_000
MAX_WORK = 300_000
"""Steps to make an automaton of an expression, a few tenths of a second."""
CODE_POINTS = 0x110000

Sequence = Callable[[int], int]


class CharacterAutomaton(NamedTuple):
    """State 0 is the start, -1 none."""

    delta: NDArray[np.int32]
    """(Q, A) next state; -1 throughout for symbol 0."""
    final: NDArray[np.int64]
    """(Q,) -1 where no text ends; of a lexicon, the number of the word that ends."""
    symbol_of: NDArray[np.uint32]
    """(code points,) symbol of each character."""

    def matches(self, text: str) -> bool:
        """Whether ``text`` is accepted; False for characters outside the alphabet."""
        state = 0
        for character in text:
            state = self.delta[state, self.symbol_of[ord(character)]]
            if state < 0:
                return False
        return bool(self.final[state] >= 0)


def compile_pattern(pattern: str, alphabet: str, *, allowed: str | None = None, apart: str = "") -> CharacterAutomaton:
    """The texts that ``re.fullmatch(pattern, text)`` accepts.

    Args:
        pattern: an expression without lookaround, back references, atomic groups and word boundaries.
        alphabet: characters that can occur, sorted.
        allowed: the only characters that may occur; None means all.
        apart: characters that are symbols of their own in any case.

    Raises:
        UsageError: no regular expression, or with a part that an automaton cannot follow.
        ConfigLimitError: an expression that takes too many states, or too long.
    """
    nfa = _Nfa()
    start = nfa.read(pattern)
    limits = [] if allowed is None else [nfa.character_class(_class_of(allowed), 0)]
    symbol_of, held = _symbols(alphabet, nfa.classes, limits, apart)
    delta, accept = nfa.determinise(start, held)
    return CharacterAutomaton(delta, np.where(accept, 0, -1), symbol_of)


def _symbols(
    alphabet: str, classes: dict[tuple[str, int], int], limits: list[int], apart: str
) -> tuple[NDArray[np.uint32], list[tuple[int, ...]]]:
    """Symbols of all code points, and for each symbol the classes that hold it."""
    spans = [[m.span() for m in re.finditer(f"(?:{text})+", alphabet, flags)] for text, flags in classes]
    spans += [[(at, at + 1)] for at in map(alphabet.find, sorted(set(apart))) if at >= 0]
    bounds = np.unique([0, len(alphabet), *(end for found in spans for span in found for end in span)])
    inside = np.zeros((len(spans), len(bounds)), bool)  # whether a class holds what lies from one bound to the next
    for row, found in zip(inside, spans, strict=True):
        for first, last in np.searchsorted(bounds, np.array(found, dtype=np.int64).reshape(-1, 2)):
            row[first:last] = True
    inside[: len(classes)] &= inside[limits].all(0)
    symbols: dict[bytes, int] = {bytes(len(spans)): 0}
    of_bound = [symbols.setdefault(column.tobytes(), len(symbols)) for column in np.ascontiguousarray(inside.T)]
    symbol_of = np.zeros(CODE_POINTS, np.uint32)
    code_points = np.frombuffer(alphabet.encode("utf-32-le"), np.uint32)
    symbol_of[code_points] = np.repeat(np.array(of_bound[:-1], np.uint32), np.diff(bounds))
    held = [np.frombuffer(key, bool)[: len(classes)].nonzero()[0] for key in symbols]
    return symbol_of, [tuple(keys.tolist()) for keys in held]


class _Nfa:
    """States with either one class of characters to go on by, or ways to go on without one; state 0 accepts.

    Built from the end: each part is given the state that follows it and returns the one that it begins with.
    """

    def __init__(self) -> None:
        self.free: list[tuple[int, ...]] = [()]
        self.held: list[int | None] = [None]  # class
        self.target: list[int] = [0]
        self.classes: dict[tuple[str, int], int] = {}
        self.work = 0

    def read(self, pattern: str) -> int:
        if not isinstance(pattern, str):
            raise UsageError(f"no regular expression: {type(pattern).__name__}", field="pattern", hint="give a str")
        if len(pattern) > MAX_PATTERN:
            raise ConfigLimitError(
                f"{len(pattern):,} characters are above the limit of {MAX_PATTERN:,}", field="pattern",
                hint="for many words use lexicon=",
            )  # fmt: skip
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what may mean something else in future
                parsed = _parser.parse(pattern)
            return self._sequence(parsed, parsed.state.flags, 0, True, True)
        except re.error as error:
            raise UsageError(
                f"no regular expression: {error.msg} at character {error.pos}", field="pattern",
                hint="write it as for Python's re.fullmatch",
            ) from None  # fmt: skip
        except (RecursionError, OverflowError):
            raise ConfigLimitError("nested or repeated too deeply", field="pattern", hint="make it simpler") from None

    def character_class(self, text: str, flags: int) -> int:
        kept = flags & (re.IGNORECASE | re.ASCII | re.DOTALL)
        return self.classes.setdefault((text, int(kept)), len(self.classes))

    def _state(self, free: tuple[int, ...] = (), held: int | None = None, target: int = 0) -> int:
        if len(self.free) >= MAX_STATES:
            raise _too_large()
        self.free.append(free)
        self.held.append(held)
        self.target.append(target)
        return len(self.free) - 1

    def _sequence(self, items: Any, flags: int, after: int, first: bool, last: bool) -> int:
        items = list(items)
        fixed = [op is sre.AT for op, _ in items]
        for i in reversed(range(len(items))):
            op, value = items[i]
            after = self._item(op, value, flags, after, first and all(fixed[:i]), last and all(fixed[i + 1 :]))
        return after

    def _item(self, op: Any, value: Any, flags: int, after: int, first: bool, last: bool) -> int:
        if op in (sre.LITERAL, sre.NOT_LITERAL, sre.ANY, sre.IN):
            return self._state(held=self.character_class(_class_text(op, value), flags), target=after)
        if op is sre.SUBPATTERN:
            _, added, removed, inner = value
            return self._sequence(inner, _combined(flags, added, removed), after, first, last)
        if op is sre.BRANCH:
            return self._state(tuple(self._sequence(inner, flags, after, first, last) for inner in value[1]))
        if op in (sre.MAX_REPEAT, sre.MIN_REPEAT):  # greedy or not makes no difference to a full match
            least, most, inner = value
            return self._repeat(lambda then: self._sequence(inner, flags, then, False, False), least, most, after)
        if op is sre.AT and (
            (value in (sre.AT_BEGINNING, sre.AT_BEGINNING_STRING) and first)
            or (value in (sre.AT_END, sre.AT_END_STRING) and last)
        ):
            return after  # the whole text is matched anyway
        what = _PLACES.get(value) if op is sre.AT else _NAMES.get(op, str(op).lower())
        raise UsageError(
            f"{what} cannot be followed token by token",
            field="pattern", hint="write it with characters, classes, groups, | and repetitions only",
        )  # fmt: skip

    def _repeat(self, body: Sequence, least: int, most: int, after: int) -> int:
        if most is sre.MAXREPEAT:
            loop = self._state()
            self.free[loop] = (body(loop), after)
            begin = loop
        else:
            begin = after
            for _ in range(most - least):
                begin = self._state((body(begin), after))
        for _ in range(least):
            before = body(begin)
            if before == begin:  # nothing is repeated
                break
            begin = before
        return begin

    def determinise(self, start: int, held: list[tuple[int, ...]]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Sets of states, as bits of a number, as the states of an automaton with one way for each symbol."""
        reach = [self._closure(state) for state in range(len(self.free))]
        by_class = [0] * len(self.classes)
        for state, key in enumerate(self.held):
            if key is not None:
                by_class[key] |= 1 << state
        moves = [_union(by_class[key] for key in keys) for keys in held]  # states that a symbol leads on from
        known, pending, rows = {reach[start]: 0}, [reach[start]], []
        for states in pending:
            row, done = [], {0: -1}
            for movers in moves:
                moving = states & movers
                if moving not in done:
                    bits, reached = moving, 0
                    while bits:
                        lowest = bits & -bits
                        reached |= reach[self.target[lowest.bit_length() - 1]]
                        bits ^= lowest
                        self.work += 1
                    if reached not in known:
                        known[reached] = len(known)
                        pending.append(reached)
                    done[moving] = known[reached]
                row.append(done[moving])
            rows.append(row)
            self.work += len(row)
            if len(known) > MAX_STATES or self.work > MAX_WORK:
                raise _too_large()
        return np.array(rows, np.int32), np.array([bool(states & 1) for states in pending])

    def _closure(self, state: int) -> int:
        """The states with a character to go on by, and the accepting one, that are reached without one."""
        pending, seen, found = [state], {state}, 0
        while pending:
            at = pending.pop()
            self.work += 1
            if self.work > MAX_WORK:
                raise _too_large()
            if not self.free[at]:
                found |= 1 << at
            for then in self.free[at]:
                if then not in seen:
                    seen.add(then)
                    pending.append(then)
        return found


def _union(numbers: Iterable[int]) -> int:
    total = 0
    for number in numbers:
        total |= number
    return total


def _too_large() -> ConfigLimitError:
    return ConfigLimitError(
        "the expression takes too many states to follow", field="pattern", hint="use smaller repetition counts, * or +"
    )


def before_replacement(characters: CharacterAutomaton, old: str, new: str) -> CharacterAutomaton:
    """The texts that are accepted once each ``old`` in them, from the left, is replaced by ``new``.

    A state is one of ``characters`` and how much of ``old`` is held back, for it may have to be replaced. Characters of
    ``old`` are symbols of their own.
    """
    delta, symbol_of = characters.delta, characters.symbol_of
    padded = np.vstack([delta, np.full_like(delta[:1], -1)])  # -1 leads to -1

    def run(text: str) -> NDArray[np.int32]:
        at = np.arange(len(delta), dtype=np.int32)
        for character in text:
            at = padded[at, symbol_of[ord(character)]]
        return at

    def to(states: NDArray[np.int32], held: int) -> NDArray[np.int32]:
        return np.where(states >= 0, states * len(old) + held, -1)

    moves = np.empty((len(delta), len(old), delta.shape[1]), np.int32)
    final = np.empty((len(delta), len(old)), np.int64)
    for held in range(len(old)):
        given_up = run(old[:held])
        final[:, held] = np.where(given_up >= 0, characters.final[given_up], -1)
        moves[:, held] = to(padded[given_up], 0)
        for character in set(old):
            text = old[:held] + character
            if text == old:
                moves[:, held, symbol_of[ord(character)]] = to(run(new), 0)
            else:
                kept = next(n for n in range(len(text), -1, -1) if old.startswith(text[len(text) - n :]))
                moves[:, held, symbol_of[ord(character)]] = to(run(text[: len(text) - kept]), kept)
    moves[:, :, 0] = -1  # also where a character of ``old`` never occurs
    return _reachable(moves.reshape(-1, delta.shape[1]), final.reshape(-1), symbol_of)


def _reachable(delta: NDArray[np.int32], final: NDArray[np.int64], symbol_of: NDArray[np.uint32]) -> CharacterAutomaton:
    """The automaton less the states that no text leads to."""
    seen = np.zeros(len(delta) + 1, bool)  # the last is for -1
    seen[-1] = True
    fresh = np.array([0])
    while len(fresh):
        seen[fresh] = True
        fresh = np.unique(delta[fresh])
        fresh = fresh[~seen[fresh]]
    kept = np.flatnonzero(seen[:-1])
    renamed = np.full(len(seen), -1, np.int32)
    renamed[kept] = np.arange(len(kept))
    return CharacterAutomaton(renamed[delta[kept]], final[kept], symbol_of)


_CATEGORIES = {
    sre.CATEGORY_DIGIT: r"\d", sre.CATEGORY_NOT_DIGIT: r"\D", sre.CATEGORY_SPACE: r"\s",
    sre.CATEGORY_NOT_SPACE: r"\S", sre.CATEGORY_WORD: r"\w", sre.CATEGORY_NOT_WORD: r"\W",
}  # fmt: skip
_NAMES = {
    sre.ASSERT: "lookahead or lookbehind", sre.ASSERT_NOT: "negative lookahead or lookbehind",
    sre.FAILURE: "negative lookahead", sre.GROUPREF: "a back reference", sre.GROUPREF_EXISTS: "a conditional group",
    sre.ATOMIC_GROUP: "an atomic group", sre.POSSESSIVE_REPEAT: "a possessive repetition",
}  # fmt: skip
_PLACES = {
    sre.AT_BEGINNING: "^ inside the expression", sre.AT_BEGINNING_STRING: r"\A inside the expression",
    sre.AT_END: "$ inside the expression", sre.AT_END_STRING: r"\Z inside the expression",
    sre.AT_BOUNDARY: r"a word boundary \b", sre.AT_NON_BOUNDARY: r"\B",
}  # fmt: skip


def _escaped(code_point: int) -> str:
    return f"\\U{code_point:08x}"


def _class_of(characters: str) -> str:
    """The text of a class of some characters; none of them is a class that holds nothing."""
    return f"[{''.join(_escaped(ord(c)) for c in sorted(set(characters)))}]" if characters else r"[^\s\S]"


def _class_text(op: Any, value: Any) -> str:
    """One character's part of an expression, as text again."""
    if op is sre.ANY:
        return "."
    if op in (sre.LITERAL, sre.NOT_LITERAL):
        return f"[{'^' if op is sre.NOT_LITERAL else ''}{_escaped(value)}]"
    parts = {
        sre.NEGATE: lambda _: "^",
        sre.LITERAL: _escaped,
        sre.RANGE: lambda ends: f"{_escaped(ends[0])}-{_escaped(ends[1])}",
        sre.CATEGORY: _CATEGORIES.__getitem__,
    }
    return f"[{''.join(parts[kind](inner) for kind, inner in value)}]"


def _combined(flags: int, added: int, removed: int) -> int:
    """Flags inside ``(?aiLmsux-imsx:…)``."""
    types = re.ASCII | re.UNICODE | re.LOCALE
    return int(((flags & ~types if added & types else flags) | added) & ~removed)
