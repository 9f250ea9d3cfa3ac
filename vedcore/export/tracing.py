"""Recording a program as a graph, by ``torch.export``."""

from __future__ import annotations

import math
import operator
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind
from torch.overrides import TorchFunctionMode

from vedcore.errors import IncompatibleError, VedcoreError, printable
from vedcore.export.graphs import Graph, Node, Port
from vedcore.export.operations import OPERATIONS
from vedcore.export.programs import Program

__all__ = ["trace"]

_SIZES: dict[Any, str] = {operator.add: "add", operator.sub: "sub", operator.mul: "mul", operator.floordiv: "floordiv"}
_SIZES |= {operator.truediv: "truediv", operator.mod: "mod", operator.neg: "neg", operator.getitem: "getitem"}
_DROPPED = {"_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range_for_size", "sym_constrain_range"}
"""Checks, which give nothing."""
_PLACE_ALONE = {"device", "layout", "pin_memory", "memory_format", "non_blocking"}
"""Arguments that say where and how a tensor lies, and not what is in it."""
MAX_SIZE_TERMS = 16
"""Arithmetic in a size that depends on height and width; torch takes minutes with windows that are padded to fit."""
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)')


def trace(program: Program) -> tuple[Graph, dict[str, Tensor]]:
    """The graph of a program, and the tensors that it reads, by name.

    Raises:
        IncompatibleError: it cannot be recorded, or holds an operation that graphs do not have.
    """
    exported = _exported(program)
    found = {node.name: node for node in exported.graph.nodes}
    symbols = _symbols(program, found)
    given, read, tensors = iter(program.inputs), list[Port](), dict[str, Tensor]()
    inputs = list[Port]()
    for spec in exported.graph_signature.input_specs:
        node = found[spec.arg.name]
        if spec.kind is InputKind.USER_INPUT:
            inputs.append(_port(next(given), node, symbols))
        elif node.users:
            name = _tensor_name(program, spec)
            read.append(_port(name, node, symbols))
            tensors[name] = exported.state_dict.get(spec.target, exported.constants.get(spec.target))
    names = exported.module_call_graph[0].signature.out_spec.context  # of the dict that was returned
    outputs = [
        _port(name, found[spec.arg.name], symbols)
        for name, spec in zip(names, exported.graph_signature.output_specs, strict=True)
    ]
    nodes = [_node(node, program, symbols) for node in exported.graph.nodes if _computes(node)]
    return Graph(program.name, tuple(inputs), tuple(read), tuple(_needed(nodes, outputs)), tuple(outputs)), tensors


def _exported(program: Program) -> ExportedProgram:
    """The program in torch's own form; an axis that may be fixed is so where it cannot vary.

    Raises:
        IncompatibleError: torch cannot record it, or an axis that has to vary cannot.
    """
    tries = {name.endswith("?") for axes in program.sizes.values() for name in axes.values()}
    for varies in sorted(tries, reverse=True):
        shapes = {
            name: {axis: Dim.AUTO for axis, size in axes.items() if varies or not size.endswith("?")}
            for name, axes in program.sizes.items()
        }
        try:
            with warnings.catch_warnings(), torch.no_grad(), _SimpleSizes(varies):
                warnings.simplefilter("ignore")  # torch's, of its own modules
                found = torch.export.export(program.module, (program.inputs,), dynamic_shapes=(shapes,), strict=False)
                found = found.run_decompositions({})
        except VedcoreError:
            raise
        except Exception as error:  # of many kinds, as operations are recorded
            if not varies:
                raise _refusal(program, error) from error
        else:
            break
    nodes = {node.name: node for node in found.graph.nodes}
    for name, node in zip(program.inputs, (nodes[each] for each in found.graph_signature.user_inputs), strict=True):
        for axis, size in program.sizes[name].items():
            if str(node.meta["val"].shape[axis]).isdigit() and not size.endswith("?"):
                message = f"{program.name} cannot be recorded for any number of {size}"
                raise IncompatibleError(message, field="export", hint="compute with shapes, and ask none in Python")
    return found


class _SimpleSizes(TorchFunctionMode):
    """Ends a try to record where sizes become too long a formula."""

    def __init__(self, ends: bool) -> None:
        super().__init__()
        self._ends = ends

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if self._ends and isinstance(out, Tensor):
            shape: tuple[Any, ...] = out.shape
            sizes = (size.node.expr for size in shape if isinstance(size, torch.SymInt))
            if any(size.count_ops() > MAX_SIZE_TERMS for size in sizes):
                raise ValueError("sizes are too long a formula")
        return out


def _refusal(program: Program, error: Exception) -> IncompatibleError:
    """For a program that torch cannot record: its first line, and the last place outside of torch."""
    frames = list[str]()
    found = error.__traceback__
    while found is not None:
        code = found.tb_frame.f_code
        frames.append(f'File "{code.co_filename}", line {found.tb_lineno}, in {code.co_name}')
        found = found.tb_next
    place = _source("\n".join(frames))
    said = printable(str(error).strip().partition("\n")[0])
    message = f"{program.name} cannot be recorded{f', at {place}' if place else ''}: {said}"
    return IncompatibleError(message, field="export", hint="compute with torch's operations on tensors alone there")


