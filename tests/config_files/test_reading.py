"""Good configuration text comes in unchanged, with the line of each key, and runs nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.config_files.conftest import FORMATS, refusal, written
from tests.config_text import config_text
from vedcore.config_files import parse_json, read_config_text
from vedcore.errors import CheckpointUnsafeError, ConfigLimitError, ConfigParseError


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


# Files and lines of keys

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
    with pytest.raises(ConfigParseError, match=r"a\.yaml -> b\.yaml -> a\.yaml"):
        read_config_text(first)
    with pytest.raises(ConfigParseError, match=r"s\.yaml -> s\.yaml"):
        read_config_text(written(tmp_path, "s.yaml", "extends: s.yaml"))
    for n in range(1000):
        written(tmp_path, f"c{n}.yaml", f"extends: c{n + 1}.yaml\nk{n}: 1")
    written(tmp_path, "c1000.yaml", "a: 1")
    with pytest.raises(ConfigLimitError, match="more than 16"):
        read_config_text(tmp_path / "c0.yaml")
    assert len(read_config_text(tmp_path / "c984.yaml").data) == 17
    with pytest.raises(ConfigParseError, match="no such file"):
        read_config_text(written(tmp_path, "d.yaml", "extends: none.yaml"))


def test_errors_in_an_extended_file_name_that_file(tmp_path: Path) -> None:
    base = written(tmp_path, "base.yaml", "a: [")
    with pytest.raises(ConfigParseError) as caught:
        read_config_text(written(tmp_path, "a.yaml", "extends: base.yaml"))
    assert caught.value.path == str(base)


# JSON that was read already


def test_parse_json() -> None:
    assert parse_json(b'{"extends": "../x", "a": 1}', "model.index") == {"extends": "../x", "a": 1}
    refusal(
        Path("b.json"), ConfigParseError, "duplicate key 'a'", read=lambda path: parse_json(b'{"a": 1, "a": 2}', path)
    )


# Round trips

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
        for key, value in data.items():  # each key is found, however it was written
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
