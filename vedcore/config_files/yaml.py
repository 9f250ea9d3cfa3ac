"""YAML by the core schema of YAML 1.2, without tags, anchors, aliases and merge keys.

PyYAML follows YAML 1.1, where ``no`` is False, ``1e-4`` a string, ``010`` eight and ``12:30:00`` a number of
seconds. So only the events of its parser are used, and the values are built from them here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from vedcore.config_files.depth import nesting_beyond_limit
from vedcore.config_files.plain import MAX_DEPTH, TOO_DEEP, TOO_LONG, KeyPath, short
from vedcore.errors import ConfigError, ConfigLimitError, ConfigParseError

# Unquoted scalars by meaning; all others are strings.
_NULL = re.compile(r"^(?:|~|null|Null|NULL)$")
_BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
_INT = re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$")
_FLOAT = re.compile(
    r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)


class YamlProblem(Exception):
    """A problem in YAML text; ``hint`` is empty for plain syntax errors."""

    def __init__(self, kind: type[ConfigError], message: str, offset: int | None, hint: str = "") -> None:
        super().__init__(message)
        self.kind, self.message, self.offset, self.hint = kind, message, offset, hint


def read_yaml(text: str, *, flow_only: bool = False) -> tuple[Any, dict[KeyPath, int]]:
    """The value of the only document in ``text``, and the offset of every key and list item.

    Args:
        text: the YAML text.
        flow_only: refuse block collections and block scalars, which take several lines.

    Raises:
        YamlProblem: the text is not YAML, or uses a feature that is not allowed here.
    """
    import yaml

    reader = _Reader(text, flow_only)
    try:
        return reader.document(), reader.positions
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = error.problem or error.context or "not YAML"
        if "nesting depth" in message:  # libyaml's own limit, which its look-ahead reaches first
            raise YamlProblem(ConfigLimitError, TOO_DEEP, nesting_beyond_limit(text), "flatten it") from None
        raise YamlProblem(ConfigParseError, message, getattr(mark, "index", None)) from None
    except (yaml.YAMLError, UnicodeError, ValueError) as error:  # characters that YAML does not allow
        message = getattr(error, "reason", "") or "a character that YAML does not allow"
        raise YamlProblem(ConfigParseError, message, None) from None


class _Reader:
    """Builds values from parser events in one pass, so that depth and aliases are refused before they cost anything."""

    def __init__(self, text: str, flow_only: bool) -> None:
        import yaml

        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml, where PyYAML was built with it
        self.yaml = yaml
        self.events: Iterator[Any] = iter(yaml.parse(text, Loader=loader))
        self.flow_only = flow_only
        self.positions: dict[KeyPath, int] = {}

    def document(self) -> Any:
        yaml = self.yaml
        next(self.events)  # the start of the stream
        event = next(self.events)
        if isinstance(event, yaml.StreamEndEvent):
            if self.flow_only:
                raise self.problem(event, "no value", "quote it, or write null for no value")
            return None
        value = self.value(next(self.events), ())
        next(self.events)  # the end of the document
        event = next(self.events)
        if not isinstance(event, yaml.StreamEndEvent):
            raise self.problem(event, "a second YAML document", "keep one document in a file")
        return value

    def value(self, event: Any, path: KeyPath) -> Any:
        """The value that starts with ``event``, at ``path``."""
        self.refuse_extras(event)
        if isinstance(event, self.yaml.ScalarEvent):
            return self.plain_scalar(event) if event.implicit[0] else event.value
        if len(path) >= MAX_DEPTH:
            raise self.problem(event, TOO_DEEP, "flatten it", ConfigLimitError)
        return (self.mapping if isinstance(event, self.yaml.MappingStartEvent) else self.sequence)(path)

    def sequence(self, path: KeyPath) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self.events), self.yaml.SequenceEndEvent):
            item_path = (*path, len(items))
            self.positions[item_path] = event.start_mark.index
            items.append(self.value(event, item_path))
        return items

    def mapping(self, path: KeyPath) -> dict[str, Any]:
        data: dict[str, Any] = {}
        while not isinstance(event := next(self.events), self.yaml.MappingEndEvent):
            self.refuse_extras(event)
            offset = event.start_mark.index
            if not isinstance(event, self.yaml.ScalarEvent):
                raise self.problem(event, "a key that is a collection", "use a string as the key")
            key = self.plain_scalar(event) if event.implicit[0] else event.value
            if not isinstance(key, str):
                raise self.problem(event, f"key {short(event.value)} is not a string", "quote it")
            if key == "<<" and event.implicit[0]:
                raise self.problem(event, "merge keys not allowed", "write the keys out", ConfigLimitError)
            if key in data:
                raise self.problem(event, f"duplicate key {short(key)}", "keep one of them")
            key_path = (*path, key)
            self.positions[key_path] = offset
            data[key] = self.value(next(self.events), key_path)
        return data

    def refuse_extras(self, event: Any) -> None:
        if isinstance(event, self.yaml.AliasEvent) or event.anchor is not None:
            message = f"aliases not allowed ({short(event.anchor)})"
            raise self.problem(event, message, "write the value out", ConfigLimitError)
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!", 1)
            raise self.problem(event, f"tag {short(tag)} not allowed", "write the plain value without it")
        scalar = isinstance(event, self.yaml.ScalarEvent)
        if self.flow_only and (event.style in ("|", ">") if scalar else not event.flow_style):
            raise self.problem(event, "a value is one scalar, [list] or {mapping}", "quote it as a string")

    def plain_scalar(self, event: Any) -> str | int | float | bool | None:
        text: str = event.value
        if _NULL.match(text):
            return None
        if _BOOL.match(text):
            return text[0] in "tT"
        if _INT.match(text):
            try:
                return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
            except ValueError:
                raise self.problem(event, TOO_LONG, "shorten it", ConfigLimitError) from None
        if _FLOAT.match(text):
            return float(text.replace(".inf", "inf").replace(".nan", "nan") if text[-1] in "fn" else text)
        return text

    def problem(self, event: Any, message: str, hint: str, kind: type[ConfigError] = ConfigParseError) -> YamlProblem:
        return YamlProblem(kind, message, event.start_mark.index, hint)
