"""Tar shards and iterable datasets, which resume where they stopped."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.data.sources import add_members, png, shards
from vedcore.data import Data, open_data, split


def resumes(data: Data) -> None:
    """Behind each row, the stream goes on with the rows that come there."""
    rows = list(data.stream())
    assert len(rows) > 3
    for number, (_, place) in enumerate(rows, 1):
        again = data.stream(json.loads(json.dumps(place)))
        assert [row.text for row, _ in again] == [row.text for row, _ in rows[number:]], place


def test_shards(tmp_path: Path) -> None:
    data = open_data(shards(tmp_path))
    assert data.is_stream
    assert [(row.name, row.text) for row in data] == [(f"{n}", f"text {n}") for n in range(12)]
    assert [row.text for row in open_data(tmp_path)] == [row.text for row in data]
    resumes(data)
    train, held = split(data, 0.3)
    assert sorted([*(row.name for row in train), *(row.name for row in held)]) == sorted(row.name for row in data)
    resumes(open_data([f"{tmp_path}/00.tar", f"{tmp_path}/01.tar"]))
    shuffled = [row.name for row, _ in data.events(None, "a")]
    assert sorted(shuffled, key=int) == [row.name for row in data] != shuffled


def test_samples_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    several = json.dumps({"gt_parses": [{"a": "1"}, {"a": "2"}, {"a": "3"}]}).encode()
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        add_members(archive, {"a/1.jpg": png(), "a/1.json": b'{"caption": "one"}', "a/1.cls": b"7"})
        add_members(archive, {"2.png": png(), "3.txt": b"x", "4.png": png(), "4.txt": b"\xff", "5.png": png()})
        add_members(archive, {"5.json": b"[1]", "6.png": png(), "6.jpg": png(), "6.txt": b"x", "../7.png": png()})
        add_members(archive, {"../7.gt.txt": b"seven\n", "8.png": png(), "8.json": several})
    (tmp_path / "1.tar").write_bytes((tmp_path / "0.tar").read_bytes()[:5000])
    data = open_data(f"{tmp_path}/{{0..1}}.tar")
    tags = [f"<s_a>{n}</s_a>" for n in (1, 2, 3)]
    assert [row.text for row in data] == ["one", "seven", *tags, "one"]
    reasons = {f"{p.source}"[len(f"{tmp_path}/") :]: p.error.partition(";")[0] for p in data.problems}
    assert reasons == {
        "0.tar:2": "no label among its members png",
        "0.tar:3": "0 images among its members txt",
        "0.tar:4": "txt is not UTF-8",
        "0.tar:5": "json is not an object",
        "0.tar:6": "2 images among its members png, jpg, txt",
        "1.tar:2": "no label among its members png",
        f"1.tar:{tmp_path}/1.tar": "the rest of the shard cannot be read: unexpected end of data",
    }
    resumes(data)


class Endless:
    """An iterable without a length or a state, that is started anew."""

    def __iter__(self) -> Iterator[Any]:
        return iter([(png(str(n)), f"text {n}") if n != 2 else (None, "x") for n in range(6)])


def test_an_iterable_is_read_again_up_to_the_place() -> None:
    data = open_data(Endless())
    assert [row.text for row in data] == [f"text {n}" for n in (0, 1, 3, 4, 5)]
    assert [problem.error.partition(";")[0] for problem in data.problems] == ["no image"]
    resumes(data)


def test_an_iterable_of_datasets_resumes_by_its_own_state() -> None:
    datasets = pytest.importorskip("datasets")
    columns = {"image": [{"bytes": png(str(n)), "path": None} for n in range(8)], "text": [f"{n}" for n in range(8)]}
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    data = open_data(datasets.Dataset.from_dict(columns, features).to_iterable_dataset(num_shards=2))
    assert [row.image for row in data] == [image["bytes"] for image in columns["image"]]
    assert [row.text for row in data] == [row.text for row in data]
    resumes(data)
