"""A regular expression as an automaton over characters.

Python's own parser reads the expression, and Python's own ``re`` decides which characters a class holds, so both mean
what they mean there. Characters that no class tells apart are one symbol: ``\\d{4}`` has two, digits and others.

Shape letters: Q states, A symbols, of which number 0 is accepted nowhere.
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
from vedcore.generation.constraints.char_classes import CharacterClass, class_of, symbols_of

__all__ = ["CharacterAutomaton", "before_replacement", "compile_pattern"]

MAX_STATES = 10_000
MAX_CLASSES = 1_000
MAX_STEPS = 300_000
"""Steps to make an automaton of an expression; all of them take about a tenth of a second."""

Build = Callable[[int], int]
"""Builds a part of an automaton: from the state after it to the state it begins with."""


class CharacterAutomaton(NamedTuple):
    """State 0 is the start, -1 none."""

    delta: NDArray[np.int32]
    """(Q, A) next state; -1 is none, as for symbol 0 everywhere."""
    final: NDArray[np.int64]
    """(Q,) -1 where no text ends; for a lexicon, the number of the word that ends."""
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
        apart: characters that are symbols by themselves in any case.

    Raises:
        UsageError: a wrong regular expression, or one with a construct that an automaton cannot follow.
        ConfigLimitError: an expression that takes too many states, or too long.
    """
    nfa = _Nfa()
    start = nfa.read(pattern)
    limits = [] if allowed is None else [nfa.character_class([(sre.LITERAL, ord(c)) for c in sorted(set(allowed))], 0)]
    symbol_of, held = symbols_of(alphabet, nfa.classes, limits, apart)
    delta, accept = nfa.determinise(start, held)
    return CharacterAutomaton(delta, np.where(accept, 0, -1), symbol_of)


class _Nfa:
    """An automaton whose states have either one edge by a class of characters, or free edges; state 0 accepts.

    Built from the end: each part gets the state after it, and returns the state that it begins with.
    """

    def __init__(self) -> None:
        self.free: list[tuple[int, ...]] = [()]
        self.held: list[int | None] = [None]  # class
        self.target: list[int] = [0]
        self.classes: dict[CharacterClass, int] = {}
        self.read_items: dict[tuple[Any, int, int], int] = {}
        self.steps = 0

    def read(self, pattern: str) -> int:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about syntax that a later Python may change
                parsed = _parser.parse(pattern)
            return self._sequence(parsed, parsed.state.flags, 0, True, True)
        except re.error as error:
            raise UsageError(
                f"not a regular expression: {error.msg} at character {error.pos}",
                field="pattern",
                hint="write it as for Python's re.fullmatch",
            ) from None
        except (RecursionError, OverflowError):
            raise ConfigLimitError("nested or repeated too deeply", field="pattern", hint="make it simpler") from None

    def character_class(self, parts: Iterable[tuple[Any, Any]], flags: int) -> int:
        key = tuple(parts), int(flags & (re.IGNORECASE | re.ASCII))
        if len(self.classes) >= MAX_CLASSES and key not in self.classes:
            raise ConfigLimitError(
                f"more than {MAX_CLASSES:,} different characters and classes",
                field="pattern",
                hint="for many words use lexicon=",
            )
        return self.classes.setdefault(key, len(self.classes))

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
            item = op, id(value), flags  # read once, however often it is repeated
            if item not in self.read_items:
                self.read_items[item] = self.character_class(*class_of(op, value, flags))
            return self._state(held=self.read_items[item], target=after)
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
        what = _ANCHORS.get(value) if op is sre.AT else _CONSTRUCTS.get(op, str(op).lower())
        raise UsageError(
            f"{what} cannot be followed token by token",
            field="pattern",
            hint="write it with characters, classes, groups, | and repetitions only",
        )

    def _repeat(self, body: Build, least: int, most: int, after: int) -> int:
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
        """The automaton whose states are sets of these states, as bits of a number, with one edge a symbol."""
        reach = [self._closure(state) for state in range(len(self.free))]
        after = [reach[target] for target in self.target]
        by_class = [0] * len(self.classes)
        for state, key in enumerate(self.held):
            if key is not None:
                by_class[key] |= 1 << state
        moves = [_union(by_class[key] for key in keys) for keys in held]  # states with an edge by each symbol
        known, pending, rows = {reach[start]: 0}, [reach[start]], []
        for states in pending:
            row, done = [], {0: -1}
            for movers in moves:
                moving = states & movers
                if moving not in done:
                    numbers = _bits(moving)
                    reached = _union(after[state] for state in numbers)
                    self.steps += len(numbers)
                    if reached not in known:
                        known[reached] = len(known)
                        pending.append(reached)
                    done[moving] = known[reached]
                row.append(done[moving])
            rows.append(row)
            self.steps += len(row)
            if len(known) > MAX_STATES or self.steps > MAX_STEPS:
                raise _too_large()
        return np.array(rows, np.int32), np.array([bool(states & 1) for states in pending])

    def _closure(self, state: int) -> int:
        """The states that free edges lead to, if they accept or have an edge by a class."""
        pending, seen, found = [state], {state}, 0
        while pending:
            at = pending.pop()
            self.steps += 1
            if self.steps > MAX_STEPS:
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


def _bits(number: int) -> list[int]:
    """Indices of the bits that are set, in any order."""
    if number.bit_count() > 8:
        octets = np.frombuffer(number.to_bytes(number.bit_length() // 8 + 1, "little"), np.uint8)
        return np.unpackbits(octets, bitorder="little").nonzero()[0].tolist()
    indices = []
    while number:
        indices.append(number.bit_length() - 1)
        number ^= 1 << indices[-1]
    return indices


def _too_large() -> ConfigLimitError:
    return ConfigLimitError(
        "the expression takes too many states to follow", field="pattern", hint="use smaller repetition counts, * or +"
    )


def before_replacement(characters: CharacterAutomaton, old: str, new: str) -> CharacterAutomaton:
    """The texts that are accepted after each ``old`` in them, from the left, is replaced by ``new``.

    A state is a state of ``characters``, and the number of characters of ``old`` that are held back because they may
    have to be replaced. Each character of ``old`` must be a symbol by itself.
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
    """The automaton without the states that no text leads to."""
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


_CONSTRUCTS = {
    sre.ASSERT: "lookahead or lookbehind",
    sre.ASSERT_NOT: "negative lookahead or lookbehind",
    sre.FAILURE: "negative lookahead",
    sre.GROUPREF: "a back reference",
    sre.GROUPREF_EXISTS: "a conditional group",
    sre.ATOMIC_GROUP: "an atomic group",
    sre.POSSESSIVE_REPEAT: "a possessive repetition",
}
_ANCHORS = {
    sre.AT_BEGINNING: "^ inside the expression",
    sre.AT_BEGINNING_STRING: r"\A inside the expression",
    sre.AT_END: "$ inside the expression",
    sre.AT_END_STRING: r"\Z inside the expression",
    sre.AT_BOUNDARY: r"a word boundary \b",
    sre.AT_NON_BOUNDARY: r"\B",
}


def _combined(flags: int, added: int, removed: int) -> int:
    """Flags inside ``(?aiLmsux-imsx:…)``."""
    types = re.ASCII | re.UNICODE | re.LOCALE
    return int(((flags & ~types if added & types else flags) | added) & ~removed)
