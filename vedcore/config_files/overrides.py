"""Overrides of settings from the command line: ``--set key.key=value``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from vedcore.config_files.plain import not_plain, short
from vedcore.config_files.yaml import YamlProblem, read_yaml
from vedcore.errors import UsageError


def apply_overrides(data: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of ``data`` with ``key.key=value`` texts applied in order; missing keys are added.

    A value is a YAML scalar or flow collection, by the same rules as in files: ``32``, ``1e-4``, ``gelu``, ``null``,
    ``[64, 512]``.

    Raises:
        UsageError: a malformed text, or a key inside a value that is not a mapping.
    """
    result = dict(data)
    for text in overrides:
        name, equals, value_text = text.partition("=")
        keys = name.strip().split(".")
        flag = f"--set {short(text)}"
        if not equals or not all(re.fullmatch(r"(?!__)[\w-]+", key, re.ASCII) for key in keys):
            raise UsageError(
                "not of the form key=value",
                field=flag,
                hint="write a name of letters, digits, _ or -, then = and the value",
            )
        value = _value(value_text, flag)
        target = result
        for depth, key in enumerate(keys[:-1], 1):
            inner = target.get(key, {})
            if not isinstance(inner, dict):
                message = f"{'.'.join(keys[:depth])} is {short(inner)}, which has no keys of its own"
                raise UsageError(message, field=flag, hint=f"set {'.'.join(keys[:depth])} to a mapping first")
            target[key] = dict(inner)
            target = target[key]
        target[keys[-1]] = value
    return result


def _value(text: str, flag: str) -> Any:
    """The value of one ``--set``, by the rules for YAML files."""
    try:
        value = read_yaml(text, flow_only=True)[0]
    except YamlProblem as problem:
        raise UsageError(problem.message, field=flag, hint=problem.hint or "quote the value") from None
    if found := not_plain(value):
        raise UsageError(found[2], field=flag, hint=found[3])
    return value
