"""Configuration text in, plain data out: YAML, TOML and JSON files, read by one set of rules.

Plain data is ``dict`` with string keys, ``list``, ``str``, ``int``, finite ``float``, ``bool`` and ``None``.
Nothing in a file is executed, imported or looked up. The rules:

- The suffix decides the format: ``.yaml``, ``.yml``, ``.toml`` or ``.json``.
- Only regular files of at most 1 MB are read, as strict UTF-8. A leading UTF-8 byte order mark is dropped.
- The top level is a mapping. A key occurs once. At most 64 containers lie inside each other.
- Numbers are finite; dates and times are written as quoted strings.
- YAML scalars follow the core schema of YAML 1.2, not YAML 1.1: only ``true`` and ``false`` (also ``True``,
  ``TRUE``, …) are booleans, so ``no``, ``off``, ``yes`` and ``on`` are strings; ``1e-4`` is a float; ``010``
  is ten; ``12:30:00`` and ``2024-01-01`` are strings. No tags, anchors, aliases, merge keys; one document.
- ``extends: other.yaml`` at the top reads that file first, from the same folder or below. Mappings are merged
  key by key; anything else is replaced by what the extending file says. ``extends`` is not in the data.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from vedcore.config_files.plain import (
    MAX_DEPTH,
    TOO_DEEP,
    TOO_LONG,
    DuplicateKeyError,
    KeyPath,
    dotted,
    not_plain,
    short,
    unique_keys,
)
from vedcore.config_files.positions import first_duplicate, json_positions, nesting_beyond, toml_positions
from vedcore.config_files.yaml import YamlProblem, read_yaml
from vedcore.errors import (
    CheckpointUnsafeError,
    ConfigLimitError,
    ConfigParseError,
    ConfigSchemaError,
    UsageError,
    VedcoreError,
)
from vedcore.files import open_regular

MAX_BYTES = 1_000_000
MAX_EXTENDS = 16
FORMATS = {".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json"}
ACCEPTED = f"accepted suffixes are {', '.join(FORMATS)}"

# Control characters that none of the three formats allows outside an escape.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")


@dataclass(frozen=True)
class ConfigSource:
    """The data of a configuration file, and where each key of it stands.

    Attributes:
        data: plain data, with everything that ``extends`` brings in already merged.
        path: the file that was asked for.
    """

    data: dict[str, Any]
    path: Path
    _documents: tuple[_Document, ...] = field(default=(), repr=False, compare=False)  # extending file first

    def where(self, key_path: KeyPath) -> tuple[Path, int] | None:
        """The file and the line, from 1, of the key at ``key_path``, or of its nearest parent that is there.

        ``("encoder", "sizes", 0)`` is the first item of the list ``sizes``. None where not even the first key
        is in the data. Positions are found when first asked for, so reading pays nothing for them.
        """
        present = _present(self.data, key_path)
        for end in range(present, 0, -1):
            for document in self._documents:
                offset = document.positions.get(key_path[:end])
                if offset is not None:
                    return document.path, document.line_column(offset)[0]
        return None


def read_config_text(path: str | os.PathLike[str]) -> ConfigSource:
    """The data of the ``.yaml``, ``.yml``, ``.toml`` or ``.json`` file ``path``, by the rules of this module.

    Raises:
        ConfigParseError: no such file, not a regular file, another suffix, not UTF-8, or not in its format.
        ConfigSchemaError: the top level is not a mapping, or a value is not plain data.
        ConfigLimitError: more than 1 MB, 64 levels or 16 files that extend each other; YAML aliases.
        CheckpointUnsafeError: ``extends`` leads out of the folder of its file.
    """
    asked = Path(path)
    document = _Document.open(asked, MAX_BYTES)
    data = document.parse()
    documents, layers = [document], [data]
    seen = [asked.resolve()]
    while "extends" in layers[-1]:
        extended = _extended_path(documents[-1], layers[-1].pop("extends"))
        if (target := extended.resolve()) in seen:
            message = "a cycle: " + " -> ".join(p.name for p in [*seen[seen.index(target) :], target])
            raise documents[-1].error(ConfigParseError, message, key_path=("extends",), hint="break it")
        if len(seen) > MAX_EXTENDS:
            message = f"more than {MAX_EXTENDS} files extend each other"
            raise documents[-1].error(ConfigLimitError, message, key_path=("extends",), hint="merge some")
        seen.append(target)
        documents.append(_Document.open(extended, MAX_BYTES))
        layers.append(documents[-1].parse())
    merged = functools.reduce(_merge, reversed(layers))
    return ConfigSource(merged, asked, tuple(documents))


def read_json(path: str | os.PathLike[str], *, limit_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """The object in the JSON file ``path``, whatever its suffix, of at most ``limit_bytes``.

    For files of a model folder: the rules are those of this module, but ``extends`` is a key like any other.

    Raises:
        ConfigParseError, ConfigSchemaError, ConfigLimitError: as :func:`read_config_text`.
    """
    return _Document.open(Path(path), limit_bytes, format="json").parse()


def parse_json(raw: bytes, path: str | os.PathLike[str]) -> dict[str, Any]:
    """The object in the bytes of a JSON file that was read already; ``path`` is what messages call it.

    Raises:
        ConfigParseError, ConfigSchemaError, ConfigLimitError: as :func:`read_config_text`.
    """
    return _Document.decode(Path(path), "json", raw).parse()


def apply_overrides(data: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of ``data`` with ``key.key=value`` texts applied in order; keys that are not there are added.

    A value is a YAML scalar or a flow collection, by the same rules as in files: ``32``, ``1e-4``, ``gelu``,
    ``null``, ``[64, 512]``. ``data`` is left as it is.

    Raises:
        UsageError: a text that is malformed, or that reaches into something other than a mapping.
    """
    result = dict(data)
    for text in overrides:
        name, equals, value_text = text.partition("=")
        keys = name.strip().split(".")
        flag = f"--set {short(text)}"
        if not equals or not all(re.fullmatch(r"(?!__)[\w-]+", key, re.ASCII) for key in keys):
            raise UsageError("not of the form key=value", field=flag, hint="write, e.g., encoder.depth=3")
        value = _override_value(value_text, flag)
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


