"""Bad configuration text is refused by name and place; good text comes in unchanged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.config_text import config_text
from vedcore.config_files import apply_overrides, parse_json, read_config_text
from vedcore.errors import (
    CheckpointUnsafeError,
    ConfigError,
    ConfigLimitError,
    ConfigParseError,
    ConfigSchemaError,
    UsageError,
    VedcoreError,
)

FORMATS = ["yaml", "toml", "json"]


@pytest.fixture(params=["libyaml", "pure Python"])
def each_yaml_parser(request, monkeypatch):
    """Both of PyYAML's parsers: a build without libyaml has only the second."""
    if request.param == "pure Python":
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    elif not hasattr(yaml, "CSafeLoader"):
        pytest.skip("PyYAML was built without libyaml")


def refusal(path: Path, kind: type[VedcoreError], *parts: str, read: Any = read_config_text) -> VedcoreError:
    """The error of reading ``path``: of that class, one short line that names the file and each of ``parts``."""
    start = time.monotonic()
    with pytest.raises(kind) as caught:
        read(path)
    assert time.monotonic() - start < 20
    message = str(caught.value)
    assert type(caught.value) is kind
    assert caught.value.path == str(path)
    assert len(message) <= 300
    assert message.isprintable()
    for part in parts:
        assert part in message
    assert caught.value.hint
    return caught.value


