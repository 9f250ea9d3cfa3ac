"""Damaged safetensors files: each is refused by a named error, and what is accepted reads as safetensors reads it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from vedcore.errors import CheckpointCorruptError, CheckpointError, CheckpointLimitError
from vedcore.weights.safetensors_file import TensorFile

TENSORS = {"a": torch.arange(6, dtype=torch.float32).reshape(2, 3), "b": torch.tensor([1.5, -2.0]).bfloat16()}


def read(path: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}

    def place(name: str, stored: Any) -> torch.Tensor:
        tensors[name] = torch.empty(stored.shape, dtype=stored.dtype)
        return tensors[name]

    with open(path, "rb", buffering=0) as file:
        list(TensorFile(file, path).read(place))
    return tensors


def with_header(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype: str = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path, {"format": "pt"})
    return path


@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "complex64", "int64", "uint8", "bool"]
)
def test_every_dtype_reads_bit_for_bit(tmp_path: Path, dtype: str) -> None:
    bits = torch.randint(0, 2, (3, 16), dtype=torch.uint8)
    tensors = {
        "x": bits.view(getattr(torch, dtype)),
        "scalar": torch.tensor(1).to(getattr(torch, dtype)),
        "none": torch.empty(0),
    }
    save_file(tensors, tmp_path / "x.safetensors")
    for name, tensor in read(tmp_path / "x.safetensors").items():
        assert tensor.dtype == tensors[name].dtype
        assert tensor.shape == tensors[name].shape
        assert tensor.reshape(-1).view(torch.uint8).equal(tensors[name].reshape(-1).view(torch.uint8))


def test_cut_anywhere(good: Path) -> None:
    whole = good.read_bytes()
    for length in [*range(10), len(whole) // 2, len(whole) - 1]:
        good.write_bytes(whole[:length])
        with pytest.raises(
            CheckpointCorruptError, match=rf"model.safetensors.*\b{length}\b|announces|not JSON|not a JSON"
        ):
            read(good)


@pytest.mark.parametrize("extra", [b"\0", b"\0" * 8])
def test_trailing_bytes(good: Path, extra: bytes) -> None:
    good.write_bytes(good.read_bytes() + extra)
    with pytest.raises(CheckpointCorruptError, match="header announces"):
        read(good)


def test_zeros_of_the_same_size(good: Path) -> None:
    good.write_bytes(bytes(good.stat().st_size))
    with pytest.raises(CheckpointCorruptError):
        read(good)


@pytest.mark.parametrize("length", [1 << 63, (1 << 64) - 1, 100_000_001, 500, 0])
def test_header_length_lies(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{}" + bytes(50))
    with pytest.raises(CheckpointCorruptError):
        read(path)


def test_header_above_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with open(path, "wb") as file:
        file.write((59_000_000).to_bytes(8, "little"))
        file.truncate(59_000_008)
    start = time.perf_counter()
    with pytest.raises(CheckpointLimitError, match="59,000,000"):
        read(path)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ({"x": entry(), "y": entry(offsets=(4, 12))}, bytes(12)),
        ({"x": entry(), "y": entry(offsets=(12, 20))}, bytes(20)),
        ({"x": entry(offsets=(8, 0))}, bytes(8)),
        ({"x": entry(offsets=(-8, 0))}, bytes(8)),
        ({"x": entry(shape=(3,))}, bytes(8)),
        ({"x": entry(shape=(1 << 40, 1 << 40))}, bytes(8)),
        ({"x": entry(shape=(-2,))}, bytes(8)),
        ({"x": entry(shape=(True, 2))}, bytes(8)),
        ({"x": entry(shape=(2.0,))}, bytes(8)),
        ({"x": entry(shape="2")}, bytes(8)),
        ({"x": entry(dtype="EVIL")}, bytes(8)),
        ({"x": entry(offsets=(0, 8, 16))}, bytes(8)),
        ({"x": {**entry(), "more": 1}}, bytes(8)),
        ({"x": [1]}, bytes(8)),
        ({"x": entry(), "__metadata__": {"a": 1}}, bytes(8)),
        ({"x": entry(), "__metadata__": []}, bytes(8)),
    ],
)
def test_contradictions_name_the_tensor(tmp_path: Path, header: object, data: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(with_header(header, data))
    with pytest.raises(CheckpointCorruptError, match="'[xy]'|__metadata__"):
        read(path)


@pytest.mark.parametrize(
    "text",
    [
        b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        b' {"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        b'{"\xff":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        b"[]",
        b'{"a":' * 100_000,
    ],
)
def test_header_text(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(with_header(text, bytes(8)))
    with pytest.raises(CheckpointCorruptError):
        read(path)


@given(at=st.integers(0, 400), value=st.integers(0, 255))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_one_changed_byte(tmp_path: Path, at: int, value: int) -> None:
    """Whatever safetensors refuses is refused here; what is accepted reads the same."""
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path, {"format": "pt"})
    raw = bytearray(path.read_bytes())
    raw[at % len(raw)] = value
    path.write_bytes(raw)
    try:
        ours = read(path)
    except CheckpointError:
        return
    theirs = load_file(path)
    assert set(ours) == set(theirs)
    for name, tensor in ours.items():
        assert tensor.reshape(-1).view(torch.uint8).equal(theirs[name].reshape(-1).view(torch.uint8))


def test_safetensors_itself_accepts_what_we_refuse(tmp_path: Path) -> None:
    """Duplicate names: the reason to read the header ourselves. When this fails, theirs may do."""
    path = tmp_path / "x.safetensors"
    one = b'"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
    path.write_bytes(with_header(b"{" + one + b"," + one + b"}", bytes(8)))
    try:
        with safe_open(path, "pt") as file:
            assert list(file.keys()) == ["x"]
    except SafetensorError:
        pytest.fail("safetensors refuses duplicate names by now")


def test_cut_while_it_is_read(good: Path) -> None:
    with open(good, "rb", buffering=0) as file:
        opened = TensorFile(file, good)
        with open(good, "r+b") as other:
            other.truncate(good.stat().st_size - 4)
        with pytest.raises(CheckpointCorruptError, match="cut while"):
            list(opened.read(lambda name, stored: torch.empty(stored.shape, dtype=stored.dtype)))