@dataclass(frozen=True)
class _Document:
    """One file's text, and the errors that point into it."""

    path: Path
    format: str
    text: str

    @classmethod
    def open(cls, path: Path, limit_bytes: int, format: str | None = None) -> _Document:
        """The decoded text of a regular file; kind and size are looked at before a byte is read."""
        if format is None and (format := FORMATS.get(path.suffix.lower())) is None:
            what = f"unknown suffix {short(path.suffix)}" if path.suffix else "no suffix"
            raise ConfigParseError(what, path=path, hint=ACCEPTED)
        return cls.decode(path, format, _read_regular(path, limit_bytes))

    @classmethod
    def decode(cls, path: Path, format: str, raw: bytes) -> _Document:
        """The text that ``raw`` is in UTF-8."""
        try:
            text = raw.decode("utf-8").removeprefix("\ufeff").replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            message = f"not UTF-8 at byte {error.start}"
            raise ConfigParseError(message, path=path, hint="save the file as UTF-8") from None
        document = cls(path, format, text)
        if not text.strip():
            raise document.error(ConfigParseError, "the file is empty", at=0, hint="write key-value pairs")
        if control := _CONTROL.search(text):
            message = f"control character U+{ord(control[0]):04X}"
            raise document.error(ConfigParseError, message, at=control.start(), hint="save the file as UTF-8")
        return document

    def parse(self) -> dict[str, Any]:
        """The mapping that the text holds."""
        try:
            parsers = {"yaml": self._parse_yaml, "toml": self._parse_toml, "json": self._parse_json}
            data = parsers[self.format]()
        except RecursionError:  # the depth of the text is bounded, so it is the caller's stack that is full
            message, hint = "nested too deeply for what is left of the stack", "flatten it"
            raise self.error(ConfigLimitError, message, hint=hint) from None
        if problem := not_plain(data):
            kind, key_path, message, hint = problem
            raise self.error(kind, message, key_path=key_path, hint=hint)
        if not isinstance(data, dict):
            message = f"object expected at the top level, got {type(data).__name__}"
            raise self.error(ConfigSchemaError, message, at=0, hint="write key-value pairs")
        return data

    @functools.cached_property
    def positions(self) -> dict[KeyPath, int]:
        """Offset in the text of every key and list item."""
        if self.format == "yaml":
            return read_yaml(self.text)[1]
        positions: dict[KeyPath, int] = {}
        for key_path, offset in (json_positions if self.format == "json" else toml_positions)(self.text):
            positions.setdefault(key_path, offset)
        return positions

    def line_column(self, offset: int) -> tuple[int, int]:
        """Line and column, both from 1, of an offset."""
        return self.text.count("\n", 0, offset) + 1, offset - self.text.rfind("\n", 0, offset)

    def error(
        self,
        kind: type[VedcoreError],
        message: str,
        *,
        at: int | tuple[int, int] | None = None,
        key_path: KeyPath = (),
        hint: str = "",
    ) -> VedcoreError:
        """An error that names this file, and where known the place: ``at``, or else that of ``key_path``."""
        if at is None and key_path:
            at = self.positions.get(key_path)
        place = self.line_column(at) if isinstance(at, int) else at
        where = f"line {place[0]}, column {place[1]}: " if place else ""
        return kind(where + message, path=self.path, field=dotted(key_path) or None, hint=hint)

    def _parse_json(self) -> Any:
        self._check_nesting()
        try:
            return json.loads(self.text, object_pairs_hook=unique_keys)
        except DuplicateKeyError:
            key_path, offset = first_duplicate(json_positions(self.text))
            message = f"duplicate key {short(key_path[-1])}"
            hint = "keep one of them"
            raise self.error(ConfigParseError, message, at=offset, key_path=key_path, hint=hint) from None
        except json.JSONDecodeError as error:
            raise self._syntax_error(error.msg, error.pos) from None
        except ValueError:  # int() refuses thousands of digits
            raise self.error(ConfigLimitError, TOO_LONG, hint="shorten it") from None

    def _parse_toml(self) -> Any:
        import tomllib

        self._check_nesting()
        try:
            return tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as error:
            message, _, place = str(error).rpartition(" (at ")
            numbers = [int(number) for number in re.findall(r"[0-9]+", place)]
            at = (numbers[0], numbers[1]) if len(numbers) == 2 else self.line_column(len(self.text))
            raise self._syntax_error(message, at) from None
        except ValueError:  # int() refuses thousands of digits
            raise self.error(ConfigLimitError, TOO_LONG, hint="shorten it") from None

    def _parse_yaml(self) -> Any:
        try:
            return read_yaml(self.text)[0]
        except YamlProblem as problem:
            if problem.hint:
                at, hint = problem.offset, problem.hint
                raise self.error(problem.kind, problem.message, at=at, hint=hint) from None
            raise self._syntax_error(problem.message, problem.offset) from None

    def _syntax_error(self, message: str, at: int | tuple[int, int] | None) -> VedcoreError:
        return self.error(ConfigParseError, message, at=at, hint=f"is it {self.format.upper()}? {ACCEPTED}")

    def _check_nesting(self) -> None:
        """A linear scan ahead of the parsers, which recurse."""
        offset = nesting_beyond(self.text, MAX_DEPTH, self.format)
        if offset is not None:
            raise self.error(ConfigLimitError, TOO_DEEP, at=offset, hint="flatten it")


