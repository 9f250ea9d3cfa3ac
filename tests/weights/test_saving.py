"""Our safetensors files: every type and layout, read back by safetensors."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor

from vedcore.errors import CheckpointWriteError
from vedcore.model_files import WEIGHTS
from vedcore.weights.folder import save_folder
from vedcore.weights.safetensors_file import DTYPES
from vedcore.weights.saving import weight_files


def written(folder: Path, state: dict[str, Tensor], **options: object) -> dict[str, Tensor]:
    """The tensors that safetensors reads from the file of ``state``."""
    save_folder(folder, weight_files(state, **options))  # type: ignore[arg-type]
    with safe_open(folder / WEIGHTS, "pt") as file:
        assert file.metadata()["format"] == "pt"
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def same_bits(one: Tensor, other: Tensor) -> bool:
    one, other = one.resolve_conj().resolve_neg().contiguous(), other.contiguous()
    same = one.reshape(-1).view(torch.uint8).equal(other.reshape(-1).view(torch.uint8))
    return same and one.dtype == other.dtype and one.shape == other.shape


def random_bits(dtype: torch.dtype, *shape: int) -> Tensor:
    if dtype == torch.bool:
        return torch.rand(shape) > 0.5
    return torch.randint(0, 256, (*shape, dtype.itemsize), dtype=torch.uint8).view(dtype).squeeze(-1)


def test_every_type(tmp_path: Path) -> None:
    state: dict[str, Tensor] = {}
    for code, dtype in DTYPES.items():
        state |= {
            f"{code}.matrix": random_bits(dtype, 3, 5),
            f"{code}.scalar": random_bits(dtype),
            f"{code}.none": torch.empty(0, 3, dtype=dtype),
        }
    back = written(tmp_path / "m", state)
    assert set(back) == set(state)
    assert all(same_bits(state[name], back[name]) for name in state)


def test_tensors_are_aligned(tmp_path: Path) -> None:
    written(tmp_path / "m", {"a": torch.ones(3, dtype=torch.int8), "b": torch.ones(3), "c": torch.ones(1).double()})
    data = (tmp_path / "m" / WEIGHTS).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__")
    sizes = {"a": 1, "b": 4, "c": 8}
    assert header.keys() == sizes.keys()
    assert all((8 + length + header[name]["data_offsets"][0]) % size == 0 for name, size in sizes.items())


def test_every_layout(tmp_path: Path) -> None:
    base = torch.randn(7, 6, 50)
    wave = torch.randn(5, 9, dtype=torch.complex64)
    state = {
        "as it is": base,
        "part of one": base[2:4],
        "transposed": base.transpose(0, 2),
        "steps": base[::2, 1:5:3],
        "one row repeated": base[0, 0].expand(4, 50),
        "wide": base[:, 0].t(),
        "column": base[:, 0, 0],
        "conjugate": wave.conj(),
        "negative": wave.conj().imag,
        "half": base.half().transpose(0, 1),
        "flags": (base > 0).transpose(0, 1),
        "parameter": torch.nn.Parameter(torch.randn(9, 30)),
    }
    back = written(tmp_path / "m", state)
    assert set(back) == set(state)
    for name, tensor in state.items():
        assert same_bits(tensor, back[name]), name


def test_memory_that_several_share(tmp_path: Path) -> None:
    """Views of one storage are separate tensors in the file."""
    base = torch.arange(12.0)
    state = {"flat": base, "square": base.view(3, 4), "part": base[2:5], "bits": base.view(torch.int32), "again": base}
    back = written(tmp_path / "m", state)
    assert set(back) == {"flat", "square", "part", "bits"}
    assert all(same_bits(tensor, back[name]) for name, tensor in state.items() if name != "again")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=4), st.permutations(range(4)))
def test_any_shape(shape: list[int], order: list[int]) -> None:
    tensor = torch.randn(shape).permute([axis for axis in order if axis < len(shape)])
    with tempfile.TemporaryDirectory() as folder:
        back = written(
            Path(folder, "m"), {"a": tensor, "b": tensor.flip(-1) if shape else tensor + 1}, dtype=torch.float64
        )
    assert same_bits(tensor.double(), back["a"])


def test_numbers_are_cast_and_what_was_one_tensor_stays_one(tmp_path: Path) -> None:
    matrix = torch.randn(4, 6)
    state = {"a": matrix, "b": matrix.t(), "count": torch.arange(3), "tied": matrix}
    back = written(tmp_path / "m", state, dtype=torch.bfloat16)
    assert set(back) == {"a", "b", "count"}
    assert back["count"].equal(state["count"])
    assert all(back[name].equal(state[name].bfloat16()) for name in "ab")


@pytest.mark.parametrize(
    ("name", "tensor", "word"),
    [
        ("wave", torch.ones(2, dtype=torch.complex128), "complex128"),
        ("__metadata__", torch.ones(2), "__metadata__"),
        ("a\ud800", torch.ones(2), "surrogate"),
    ],
)
def test_tensors_that_the_format_cannot_store(tmp_path: Path, name: str, tensor: Tensor, word: str) -> None:
    with pytest.raises(CheckpointWriteError, match=word):
        save_folder(tmp_path / "m", weight_files({name: tensor}))
    assert not (tmp_path / "m").exists()
