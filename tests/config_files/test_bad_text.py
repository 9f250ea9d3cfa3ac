"""Bad configuration text is refused by file, line and key, at a cost that grows no faster than the text."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.config_files.conftest import FORMATS, nested, refusal, written
from tests.config_text import config_text
from tests.counting import steps
from vedcore.config_files import read_config_text
from vedcore.errors import ConfigError, ConfigLimitError, ConfigParseError, ConfigSchemaError


def laughs() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    return "\n".join(lines)


P, S, L = ConfigParseError, ConfigSchemaError, ConfigLimitError
BAD_TEXT = {
    # empty, cut
    "empty json": ("a.json", "", P, "line 1, column 1", "empty"),
    "empty yaml": ("a.yaml", "", P, "line 1, column 1", "empty"),
    "empty toml": ("a.toml", " \n", P, "line 1, column 1", "empty"),
    "brace json": ("a.json", "{", P, "line 1, column 2"),
    "cut json": ("a.json", '{"a": 1,\n "b": [1, 2', P, "line 2, column 12"),
    "cut yaml": ("a.yaml", "a: 1\nb: [1, 2", P, "line 2, column "),
    "cut toml": ("a.toml", 'a = 1\nb = "x', P, "line 2, column 7"),
    "cut toml array": ("a.toml", "a = 1\nb = [1,\n2", P, "line 3, column 2"),
    "toml in the middle, crlf": ("a.toml", "a = 1\r\nb = = 2\r\n", P, "line 2, column 5"),
    "tab in yaml": ("a.yaml", "a:\n\tb: 1\n", P, "line 2, column 1"),
    # encodings
    "utf-16": ("a.json", '{"a": 1}'.encode("utf-16"), P, "not UTF-8 at byte 0"),
    "utf-16 without mark": ("a.yaml", "a: 1".encode("utf-16-le"), P, "line 1, column 2", "U+0000"),
    "latin-1": ("a.yaml", "a: caf\xe9\n".encode("latin-1"), P, "not UTF-8 at byte 6"),
    "escape raw": ("a.toml", 'a = "\x1b[31m"', P, "line 1, column 6", "U+001B"),
    "c1 control": ("a.yaml", "a: \x82", P),
    # top level
    "list": ("a.json", "[1]", S, "object expected", "list"),
    "null": ("a.json", "null", S, "object expected"),
    "number": ("a.yaml", "3", S, "object expected", "int"),
    "string": ("a.yaml", '"x"', S, "object expected", "str"),
    "only a comment": ("a.yaml", "# nothing\n", S, "object expected"),
    # duplicates
    "duplicate json": ("a.json", '{"x": {"a": 1,\n"a": 2}}', P, "duplicate key 'a'"),
    "duplicate json, escaped": ("a.json", '{"a": 1, "\\u0061": 2}', P, "duplicate key 'a'"),
    "duplicate yaml": ("a.yaml", "x:\n  a: 1\n  a: 2\n", P, "line 3, column 3", "duplicate key 'a'"),
    "duplicate toml": ("a.toml", "a = 1\na = 2\n", P, "line 2"),
    "duplicate long": ("a.yaml", f"{'k' * 1000}: 1\n{'k' * 1000}: 1\n", P, "line "),
    # depth
    "deep json": ("a.json", '{"a":' * 10**5, L, "64 levels", "line 1, column 321"),
    "deep json lists": ("a.json", "[" * 10**6, L, "64 levels", "line 1, column 65"),
    "deep yaml": ("a.yaml", "[" * 20000, L, "64 levels", "line 1, column 65"),
    "deep yaml flow map": ("a.yaml", "{a: " * 20000, L, "64 levels"),
    "deep yaml block": ("a.yaml", "- " * 20000, L, "64 levels", "line 1, column 129"),
    "deep yaml indents": ("a.yaml", "".join(" " * n + "a:\n" for n in range(1000)), L, "64 levels", "line 65"),
    "deep toml": ("a.toml", "a = " + "[" * 5000, L, "64 levels", "line 1, column 69"),
    "deep toml inline": ("a.toml", "a = " + "{a = " * 5000, L, "64 levels"),
    "deep toml dotted": ("a.toml", "a." * 400_000 + "a = 1", L, "64 levels"),
    "deep toml quoted": ("a.toml", '["a"' + ' . "a"' * 100_000 + "]", L, "64 levels"),
    # a scan that goes back over what it has read would not end on these
    "open quotes": ("a.json", '"\\' * 499_999, P),
    "open toml quotes": ("a.toml", "a = " + '"""' + '\\"' * 499_000, P),
    # tags
    "python tag": ("a.yaml", "a: !!python/object/apply:os.mkdir [MARK]", P, "line 1, column 4", "python/object/apply"),
    "js tag": ("a.yaml", "a: !!js/x y", P, "'!!js/x'"),
    "include": ("a.yaml", "a: !include b.yaml", P, "'!include'"),
    "tagged key": ("a.yaml", "!!str a: 1", P, "'!!str'"),
    "binary": ("a.yaml", "a: !!binary aGVsbG8=", P, "'!!binary'"),
    # aliases
    "laughs": ("a.yaml", laughs(), L, "aliases not allowed"),
    "self": ("a.yaml", "a: &a [*a]", L, "aliases not allowed", "line 1, column 4"),
    "alias alone": ("a.yaml", "a: *b", L, "aliases not allowed"),
    "merge": ("a.yaml", "a:\n  <<: {b: 1}\n", L, "merge keys not allowed", "line 2, column 3"),
    # size
    "big json": ("a.json", b" " * 1_000_001, L, "1,000,001", "1,000,000"),
    "big yaml": ("a.yaml", "".join(f"k{n:06d}: {n:08d}\n" for n in range(60_000)), L, "1,000,000"),
    # suffixes
    "yaml in toml": ("a.toml", "a: 1\n", P, "line 1", "accepted suffixes are .yaml, .yml, .toml, .json"),
    "cfg": ("a.cfg", "a = 1", P, "accepted suffixes", "'.cfg'"),
    "no suffix": ("a", "a: 1", P, "accepted suffixes", "no suffix"),
    # valid YAML or JSON that is not plain data
    "two documents": ("a.yaml", "a: 1\n---\nb: 1\n", P, "second YAML document", "line 2, column 1"),
    "int key": ("a.yaml", "0: cat\n", P, "key '0' is not a string", "line 1, column 1"),
    "null key": ("a.yaml", "a: {~: cat}\n", P, "not a string"),
    "list key": ("a.yaml", "? [a]\n: 1\n", P, "collection"),
    "nan": ("a.json", '{"a": [0,\n NaN]}', S, "a.1", "nan"),
    "infinity": ("a.json", '{"a": -Infinity}', S, "a: ", "-inf"),
    "overflow": ("a.json", '{"a": 1e999}', S, "inf"),
    "yaml inf": ("a.yaml", "a: {b: .inf}", S, "a.b", "line 1, column 5", "inf"),
    "toml nan": ("a.toml", "[a]\nb = nan", S, "a.b", "nan"),
    "toml date": ("a.toml", "a = 2024-01-01", S, "a: ", "quoted string"),
    "long int json": ("a.json", '{"a": ' + "9" * 5000 + "}", L, "digits"),
    "long int yaml": ("a.yaml", "a: " + "9" * 5000, L, "digits", "line 1, column 4"),
    "long int toml": ("a.toml", "a = " + "9" * 5000, L, "digits"),
    "long int hex": ("a.toml", "a = 0x" + "f" * 5000, L, "digits"),
    "surrogate": ("a.json", '{"a": "\\ud800"}', S, "a: ", "surrogate"),
    "surrogate key": ("a.json", '{"a": {"\\ud800": 1}}', S, "a: ", "surrogate"),
    # hostile strings stay escaped
    "hostile key": ("a.json", '{"\\u001b[31m\\u202e\\n\\u0000": NaN}', S, "\\x1b[31m", "\\u202e"),
    "hostile tag": ("a.yaml", "a: !<%1B[31m%E2%80%AE> b", P, "tag"),
    # extends that is not a name
    "extends number": ("a.yaml", "b: 1\nextends: 3\n", S, "line 2, column 1", "name of a file"),
    "extends list": ("a.json", '{"extends": ["b.json"]}', S, "name of a file"),
}


