"""Plain data to configuration text, such that reading it back gives equal data.

A top-level ``extends`` is written like any key, and means to the reader what it says: see ``config_files``.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vedcore.config_files.plain import KeyPath, dotted, not_plain, short
from vedcore.config_files.reading import ACCEPTED, FORMATS, MAX_BYTES
from vedcore.config_files.yaml import dump_yaml
from vedcore.errors import CheckpointWriteError, ConfigLimitError, ConfigParseError, ConfigSchemaError, UsageError


def dump_config(data: dict[str, Any], format: str) -> str:
    """``data`` as text in ``format``: ``"yaml"``, ``"toml"`` or ``"json"``, ending in a newline.

    Raises:
        ConfigSchemaError: ``data`` is not a mapping of plain data (see ``plain``),
            or holds None and the format is TOML, which has no null.
        ConfigLimitError: more than 64 levels.
        UsageError: another format.
    """
    if format not in _DUMPERS:
        raise UsageError(f"unknown format {short(format)}", hint=f"choose one of {', '.join(_DUMPERS)}")
    if not isinstance(data, dict):
        raise ConfigSchemaError(f"object expected, got {type(data).__name__}", hint="pass a dict")
    if problem := not_plain(data):
        kind, key_path, message, hint = problem
        raise kind(message, field=dotted(key_path) or None, hint=hint)
    return _DUMPERS[format](data)


def write_config_text(data: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Writes ``data`` to ``path`` in the format of its suffix; a file already there is replaced whole or kept.

    Raises:
        ConfigParseError: a suffix other than ``.yaml``, ``.yml``, ``.toml``, ``.json``.
        ConfigSchemaError: as :func:`dump_config`.
        ConfigLimitError: more than the 1 MB that is read back.
        CheckpointWriteError: the file cannot be written.
    """
    path = Path(path)
    if (format := FORMATS.get(path.suffix.lower())) is None:
        message = f"suffix {short(path.suffix)} is not a configuration format"
        raise ConfigParseError(message, path=path, hint=ACCEPTED)
    raw = dump_config(data, format).encode()
    if len(raw) > MAX_BYTES:
        message = f"{len(raw):,} bytes, and a configuration file has at most {MAX_BYTES:,}"
        raise ConfigLimitError(message, path=path, hint="keep bulk data in a file of its own")
    staged = None
    try:
        target = path.resolve()  # a link stays a link
        if target.is_dir():
            raise IsADirectoryError(0, "a folder is in the way")
        candidate = target.with_name(f".vedcore-tmp-{secrets.token_hex(4)}")
        with open(candidate, "xb") as file:
            staged = candidate
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.replace(staged, target)
        staged = None
    except (OSError, ValueError, RuntimeError) as error:  # a NUL in the path; a loop of links
        reason = getattr(error, "strerror", None) or str(error)
        message = f"cannot be written: {reason}".lower()
        hint = "check the folder, its permissions and free space"
        raise CheckpointWriteError(message, path=path, hint=hint) from None
    finally:
        if staged is not None:
            staged.unlink(missing_ok=True)


def _dump_json(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _dump_toml(data: dict[str, Any]) -> str:
    lines = _toml_table(data, ()) if data else ["# no settings"]  # a file without text counts as damaged
    return "\n".join(lines).lstrip("\n") + "\n"


def _toml_table(table: dict[str, Any], path: KeyPath) -> Iterator[str]:
    """The lines of a table: its own values first, as TOML demands, then the tables in it."""
    for key, value in table.items():
        if not isinstance(value, dict):
            yield f"{_toml_key(key)} = {_toml_value(value, (*path, key))}"
    for key, value in table.items():
        if isinstance(value, dict):
            inner = (*path, key)
            yield f"\n[{'.'.join(_toml_key(str(part)) for part in inner)}]"
            yield from _toml_table(value, inner)


def _toml_value(value: Any, path: KeyPath) -> str:
    if value is None:
        hint = "leave the key out, or write .yaml or .json"
        raise ConfigSchemaError("TOML has no null", field=dotted(path), hint=hint)
    if isinstance(value, dict):
        pairs = (f"{_toml_key(key)} = {_toml_value(item, (*path, key))}" for key, item in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml_value(item, (*path, index)) for index, item in enumerate(value))}]"
    if isinstance(value, str):
        return _toml_string(value)
    return str(value).lower()  # numbers as in Python; true and false


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml_string(key)


def _toml_string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


_DUMPERS = {"yaml": dump_yaml, "toml": _dump_toml, "json": _dump_json}
