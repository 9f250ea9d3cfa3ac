"""Damaged safetensors files are refused by a named error; accepted ones read as safetensors reads them."""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from vedcore.errors import CheckpointCorruptError, CheckpointError, CheckpointLimitError, NonFiniteError
from vedcore.weights import safetensors_file
from vedcore.weights.finite import is_finite
from vedcore.weights.loading import Weights
from vedcore.weights.safetensors_file import TensorFile
from vedcore.weights.snapshot import Snapshot

TENSORS = {"a": torch.arange(6, dtype=torch.float32).reshape(2, 3), "b": torch.tensor([1.5, -2.0]).bfloat16()}


def read(path: Path) -> dict[str, torch.Tensor]:
    with open(path, "rb", buffering=0) as file:
        opened = TensorFile(file, path)
        return {name: opened.get(name) for name in opened.tensors}


class Bag(nn.Module):
    """Tensors by any name."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, torch.empty_like(tensor))


def load(folder: Path, tensors: dict[str, torch.Tensor], *, mmap: bool) -> dict[str, torch.Tensor]:
    """The tensors of a folder, as a model gets them."""
    bag = Bag(tensors)
    with Snapshot(folder) as snapshot:
        Weights(snapshot).load_into(bag, check_finite=False, mmap=mmap)
    return bag.state_dict()


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


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "complex64", "int64", "uint8", "bool"]
)
def test_every_dtype_reads_bit_for_bit(tmp_path: Path, dtype: str, mmap: bool) -> None:
    bits = torch.randint(0, 2, (3, 16), dtype=torch.uint8)
    tensors = {
        "x": bits.view(getattr(torch, dtype)),
        "scalar": torch.tensor(1).to(getattr(torch, dtype)),
        "none": torch.empty(0),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    found = load(tmp_path, tensors, mmap=mmap)
    assert found.keys() == tensors.keys()
    for name, tensor in found.items():
        assert tensor.dtype == tensors[name].dtype
        assert tensor.shape == tensors[name].shape
        assert tensor.is_contiguous()
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

    class Counted(io.FileIO):
        def read(self, size: int | None = -1, /) -> bytes | None:
            data = super().read(-1 if size is None else size)
            amounts.append(len(data or b""))
            return data

    amounts: list[int] = []
    with Counted(path) as opened, pytest.raises(CheckpointLimitError, match="59,000,000"):
        TensorFile(opened, path)
    assert 8 <= sum(amounts) <= 512


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
    """A file that safetensors refuses is refused here; an accepted one reads the same."""
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
    """Duplicate names are the reason to read the header ourselves. When this fails, safetensors' reader may do."""
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
        with pytest.raises(CheckpointCorruptError, match="truncated while"):
            opened.get("a")


def test_another_file_is_put_in_its_place_while_it_is_opened(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is exchanged between our look at the header and the package's; it is refused."""

    def exchanged(path: str, framework: str) -> object:
        save_file({"a": torch.zeros(2, 3), "b": torch.zeros(2).bfloat16()}, good.with_name("other"))
        os.replace(good.with_name("other"), good)
        return safe_open(path, framework)

    monkeypatch.setattr(safetensors_file, "safe_open", exchanged)
    monkeypatch.setattr(os.path, "exists", lambda path: False)  # no /proc
    with pytest.raises(CheckpointCorruptError, match="another file"):
        read(good)


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs Linux to name an open file")
def test_an_opened_file_is_read_whatever_stands_in_its_place(good: Path) -> None:
    with open(good, "rb", buffering=0) as file:
        opened = TensorFile(file, good)
        save_file({"a": torch.zeros(9)}, good.with_name("other"))
        os.replace(good.with_name("other"), good)
        assert opened.get("a").equal(TENSORS["a"])


def test_files_that_are_not_weights(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for text, word in (
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        ("<!DOCTYPE html><html><body>404.</body></html>", "web page"),
        ("\n<HTML lang=en>", "web page"),
        ('<?xml version="1.0"?><Error>AccessDenied</Error>', "web page"),
    ):
        path.write_text(text)
        with pytest.raises(CheckpointCorruptError, match=rf"model.safetensors.*{word}"):
            read(path)


def test_the_hash_is_of_the_whole_file(good: Path) -> None:
    with open(good, "rb", buffering=0) as file:
        opened = TensorFile(file, good)
        opened.get("b")
        assert opened.sha256() == hashlib.sha256(good.read_bytes()).hexdigest()


@pytest.mark.parametrize("mmap", [False, True])
def test_many_tensors_in_several_threads(tmp_path: Path, mmap: bool) -> None:
    tensors = {f"t{i:03}": torch.randn(i * i % 83) for i in range(100)}
    tensors["t050"][-1], tensors["t070"][2] = torch.nan, -torch.inf
    save_file(tensors, tmp_path / "model.safetensors")
    found = load(tmp_path, tensors, mmap=mmap)
    assert all(found[name].view(torch.int32).equal(tensors[name].view(torch.int32)) for name in tensors)
    with Snapshot(tmp_path) as snapshot, pytest.raises(NonFiniteError, match="t050, t070"):
        Weights(snapshot).load_into(Bag(tensors), mmap=mmap)


@pytest.mark.parametrize("mmap", [False, True])
def test_tensors_that_are_not_aligned(tmp_path: Path, mmap: bool) -> None:
    entries = {"odd": entry("U8", (1,), (0, 1)), "x": entry("F32", (2,), (1, 9)), "y": entry("F64", (1,), (9, 17))}
    path = tmp_path / "model.safetensors"
    path.write_bytes(with_header(entries, b"\1" + torch.tensor([1.5, -2.0]).numpy().tobytes() + bytes(8)))
    tensors = {"odd": torch.ones(1).byte(), "x": torch.ones(2), "y": torch.ones(1).double()}
    found = load(tmp_path, tensors, mmap=mmap)
    assert found["x"].tolist() == [1.5, -2.0]
    assert all(tensor.data_ptr() % tensor.dtype.itemsize == 0 for tensor in found.values())


def test_a_mapped_tensor_is_written_to_in_memory_alone(good: Path) -> None:
    before = good.read_bytes()
    load(good.parent, TENSORS, mmap=True)["a"].zero_()
    assert good.read_bytes() == before


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("value", [torch.nan, -torch.nan, torch.inf, -torch.inf])
def test_finite_numbers(dtype: torch.dtype, value: float) -> None:
    type_ = torch.float32 if dtype.is_complex else dtype
    largest = torch.finfo(type_).max
    values = torch.tensor([[0.0, -0.0, largest], [-largest, torch.finfo(type_).tiny, 1.0]], dtype=dtype)
    assert is_finite(values)
    values[1, 2] = value
    assert not is_finite(values)


def test_finite_numbers_of_other_types() -> None:
    assert is_finite(torch.full((3,), -1))
    assert is_finite(torch.empty(0))
    assert is_finite(torch.tensor(1.0))
    assert not is_finite(torch.tensor(-torch.inf))
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz):
        assert is_finite(torch.tensor([1.0, -2.0]).to(dtype))
        assert not is_finite(torch.tensor([1.0, torch.nan]).to(dtype))