@pytest.mark.usefixtures("each_yaml_parser")
@pytest.mark.parametrize("case", BAD_TEXT)
def test_bad_text(case: str, tmp_path: Path) -> None:
    name, text, kind, *parts = BAD_TEXT[case]
    refusal(written(tmp_path, name, text), kind, *parts)


def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    refusal(tmp_path / "none.yaml", P, "no such file")
    refusal(tmp_path / "a\0b.yaml", P)
    refusal(tmp_path / ("x" * 300 + ".yaml"), P)
    refusal(written(tmp_path, "f.yaml", "a: 1") / "b.yaml", P)
    (tmp_path / "folder.yaml").mkdir()
    refusal(tmp_path / "folder.yaml", P, "folder")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.json")
        refusal(tmp_path / "pipe.json", P, "not a regular file")
        (tmp_path / "zero.toml").symlink_to("/dev/zero")
        refusal(tmp_path / "zero.toml", P, "not a regular file")
        (tmp_path / "loop.yaml").symlink_to("loop.yaml")
        refusal(tmp_path / "loop.yaml", P)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_unreadable(tmp_path: Path) -> None:
    path = written(tmp_path, "a.yaml", "a: 1")
    path.chmod(0)
    refusal(path, P, "permission denied")


def test_hostile_path_is_escaped(tmp_path: Path) -> None:
    with pytest.raises(P) as caught:
        read_config_text(tmp_path / "a\x1b[31m\u202e\nb.yaml")
    assert str(caught.value).isprintable()


