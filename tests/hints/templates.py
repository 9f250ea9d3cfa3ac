"""Every hint in the code, found by reading it, and the call of a test that stands where a hint is given."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import vedcore
import vedcore_decoders
import vedcore_encoders

PACKAGES = [Path(package.__file__).parent for package in (vedcore, vedcore_encoders, vedcore_decoders)]
HOLE = "{…}"
"""Stands in a template for what the code puts in."""


FILES = {
    f"{path.relative_to(package.parent)}": ast.parse(path.read_text(encoding="utf-8"))
    for package in PACKAGES
    for path in sorted(package.rglob("*.py"))
}
"""Each module, parsed, by its path."""
NODES = [node for tree in FILES.values() for node in ast.walk(tree)]
FUNCTIONS: dict[str, list[ast.FunctionDef]] = {}
for _node in NODES:
    if isinstance(_node, ast.FunctionDef):
        FUNCTIONS.setdefault(_node.name, []).append(_node)
CONSTANTS = {
    node.targets[0].id: node.value
    for tree in FILES.values()
    for node in tree.body
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
}
"""Values that modules assign to names."""
OPEN: list[str] = []
"""Functions whose results are being read, so that one that calls itself is read once."""


def hints() -> Iterator[tuple[str, str]]:
    """Place and template of each hint."""
    for path, tree in FILES.items():
        for function in functions(tree):
            for node in own(function):
                for value in given(node):
                    for text in filter(None, texts(value, function)):
                        yield f"{path}:{value.lineno}", text


def functions(tree: ast.Module) -> Iterator[ast.AST]:
    """The module and each function in it, at any depth."""
    yield tree
    yield from (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.Lambda)))


def own(function: ast.AST) -> Iterator[ast.AST]:
    """The nodes in a function, without those of the functions in it."""
    for child in ast.iter_child_nodes(function):
        if not isinstance(child, (ast.FunctionDef, ast.Lambda)):
            yield child
            yield from own(child)


def given(node: ast.AST) -> Iterator[ast.expr]:
    """The hint that a node gives: the argument of that name, its default, or the argument of ``with_hint``."""
    match node:
        case ast.keyword(arg="hint", value=value):
            yield value
        case ast.arguments(args=[*_, ast.arg(arg="hint")], defaults=[*_, value]):
            yield value
        case ast.Call(func=ast.Attribute(attr="with_hint"), args=[value]):
            yield value
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=arguments):
            for function in FUNCTIONS.get(name, ()):
                names = [each.arg for each in function.args.args if each.arg not in ("self", "cls")]
                if "hint" in names and len(arguments) > (at := names.index("hint")):
                    yield arguments[at]
                    break


def texts(value: ast.expr, function: ast.AST) -> Iterator[str]:
    """The templates of an expression; a name stands for what its function assigns to it."""
    match value:
        case ast.Constant(value=str(text)) if text:
            yield text
        case ast.JoinedStr(values=parts):
            yield "".join(part.value if isinstance(part, ast.Constant) else HOLE for part in parts)  # type: ignore[misc]
        case ast.IfExp(body=body, orelse=orelse):
            yield from texts(body, function)
            yield from texts(orelse, function)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            for first in list(texts(left, function)) or [HOLE]:
                for second in list(texts(right, function)) or [HOLE]:
                    yield first + second
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):  # what it returns, maybe after a message
            if name not in OPEN:
                OPEN.append(name)
                for called in FUNCTIONS.get(name, ()):
                    for node in own(called):
                        if isinstance(node, ast.Return) and node.value is not None:
                            last = node.value.elts[-1] if isinstance(node.value, ast.Tuple) else node.value
                            yield from texts(last, called)
                OPEN.remove(name)
        case ast.BoolOp(values=values):
            for each in values:
                yield from texts(each, function)
        case ast.Name(id=name):
            if name in CONSTANTS:
                yield from texts(CONSTANTS[name], function)
            for node in own(function):
                match node:
                    case ast.Assign(targets=[ast.Name(id=target)], value=assigned) if target == name:
                        yield from texts(assigned, function)
                    case ast.Assign(targets=[ast.Tuple(elts=[_, ast.Name(id=target)])], value=ast.Call() as call):
                        if target == name:
                            yield from texts(call, function)
                    case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=assigned_each)):
                        for target_of, assigned in zip(targets, assigned_each, strict=True):
                            if isinstance(target_of, ast.Name) and target_of.id == name:
                                yield from texts(assigned, function)


def told(template: str, call: Callable[..., object], *arguments: Any, **keywords: Any) -> vedcore.VedcoreError:
    """The error of a call, which gives the hint of a template."""
    with pytest.raises(vedcore.VedcoreError) as caught:
        call(*arguments, **keywords)
    pattern = ".*".join(map(re.escape, template.split(HOLE)))
    assert re.fullmatch(pattern, caught.value.hint, re.DOTALL), f"{caught.value.hint!r} is not {template!r}"
    return caught.value
