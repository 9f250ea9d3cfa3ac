"""Hints about labelled images and batches of them."""

from __future__ import annotations

import gc
import io
import json
import multiprocessing
import re
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data.sources import add_members, labelled, lines, png, shards, write
from tests.hints.templates import HOLE, told
from tests.model.tiny import tiny
from vedcore.data import DataConfig, Loader, archives, examine, folders, keep_states, open_data, split
from vedcore.data.encoder_states import EncoderStates

PAIR = {"a.png": png(), "a.gt.txt": "a"}


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny("bert", tokenizer="char", token_ids=None, decoder_vocab_size=98)


def noted(template: str, source: Any, **options: Any) -> None:
    """One of the rows of a source that cannot be read has the hint of a template."""
    problems = open_data(source, **options)
    list(problems)
    pattern = ".*; " + ".*".join(map(re.escape, template.split(HOLE)))
    assert any(re.fullmatch(pattern, p.error, re.DOTALL) for p in problems.problems), problems.problems


def read(source: Any, **options: Any) -> list[str]:
    """The texts of a source without problems."""
    data = open_data(source, **options)
    texts = [row.text for row in data]
    assert not data.problems
    return texts


# -- sources --------------------------------------------------------------------------------------------------------


def test_sources_of_other_kinds(tmp_path: Path) -> None:
    write(tmp_path, {**PAIR, "rows.xlsx": "x", "rows.jsonl": lines([{"file_name": "a.png", "text": "a"}])})
    told("give {…}", open_data, tmp_path / "rows.xlsx")
    told("give {…}", open_data, tmp_path / "none")
    assert read(tmp_path / "rows.jsonl") == ["a"]
    told("give {…}, a list of pairs, or a dataset", open_data, 5)
    told("give an object whose __iter__ starts anew, or a list", open_data, iter([]))
    told("give pairs (image, text), or mappings of image and text", open_data, np.zeros((2, 2)))
    noted("give pairs (image, text), or mappings of image and text", [("a.png", "a"), 5])
    told("give a source with an image and its text, one or more", open_data, [])
    assert read([("a.png", "a"), {"image": "a.png", "text": "a"}]) == ["a", "a"]


def test_streams(tmp_path: Path) -> None:
    pattern = shards(tmp_path, 1)
    told("give streams alone, or other sources alone", open_data, [pattern, str(labelled(tmp_path / "x"))])
    assert len(read([pattern, pattern])) == 8
    told("iterate over it instead", len, open_data(pattern))
    assert len(list(open_data(pattern))) == 4
    told("give a pattern such as data/{000..010}.tar", open_data, f"{tmp_path}/none*.tar")
    told("count fewer of them, or give a list of patterns", open_data, f"{tmp_path}/{{0..100000}}.tar")
    assert len(read(f"{tmp_path}/{{00..00}}.tar")) == 4
    told("give a file that can be read", open_data, f"{tmp_path}/{{00..01}}.tar")
    (tmp_path / "bad.tar").write_bytes(b"x")
    told("it is damaged or truncated: copy it again", open_data, tmp_path / "bad.tar")


def test_splits_that_are_streams() -> None:
    class Anew:
        def __iter__(self) -> Any:
            return iter([("a.png", "a")])

    splits = {"train": Anew(), "test": Anew()}
    told("give one: source[{…}]", open_data, splits)
    assert read(splits["train"]) == ["a"]


def test_samples_of_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def shard(**members: bytes) -> str:
        with tarfile.open(tmp_path / "0.tar", "w") as archive:
            add_members(archive, {"1.png": png(), "1.txt": b"one"})
            add_members(archive, {"2." + end: content for end, content in members.items()})
        return str(tmp_path / "0.tar")

    noted("give each key one image, or name its end: image_column='jpg'", shard(png=png(), jpg=png(), txt=b"x"))
    noted(
        "give each key one image, or name its end: image_column='jpg'", shard(jpg=png(), txt=b"x"), image_column="jpg"
    )
    noted("add a member key.txt or key.json", shard(png=png()))
    noted("save it as UTF-8", shard(png=png(), txt=b"\xff"))
    noted("write one object", shard(png=png(), json=b"{"))
    noted("write one object", shard(png=png(), json=b"1"))
    assert read(shard(png=png(), json=b'{"text": "two"}')) == ["one", "two"]
    path = Path(shard(png=png() * 9))
    path.write_bytes(path.read_bytes()[:3000])
    noted("it is damaged or truncated: copy it again", str(path))
    monkeypatch.setattr(archives, "MAX_LABEL_BYTES", 3)
    noted("make it smaller", shard(png=png(), txt=b"four"))
    assert read(shard(png=png(), txt=b"two")) == ["one", "two"]