def test_near_the_recursion_limit(tmp_path: Path) -> None:
    paths = [written(tmp_path, f"a.{format}", config_text(nested(60), format)) for format in FORMATS]

    def deeper(left: int, path: Path) -> None:
        if left:
            return deeper(left - 1, path)
        read_config_text(path)

    for path in paths:
        for left in range(sys.getrecursionlimit() - 400, sys.getrecursionlimit(), 10):
            try:
                deeper(left, path)
            except ConfigLimitError:
                break
            except RecursionError:  # the stack is too full even for the call
                break


@pytest.mark.parametrize("format", FORMATS)
def test_depth_limit_is_64_exactly(format: str, tmp_path: Path) -> None:
    name = f"a.{format}"
    assert read_config_text(written(tmp_path, name, config_text(nested(64), format))).data == nested(64)
    refusal(written(tmp_path, name, config_text(nested(65), format)), L, "64 levels")


LONG_TEXT: dict[str, tuple[str, Callable[[int], str]]] = {
    "json": ("a.json", lambda n: '{"a": [' + ", ".join(['{"b": "\\"[", "c": [1.5]}'] * n) + "]}"),
    "json, cut": ("a.json", lambda n: '{"a": [' + '["x"], ' * n),
    "json, open quotes": ("a.json", lambda n: '"\\' * n),
    "toml": ("a.toml", lambda n: "".join(f'k{i}.b.c = "# [\\" {{" # [\n' for i in range(n))),
    "toml, open quotes": ("a.toml", lambda n: 'a = """' + '\\"' * n),
    "yaml": ("a.yaml", lambda n: "".join(f"k{i}: [a, {{b: 'it''s'}}]\n" for i in range(n))),
    "yaml, a key twice": ("a.yaml", lambda n: "".join(f"k{i}:\n  - a\n" for i in range(n)) + "k0: 1\n"),
}


@pytest.mark.usefixtures("each_yaml_parser")
@pytest.mark.parametrize("case", LONG_TEXT)
def test_the_cost_grows_no_faster_than_the_text(case: str, tmp_path: Path) -> None:
    name, text = LONG_TEXT[case]

    def read(length: int) -> int:
        path = written(tmp_path, name, text(length))

        def attempt() -> None:
            try:
                read_config_text(path)
            except ConfigError:
                pass

        return steps(attempt)

    read(1)  # imports
    assert read(400) < 2.2 * read(200)


@settings(deadline=None, max_examples=300, database=None)
@given(st.text() | st.binary(), st.sampled_from(FORMATS))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str | bytes, format: str) -> None:
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    path = written(tmp_path_factory.getbasetemp(), f"any.{format}", raw)
    try:
        assert isinstance(read_config_text(path).data, dict)
    except ConfigError:
        pass
