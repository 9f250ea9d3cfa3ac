"""The manifest's entries for files: a round trip, entries of earlier versions, and bad ones."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import vedcore
from vedcore.checkpoints.inspection import inspect_folder
from vedcore.errors import CheckpointCorruptError
from vedcore.weights.folder import save_folder
from vedcore.weights.loading import Weights
from vedcore.weights.manifest import FileRecord, file_sha256
from vedcore.weights.saving import weight_files
from vedcore.weights.snapshot import Snapshot

MB = 1 << 20
NAME = "model.safetensors"


def of_the_whole(data: bytes) -> dict[str, Any]:
    """The entry of the first version."""
    return {"size": len(data), "sha256": sha256(data).hexdigest()}


def of_blocks(data: bytes) -> dict[str, Any]:
    """The entry of the second version."""
    hashes = [sha256(data[at : at + MB]).hexdigest() for at in range(0, len(data), MB)]
    return {"size": len(data), "sha256": hashes, "block_size": MB}


OLD = pytest.mark.parametrize("old", [of_the_whole, of_blocks])


@pytest.mark.parametrize(
    "record", [FileRecord.of(b""), FileRecord.of(b"abc"), FileRecord(9, header="0", tensors={"a": "1"})]
)
def test_records_survive_a_round_trip(record: FileRecord) -> None:
    assert FileRecord.from_json(json.loads(json.dumps(record.as_json()))) == record


def test_no_hash_straddles_tensors(tmp_path: Path) -> None:
    """A tensor's hash covers its bytes, the header's all before the first tensor; no byte is left out."""
    state = {"a": torch.ones(3, dtype=torch.int8), "b": torch.ones(3), "c": torch.ones(1).double()}
    save_folder(tmp_path / "m", weight_files(state))
    data = (tmp_path / "m" / NAME).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    entries = json.loads(data[8:start])
    record = json.loads((tmp_path / "m" / "manifest.json").read_text())["files"][NAME]
    assert record["size"] == len(data)
    assert record["header"] == sha256(data[:start]).hexdigest()
    assert {*record} == {"size", "header", "tensors"}
    for name in state:
        low, high = entries[name]["data_offsets"]
        assert record["tensors"][name] == sha256(data[start + low : start + high]).hexdigest()


def test_without_hashes(tmp_path: Path) -> None:
    """A save without hashes has sizes and headers."""
    model = nn.Linear(3, 3)
    save_folder(tmp_path / "m", weight_files(model.state_dict(), hashes=False))
    assert json.loads((tmp_path / "m" / "manifest.json").read_text())["files"][NAME]["tensors"] == {}
    with Snapshot(tmp_path / "m") as snapshot, warnings.catch_warnings(action="error"):
        Weights(snapshot).load_into(model, manifest=snapshot.manifest())


def test_a_manifest_that_lacks_a_tensor(tmp_path: Path) -> None:
    model = nn.Linear(3, 3)
    save_folder(tmp_path / "m", weight_files(model.state_dict()))
    path = tmp_path / "m" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["files"][NAME]["tensors"]["bias"]
    path.write_text(json.dumps(manifest))
    with Snapshot(tmp_path / "m") as snapshot, pytest.raises(CheckpointCorruptError, match="no hash of bias"):
        Weights(snapshot).load_into(model, manifest=snapshot.manifest())


@pytest.fixture(scope="module")
def model() -> vedcore.VisionEncoderDecoder:
    return vedcore.compose(
        {"name": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32},
        {"name": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 9000},
        tokenizer="char",
        seed=0,
    )


@OLD
@pytest.mark.parametrize("shard", ["5GB", 100_000])
def test_a_folder_of_an_earlier_version(
    tmp_path: Path, model: vedcore.VisionEncoderDecoder, old: Callable[[bytes], dict[str, Any]], shard: str | int
) -> None:
    """It loads, says once that its hashes are not compared, and ``inspect --verify`` compares them."""
    model.save_pretrained(tmp_path / "m", max_shard_size=shard)
    path = tmp_path / "m" / "manifest.json"
    files = json.loads(path.read_text())["files"]
    weights = sorted(name for name in files if name.endswith(".safetensors"))
    assert (len(weights) > 1) == (shard != "5GB")
    for name in weights:
        files[name] = old((tmp_path / "m" / name).read_bytes())
    path.write_text(json.dumps({"files": files}))
    with pytest.warns(UserWarning, match=r"earlier version.*inspect --verify") as warned:
        back = vedcore.load(tmp_path / "m")
    assert len(warned) == 1
    assert all(a.equal(b) for a, b in zip(model.parameters(), back.parameters(), strict=True))
    found = inspect_folder(tmp_path / "m", verify=True)
    assert found.checked[weights[-1]] == "sha256"
    assert found.problems == []
    damaged = tmp_path / "m" / weights[-1]
    raw = bytearray(damaged.read_bytes())
    raw[-3] ^= 1
    damaged.write_bytes(raw)
    with pytest.warns(UserWarning, match="earlier version"):
        vedcore.load(tmp_path / "m")
    assert [
        weights[-1] in problem and "sha256" in problem
        for problem in inspect_folder(tmp_path / "m", verify=True).problems
    ]
    damaged.write_bytes(bytes(raw) + b"x")
    with pytest.raises(CheckpointCorruptError, match=damaged.name):
        vedcore.load(tmp_path / "m")


def test_a_model_saved_without_hashes(tmp_path: Path, model: vedcore.VisionEncoderDecoder) -> None:
    for format in ("native", "transformers"):
        model.save_pretrained(tmp_path / "m", format=format, hashes=False)
        assert vedcore.load(tmp_path / "m").encoder.hidden_size == 16
        found = inspect_folder(tmp_path / "m", verify=True)
        assert (found.checked[NAME], found.checked["config.json"]) == ("size", "sha256")
        assert any("without hashes" in note for note in found.notes)


@pytest.mark.parametrize("at", [20, -1, -2000])
def test_verifying_names_the_tensor(tmp_path: Path, model: vedcore.VisionEncoderDecoder, at: int) -> None:
    model.save_pretrained(tmp_path / "m")
    assert inspect_folder(tmp_path / "m", verify=True).checked[NAME] == "sha256"
    path = tmp_path / "m" / NAME
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)
    problems = inspect_folder(tmp_path / "m", verify=True).problems
    assert problems
    assert all(NAME in problem for problem in problems)


@pytest.mark.parametrize(
    ("size", "block"), [(0, MB), (1, MB), (MB, MB), (MB + 1, MB), (5 * MB, 2 * MB), (3, None), (9, 4)]
)
def test_hashes_of_files(tmp_path: Path, size: int, block: int | None) -> None:
    data = (bytes(range(251)) * (size // 251 + 1))[:size]
    (tmp_path / "file").write_bytes(data)
    with open(tmp_path / "file", "rb", buffering=0) as file:
        file.seek(min(1, size))
        hashes = file_sha256(file, block)
    step = block or max(size, 1)
    assert hashes == tuple(hashlib.sha256(data[at : at + step]).hexdigest() for at in range(0, max(size, 1), step))


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        "x",
        {},
        {"size": 1},
        {"sha256": "0"},
        {"size": "1", "sha256": "0"},
        {"size": 1, "sha256": None},
        {"size": 1, "sha256": ["0"]},
        {"size": 1, "sha256": ["0"], "block_size": "9"},
        {"size": 1, "sha256": [], "block_size": MB},
        {"size": 1, "sha256": [0], "block_size": MB},
        {"size": MB + 1, "sha256": ["0"], "block_size": MB},
        {"size": 10**30, "sha256": ["0"], "block_size": MB},
        {"size": 2, "sha256": ["0", "1"], "block_size": 1},
        {"size": 1, "sha256": ["0"], "block_size": 0},
        {"size": 1, "sha256": ["0"], "block_size": -MB},
        {"size": 1, "header": "0"},
        {"size": 1, "tensors": {}},
        {"size": 1, "header": 0, "tensors": {}},
        {"size": 1, "header": "0", "tensors": {"a": 1}},
        {"size": 1, "header": "0", "tensors": ["a"]},
        {"size": 1, "header": "", "tensors": {}},
    ],
)
def test_values_that_are_not_a_record(data: object) -> None:
    assert FileRecord.from_json(data) is None