def _read_regular(path: Path, limit_bytes: int) -> bytes:
    """The bytes of a regular file that is not too large."""
    with open_regular(path, ConfigParseError, "give the path of a configuration file that can be read") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= limit_bytes and len(raw := file.read(limit_bytes + 1)) <= limit_bytes:
            return raw
    message = f"{max(size, limit_bytes + 1):,} bytes or more, and a configuration file has at most {limit_bytes:,}"
    raise ConfigLimitError(message, path=path, hint="is it the right file?")


def _extended_path(document: _Document, value: object) -> Path:
    """The file that ``extends: value`` names, which lies in the folder of ``document`` or below."""
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
    """``over`` on top of ``base``: mappings key by key, anything else whole."""
    merged = dict(base)
    for key, value in over.items():
        below = base.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _present(data: Any, key_path: KeyPath) -> int:
    """How many leading keys of ``key_path`` are in ``data``."""
    for depth, key in enumerate(key_path):
        in_list = isinstance(data, list) and isinstance(key, int) and 0 <= key < len(data)
        if not in_list and not (isinstance(data, dict) and key in data):
            return depth
        data = data[key]
    return len(key_path)


def _override_value(text: str, flag: str) -> Any:
    """The value of one ``--set``, by the rules for YAML files."""
    try:
        value = read_yaml(text, flow_only=True)[0]
    except YamlProblem as problem:
        raise UsageError(problem.message, field=flag, hint=problem.hint or "quote the value") from None
    if found := not_plain(value):
        raise UsageError(found[2], field=flag, hint=found[3])
    return value
