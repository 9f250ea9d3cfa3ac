"""Automata over symbols: whole characters, and the bytes of characters that a tokenizer splits.

A byte of a split character is a lone surrogate, as in `vedcore.generation.constraints.token_text`. The start of a
character is a state that depends on the characters it can still become, so a ``.`` costs few states and ``\\w`` some
hundreds.

Shape letters: S states, E edges, Q states between characters, A symbols, P prefixes of characters.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vedcore.errors import ConfigLimitError
from vedcore.generation.constraints.char_classes import CODE_POINTS
from vedcore.generation.constraints.regex import CharacterAutomaton

__all__ = ["SymbolAutomaton", "dense", "of_characters", "of_words"]

Ints = NDArray[np.int64]
MAX_PARTIAL_STATES = 100_000
"""States within characters."""
MAX_WORD_STATES = 4_000_000
MAX_TABLE_CELLS = 20_000_000
FIRST_BYTE = 0xDC00
"""Code point of byte 0; byte ``b`` of a split character is ``FIRST_BYTE + b``, a lone surrogate."""
BLOCK = 64
"""Characters that the last byte of a character tells apart; the byte before it tells as many blocks apart."""


class SymbolAutomaton(NamedTuple):
    """An automaton as a list of edges. State 0 is the start; symbol 0 has no edge."""

    source: Ints
    """(E,) ascending."""
    symbol: Ints
    """(E,) ascending for each source."""
    target: Ints
    """(E,)."""
    final: Ints
    """(S,) -1 where no text ends; for a lexicon, the number of the word that ends."""
    symbol_of: NDArray[np.uint32]
    """(code points,) symbol of each character."""


def of_characters(characters: CharacterAutomaton, fragments: bool) -> SymbolAutomaton:
    """The automaton of the same texts over symbols.

    Args:
        characters: over whole characters.
        fragments: whether tokens hold fragments of characters.
    """
    delta = characters.delta.astype(np.int64)
    source, symbol = (delta >= 0).nonzero()
    edges = [(source, symbol, delta[source, symbol])]
    final, symbol_of = characters.final, characters.symbol_of
    if fragments:
        symbol_of = symbol_of.copy()
        symbol_of[FIRST_BYTE + 0x80 : FIRST_BYTE + 0x100] = delta.shape[1] + np.arange(0x80)
        edges += _within_characters(delta, characters.symbol_of)
        states = max(len(delta), *(1 + int(source.max(initial=0)) for source, _, _ in edges))
        final = np.concatenate([final, np.full(states - len(delta), -1)])
    return _sorted(edges, final, symbol_of)


def _within_characters(delta: Ints, symbol_of: NDArray[np.uint32]) -> list[tuple[Ints, Ints, Ints]]:
    """The edges that spell characters byte by byte."""
    children, symbols, leads, deep = _prefixes(symbol_of, delta.shape[1])
    live = (delta >= 0).astype(np.float32) @ symbols.T.astype(
        np.float32
    ) > 0  # (Q, P) whether a prefix can become an accepted symbol
    if live.sum() > MAX_PARTIAL_STATES:
        raise ConfigLimitError(
            f"{live.sum():,} states within characters are above the limit of {MAX_PARTIAL_STATES:,}",
            field="pattern",
            hint=r"start it with (?a), write [0-9] for \d, or use smaller repetition counts",
        )
    state = np.where(live, len(delta) + live.cumsum().reshape(live.shape) - 1, -1)  # (Q, P)
    edges = []
    first = state[:, leads]  # (Q, leads)
    source, lead = (first >= 0).nonzero()
    bytes_ = np.arange(0xC2, 0xC2 + len(leads)) - 0x80 + delta.shape[1]
    edges.append((source, bytes_[lead], first[source, lead]))
    at, prefix = live.nonzero()
    child = children[prefix]  # (live, 64)
    inner = deep[prefix][:, None]
    target = np.where(
        inner, state[at[:, None], np.where(inner, child, 0)], delta[at[:, None], np.where(inner, 0, child)]
    )
    which, byte = (target >= 0).nonzero()
    edges.append((state[at, prefix][which], byte + delta.shape[1], target[which, byte]))
    return edges


def _prefixes(symbol_of: NDArray[np.uint32], size: int) -> tuple[Ints, NDArray[np.bool_], Ints, NDArray[np.bool_]]:
    """The byte prefixes of characters, told apart by the symbols they can become.

    Returns:
        children (P, 64): the prefix, or where ``deep`` is False the symbol, after each next byte;
        symbols (P, A): whether a prefix can become a symbol; leads (51,): prefixes of the first bytes from 0xC2 on;
        deep (P,).
    """
    known: dict[tuple[bool, bytes], int] = {}
    children: list[Ints] = []

    def prefix(row: Ints, deep: bool) -> int:
        key = (deep, row.tobytes())
        if key not in known:
            known[key] = len(children)
            children.append(row)
        return known[key]

    none = prefix(np.zeros(BLOCK, np.int64), False)
    rows = symbol_of.astype(np.int64).reshape(-1, BLOCK)
    blocks = [none, none] + [prefix(row, False) for row in rows[2:]]  # ASCII characters are one byte
    none_deep = prefix(np.full(BLOCK, none), True)
    two = blocks[2:32]
    padded = np.array([none] * 32 + blocks[32:])  # two bytes are the only way to write the first 32 blocks
    three = [prefix(row, True) for row in padded.reshape(-1, BLOCK)]
    shifted = np.array([none_deep] * 16 + three[16:] + [none_deep] * (5 * BLOCK - len(three)))
    four = [prefix(row, True) for row in shifted.reshape(-1, BLOCK)]
    deep = np.array([key[0] for key in known])
    table = np.stack(children)
    symbols = np.zeros((len(table), size), bool)
    for i, row in enumerate(table):  # children come before their parents
        symbols[i] = symbols[row].any(0) if deep[i] else np.isin(np.arange(size), row)
    return table, symbols, np.array(two + three[:16] + four), deep


def of_words(words: Iterable[str], fragments: bool, apart: str = "") -> SymbolAutomaton:
    """The automaton that accepts the words and nothing else; it is a tree, and its last symbols are the bytes.

    Args:
        words: one or more, different.
        fragments: whether tokens hold fragments of characters.
        apart: characters that are symbols in any case.

    Raises:
        ConfigLimitError: words of more than 4,000,000 characters together.
    """
    words = list(words)
    order = sorted(range(len(words)), key=words.__getitem__)  # words that begin alike are neighbours
    words = [words[i] for i in order]
    characters = sorted(set(apart).union(*words))
    symbol_of = np.zeros(CODE_POINTS, np.uint32)
    symbol_of[[ord(c) for c in characters]] = np.arange(1, len(characters) + 1)
    first_byte = len(characters) + 1
    if fragments:
        symbol_of[FIRST_BYTE + 0x80 : FIRST_BYTE + 0x100] = first_byte + np.arange(0x80)
    code_points = np.frombuffer("".join(words).encode("utf-32-le"), np.uint32).astype(np.int64)
    lengths = np.array([len(word) for word in words])
    begin, state = lengths.cumsum() - lengths, np.zeros(len(words), np.int64)
    sources, read = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    size = 1
    for depth in range(int(lengths.max(initial=0))):
        going = np.flatnonzero(lengths > depth)
        character = code_points[begin[going] + depth]
        fresh = np.diff(state[going] * CODE_POINTS + character, prepend=-1) > 0
        sources.append(state[going][fresh])
        read.append(character[fresh])
        state[going] = size - 1 + fresh.cumsum()
        size += len(read[-1])
        if size > MAX_WORD_STATES:
            raise _too_many()
    source, character, target = np.concatenate(sources), np.concatenate(read), np.arange(1, size)
    edges = [(source, symbol_of[character].astype(np.int64), target)]
    for more, low, high in ((1, 0x80, 0x800), (2, 0x800, 0x10000), (3, 0x10000, CODE_POINTS)) if fragments else ():
        some = (low <= character) & (character < high)
        spelt, size = _spelt(source[some], character[some], target[some], more, size)
        edges += [(at, byte + first_byte - 0x80, to) for at, byte, to in spelt]
    if size > MAX_WORD_STATES:
        raise _too_many()
    final = np.full(size, -1)
    final[state] = order
    return _sorted(edges, final, symbol_of)


def _spelt(at: Ints, character: Ints, target: Ints, more: int, size: int) -> tuple[list[tuple[Ints, Ints, Ints]], int]:
    """The edges that spell characters of ``1 + more`` bytes, and the number of states afterwards."""
    edges = []
    source, lead = at, (0xC0, 0xE0, 0xF0)[more - 1]
    for left in range(6 * more, 0, -6):
        byte = lead + (character >> left if lead > 0x80 else character >> left & 0x3F)
        fresh = np.diff(source * CODE_POINTS + (character >> left), prepend=-1) > 0
        then = size - 1 + fresh.cumsum()
        edges.append((at[fresh], byte[fresh], then[fresh]))
        size += int(fresh.sum())
        at, lead = then, 0x80
    edges.append((at, 0x80 + (character & 0x3F), target))
    return edges, size


def _too_many() -> ConfigLimitError:
    return ConfigLimitError("more words than can be followed", field="lexicon", hint="give fewer or shorter ones")


def dense(words: SymbolAutomaton) -> CharacterAutomaton:
    """An automaton of `of_words` without fragments, as a table.

    Raises:
        ConfigLimitError: a table of more than 20,000,000 cells.
    """
    states, symbols = len(words.final), 1 + int(words.symbol_of.max())
    if states * symbols > MAX_TABLE_CELLS:
        raise ConfigLimitError(
            "more words than can be followed where the tokenizer's decoder replaces text",
            field="lexicon",
            hint="give fewer or shorter ones",
        )
    delta = np.full((states, symbols), -1, np.int32)
    delta[words.source, words.symbol] = words.target
    return CharacterAutomaton(delta, words.final, words.symbol_of)


def _sorted(edges: list[tuple[Ints, Ints, Ints]], final: Ints, symbol_of: NDArray[np.uint32]) -> SymbolAutomaton:
    source, symbol, target = (np.concatenate(column) for column in zip(*edges, strict=True))
    order = np.argsort(source, kind="stable")
    return SymbolAutomaton(source[order], symbol[order], target[order], final, symbol_of)
