"""An automaton over tokens: which tokens may follow a text so far, and to which state.

A rule over symbols is walked along the tree of all tokens; states from which no text can be completed are dropped, so
a row never gets stuck. Each state knows the tokens of its shortest completion, so no text is cut half-way.

Shape letters: B rows of text, V vocabulary size, S states of the rule, E edges, G nodes of a token tree.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vedcore.errors import ConfigLimitError
from vedcore.generation.constraints.symbols import SymbolAutomaton
from vedcore.generation.constraints.token_text import TokenTexts

__all__ = ["TokenAutomaton", "over_tokens"]

Ints = NDArray[np.int64]
MAX_EDGES = 12_000_000
"""Edges of all tokens between all states."""
SAMPLED_STATES, STATES_AT_ONCE = 64, 2048
"""States that are walked from at once, the first time and later."""
GOLDEN_RATIO = (5**0.5 - 1) / 2
MAX_CACHED_BYTES = 256_000_000
"""Memory of the cached rows of allowed tokens."""
UNREACHABLE = np.iinfo(np.int64).max
"""Distance from a state that leads to no complete text."""


class _Edges(NamedTuple):
    """Edges by symbols, from states or nodes."""

    keys: Ints
    """(E,) ascending: ``origin * symbols + symbol``."""
    target: Ints
    """(E,)."""
    begin: Ints
    """(origins + 1,) index of the first edge of each origin."""


class _Tree(NamedTuple):
    """The texts of tokens as paths from a root, node 0; a token is at the node that its text leads to."""

    edges: _Edges
    """From each node to the next ones."""
    node_of: Ints
    """(V,) node of each token; -1 for tokens that are never allowed."""
    tokens: Ints
    """(tokens,) ordered by node."""
    begin: Ints
    """(G + 1,) index of the first token of each node."""


class TokenAutomaton:
    """The tokens that may follow, by states that are numbers; made by `compile_constraint`.

    Attributes:
        start: the state before the first token.
        end: the state after an end id, or after a token that is not allowed; only end ids follow it.
        name: names of the options that it was compiled from.
        vocab_size: width of the masks.
    """

    def __init__(
        self,
        edges: tuple[Ints, Ints, Ints],
        trees: tuple[_Tree, _Tree],
        accept: NDArray[np.bool_],
        idle: NDArray[np.bool_],
        eos: tuple[int, ...],
        name: str,
    ) -> None:
        self.start, self.end, self.name = len(accept), len(accept) + 1, name
        self.vocab_size = len(idle)
        self._accept = np.concatenate([accept, [accept[0], True]])
        self._idle = idle  # tokens without text
        self._eos = np.array(eos)
        later, first = trees
        shift = len(later.begin) - 1
        self._tokens = np.concatenate([later.tokens, first.tokens])
        self._begin = np.concatenate([later.begin[:-1], first.begin + len(later.tokens)])
        self._size = len(self._begin)  # nodes, and one for tokens without a node
        nodes = np.stack([later.node_of, np.where(first.node_of < 0, -1, first.node_of + shift)])
        self._nodes = np.where(nodes < 0, self._size - 1, nodes)  # (2, V)
        source, node, target = edges
        node = np.where(source == self.start, node + shift, node)
        self.distance = _distances(source, target, self._accept)  # (S + 2,) tokens of the shortest completion
        kept = self.distance[target] < UNREACHABLE
        keys = (source * self._size + node)[kept]
        order = np.argsort(keys)
        self._keys, self._target = keys[order], target[kept][order]
        self._rows: dict[tuple[int, int], Tensor] = {}
        self._enough: dict[int, int] = {}

    @property
    def shortest(self) -> int:
        """Tokens of the shortest text, without its end id."""
        return int(self.distance[self.start])

    @property
    def writes(self) -> bool:
        """Whether any token can be the first."""
        edges = self._edges(self.start)
        return bool(edges.stop > edges.start)

    def reachable(self) -> NDArray[np.bool_]:
        """(S + 2,) whether a text leads to a state."""
        sources = self._keys // self._size
        seen = np.zeros(self.end + 1, bool)
        fresh = np.array([self.start])
        while len(fresh):
            seen[fresh] = True
            first, last = np.searchsorted(sources, [fresh, fresh + 1])
            fresh = _unique(self._target[_ranges(first, last)])
            fresh = fresh[~seen[fresh]]
        return seen

    def step(self, states: Tensor, tokens: Tensor) -> Tensor:
        """The states (B,) after one more token (B,) each; special tokens that are not end ids change no state."""
        return torch.from_numpy(self.advance(states.cpu().numpy(), tokens.cpu().numpy())).to(states.device)

    def advance(self, states: Ints, tokens: Ints) -> Ints:
        """`step` on arrays."""
        keys = states * self._size + self._nodes[(states == self.start).astype(np.int64), tokens]
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        moved = np.where(self._keys[at] == keys, self._target[at], self.end)
        return np.where(self._idle[tokens] & ~np.isin(tokens, self._eos), states, moved)

    def mask(self, states: Tensor, remaining: int | None = None) -> Tensor:
        """(B, V) whether each token may follow each state of (B,), on the states' device.

        Args:
            states: (B,) long.
            remaining: tokens that may still be written; tokens after which the text could not be completed are barred,
                unless no text can be completed any more. None sets no limit.
        """
        return torch.stack([self._row(state, remaining) for state in states.tolist()]).to(states.device)

    def _row(self, state: int, remaining: int | None) -> Tensor:
        enough = self._enough.get(state)
        if enough is None:
            targets = self._target[self._edges(state)]
            enough = self._enough[state] = 1 + int(self.distance[targets].max(initial=0))
        # at least the shortest completion, so that a row always has a token
        room = enough if remaining is None else min(enough, max(remaining, int(self.distance[state]), 1))
        row = self._rows.get((state, room))
        if row is None:
            if (len(self._rows) + 1) * self.vocab_size > MAX_CACHED_BYTES:
                self._rows.clear()
            row = self._rows[state, room] = torch.from_numpy(self._allowed(state, room))
        return row

    def _allowed(self, state: int, room: int) -> NDArray[np.bool_]:
        edges = self._edges(state)
        nodes = (self._keys[edges] % self._size)[self.distance[self._target[edges]] < room]
        row = np.zeros(self.vocab_size, bool)
        row[self._tokens[_ranges(self._begin[nodes], self._begin[nodes + 1])]] = True
        if self._accept[state]:
            row[self._eos] = True
        return row

    def _edges(self, state: int) -> slice:
        first, last = np.searchsorted(self._keys, [state * self._size, (state + 1) * self._size])
        return slice(first, last)


def over_tokens(rule: SymbolAutomaton, token_texts: TokenTexts, eos: tuple[int, ...], name: str) -> TokenAutomaton:
    """The automaton over tokens with ``token_texts``, ended by ``eos``; ``name`` is for messages.

    Raises:
        ConfigLimitError: too many edges of tokens between the states.
    """
    symbols = 1 + max(int(rule.symbol_of.max()), int(rule.symbol.max(initial=0)))
    useful = np.array([bool(text) and i not in eos for i, text in enumerate(token_texts.later)])
    later, first = (_tree(texts, useful, rule.symbol_of, symbols) for texts in (token_texts.later, token_texts.first))
    begin = np.searchsorted(rule.source, np.arange(len(rule.final) + 1))
    rule_edges = _Edges(rule.source * symbols + rule.symbol, rule.target, begin)
    found = list(_walk(rule_edges, first, symbols, np.array([len(rule.final)]), np.array([0])))
    count = walked = 0
    states = np.flatnonzero(np.diff(rule_edges.begin))
    # in an order whose first states are typical
    states = states[np.argsort(-(states * GOLDEN_RATIO % 1), kind="stable")]
    # of words, the states of the first letters have more edges than the rest, but few enough to count
    words = rule.final.max() > 0
    for chunk in np.split(states, [SAMPLED_STATES, *range(STATES_AT_ONCE, len(states), STATES_AT_ONCE)]):
        for some in _walk(rule_edges, later, symbols, chunk, chunk):
            found.append(some)
            count += len(some[0])
        walked += len(chunk)
        if count * (walked if words else len(states)) > MAX_EDGES * walked:
            raise ConfigLimitError(
                f"more than {MAX_EDGES:,} ways of tokens through it",
                field=name,
                hint="use smaller repetition counts, * or +, or fewer words",
            )
    source, node, target = (np.concatenate(column) for column in zip(*found, strict=True))
    return TokenAutomaton((source, node, target), (later, first), rule.final >= 0, ~useful, eos, name)


def _tree(texts: list[str], useful: NDArray[np.bool_], symbol_of: NDArray[np.uint32], symbols: int) -> _Tree:
    lengths = np.array([len(text) for text in texts])
    code_points = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    flat = symbol_of[code_points].astype(np.int64)
    begin = lengths.cumsum() - lengths
    foreign = np.concatenate([[0], (flat == 0).cumsum()])  # symbols that the rule does not have
    node_of = np.where(useful & (foreign[begin + lengths] == foreign[begin]), 0, -1)
    used = np.flatnonzero(node_of == 0)
    keys, nodes, depth = [np.zeros(0, np.int64)], 1, 0
    going = used[lengths[used] > 0]
    while len(going):
        key, which = np.unique(node_of[going] * symbols + flat[begin[going] + depth], return_inverse=True)
        node_of[going] = nodes + which
        keys.append(key)
        nodes += len(key)
        depth += 1
        going = going[lengths[going] > depth]
    tokens = used[np.argsort(node_of[used], kind="stable")]
    begin_of = np.searchsorted(node_of[tokens], np.arange(nodes + 1)).astype(np.int64)
    every = np.concatenate(keys)
    edges = _Edges(every, np.arange(1, nodes), np.searchsorted(every, np.arange(nodes + 1) * symbols))
    return _Tree(edges, node_of, tokens, begin_of)


def _walk(rule: _Edges, tree: _Tree, symbols: int, origin: Ints, at: Ints) -> Iterator[tuple[Ints, Ints, Ints]]:
    """Origins, nodes of tokens, and the states they lead to: a walk along the rule and the tree side by side."""
    node = np.zeros(len(origin), np.int64)
    holds = np.diff(tree.begin) > 0
    while len(origin):
        ends = holds[node]
        yield origin[ends], node[ends], at[ends]
        of_rule, of_tree = np.diff(rule.begin)[at], np.diff(tree.edges.begin)[node]
        fewer = of_rule < of_tree
        rule_first = np.flatnonzero(fewer)
        tree_first = np.flatnonzero(~fewer & (of_rule > 0) & (of_tree > 0))
        row, now_at, now_node = _common_symbols(rule, tree.edges, at[rule_first], node[rule_first], symbols)
        other_row, other_node, other_at = _common_symbols(tree.edges, rule, node[tree_first], at[tree_first], symbols)
        origin = np.concatenate([origin[rule_first[row]], origin[tree_first[other_row]]])
        node, at = np.concatenate([now_node, other_node]), np.concatenate([now_at, other_at])


def _common_symbols(few: _Edges, many: _Edges, at: Ints, other: Ints, symbols: int) -> tuple[Ints, Ints, Ints]:
    """Symbols with an edge both from ``at`` in ``few`` and from ``other`` in ``many``: rows, and the two targets."""
    first, last = few.begin[at], few.begin[at + 1]
    chosen = _ranges(first, last)
    row = np.repeat(np.arange(len(at)), last - first)
    key = other[row] * symbols + few.keys[chosen] % symbols
    index = np.minimum(np.searchsorted(many.keys, key), len(many.keys) - 1)
    hit = many.keys[index] == key
    return row[hit], few.target[chosen[hit]], many.target[index[hit]]


def _ranges(first: Ints, last: Ints) -> Ints:
    """The concatenated ranges from each ``first`` to before its ``last``."""
    lengths = last - first
    return np.repeat(first - (lengths.cumsum() - lengths), lengths) + np.arange(lengths.sum())


def _unique(numbers: Ints) -> Ints:
    """`numpy.unique` for numbers from 0; several times faster for many."""
    numbers = np.sort(numbers)
    return numbers[np.diff(numbers, prepend=-1) > 0]


def _distances(source: Ints, target: Ints, accept: NDArray[np.bool_]) -> Ints:
    """Fewest tokens from each state to an accepting one."""
    states = len(accept)
    pairs = _unique(target * states + source)
    target, source = pairs // states, pairs % states
    begin = np.searchsorted(target, np.arange(states + 1))
    distance = np.where(accept, 0, UNREACHABLE)
    fresh, steps = np.flatnonzero(accept), 0
    while len(fresh):
        steps += 1
        fresh = _unique(source[_ranges(begin[fresh], begin[fresh + 1])])
        fresh = fresh[distance[fresh] == UNREACHABLE]
        distance[fresh] = steps
    return distance
