"""Running a graph with the operations of any framework. Nothing here imports one."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from vedcore.errors import IncompatibleError
from vedcore.export.graphs import Graph, Graphs, Node

__all__ = ["interpret", "refuse_missing"]

SIZES: Mapping[str, Callable[..., Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "floordiv": operator.floordiv,
    "truediv": operator.truediv,
    "mod": operator.mod,
    "getitem": operator.getitem,
}
"""Operations on sizes, which are Python's in every framework."""


def interpret(
    graph: Graph,
    operations: Mapping[str, Callable[..., Any]],
    dtype: Callable[[str], Any],
    tensors: Mapping[str, Any],
    inputs: Mapping[str, Any],
    made: Callable[[Node, Any], Any] | None = None,
) -> dict[str, Any]:
    """The outputs of a graph, by name.

    Args:
        graph: the program.
        operations: a function for each operation that is not of `SIZES`, with torch's arguments but for those that say
            where a tensor lies.
        dtype: a type by its name, such as ``"float32"``.
        tensors: weights and constants by name; at least those that the graph reads.
        inputs: a tensor for each input of the graph.
        made: called with each node and its result, gives what stands for it.
    """
    values: dict[str, Any] = {port.node: inputs[port.name] for port in graph.inputs}
    values |= {port.node: tensors[port.name] for port in graph.tensors}

    def argument(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [argument(each) for each in value]
        if not isinstance(value, Mapping):
            return value
        ((kind, given),) = value.items()
        return values[given] if kind == "node" else dtype(given) if kind == "dtype" else float(given)

    for node in graph.nodes:
        operation = SIZES.get(node.op) or operations[node.op]
        keywords = {name: argument(each) for name, each in node.kwargs.items()}
        value = operation(*argument(node.args), **keywords)
        values[node.name] = value if made is None else made(node, value)
    return {port.name: values[port.node] for port in graph.outputs}


def refuse_missing(graphs: Graphs, operations: Iterable[str], target: str) -> None:
    """Refuse graphs with an operation that a target does not have.

    Raises:
        IncompatibleError: naming it, and its place in the source.
    """
    known = {*operations, *SIZES}
    for graph, node in graphs.operations():
        if node.op not in known:
            message = f"{graph.name} has an operation {node.op}, at {node.source}, which {target} lacks"
            raise IncompatibleError(message, field="to", hint="export to graph, or compute it with others there")
