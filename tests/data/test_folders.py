"""Folders and tables of labelled images."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import vedcore
from tests.data.sources import lines, png, write
from vedcore.data import Data, open_data, split


def texts(data: Data) -> dict[str, str]:
    return {row.name: row.text for row in data}


def reasons(data: Data) -> dict[str, str]:
    """The line of each problem, and its reason without the hint."""
    return {problem.source.rpartition("/")[2]: problem.error.partition(";")[0] for problem in data.problems}


def test_metadata_as_imagefolder_has_it(tmp_path: Path) -> None:
    donut = {"file_name": "a.png", "ground_truth": json.dumps({"gt_parse": {"total": "1", "menu": ["tea", "cake"]}})}
    write(tmp_path / "fields", {"a.png": png(), "metadata.jsonl": lines([donut])})
    [row] = open_data(tmp_path / "fields")
    assert vedcore.fields.parse(row.text) == {"total": "1", "menu": ["tea", "cake"]}
    table = '\ufefffile_name,text\n"x/a.png","one, \n""two"""\n'
    write(tmp_path / "csv", {"x/a.png": png(), "metadata.csv": table})
    [row] = open_data(tmp_path / "csv")
    assert (row.name, row.text) == ("x/a.png", 'one, \n"two"')
    assert (row.image, row.source) == (f"{tmp_path}/csv/x/a.png", f"{tmp_path}/csv/metadata.csv:2")


def test_each_row_that_cannot_be_read_is_named_and_stops_nothing(tmp_path: Path) -> None:
    rows = [
        {"file_name": "a.png", "text": "null"},
        {"file_name": "a.png", "text": ""},
        {"file_name": "../out.png", "text": "x"},
        {"file_name": "/etc/passwd", "text": "x"},
        {"file_name": "link.png", "text": "x"},
        {"file_name": "gone.png", "text": "x"},
        {"file_name": "pipe.png", "text": "x"},
        {"file_name": "a.png", "text": 12},
        {"text": "x"},
        {"file_name": "a.png", "text": "y" * 10_000},
        {"file_name": "a\0.png", "text": "x"},
        {"file_name": "a.png", "text": "\ud800"},
    ]
    broken = b'{"file_name": "a.png", \n{"file_name": "a.png", "text": "\xe4"}\n[1]\n' + b"[" * 10_000 + b"\n"
    folder = write(tmp_path / "lines", {"a.png": png(), "metadata.jsonl": lines(rows).encode() + broken})
    write(tmp_path, {"out.png": png()})
    (folder / "link.png").symlink_to(tmp_path / "out.png")
    os.mkfifo(folder / "pipe.png")
    data = open_data(folder)
    assert [row.text[:5] for row in data] == ["null", "yyyyy"]
    assert reasons(data) == {
        "metadata.jsonl:2": "an empty label",
        "metadata.jsonl:3": "../out.png: leaves the folder",
        "metadata.jsonl:4": "/etc/passwd: leaves the folder",
        "metadata.jsonl:5": "link.png: leaves the folder",
        "metadata.jsonl:6": "gone.png: no such file",
        "metadata.jsonl:7": "pipe.png: not a regular file",
        "metadata.jsonl:8": "a label of type int, not text",
        "metadata.jsonl:9": "no 'file_name'",
        "metadata.jsonl:11": "a\\x00.png: not the name of a file",
        "metadata.jsonl:12": "a label that is not UTF-8",
        "metadata.jsonl:13": "not JSON: Expecting property name enclosed in double quotes at 23",
        "metadata.jsonl:14": "not UTF-8: byte 0xe4 at 33",
        "metadata.jsonl:15": "not an object",
        "metadata.jsonl:16": "not JSON that can be read: too long or too deep",
    }


def test_rows_of_csv_that_cannot_be_read(tmp_path: Path) -> None:
    table = b'path;caption\na.png;"b\nc"\na.png;"q"z\na.png;a;b\na.png;\xe4\na.png;d\na.png;"open\na.png;e'
    write(tmp_path, {"a.png": png(), "rows.csv": table})
    data = open_data(tmp_path / "rows.csv")
    assert [row.text for row in data] == ["b\nc", "d"]
    found = {problem.source.rpartition("/")[2]: problem.error for problem in data.problems}
    assert list(found) == ["rows.csv:4", "rows.csv:5", "rows.csv:6", "rows.csv:8"]
    assert found["rows.csv:4"].startswith("not CSV: ';' expected after '\"'")
    assert found["rows.csv:5"].startswith("3 fields, but 2 columns")
    assert found["rows.csv:6"].startswith("not UTF-8")
    assert found["rows.csv:8"].startswith("not CSV: unexpected end of data")


