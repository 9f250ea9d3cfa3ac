"""Lists, mapping-style datasets and parquet files."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vedcore
from tests.data.sources import png
from tests.model.tiny import tiny
from vedcore.data import Loader, open_data, split


def test_lists(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 4))
    rows = [{"image": image, "caption": "one"}, {"image": tmp_path / "a.png", "caption": "two"}]
    data = open_data([*rows, {"image": None, "caption": "x"}, {"image": image}, 5])
    assert [(row.name, row.text) for row in data] == [("row-0", "one"), (f"{tmp_path}/a.png", "two")]
    assert [problem.error.partition(";")[0] for problem in data.problems] == [
        "no image",
        "no 'caption'",
        "int is not an image and its text",
    ]
    assert [row.text for row in open_data([(np.zeros((4, 4), np.uint8), "a"), ["b.png", "b"]])] == ["a", "b"]


class Drawn:
    """A dataset of torch's kind, one row of which fails."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, number: int) -> dict[str, Any]:
        if number == 1:
            raise RuntimeError("no connection")
        return {"image": Image.new("RGB", (4, 4)), "text": f"{number}" if number < 3 else ""}


def test_a_dataset_of_torch_is_read_row_by_row() -> None:
    data = open_data(Drawn())
    assert len(data) == 4
    assert [row.text for row in data] == ["0", "2"]
    assert [str(problem).partition(";")[0] for problem in data.problems] == [
        "Drawn[1]: the dataset cannot read it: RuntimeError: no connection",
        "Drawn[3]: an empty label",
    ]


def test_datasets_and_parquet_keep_the_files_of_images(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    images = [{"bytes": png(str(n)), "path": f"{n}.png"} for n in range(6)]
    columns = {"image": images, "text": [*"abcde", ""], "key": [f"k{n}" for n in range(6)]}
    kinds = {"image": datasets.Image(), "text": datasets.Value("string"), "key": datasets.Value("string")}
    dataset = datasets.Dataset.from_dict(columns, datasets.Features(kinds))
    dataset.to_parquet(tmp_path / "train.parquet", batch_size=2)
    dataset.to_parquet(tmp_path / "valid.parquet")
    dataset.save_to_disk(tmp_path / "saved")
    for source, name in ((dataset, "k"), (tmp_path / "saved", "k"), (tmp_path / "train.parquet", "")):
        data = open_data(source)
        for rows in (data, pickle.loads(pickle.dumps(data))):
            assert [row.image for row in rows] == [image["bytes"] for image in images[:5]]
            assert [row.text for row in rows] == [*"abcde"]
        assert data.rows is not None
        assert data.rows.names == [f"k{n}" if name else f"{n}.png" for n in range(5)]
        assert data.rows.lengths == [1] * 5
        assert [problem.error.partition(";")[0] for problem in data.problems] == ["an empty label"]
        assert data.rows[4].text == "e"
    for source in (tmp_path, datasets.DatasetDict(train=dataset, valid=dataset)):
        if source == tmp_path:
            (tmp_path / "saved").rename(tmp_path / ".saved")
        train, validation = split(open_data(source))
        assert (len(train), len(validation)) == (5, 5)


def test_workers_share_no_open_file(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    files = [png(str(n)) for n in range(60)]
    for number, file in enumerate(files):
        (tmp_path / f"{number}.png").write_bytes(file)
    table = pyarrow.table({"image": files, "text": [f"{n}" for n in range(60)]})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=4)
    processor = tiny("bert", tokenizer="char", token_ids=None, decoder_vocab_size=98).processor
    opened = [(Image.open(tmp_path / f"{n}.png"), f"{n}") for n in range(60)]
    for source in (tmp_path / "a.parquet", opened):
        one, other = (list(Loader(open_data(source), processor, 4, workers=n).epoch()) for n in (0, 2))
        assert [loaded.names for loaded in one] == [loaded.names for loaded in other]
        assert all(torch.equal(a.inputs.pixel_values, b.inputs.pixel_values) for a, b in zip(one, other, strict=True))


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(vedcore.MissingExtraError, match=r"a parquet file needs pyarrow, which is not installed"):
        open_data(tmp_path / "a.parquet")