def test_columns(tmp_path: Path) -> None:
    row = {"image": "a.png", "caption": "a", "transcription": "b", "n": 1}
    told("choose one: {…}={…}", open_data, [row])
    assert read([row], text_column="transcription") == ["b"]
    told("did you mean {…}?", open_data, [row], text_column="captoin")
    told("there are: {…}", open_data, [row], text_column="zzz")
    told("name it: {…}='…'; usual are {…}", open_data, [{"photo": "a.png", "text": "a"}])
    assert read([{"photo": "a.png", "text": "a"}], image_column="photo") == ["a"]


def test_labels() -> None:
    good = ("a.png", "a")
    noted("write one, or leave the row out", [good, ("a.png", "")])
    noted("write it in quotes", [good, ("a.png", 12)])
    noted("save it as UTF-8", [good, ("a.png", "\ud800")])
    noted("give one, or leave the row out", [good, (None, "a")])
    noted("give each row the same keys", [{"image": "a.png", "text": "a"}, {"image": "a.png"}])
    assert read([good, ("a.png", "12"), ("a.png", {"total": "12"})])[1:] == ["12", "<s_total>12</s_total>"]


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told("give the one that has the images and their texts", open_data, write(tmp_path / "none", {"notes.md": "x"}))
    unlabelled = write(tmp_path / "images", {"a.png": png()})
    told("write the text of x.png into x.gt.txt, or list all in metadata.jsonl", open_data, unlabelled)
    assert read(write(unlabelled, {"a.gt.txt": "a"})) == ["a"]
    table = "file_name,text\na.png,a\n"
    two = write(tmp_path / "two", {"a.png": png(), "metadata.csv": table, "metadata.tsv": "x"})
    told("keep one of them", open_data, two)
    (two / "metadata.tsv").unlink()
    assert read(two) == ["a"]
    several = write(tmp_path / "tables", {"a.png": png(), "one.csv": table, "two.csv": table})
    told("give one: {…}", open_data, several)
    assert read(several / "one.csv") == ["a"]
    noted("write one into {…}.gt.txt, or leave the image out", write(tmp_path / "pairs", {**PAIR, "b.png": png()}))
    noted("give one that is read: {…}", write(tmp_path / "pairs", {"c.gt.txt": "c"}))
    noted("save it as UTF-8", write(tmp_path / "pairs", {"b.gt.txt": b"\xff"}))
    assert read(write(tmp_path / "pairs", {"b.gt.txt": "b", "c.png": png()})) == ["a", "b", "c"]
    monkeypatch.setattr(folders, "MAX_LABEL_BYTES", 3)
    noted("shorten it", write(tmp_path / "pairs", {"d.gt.txt": "four", "d.png": png()}))
    noted("move the image into the folder", linked(tmp_path / "pairs", "b.gt.txt", tmp_path / "images/a.gt.txt"))


def linked(folder: Path, name: str, target: Path) -> Path:
    (folder / name).unlink()
    (folder / name).symlink_to(target)
    return folder


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {**PAIR, "sub/b.png": png(), "sub/b.gt.txt": "b"})
    real: Callable[..., Any] = folders.os.scandir

    def refusing(path: Any) -> Any:
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(folders.os, "scandir", refusing)
    noted("give a folder that can be read", tmp_path)
    told("give a folder that can be read", open_data, tmp_path / "sub")
    monkeypatch.undo()
    assert read(tmp_path) == ["a", "b"]


def test_tables(tmp_path: Path) -> None:
    good = json.dumps({"file_name": "a.png", "text": "a"})

    def table(line: str | bytes, name: str = "rows.jsonl") -> Path:
        head = good if name.endswith("jsonl") else "file_name,text\na.png,a"
        end = line if isinstance(line, bytes) else line.encode()
        return write(tmp_path, {"a.png": png(), name: head.encode() + b"\n" + end}) / name

    def named(name: Any) -> Path:
        return table(json.dumps({"file_name": name, "text": "a"}))

    noted("write one: {…}", table("[1]"))
    noted("write one object a line", table("{"))
    noted("write one object a line", table("1" * 9000))
    noted("save it as UTF-8", table(b'{"\xff"'))
    noted("give each row the same keys", table('{"text": "a"}'))
    noted("count pages from 1", table(json.dumps({"file_name": "a.png", "text": "a", "page": 0})))
    assert read(table(json.dumps({"file_name": "a.png", "text": "b", "page": 1}))) == ["a", "b"]
    noted("correct the name, or leave the row out", named("none.png"))
    noted("give its path, relative to the folder", named(5))
    noted("move the image into the folder", named("../a.png"))
    (tmp_path / "b.png").mkdir()
    noted("give a file", named("b.png"))
    noted('put a quote within quotes twice: ""', table('a.png,"a"b', "rows.csv"))
    noted("put a text with {…} in quotes", table("a.png,a,b", "rows.csv"))
    noted("save it as UTF-8", table(b"a.png,\xff", "rows.csv"))
    assert read(table('a.png,"a, ""b"""', "rows.csv")) == ["a", 'a, "b"']
    told("save it as UTF-8", open_data, write(tmp_path, {"w.csv": "a".encode("utf-16")}) / "w.csv")
    (tmp_path / "c.csv").mkdir()
    told("give the one that has the images and their texts", open_data, tmp_path / "c.csv")
    (tmp_path / "d.csv").symlink_to("/dev/null")
    told("give a file that can be read", open_data, tmp_path / "d.csv")


