"""A step that writes its keys and values into the cache where they belong, in place of joining them to a copy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from vedcore.export import Graph, Node

__all__ = ["UPDATE", "in_place"]

UPDATE = "update"
"""The operation of such a step: ``(buffer (B, G, C, K), new (B, G, T, K)) -> buffer`` with the new ones in it."""
_LENGTH_AXIS = 2


def in_place(graph: Graph) -> Graph | None:
    """The same step with `UPDATE`, whose outputs ``new_keys.i`` and ``new_values.i`` are whole buffers.

    None where the step reads its past in another way than by joining the new keys and values to it.
    """
    past = {port.node: port.name for port in graph.inputs if port.name.startswith("past_")}
    whole = dict(past)  # nodes that are the past, uncut
    joined: dict[str, str] = {}  # the names of the ports to the nodes that join
    nodes = list[Node]()
    for node in graph.nodes:
        if node.op == "slice.Tensor" and _name(node.args[0]) in whole and _keeps_all(node, graph, past):
            whole[node.name] = whole[_name(node.args[0])]
        elif node.op == "cat" and len(node.args[0]) == 2 and _name(node.args[0][0]) in whole:
            name = whole[_name(node.args[0][0])]
            if name in joined or node.args[1:] not in ((_LENGTH_AXIS,), (_LENGTH_AXIS - 4,)):
                return None
            joined[name] = node.name
            buffer = next(node for node, port in past.items() if port == name)
            node = replace(node, op=UPDATE, args=({"node": buffer}, node.args[0][1]), kwargs={})
        nodes.append(node)
    outputs = tuple(
        replace(port, node=joined.get(port.name.replace("new_", "past_", 1), port.node)) for port in graph.outputs
    )
    kept = list(_needed(nodes, {port.node for port in outputs}))
    read = {name for node in kept if node.op != UPDATE for name in names((node.args, node.kwargs))}
    if joined.keys() != set(past.values()) or read & past.keys():
        return None
    return replace(graph, nodes=tuple(kept), outputs=outputs)


def names(value: Any) -> Iterator[str]:
    """The nodes that an argument names."""
    if isinstance(value, Mapping):
        if "node" in value:
            yield value["node"]
        else:
            yield from names(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from names(each)


def _name(value: Any) -> str:
    return value.get("node", "") if isinstance(value, Mapping) else ""


def _keeps_all(node: Node, graph: Graph, past: Mapping[str, str]) -> bool:
    """Whether a slice takes the whole of a past: all of its length, from the start."""
    _, axis, start, end, *steps = (*node.args, None, None, None)[:5] if len(node.args) < 5 else node.args
    if axis != _LENGTH_AXIS or start not in (None, 0) or steps not in ([None], [1]):
        return False
    size = next((each for each in graph.nodes if each.name == _name(end)), None)
    return end is None or (
        size is not None
        and size.op == "sym_size.int"
        and _name(size.args[0]) in past
        and past[_name(size.args[0])].rpartition(".")[2] == past.get(_name(node.args[0]), "").rpartition(".")[2]
        and size.args[1] == _LENGTH_AXIS
    )


def _needed(nodes: list[Node], needed: set[str]) -> Iterator[Node]:
    """The nodes that some depend on, in order."""
    kept = list[Node]()
    for node in reversed(nodes):
        if node.name in needed:
            kept.append(node)
            needed = needed | {*names((node.args, node.kwargs))}
    return reversed(kept)
