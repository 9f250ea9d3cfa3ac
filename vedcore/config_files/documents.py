"""One configuration file in one of three formats: its data, and errors with line and column."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from vedcore.config_files.depth import nesting_beyond_limit
from vedcore.config_files.plain import (
    TOO_DEEP,
    TOO_LONG,
    DuplicateKeyError,
    KeyPath,
    dotted,
    not_plain,
    short,
    unique_keys,
)
from vedcore.config_files.yaml import YamlProblem, read_yaml
from vedcore.errors import ConfigLimitError, ConfigParseError, ConfigSchemaError, VedcoreError
from vedcore.files import open_regular

MAX_BYTES = 1_000_000
FORMATS = {".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json"}
SUFFIX_HINT = f"accepted suffixes are {', '.join(FORMATS)}"

# Control characters that none of the three formats allows unescaped.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")


def open_document(path: Path) -> Document:
    """The document in a regular file; suffix, kind and size are checked before a byte is read."""
    if (format := FORMATS.get(path.suffix.lower())) is None:
        what = f"unknown suffix {short(path.suffix)}" if path.suffix else "no suffix"
        raise ConfigParseError(what, path=path, hint=SUFFIX_HINT)
    with open_regular(path, ConfigParseError, "give the path of a readable configuration file") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= MAX_BYTES and len(raw := file.read(MAX_BYTES + 1)) <= MAX_BYTES:
            return Document(path, format, raw, chosen=True)
    message = f"{max(size, MAX_BYTES + 1):,} bytes or more, and a configuration file has at most {MAX_BYTES:,}"
    raise ConfigLimitError(message, path=path, hint="is it the right file?")


def parse_json(raw: bytes, path: str | os.PathLike[str]) -> dict[str, Any]:
    """The object in the bytes of a JSON file.

    Args:
        raw: the bytes.
        path: name of the file in messages.

    Raises:
        ConfigParseError: not UTF-8, or not JSON.
        ConfigSchemaError: the top level is not an object, or a value is not plain data.
        ConfigLimitError: more than 64 levels, or a number with thousands of digits.
    """
    return Document(Path(path), "json", raw).data


class Document:
    """A parsed configuration file.

    Args:
        path: the file.
        format: ``"yaml"``, ``"toml"`` or ``"json"``.
        raw: its bytes.
        chosen: whether the user chose the format, by the suffix.

    Attributes:
        path: the file.
        data: its top-level mapping.
    """

    def __init__(self, path: Path, format: str, raw: bytes, *, chosen: bool = False) -> None:
        self.path = path
        self._format, self._chosen = format, chosen
        self._text = self._decoded(raw)
        self._positions: dict[KeyPath, int] = {}  # offsets of keys and list items; empty but for YAML
        self.data = self._parsed()

    def line(self, key_path: KeyPath) -> int | None:
        """The line, from 1, of the key at ``key_path``; None in JSON and TOML."""
        offset = self._positions.get(key_path)
        return None if offset is None else self._line_column(offset)[0]

    def error(
        self,
        kind: type[VedcoreError],
        message: str,
        *,
        at: int | tuple[int, int] | None = None,
        key_path: KeyPath = (),
        hint: str = "",
    ) -> VedcoreError:
        """An error that names this file, the key, and line and column where they are known.

        Args:
            kind: type of the error.
            message: the problem.
            at: offset in the text, or line and column from 1; None takes the position of ``key_path``, if known.
            key_path: the key concerned.
            hint: the next step.
        """
        if at is None:
            at = self._positions.get(key_path)
        position = self._line_column(at) if isinstance(at, int) else at
        where = f"line {position[0]}, column {position[1]}: " if position else ""
        return kind(where + message, path=self.path, field=dotted(key_path) or None, hint=hint)

    def _decoded(self, raw: bytes) -> str:
        try:
            return raw.decode("utf-8").removeprefix("\ufeff").replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            message = f"not UTF-8 at byte {error.start}"
            raise ConfigParseError(message, path=self.path, hint="save the file as UTF-8") from None

    def _parsed(self) -> dict[str, Any]:
        if not self._text.strip():
            raise self.error(ConfigParseError, "the file is empty", at=0, hint="write key-value pairs")
        if control := _CONTROL.search(self._text):
            message = f"control character U+{ord(control[0]):04X}"
            raise self.error(ConfigParseError, message, at=control.start(), hint="save the file as UTF-8")
        try:
            data = {"yaml": self._yaml, "toml": self._toml, "json": self._json}[self._format]()
        except RecursionError:  # the text is within the depth limit, so the caller's stack is nearly full
            message, hint = "nested too deeply for the rest of the stack", "flatten it"
            raise self.error(ConfigLimitError, message, hint=hint) from None
        if problem := not_plain(data):
            kind, key_path, message, hint = problem
            raise self.error(kind, message, key_path=key_path, hint=hint)
        if not isinstance(data, dict):
            message = f"object expected at the top level, got {type(data).__name__}"
            raise self.error(ConfigSchemaError, message, hint="write key-value pairs")
        return data

    def _json(self) -> Any:
        self._check_nesting()
        try:
            return json.loads(self._text, object_pairs_hook=unique_keys)
        except DuplicateKeyError as error:
            raise self.error(ConfigParseError, str(error), hint="keep one of them") from None
        except json.JSONDecodeError as error:
            raise self._syntax_error(error.msg, (error.lineno, error.colno)) from None
        except ValueError:  # int() refuses thousands of digits
            raise self.error(ConfigLimitError, TOO_LONG, hint="shorten it") from None

    def _toml(self) -> Any:
        import tomllib

        self._check_nesting()
        try:
            return tomllib.loads(self._text)
        except tomllib.TOMLDecodeError as error:  # the position is in its text: "(at line 2, column 5)"
            message, _, position = str(error).rpartition(" (at ")
            numbers = [int(number) for number in re.findall(r"[0-9]+", position)]
            at = (numbers[0], numbers[1]) if len(numbers) == 2 else len(self._text)
            raise self._syntax_error(message, at) from None
        except ValueError:  # int() refuses thousands of digits
            raise self.error(ConfigLimitError, TOO_LONG, hint="shorten it") from None

    def _yaml(self) -> Any:
        try:
            data, self._positions = read_yaml(self._text)
        except YamlProblem as problem:
            if problem.hint:
                at, hint = problem.offset, problem.hint
                raise self.error(problem.kind, problem.message, at=at, hint=hint) from None
            raise self._syntax_error(problem.message, problem.offset) from None
        return data

    def _syntax_error(self, message: str, at: int | tuple[int, int] | None) -> VedcoreError:
        name = self._format.upper()
        hint = f"is it {name}? {SUFFIX_HINT}" if self._chosen else f"is it {name}?"
        return self.error(ConfigParseError, message, at=at, hint=hint)

    def _check_nesting(self) -> None:
        offset = nesting_beyond_limit(self._text)
        if offset is not None:
            raise self.error(ConfigLimitError, TOO_DEEP, at=offset, hint="flatten it")

    def _line_column(self, offset: int) -> tuple[int, int]:
        """Line and column, both from 1."""
        return self._text.count("\n", 0, offset) + 1, offset - self._text.rfind("\n", 0, offset)