def test_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"image": [png()] * 3, "text": ["a"] * 3}), path)
    assert read(path) == ["a"] * 3
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    told("it is damaged or truncated: copy it again", open_data, path)
    path.write_bytes(b"PAR1" + b"\xff" * 300 + whole[304:])
    damaged = open_data(path)
    list(damaged)
    assert all("it is damaged or truncated: copy it again" in problem.error for problem in damaged.problems)
    assert damaged.problems
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    told('pip install "vedcore[{…}]"', open_data, path)


class Failing:
    """A dataset whose second row fails."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, number: int) -> Any:
        if number:
            raise OSError("no connection")
        return Image.new("L", (4, 4)), "a"


def test_datasets() -> None:
    noted("correct the dataset, or leave the row out", Failing())


# -- splits ---------------------------------------------------------------------------------------------------------


def test_splits(tmp_path: Path) -> None:
    data = open_data(
        [{"image": "a.png", "text": "a", "split": "train"}, {"image": "b.png", "text": "a", "split": "dev"}]
    )
    told("0.1 holds back a tenth", split, data, 1.5)
    assert [len(part) for part in split(data, 0.1)] == [1, 1]
    told("there are: {…}", data.only, "test")
    assert len(data.only("validation")) == 1
    told("leave the split out: this source has none", open_data([("a.png", "a")]).only, "test")


# -- batches --------------------------------------------------------------------------------------------------------


def test_arguments_of_a_loader(model: Any) -> None:
    data, processor = open_data([(png(), "a")]), model.processor
    told("give {…}", Loader, data, processor, 0)
    told("give {…}", Loader, data, processor, 1, workers=-1)
    told("give 0 to {…}", Loader, data, processor, 1, rank=2, world_size=2)
    told("give {…}, or leave it out", Loader, data, processor, 1, max_label_length=31)
    told("give 2 or more", Loader, data, processor, 1, max_label_length=1)
    for right in ({"rank": 1, "world_size": 2}, {"max_label_length": 30}, {"max_label_length": 2}, {}):
        assert len(list(Loader(data, processor, 1, **right).epoch())) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # torch's, when it ends the workers
def test_a_worker_that_is_killed(model: Any) -> None:
    data = open_data([(png(), "a")] * 99)
    before = multiprocessing.active_children()
    batches = Loader(data, model.processor, 1, workers=1).epoch()
    next(batches)
    for worker in set(multiprocessing.active_children()).difference(before):
        worker.kill()
    told("give workers=0, or free memory: it may have run out", list, batches)
    del batches
    gc.collect()
    assert len(list(Loader(data, model.processor, 1, workers=0).epoch())) == 99


def test_kept_states(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_data(labelled(tmp_path / "data", 2))
    told("freeze it: model.freeze('encoder'), or leave data.cache_encoder out", keep_states, model, data, tmp_path)
    model.freeze("encoder")
    hint = "give data.augment='none', or leave data.cache_encoder out"
    told(hint, keep_states, model, data, tmp_path / "states", augment=DataConfig(augment="line").augment)
    states = EncoderStates(tmp_path / "states", model)
    told("keep them again: vedcore.data.keep_states", states.load, data.rows[0])
    states = keep_states(model, data, tmp_path / "states")
    assert states.load(data.rows[0])[0].ndim == 2
    told("leave states out", Loader, data, model.processor, 2, augment="line", states=states)
    assert len(list(Loader(data, model.processor, 2, augment="line").epoch())) == 1
    write(tmp_path, {"file": "x"})
    hint = "free space, or leave data.cache_encoder out"
    told(hint, keep_states, model, data, tmp_path / "file")
    [wrong] = open_data([(5, "a")])
    told("give a path, bytes, a Pillow image, an array or a tensor", states.path, wrong)
    (tmp_path / "data/1.png").unlink()
    told("give a file that can be read", states.path, data.rows[1])
    with io.BytesIO(png()) as file:
        [closed] = open_data([(Image.open(file), "a")])
    told("load it before its file is closed", states.path, closed)


# -- examinations ---------------------------------------------------------------------------------------------------


def test_what_is_examined(model: Any, tmp_path: Path) -> None:
    folder = labelled(tmp_path)
    told("give what vedcore.compose or vedcore.load gave", examine, model.encoder, folder)
    told("name a folder of labelled images", examine, model)
    told("give 1 or more", examine, model, folder, max_rows=0)
    told("give 1 or more", examine, model, folder, overfit=-1)
    assert not examine(model, folder, max_rows=1).findings
