"""The bytes of our safetensors files: every type and layout, read back by safetensors; and what writing them takes."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor

from vedcore.errors import CheckpointWriteError
from vedcore.model_files import WEIGHTS
from vedcore.weights import saving
from vedcore.weights.folder import save_folder
from vedcore.weights.hashing import blocks
from vedcore.weights.keymap import TRANSPOSED, Joined, Row, to_theirs, to_theirs_later
from vedcore.weights.safetensors_file import DTYPES
from vedcore.weights.saving import weight_files


def written(folder: Path, state: dict[str, Tensor], **options: object) -> dict[str, Tensor]:
    """What safetensors reads of the file of ``state``."""
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


def test_tensors_are_aligned_and_the_hash_is_of_the_file(tmp_path: Path) -> None:
    written(tmp_path / "m", {"a": torch.ones(3, dtype=torch.int8), "b": torch.ones(3), "c": torch.ones(1).double()})
    data = (tmp_path / "m" / WEIGHTS).read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert (8 + length) % 64 == 0
    header = json.loads(data[8 : 8 + length])
    assert [name for name in header if name != "__metadata__"] == ["c", "b", "a"]
    assert all(entry["data_offsets"][0] % 8 == 0 for name, entry in header.items() if name in "cb")
    record = json.loads((tmp_path / "m" / "manifest.json").read_text())["files"][WEIGHTS]
    assert record == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


@pytest.mark.parametrize(("chunk", "block"), [(64, 1 << 20), (1 << 22, 1 << 20), (64, 31), (64, 100), (1 << 22, 333)])
def test_every_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, block: int) -> None:
    monkeypatch.setattr(saving, "_CHUNK", chunk)
    monkeypatch.setattr(saving, "BLOCK", block)
    base = torch.randn(7, 6, 50)
    wave = torch.randn(5, 9, dtype=torch.complex64)
    state = {
        "as it is": base, "part of one": base[2:4], "transposed": base.transpose(0, 2), "steps": base[::2, 1:5:3],
        "one row repeated": base[0, 0].expand(4, 50), "wide": base[:, 0].t(), "column": base[:, 0, 0],
        "conjugate": wave.conj(), "negative": wave.conj().imag, "half": base.half().transpose(0, 1),
        "flags": (base > 0).transpose(0, 1), "parameter": torch.nn.Parameter(torch.randn(9, 30)),
    }  # fmt: skip
    back = written(tmp_path / "m", state)
    assert set(back) == set(state)
    for name, tensor in state.items():
        assert same_bits(tensor, back[name]), name
    data = (tmp_path / "m" / WEIGHTS).read_bytes()
    hashes = [hashlib.sha256(data[at : at + block]).hexdigest() for at in range(0, len(data), block)]
    found = json.loads((tmp_path / "m" / "manifest.json").read_text())["files"][WEIGHTS]
    assert found["sha256"] == (hashes if len(hashes) > 1 else hashes[0])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 9), max_size=4), st.permutations(range(4)), st.sampled_from([16, 32, 128]),
    st.integers(1, 20),
)  # fmt: skip
def test_any_shape_is_cut_and_joined_again(shape: list[int], order: list[int], chunk: int, parts: int) -> None:
    tensor = torch.randn(shape).permute([axis for axis in order if axis < len(shape)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saving, "_CHUNK", chunk)
        entry = saving._Entry(tensor, torch.float64)
        spans = blocks(9 + 2 * entry.nbytes, 1 + 2 * entry.nbytes // parts)
        data = b"".join(bytes(view) for span in spans for view in saving._block(b"header...", [entry, entry], *span))
    assert data == b"header..." + 2 * tensor.double().contiguous().numpy().tobytes()


def test_numbers_are_cast_and_what_was_one_tensor_stays_one(tmp_path: Path) -> None:
    matrix = torch.randn(4, 6)
    state = {"a": matrix, "b": matrix.t(), "count": torch.arange(3), "tied": matrix}
    back = written(tmp_path / "m", state, dtype=torch.bfloat16)
    assert set(back) == {"a", "b", "count"}
    assert back["count"].equal(state["count"])
    assert all(back[name].equal(state[name].bfloat16()) for name in "ab")


def test_what_is_joined_later_is_what_is_joined_at_once(tmp_path: Path) -> None:
    rows = [
        Row("h.{}.c_attn", "layers.{}.query+key+value", TRANSPOSED),
        Row("h.{}.q+k+v", "layers.{}.qkv"),
        Row("h.{}.fc", "layers.{}.fc", TRANSPOSED),
    ]
    ours = {
        f"layers.{i}.{name}.weight": torch.randn(6, 4) for i in range(2) for name in ("query", "key", "value", "fc")
    }
    ours |= {f"layers.{i}.qkv.weight": torch.randn(6, 4) for i in range(2)}
    later, now = to_theirs_later(ours, rows), to_theirs(ours, rows)
    assert list(later) == list(now)
    assert {n for n, t in later.items() if isinstance(t, Joined)} == {"h.0.c_attn.weight", "h.1.c_attn.weight"}
    memory = {t.untyped_storage().data_ptr() for t in ours.values()}
    assert all(t.untyped_storage().data_ptr() in memory for t in later.values() if isinstance(t, Tensor))
    back = written(tmp_path / "m", later)  # type: ignore[arg-type]
    assert all(same_bits(now[name], back[name]) for name in now)


@pytest.mark.parametrize(
    ("name", "tensor", "word"),
    [
        ("wave", torch.ones(2, dtype=torch.complex128), "complex128"),
        ("__metadata__", torch.ones(2), "__metadata__"),
        ("a\ud800", torch.ones(2), "surrogate"),
    ],
)
def test_what_the_format_has_not(tmp_path: Path, name: str, tensor: Tensor, word: str) -> None:
    with pytest.raises(CheckpointWriteError, match=word):
        save_folder(tmp_path / "m", weight_files({name: tensor}))
    assert not (tmp_path / "m").exists()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to forget a peak")
def test_memory_does_not_rise_with_the_tensors(tmp_path: Path) -> None:
    """320 MB of files, of tensors to be cast and laid out anew, in less than 40 MB."""
    script = """
        import re, sys, torch
        from vedcore.weights.folder import save_folder
        from vedcore.weights.saving import weight_files
        def memory(word):
            return int(re.search(word + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024
        big = torch.ones(20 << 20).view(10 << 10, 2 << 10)
        files = lambda tensor: weight_files({"big": tensor, "whole": tensor.t()}, dtype=torch.float64)
        save_folder(sys.argv[1], files(big[:9]))
        open("/proc/self/clear_refs", "w").write("5")
        before = memory("VmRSS")
        save_folder(sys.argv[1], files(big.t()))
        print(memory("VmHWM") - before)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "m")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 40