def written(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def laughs() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    return "\n".join(lines)


P, S, L = ConfigParseError, ConfigSchemaError, ConfigLimitError
BAD_TEXT = {
    # 1: empty, cut
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
    # 3: encodings
    "utf-16": ("a.json", '{"a": 1}'.encode("utf-16"), P, "not UTF-8 at byte 0"),
    "utf-16 without mark": ("a.yaml", "a: 1".encode("utf-16-le"), P, "line 1, column 2", "U+0000"),
    "latin-1": ("a.yaml", "a: caf\xe9\n".encode("latin-1"), P, "not UTF-8 at byte 6"),
    "escape raw": ("a.toml", 'a = "\x1b[31m"', P, "line 1, column 6", "U+001B"),
    "c1 control": ("a.yaml", "a: \x82", P),
    # 4: top level
    "list": ("a.json", "[1]", S, "object expected", "list"),
    "null": ("a.json", "null", S, "object expected"),
    "number": ("a.yaml", "3", S, "object expected", "int"),
    "string": ("a.yaml", '"x"', S, "object expected", "str"),
    "only a comment": ("a.yaml", "# nothing\n", S, "object expected"),
    # 5: duplicates
    "duplicate json": ("a.json", '{"x": {"a": 1,\n"a": 2}}', P, "duplicate key 'a'"),
    "duplicate json, escaped": ("a.json", '{"a": 1, "\\u0061": 2}', P, "duplicate key 'a'"),
    "duplicate yaml": ("a.yaml", "x:\n  a: 1\n  a: 2\n", P, "line 3, column 3", "duplicate key 'a'"),
    "duplicate toml": ("a.toml", "a = 1\na = 2\n", P, "line 2"),
    "duplicate long": ("a.yaml", f"{'k' * 1000}: 1\n{'k' * 1000}: 1\n", P, "line "),
    # 7: depth
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
    "open quotes": ("a.json", '"\\' * 499_999, P),
    "open toml quotes": ("a.toml", "a = " + '"""' + '\\"' * 499_000, P),
    # 9: tags
    "python tag": ("a.yaml", "a: !!python/object/apply:os.mkdir [MARK]", P, "line 1, column 4", "python/object/apply"),
    "js tag": ("a.yaml", "a: !!js/x y", P, "'!!js/x'"),
    "include": ("a.yaml", "a: !include b.yaml", P, "'!include'"),
    "tagged key": ("a.yaml", "!!str a: 1", P, "'!!str'"),
    "binary": ("a.yaml", "a: !!binary aGVsbG8=", P, "'!!binary'"),
    # 10: aliases
    "laughs": ("a.yaml", laughs(), L, "aliases not allowed"),
    "self": ("a.yaml", "a: &a [*a]", L, "aliases not allowed", "line 1, column 4"),
    "alias alone": ("a.yaml", "a: *b", L, "aliases not allowed"),
    "merge": ("a.yaml", "a:\n  <<: {b: 1}\n", L, "merge keys not allowed", "line 2, column 3"),
    # 12: size
    "big json": ("a.json", b" " * 1_000_001, L, "1,000,001", "1,000,000"),
    "big yaml": ("a.yaml", "".join(f"k{n:06d}: {n:08d}\n" for n in range(60_000)), L, "1,000,000"),
    # 13: suffixes
    "yaml in toml": ("a.toml", "a: 1\n", P, "line 1", "accepted suffixes are .yaml, .yml, .toml, .json"),
    "cfg": ("a.cfg", "a = 1", P, "accepted suffixes", "'.cfg'"),
    "no suffix": ("a", "a: 1", P, "accepted suffixes", "no suffix"),
    # what YAML and JSON have and plain data has not
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
    # 26: hostile strings stay escaped
    "hostile key": ("a.json", '{"\\u001b[31m\\u202e\\n\\u0000": NaN}', S, "\\x1b[31m", "\\u202e"),
    "hostile tag": ("a.yaml", "a: !<%1B[31m%E2%80%AE> b", P, "tag"),
    # 27: extends that is not a name
    "extends number": ("a.yaml", "b: 1\nextends: 3\n", S, "line 2, column 1", "name of a file"),
    "extends list": ("a.json", '{"extends": ["b.json"]}', S, "name of a file"),
}


@pytest.mark.usefixtures("each_yaml_parser")
@pytest.mark.parametrize("case", BAD_TEXT)
def test_bad_text(case: str, tmp_path: Path) -> None:
    name, text, kind, *parts = BAD_TEXT[case]
    refusal(written(tmp_path, name, text), kind, *parts)


def test_what_is_not_a_readable_file(tmp_path: Path) -> None:
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
            except RecursionError:  # ours were wrapped up to here; now not even the call fits
                break


def nested(levels: int) -> dict[str, Any]:
    data: dict[str, Any] = {"leaf": 1}
    for _ in range(levels - 1):
        data = {"a": data}
    return data


@pytest.mark.parametrize("format", FORMATS)
def test_depth_limit_is_64_exactly(format: str, tmp_path: Path) -> None:
    name = f"a.{format}"
    assert read_config_text(written(tmp_path, name, config_text(nested(64), format))).data == nested(64)
    refusal(written(tmp_path, name, config_text(nested(65), format)), L, "64 levels")


@pytest.mark.usefixtures("each_yaml_parser")
def test_yaml_scalars_are_those_of_yaml_1_2(tmp_path: Path) -> None:
    text = """
        lr: 1e-4
        also: [1., .5, -2.5E+3, 6.02e23, +1]
        words: [no, off, yes, on, y, n, 12:30:00, 2024-01-01, 1_000, "true", '1', 0b1, =, "<<"]
        bools: [true, False, TRUE]
        nulls: [~, null, ]
        empty:
        ints: [010, 0o17, 0x1F, -3, 123456789012345678901234567890]
        text: |
          two
          lines
    """
    data = read_config_text(written(tmp_path, "a.yml", textwrap.dedent(text))).data
    assert data == {
        "lr": 0.0001,
        "also": [1.0, 0.5, -2500.0, 6.02e23, 1],
        "words": ["no", "off", "yes", "on", "y", "n", "12:30:00", "2024-01-01", "1_000", "true", "1", "0b1", "=", "<<"],
        "bools": [True, False, True],
        "nulls": [None, None],
        "empty": None,
        "ints": [10, 15, 31, -3, 123456789012345678901234567890],
        "text": "two\nlines\n",
    }
    assert [type(x) for x in data["also"]] == [float, float, float, float, int]


@pytest.mark.parametrize("text", ["\ufeffa: 1\n", "a: 1\r\n", "%YAML 1.2\n---\na: 1\n...\n"])
def test_byte_order_mark_and_line_ends(text: str, tmp_path: Path) -> None:
    assert read_config_text(written(tmp_path, "a.YAML", text)).data == {"a": 1}


# Where things stand

WHERE = {
    "yaml": """
        # "encoder": not here
        "encoder":
          name: swin
          sizes: [64,
            512]
        decoder: {name: "a: b", layers: [{x: 1},
                                         {x: 2}]}
    """,
    "json": """
        {
        "encoder": {
        "name": "sw\\"in, {",
        "sizes": [64,
        512]},
        "decoder": {"name": "\\\\", "layers": [ {"x": 1},
        {"x": 2}]}}
    """,
    "toml": """
        # [encoder] not here
        [encoder]
        name = "swin # no"
        sizes = [64,   # a comment ]
          512]
        decoder = {name = 'a.b', layers = [{x = 1}, {x = 2.5}], when = "0"}
    """,
}


@pytest.mark.usefixtures("each_yaml_parser")
@pytest.mark.parametrize("format", FORMATS)
def test_where(format: str, tmp_path: Path) -> None:
    path = written(tmp_path, f"a.{format}", textwrap.dedent(WHERE[format]))
    source = read_config_text(path)
    decoder = ("encoder", "decoder") if format == "toml" else ("decoder",)
    second = 7 if format == "toml" else 8
    expected = {
        ("encoder",): 3,
        ("encoder", "name"): 4,
        ("encoder", "sizes"): 5,
        ("encoder", "sizes", 0): 5,
        ("encoder", "sizes", 1): 6,
        (*decoder, "layers", 0, "x"): 7,
        (*decoder, "layers", 1): second,
        (*decoder, "layers", 1, "x"): second,
        ("encoder", "hiden_size"): 3,  # not there: where its parent is
        (*decoder, "layers", 2, "x"): 7,
    }
    for key, line in expected.items():
        assert source.where(key) == (path, line if format == "yaml" else None)  # other parsers tell no lines
    assert source.where(("nope",)) is None
    assert source.where(()) is None


# extends


def test_extends_merges_and_where_names_the_right_file(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    base = written(
        tmp_path / "sub", "base.json", '{"encoder": {"name": "vit",\n"size": 1},\n"l": [1, 2], "only": {"x": 1}}'
    )
    middle = written(tmp_path, "middle.toml", 'extends = "sub/base.json"\nonly = 3\n[encoder]\nsize = 2\n')
    top = written(tmp_path, "top.yaml", "encoder:\n  depth: 3\nl: [9]\nextends: middle.toml\n")
    source = read_config_text(top)
    assert source.data == {"encoder": {"name": "vit", "size": 2, "depth": 3}, "l": [9], "only": 3}
    assert source.path == top
    assert source.where(("encoder",)) == (top, 1)
    assert source.where(("encoder", "name")) == (base, None)
    assert source.where(("encoder", "size")) == (middle, None)
    assert source.where(("l", 0)) == (top, 3)
    assert source.where(("l", 1)) == (top, 3)
    assert source.where(("only", "x")) == (middle, None)
    assert source.where(("extends",)) is None


@pytest.mark.parametrize(
    "target",
    [
        "../../etc/passwd",
        "../b.yaml",
        "/etc/passwd",
        "sub/../b.yaml",
        "C:\\x.yaml",
        "\\\\h\\s.yaml",
        "..\\b.yaml",
        "out.yaml",
        "a\\0b.yaml",
    ],
)
def test_extends_stays_in_its_folder(target: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    written(tmp_path, "b.yaml", "a: 1")
    (folder / "out.yaml").symlink_to(tmp_path / "b.yaml")
    text = json.dumps({"extends": target.replace("\\0", "\0")})
    refusal(written(folder, "a.json", text), CheckpointUnsafeError, "extends")


def test_extends_cycle_and_chain(tmp_path: Path) -> None:
    first = written(tmp_path, "a.yaml", "extends: b.yaml")
    written(tmp_path, "b.yaml", "extends: a.yaml")
    with pytest.raises(P, match=r"a\.yaml -> b\.yaml -> a\.yaml"):
        read_config_text(first)
    with pytest.raises(P, match=r"s\.yaml -> s\.yaml"):
        read_config_text(written(tmp_path, "s.yaml", "extends: s.yaml"))
    for n in range(1000):
        written(tmp_path, f"c{n}.yaml", f"extends: c{n + 1}.yaml\nk{n}: 1")
    written(tmp_path, "c1000.yaml", "a: 1")
    with pytest.raises(L, match="more than 16"):
        read_config_text(tmp_path / "c0.yaml")
    assert len(read_config_text(tmp_path / "c984.yaml").data) == 17
    with pytest.raises(P, match="no such file"):
        read_config_text(written(tmp_path, "d.yaml", "extends: none.yaml"))


def test_errors_in_an_extended_file_name_that_file(tmp_path: Path) -> None:
    base = written(tmp_path, "base.yaml", "a: [")
    with pytest.raises(P) as caught:
        read_config_text(written(tmp_path, "a.yaml", "extends: base.yaml"))
    assert caught.value.path == str(base)


# JSON that was read already


def test_parse_json() -> None:
    assert parse_json(b'{"extends": "../x", "a": 1}', "model.index") == {"extends": "../x", "a": 1}
    refusal(Path("b.json"), P, "duplicate key 'a'", read=lambda path: parse_json(b'{"a": 1, "a": 2}', path))


# Overrides


def test_overrides() -> None:
    data = {"encoder": {"name": "vit", "sizes": [1]}, "seed": 1}
    before = json.dumps(data)
    changes = ["encoder.hidden_size=32", "encoder.name = swin", "decoder.lr=1e-4", "size=[64, 512]", "x.y.z={a: no}"]
    changes += ["seed=null", "eq=a=b", "id=hub:me/x", "quoted='1'", "seed=2"]
    assert apply_overrides(data, changes) == {
        "encoder": {"name": "swin", "sizes": [1], "hidden_size": 32},
        "decoder": {"lr": 1e-4},
        "size": [64, 512],
        "x": {"y": {"z": {"a": "no"}}},
        "eq": "a=b",
        "id": "hub:me/x",
        "quoted": "1",
        "seed": 2,
    }
    assert json.dumps(data) == before


@pytest.mark.usefixtures("each_yaml_parser")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "=1",
        ".a=1",
        "a.=1",
        "a..b=1",
        "__class__=x",
        "a.__init__.b=x",
        "a b=1",
        "é=1",
        "a=",
        "a= # no",
        "a=[1",
        "a=*x",
        "a=1\n---\n2",
        "a=&x 1",
        "a=!!python/name:os.system",
        "a=b: c",
        "a=- b",
        "a=|\n b",
        "a=.inf",
        "a={1: 2}",
        "seed.x=1",
        "a=" + "[" * 10_000,
        "a=" + "9" * 5000,
        "a=\udcff",
        "a=\x1b[31m",
        "k" * 10_000,
        "a={b: 1, b: 2}",
        "a=%x",
    ],
)
def test_bad_overrides(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        apply_overrides({"seed": 1}, [text])
    message = str(caught.value)
    assert message.startswith("--set ")
    assert repr(text)[1:3].strip("'") in message
    assert len(message) <= 300
    assert message.isprintable()


# Whatever can be written, read back

NOT_NULL = (
    st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.sampled_from(
        ["no", "1e-4", "0o17", "~", "", "null", "1:30", "2024-01-01", "<<", "=", "- a", "a: b", "a #b", ".inf"]
    )
)
SCALARS = st.none() | NOT_NULL
KEYS = st.text() | st.sampled_from(["a", "b", "no", "1", "<<", "x.y", "1e-4", "k" * 200])


def trees(scalars: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    inner = st.recursive(
        scalars, lambda s: st.lists(s, max_size=4) | st.dictionaries(KEYS, s, max_size=4), max_leaves=12
    )
    return st.dictionaries(KEYS, inner, max_size=5).filter(lambda data: "extends" not in data)


def same(left: Any, right: Any) -> bool:
    """Equal with equal types and signs of zero, which ``==`` does not look at."""
    return left == right and repr_sorted(left) == repr_sorted(right)


def repr_sorted(value: Any) -> str:
    if isinstance(value, dict):
        return repr(sorted((key, repr_sorted(item)) for key, item in value.items()))
    return repr([repr_sorted(item) for item in value]) if isinstance(value, list) else repr(value)


@pytest.mark.parametrize("format", FORMATS)
def test_round_trip(format: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{format}"

    @settings(deadline=None, max_examples=150, database=None)
    @given(trees(NOT_NULL if format == "toml" else SCALARS))
    @example({"a": {}, "b": [], "c": [{}], "d": [[], {"e": {"f": "\x7f\x85\u2028\ufeff\0\x1b"}}], "": {"": "\r\n\t "}})
    @example({"t": {"x": 1, "u": {"y": -0.0}}, "s": 1e300, "i": 2**70, "long": "word " * 100, "nl": "a\n\n b\n"})
    def round_trip(data: dict[str, Any]) -> None:
        path.write_bytes(config_text(data, format).encode())
        source = read_config_text(path)
        assert same(source.data, data)
        for key, value in data.items():  # every key has a place, however it was written
            assert source.where((key,)) is not None
            if isinstance(value, list) and value:
                assert source.where((key, len(value) - 1)) is not None

    round_trip()


def test_every_key_of_yaml_has_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"

    def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        return [found for key, item in items for found in [(*at, key), *paths(item, (*at, key))]]

    @settings(deadline=None, max_examples=100, database=None)
    @given(trees(NOT_NULL))
    def positions(data: dict[str, Any]) -> None:
        path.write_bytes(config_text(data, "yaml").encode())
        source = read_config_text(path)
        assert None not in {(source.where(key) or (path, None))[1] for key in paths(data)}

    positions()


@settings(deadline=None, max_examples=300, database=None)
@given(st.text() | st.binary(), st.sampled_from(FORMATS))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str | bytes, format: str) -> None:
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    path = written(tmp_path_factory.getbasetemp(), f"any.{format}", raw)
    try:
        assert isinstance(read_config_text(path).data, dict)
    except ConfigError:
        pass


# Nothing is executed

AUDIT = """
import os, sys, yaml, tomllib, subprocess, importlib
from vedcore.config_files import apply_overrides, read_config_text
from vedcore.errors import VedcoreError
folder = sys.argv[1]
def read(name):
    try:
        read_config_text(os.path.join(folder, name))
    except VedcoreError:
        return
    raise SystemExit(name + " was read")
names = sorted(os.listdir(folder))
apply_overrides({}, ["a=1"])
read(names[0])
seen = []
sys.addaudithook(lambda event, args: seen.append((event, args)))
for name in names:
    read(name)
try:
    apply_overrides({}, ["a=!!python/object/apply:os.mkdir [MARK]"])
except VedcoreError:
    pass
bad = [event for event, args in seen
       if event in ("import", "exec", "compile", "os.mkdir", "os.system", "os.exec", "os.posix_spawn")
       or event.startswith(("socket.", "subprocess.")) 
       or event == "open" and not (isinstance(args[0], int) or str(args[0]).startswith(folder))]
print(len(names), bad)
"""


def test_tags_run_nothing(tmp_path: Path) -> None:
    tags = [
        "!!python/object/apply:os.mkdir [MARK]",
        "!!python/object/new:os.system [touch MARK]",
        "!!python/name:os.system",
        "!!python/module:antigravity",
        "!!python/object:subprocess.Popen {args: [touch, MARK]}",
        "!<tag:yaml.org,2002:python/object/apply:os.mkdir> [MARK]",
        "!include /etc/passwd",
    ]
    folder = tmp_path / "in"
    folder.mkdir()
    for n, tag in enumerate(tags):
        written(folder, f"{n}.yaml", f"a: {tag}\n")
        written(folder, f"{n}k.yaml", f"? {tag}\n: 1\n")
    done = subprocess.run(
        [sys.executable, "-c", AUDIT, str(folder)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.strip() == f"{2 * len(tags)} []", done.stderr
    assert os.listdir(tmp_path) == ["in"]


def test_importing_is_light() -> None:
    code = "import sys, vedcore.config_files\nprint({'yaml', 'tomllib', 'torch'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"
