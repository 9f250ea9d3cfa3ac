"""Batches: the same for any number of workers, resumable at each, equally many for each process."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vedcore
from tests.data.sources import labelled, png, shards
from tests.model.tiny import tiny
from vedcore.data import Data, Loaded, Loader, open_data, plan
from vedcore.data.decoding import Decoder, Job

Source = Callable[[], Data]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny("bert", tokenizer="char", token_ids=None, decoder_vocab_size=98)


@pytest.fixture(params=["rows", "stream"])
def source(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """Twelve rows, of which one cannot be decoded, with blocks of two batches."""
    monkeypatch.setattr(plan, "WINDOW", 2)
    if request.param == "stream":
        pattern = shards(tmp_path, 3, 4)
        return lambda: open_data(pattern)
    folder = labelled(tmp_path, 12)
    (folder / "3.png").write_bytes(b"<svg></svg>")
    return lambda: open_data(folder)


def same(one: list[Loaded], other: list[Loaded]) -> None:
    assert [loaded.names for loaded in one] == [loaded.names for loaded in other]
    assert [loaded.state for loaded in one] == [loaded.state for loaded in other]
    for a, b in zip(one, other, strict=True):
        assert a.inputs.keys() == b.inputs.keys()
        assert all(torch.equal(a.inputs[name], b.inputs[name]) for name in a.inputs)


def test_workers_change_nothing_and_each_batch_resumes(source: Source, model: Any) -> None:
    options: dict[str, Any] = {"augment": "line", "seed": 5, "max_label_length": 6}
    loader = Loader(source(), model.processor, 3, **options)
    batches = list(loader.epoch(2))
    assert sorted(name for loaded in batches for name in loaded.names) == sorted(row.name for row in readable(source()))
    others = Loader(source(), model.processor, 3, workers=2, **options)
    same(batches, list(others.epoch(2)))
    assert (others.cut, others.data.problems) == (loader.cut, loader.data.problems)
    for number, loaded in enumerate(batches, 1):
        state = json.loads(json.dumps(loaded.state))
        same(batches[number:], list(Loader(source(), model.processor, 3, **options).epoch(2, state)))
    half = others.epoch(2)
    next(half)
    half.close()
    same(batches[2:], list(others.epoch(2, batches[1].state)))
    assert [loaded.names for loaded in loader.epoch(3)] != [loaded.names for loaded in batches]


def readable(data: Data) -> list[vedcore.data.Row]:
    return [row for row in data if isinstance(row.image, bytes) or not row.name.startswith("3.")]


def test_labels_end_and_are_masked_behind_the_end(model: Any) -> None:
    rows = [(png(), text) for text in ("a", "abc", "a" * 10_000)]
    loader = Loader(open_data(rows), model.processor, 3, shuffle=False, max_label_length=6)
    [loaded] = loader.epoch()
    [eos] = model.token_ids.eos
    a, b, c = model.processor.tokenizer.encode("abc").ids
    assert loaded.inputs.labels.tolist() == [
        [a, eos, -100, -100, -100, -100],
        [a, b, c, eos, -100, -100],
        [a, a, a, a, a, eos],
    ]
    assert (loaded.cut, loader.cut, loaded.texts[1], loaded.sources[1]) == (1, 1, "abc", "rows[1]")
    [whole] = Loader(open_data(rows), model.processor, 3, shuffle=False).epoch()
    assert whole.inputs.labels.shape == (3, model.processor.model_max_length)


def test_processes_get_other_rows_and_equally_many_batches(source: Source, model: Any) -> None:
    each = [Loader(source(), model.processor, 2, rank=rank, world_size=4) for rank in range(4)]
    batches = [list(loader.epoch(1)) for loader in each]
    assert len({len(of_rank) for of_rank in batches}) == 1
    names = {name for of_rank in batches for loaded in of_rank for name in loaded.names}
    assert names == {row.name for row in readable(source())}
    if not each[0].data.is_stream:
        assert len(each[0]) == len(batches[0]) == 2


def test_labels_of_like_lengths_and_images_of_like_shapes_come_together() -> None:
    draw = np.random.default_rng(0)
    lengths = draw.integers(1, 100, 1000)
    rows = [(Image.new("L", (int(n), 4)), "a" * int(n)) for n in lengths]
    for by_label, varies in ((True, False), (True, True), (False, True), (False, False)):
        options: dict[str, Any] = {"bucket": True, "by_label": by_label, "varies": varies, "rank": 0, "world_size": 1}
        jobs = list(plan.Plan(open_data(rows), 8, 0, **options))
        assert sorted(row for job in jobs for row in job.rows) == list(range(1000))
        spread = [max(lengths[job.rows]) - min(lengths[job.rows]) for job in jobs]
        assert bool(sum(spread) / len(spread) < 12) is (by_label or varies)
        first = [lengths[job.rows[0]] for job in jobs]
        assert first != sorted(first)


def test_images_that_cannot_be_decoded_are_counted_and_named(model: Any) -> None:
    jpeg = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(jpeg, "JPEG")
    large = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(large, "PNG")
    bad = {
        "empty": b"",
        "text": b"hello",
        "svg": b"<svg></svg>",
        "html": b"<!doctype html><html></html>",
        "cut jpeg": jpeg.getvalue()[:400],
        "cut png": png()[:100],
        "large": large.getvalue(),
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0",
        "psd": b"8BPS\0\1",
        "fits": b"SIMPLE  =                    T",
        "jpeg 2000": b"\0\0\0\x0cjP  \r\n\x87\n",
        "pdf": b"%PDF-1.4 broken",
        "nan": np.full((4, 4), np.nan),
        "int64": np.full((4, 4), 1000),
        "rank": np.zeros((2, 4, 4, 3), np.uint8),
        "no pixels": np.zeros((0, 4), np.uint8),
        "gone": "gone.png",
    }
    good = {mode: Image.new(mode, (4, 4)) for mode in ("L", "LA", "P", "I;16", "F", "CMYK", "1", "RGBA")}
    good |= {"CHW": np.zeros((3, 4, 4), np.uint8), "HWC": np.zeros((4, 4, 3), np.float32)}
    data = open_data([vedcore.data.Row(name, image, "a", name) for name, image in (bad | good).items()])
    loader = Loader(data, model.processor, 4)
    for _ in range(2):
        trained = [name for loaded in loader.epoch() for name in loaded.names]
        assert set(trained) == set(good)
    assert sorted(problem.name for problem in data.problems) == sorted(bad)
    assert all("0x7f" not in problem.error and len(problem.error) <= 300 for problem in data.problems)


def test_a_batch_of_which_nothing_can_be_decoded(model: Any) -> None:
    rows = [(b"x", "a")] * 5 + [(png(), "a")]
    evaluated = Loader(open_data(rows), model.processor, 2, shuffle=False)
    assert [loaded.names for loaded in evaluated.epoch()] == [("row-5",)]
    trained = Loader(open_data(rows), model.processor, 1)
    assert [loaded.names for loaded in trained.epoch()] == [("row-5",)] * 6
    for workers in (0, 1):
        hopeless = Loader(open_data(rows[:5]), model.processor, 2, workers=workers)
        with pytest.raises(vedcore.DataError, match="none of 5 rows can be decoded; the first: row"):
            next(hopeless.epoch())


def test_a_process_that_starts_anew_decodes_the_same_without_the_weights(tmp_path: Path) -> None:
    """With an encoder that prepares images of several sizes itself."""
    processor = vedcore.load("printed-line").processor
    decoder = Decoder(open_data(labelled(tmp_path, 4)), processor, 30, "line", 0, "warn", None)
    job = Job([0, 1, 2, 3], None, 0, {})
    sent = pickle.dumps(decoder)
    one, other = decoder[job], pickle.loads(sent)[job]
    assert isinstance(one, Loaded)
    assert "encoder_attention_mask" in one.inputs
    same([one], [other])
    assert processor.encoder is not None
    assert len(sent) < sum(p.nbytes for p in processor.encoder.parameters()) / 4
    assert not any(p.is_meta for p in processor.encoder.parameters())
