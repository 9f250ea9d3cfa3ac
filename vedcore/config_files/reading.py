"""Configuration files to plain data: YAML, TOML and JSON, by one set of rules.

Plain data is ``dict`` with string keys, ``list``, ``str``, ``int``, finite ``float``, ``bool`` and ``None``.
Nothing in a file is executed, imported or looked up. The rules:

- The suffix decides the format: ``.yaml``, ``.yml``, ``.toml`` or ``.json``.
- Only regular files of at most 1 MB are read, as strict UTF-8. A leading UTF-8 byte order mark is dropped.
- The top level is a mapping. A key occurs once. Containers nest at most 64 deep.
- Numbers are finite; dates and times are written as quoted strings.
- YAML scalars follow the core schema of YAML 1.2, not YAML 1.1: only ``true`` and ``false`` (also ``True``,
  ``TRUE``, …) are booleans, so ``no``, ``off``, ``yes`` and ``on`` are strings; ``1e-4`` is a float; ``010``
  is ten; ``12:30:00`` and ``2024-01-01`` are strings. No tags, anchors, aliases, merge keys; one document.
- ``extends: other.yaml`` at the top level reads that file first, from the same folder or below. Mappings are merged
  key by key; any other value is replaced by the one in the extending file. ``extends`` is not in the data.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from vedcore.config_files.documents import Document, open_document
from vedcore.config_files.plain import KeyPath, short
from vedcore.errors import CheckpointUnsafeError, ConfigLimitError, ConfigParseError, ConfigSchemaError

MAX_EXTENDS = 16


@dataclass(frozen=True)
class ConfigSource:
    """The data of a configuration file, and the position of each key.

    Attributes:
        data: plain data, merged with the files that it extends.
        path: the file that was read first.
    """

    data: dict[str, Any]
    path: Path
    _documents: tuple[Document, ...] = field(default=(), repr=False, compare=False)  # extending file first

    def where(self, key_path: KeyPath) -> tuple[Path, int | None] | None:
        """The file and the line, from 1, of the key at ``key_path`` or of its nearest parent in the data.

        ``("encoder", "sizes", 0)`` is the first item of the list ``sizes``. The line is None in JSON and TOML, whose
        parsers do not tell it. The result is None where not even the first key is in the data.
        """
        for end in range(_num_present(self.data, key_path), 0, -1):
            for document in self._documents:
                if _num_present(document.data, key_path[:end]) == end:
                    return document.path, document.line(key_path[:end])
        return None


def read_config_text(path: str | os.PathLike[str]) -> ConfigSource:
    """The data of the ``.yaml``, ``.yml``, ``.toml`` or ``.json`` file ``path``, by the rules of this module.

    Raises:
        ConfigParseError: no such file, not a regular file, an unknown suffix, not UTF-8, or not in its format.
        ConfigSchemaError: the top level is not a mapping, or a value is not plain data.
        ConfigLimitError: more than 1 MB, 64 levels or 16 files that extend each other; YAML aliases.
        CheckpointUnsafeError: ``extends`` leads out of the folder of its file.
    """
    asked = Path(path)
    documents, seen = [open_document(asked)], [asked.resolve()]
    while "extends" in (document := documents[-1]).data:
        extended = _extended_path(document)
        if (target := extended.resolve()) in seen:
            message = "a cycle: " + " -> ".join(p.name for p in [*seen[seen.index(target) :], target])
            raise document.error(ConfigParseError, message, key_path=("extends",), hint="break it")
        if len(seen) > MAX_EXTENDS:
            message = f"more than {MAX_EXTENDS} files extend each other"
            raise document.error(ConfigLimitError, message, key_path=("extends",), hint="merge some")
        seen.append(target)
        documents.append(open_document(extended))
    layers = ({k: v for k, v in document.data.items() if k != "extends"} for document in reversed(documents))
    return ConfigSource(functools.reduce(_merge, layers), asked, tuple(documents))


def _extended_path(document: Document) -> Path:
    """The file that ``extends`` names, in the folder of ``document`` or below."""
    value = document.data["extends"]
    if not isinstance(value, str) or not value:
        message = f"expected the name of a file, got {short(value)}"
        raise document.error(ConfigSchemaError, message, key_path=("extends",), hint="name a file")
    parts = {*PurePosixPath(value).parts, *PureWindowsPath(value).parts}
    rooted = value.startswith(("/", "\\")) or PureWindowsPath(value).drive
    folder = document.path.parent
    try:
        target = (folder / value).resolve()
        inside = not rooted and ".." not in parts and target.is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # a NUL, a loop of links
        inside = False
    if not inside:
        message = f"{short(value)} leads out of the folder of this file"
        hint = "extend a file of the same folder or below"
        raise document.error(CheckpointUnsafeError, message, key_path=("extends",), hint=hint)
    return folder / value


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``base`` overridden by ``over``: mappings key by key, any other value as a whole."""
    merged = dict(base)
    for key, value in over.items():
        below = base.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _num_present(data: Any, key_path: KeyPath) -> int:
    """Number of leading keys of ``key_path`` that are in ``data``."""
    for depth, key in enumerate(key_path):
        in_list = isinstance(data, list) and isinstance(key, int) and 0 <= key < len(data)
        if not in_list and not (isinstance(data, dict) and key in data):
            return depth
        data = data[key]
    return len(key_path)
