"""Plain data as the text of a configuration file, for tests that read it back."""

from __future__ import annotations

import json
from typing import Any

import yaml


def config_text(data: dict[str, Any], format: str) -> str:
    """``data`` in ``format``: ``"yaml"``, in blocks and with its strings quoted, ``"toml"`` or ``"json"``."""
    if format == "yaml":
        return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True))
    if format == "json":
        return json.dumps(data, indent=2, ensure_ascii=False)
    return "".join(f"{_toml(key)} = {_toml(value)}\n" for key, value in data.items()) or "# no settings"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower()


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))
