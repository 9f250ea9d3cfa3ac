"""What a manifest says of a file: blocks and their hashes, there and back, and what is no such record."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vedcore.weights import hashing
from vedcore.weights.hashing import FileRecord, blocks, hash_blocks

MB = 1 << 20


@given(st.integers(0, 1000), st.integers(1, 400))
def test_blocks_are_the_file(size: int, block: int) -> None:
    spans = blocks(size, block)
    assert [byte for low, high in spans for byte in range(low, high)] == list(range(size))
    assert all(high - low == block for low, high in spans[:-1])


@pytest.mark.parametrize(("size", "block"), [(0, MB), (1, MB), (MB, MB), (MB + 1, MB), (5 * MB, 2 * MB), (3, 1 << 26)])
def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, block: int) -> None:
    monkeypatch.setattr(hashing, "_CHUNK", 100_000)
    data = bytes(range(251)) * (size // 251 + 1)
    path = tmp_path / "file"
    path.write_bytes(data[:size])
    with open(path, "rb", buffering=0) as file:
        file.seek(1)
        hashes = hash_blocks(file, size, block)
    assert hashes == tuple(sha256(data[low:high]).hexdigest() for low, high in blocks(size, block))
    record = FileRecord(size, hashes, block)
    back = FileRecord.from_json(json.loads(json.dumps(record.as_json())))
    assert back is not None
    assert (back.size, back.sha256) == (size, hashes)
    assert blocks(size, back.block) == blocks(size, block)


def test_a_file_that_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"ab")
    with open(path, "rb", buffering=0) as file:
        assert hash_blocks(file, 2 * MB, MB) == (sha256(b"ab").hexdigest(), sha256().hexdigest())


@pytest.mark.parametrize(
    "data",
    [
        None, [], "x", {}, {"size": 1}, {"sha256": "0"}, {"size": "1", "sha256": "0"}, {"size": 1, "sha256": None},
        {"size": 1, "sha256": ["0"]}, {"size": 1, "sha256": ["0"], "block_size": "9"},
        {"size": 1, "sha256": [], "block_size": MB}, {"size": 1, "sha256": [0], "block_size": MB},
        {"size": MB + 1, "sha256": ["0"], "block_size": MB}, {"size": 10**30, "sha256": ["0"], "block_size": MB},
        {"size": 2, "sha256": ["0", "1"], "block_size": 1}, {"size": 1, "sha256": ["0"], "block_size": 0},
        {"size": 1, "sha256": ["0"], "block_size": -MB},
    ],
)  # fmt: skip
def test_what_is_no_record(data: object) -> None:
    assert FileRecord.from_json(data) is None
