"""The edit distance of ordered trees, by Zhang and Shasha, with the costs of Donut's reports.

K. Zhang, D. Shasha: Simple Fast Algorithms for the Editing Distance between Trees and Related Problems. SIAM Journal on
Computing 18 (1989).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from vedcore.extras import need

__all__ = ["Node", "distance"]

Table: TypeAlias = "list[list[int]]"


@dataclass(frozen=True)
class Node:
    """A name with nodes below it, or a value."""

    label: str
    is_value: bool = False
    children: tuple[Node, ...] = ()

    @property
    def cost(self) -> int:
        """The cost to insert or delete it: the characters of a value; 1 of a name."""
        return len(self.label) if self.is_value else 1


def distance(a: Node, b: Node) -> int:
    """The least cost to make tree ``b`` of tree ``a``.

    To insert or delete a node costs the characters of a value, or 1 of a name. To change one costs the edit distance of
    two values, 1 for two names that differ, and one more than its characters between a value and a name.

    Raises:
        MissingExtraError: rapidfuzz is not installed.
    """
    levenshtein = need("rapidfuzz.distance.Levenshtein", "train", "a tree edit distance").distance
    first, second = _PostOrder(a), _PostOrder(b)
    known: dict[tuple[str, str], int] = {}

    def change(x: Node, y: Node) -> int:
        if x.is_value and y.is_value:
            if (pair := (x.label, y.label)) not in known:
                known[pair] = levenshtein(*pair)
            return known[pair]
        if x.is_value or y.is_value:
            return 1 + (x.cost if x.is_value else y.cost)
        return int(x.label != y.label)

    changes = [[change(x, y) for y in second.nodes] for x in first.nodes]
    trees = [[0] * len(second.nodes) for _ in first.nodes]
    for i in first.roots:
        for j in second.roots:
            _fill(trees, changes, first, second, i, j)
    return trees[-1][-1]


class _PostOrder:
    """The nodes of a tree, each behind its children.

    Args:
        root: of the tree.

    Attributes:
        nodes: all of them.
        first: the number of the first node within each node's tree.
        roots: the highest node of each run of nodes with the same first, in order.
    """

    def __init__(self, root: Node) -> None:
        self.nodes: list[Node] = []
        self.first: list[int] = []
        self._add(root)
        self.roots: Sequence[int] = sorted({first: i for i, first in enumerate(self.first)}.values())

    def _add(self, node: Node) -> None:
        start = len(self.nodes)
        for child in node.children:
            self._add(child)
        self.nodes.append(node)
        self.first.append(start)


def _fill(trees: Table, changes: Table, a: _PostOrder, b: _PostOrder, i: int, j: int) -> None:
    """Fill in the distances of all trees that end on the left edges of trees ``i`` and ``j``."""
    top, left = a.first[i], b.first[j]
    forest = [[0] * (j - left + 2) for _ in range(i - top + 2)]
    for x in range(top, i + 1):
        forest[x - top + 1][0] = forest[x - top][0] + a.nodes[x].cost
    for y in range(left, j + 1):
        forest[0][y - left + 1] = forest[0][y - left] + b.nodes[y].cost
    for x in range(top, i + 1):
        above, here = forest[x - top], forest[x - top + 1]
        removed, whole_x = a.nodes[x].cost, a.first[x] == top
        before_x = forest[a.first[x] - top]
        for y in range(left, j + 1):
            at = y - left
            least = min(above[at + 1] + removed, here[at] + b.nodes[y].cost)
            if whole_x and b.first[y] == left:
                least = trees[x][y] = min(least, above[at] + changes[x][y])
            else:
                least = min(least, before_x[b.first[y] - left] + trees[x][y])
            here[at + 1] = least
