"""Models as graphs of tensors alone, for other frameworks.

Nothing of it imports torch before a model is exported: a program that runs an export needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vedcore.deprecated_names import getattr_for
from vedcore.export.exporter import ABILITIES, Array, Exporter, Runtime
from vedcore.export.graphs import CONSTANTS, GRAPH, Graph, Graphs, Node, Port, read_graphs
from vedcore.export.interpreter import interpret, refuse_missing
from vedcore.export.operations import OPERATIONS

__all__ = [
    "ABILITIES",
    "CONSTANTS",
    "GRAPH",
    "OPERATIONS",
    "Array",
    "Exporter",
    "Graph",
    "Graphs",
    "Node",
    "Port",
    "Runtime",
    "interpret",
    "read_graphs",
    "refuse_missing",
]

if not TYPE_CHECKING:  # a type checker would take any name for one of this module
    __getattr__ = getattr_for(__name__)