def test_pairs_of_images_and_texts(tmp_path: Path) -> None:
    files = {"a.png": png(), "a.gt.txt": "one\n", "b.bin.png": png(), "b.gt.txt": "two", "sub/c.PNG": png()}
    files |= {"sub/c.txt": "\ufeffüç", "d.png": png(), "e.gt.txt": "x", ".hidden.png": png(), "notes.txt": "x"}
    bad = {"f.png": png(), "f.gt.txt": "\n", "g.png": png(), "g.gt.txt": b"ok\n\xff"}
    data = open_data(write(tmp_path, files | bad))
    assert texts(data) == {"a.png": "one", "b.bin.png": "two", "sub/c.PNG": "üç"}
    assert reasons(data) == {
        "d.png": "no label beside it",
        "e.gt.txt": "no image beside it",
        "f.gt.txt": "an empty label",
        "g.gt.txt": "not UTF-8: byte 0xff in line 2",
    }


def test_splits_that_a_folder_has(tmp_path: Path) -> None:
    for name in ("train", "val", "test"):
        write(tmp_path / "folders" / name, {"a.png": png(), "a.gt.txt": name, "b.png": png(), "b.gt.txt": name})
    write(
        tmp_path / "tables",
        {"a.png": png(), "train.tsv": "image\tlabel\na.png\tone\n", "dev.csv": "image,label\na.png,two\n"},
    )
    write(
        tmp_path / "column",
        {"a.png": png(), "metadata.csv": "file_name,text,split\na.png,one,train\na.png,two,validation\n"},
    )
    for source, wanted in (("folders", (["train"] * 2, ["val"] * 2)), ("tables", (["one"], ["two"]))):
        train, validation = split(open_data(tmp_path / source), 0.5)
        assert ([row.text for row in train], [row.text for row in validation]) == wanted
    train, validation = split(open_data(tmp_path / "column"))
    assert (texts(train), texts(validation)) == ({"a.png": "one"}, {"a.png": "two"})
    assert [row.name for row in open_data(tmp_path / "folders").only("test")] == ["test/a.png", "test/b.png"]


def test_a_share_is_held_back_by_name_and_stays_held_back(tmp_path: Path) -> None:
    rows = [(f"{n}.png", "x") for n in range(500)]
    train, held = (set(texts(part)) for part in split(open_data(rows[:300]), 0.2))
    more_train, more_held = (set(texts(part)) for part in split(open_data(rows), 0.2))
    assert train <= more_train
    assert held <= more_held
    assert 60 < len(more_held) < 140
    assert more_held != set(texts(split(open_data(rows), 0.2, seed=1)[1]))
    for count in range(2, 12):
        few = split(open_data(rows[:count]), 0.05)
        assert all(len(part) > 0 for part in few)
    assert not split(open_data(rows), 0.0)[1]
    two_texts_of_an_image = split(open_data([*rows, ("0.png", "y")]), 0.2)
    assert set(texts(two_texts_of_an_image[0])).isdisjoint(texts(two_texts_of_an_image[1]))


def test_problems_are_those_of_the_whole_source(tmp_path: Path) -> None:
    data = open_data([("a.png", "x"), ("b.png", "y"), ("c.png", "")])
    train, validation = split(data)
    train.report(vedcore.data.Problem("a.png", "rows[0]", "no image"))
    assert [problem.name for problem in data.problems] == ["c.png", "a.png"] == [p.name for p in validation.problems]


def test_another_source_has_another_fingerprint(tmp_path: Path) -> None:
    one = open_data([("a.png", "x"), ("b.png", "y")]).fingerprint()
    assert one == open_data([("a.png", "x"), ("b.png", "y")]).fingerprint()
    assert one != open_data([("a.png", "x"), ("b.png", "yy")]).fingerprint()
    assert one != open_data([("b.png", "y"), ("a.png", "x")]).fingerprint()


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_a_file_in_utf_16_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path, {name: "file_name,text\n".encode("utf-16")})
    with pytest.raises(vedcore.DataError, match="UTF-16, not UTF-8"):
        open_data(tmp_path / name)