def _symbols(program: Program, found: Mapping[str, Any]) -> dict[str, str]:
    """Torch's symbols for sizes to our names for them."""
    names, taken = dict[str, str](), dict[str, int]()
    placeholders = [node for node in found.values() if node.op == "placeholder"]
    users = placeholders[len(placeholders) - len(program.inputs) :]  # tensors of the model come first
    for node, axes in zip(users, program.sizes.values(), strict=True):
        for axis, size in axes.items():
            symbol = str(node.meta["val"].shape[axis])
            if re.fullmatch(r"s\d+", symbol) and symbol not in names:
                plain = size.rstrip("?")
                taken[plain] = taken.get(plain, 0) + 1
                names[symbol] = plain if taken[plain] == 1 else f"{plain}_{taken[plain]}"
    return names


def _tensor_name(program: Program, spec: Any) -> str:
    """The name of a tensor in the weights, or of a constant."""
    if spec.kind is InputKind.PARAMETER or spec.kind is InputKind.BUFFER:
        return str(spec.target).removeprefix("model.")
    return f"{program.name}.{spec.target}"


def _port(name: str, node: Any, symbols: Mapping[str, str]) -> Port:
    value = node.meta["val"]
    if not isinstance(value, Tensor):
        return Port(name, None, "int", node.name)
    return Port(name, _shape(value, symbols), _dtype(value.dtype), node.name)


def _shape(value: Tensor, symbols: Mapping[str, str]) -> tuple[int | str, ...]:
    texts = (re.sub(r"s\d+", lambda found: symbols.get(found[0], found[0]), str(size)) for size in value.shape)
    return tuple(int(text) if text.isdigit() else text for text in texts)


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _computes(node: Any) -> bool:
    return node.op == "call_function" and _operation(node.target) not in _DROPPED


def _operation(target: Any) -> str:
    if target in _SIZES:
        return _SIZES[target]
    name = str(target)
    return name.removeprefix("aten.").removesuffix(".default") if name.startswith("aten.") else name


def _node(node: Any, program: Program, symbols: Mapping[str, str]) -> Node:
    """A node as data.

    Raises:
        IncompatibleError: an operation that graphs do not have.
    """
    operation, value = _operation(node.target), node.meta.get("val")
    source = _source(node.meta.get("stack_trace") or "")
    if operation not in OPERATIONS:
        place = source or "unknown"
        message = f"{program.name} has an operation {operation}, at {place}, which graphs do not have"
        hint = "compute it with others: vedcore.export.operations.OPERATIONS lists them"
        raise IncompatibleError(message, field="export", hint=hint)
    kwargs = {name: _value(each) for name, each in node.kwargs.items() if name not in _PLACE_ALONE}
    one = isinstance(value, Tensor)
    return Node(
        node.name,
        operation,
        tuple(_value(each) for each in node.args),
        kwargs,
        _shape(value, symbols) if one else None,
        _dtype(value.dtype) if one else None,
        source,
    )


def _value(value: Any) -> Any:
    """An argument as data."""
    if isinstance(value, torch.fx.Node):
        return {"node": value.name}
    if isinstance(value, (list, tuple)):
        return [_value(each) for each in value]
    if isinstance(value, torch.dtype):
        return {"dtype": _dtype(value)}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    return None if isinstance(value, (torch.device, torch.layout, torch.memory_format)) else value


def _needed(nodes: list[Node], outputs: Iterable[Port]) -> Iterator[Node]:
    """The nodes that the outputs depend on, in order."""
    needed, kept = {port.node for port in outputs}, list[Node]()
    for node in reversed(nodes):
        if node.name in needed:
            kept.append(node)
            needed.update(_names((node.args, list(node.kwargs.values()))))
    return reversed(kept)


def _names(value: Any) -> Iterator[str]:
    if isinstance(value, dict) and "node" in value:
        yield value["node"]
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _names(each)


def _source(stack: str) -> str:
    """The last place of a stack that is not in torch: file within its package, line and function."""
    for found in reversed(list(_FRAME.finditer(stack))):
        parts = Path(found["file"]).parts
        inside = next(
            (i for i in range(len(parts) - 1, 0, -1) if parts[i - 1] in ("site-packages", "dist-packages")), 0
        )
        if not inside:  # of a checkout: from the outermost package on
            inside = len(parts) - 1
            while inside > 1 and Path(*parts[:inside], "__init__.py").exists():
                inside -= 1
        if parts[inside] in ("torch", "importlib") or found["function"] == "<module>":
            continue
        if parts[inside : inside + 2] != ("vedcore", "export"):
            return f"{'/'.join(parts[inside:])}:{found['line']} in {found['function']}"
    return ""
