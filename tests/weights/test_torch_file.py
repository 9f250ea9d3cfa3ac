"""Files of ``torch.save``: good ones read bit for bit, others are refused by a named error, and no code is run."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.counting import steps
from vedcore.errors import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointMismatchError,
    CheckpointUnsafeError,
    NonFiniteError,
    UsageError,
)
from vedcore.weights.loading import Weights
from vedcore.weights.pickled import MAX_OPERATIONS
from vedcore.weights.snapshot import Snapshot
from vedcore.weights.torch_file import TorchFile

STATE = {"a": torch.arange(6, dtype=torch.float32).reshape(2, 3), "b": torch.tensor([1.5, -2.0]).bfloat16()}
OPTIMIZER = {"state": {0: {"step": torch.ones(1), "exp_avg": torch.ones(2, 3)}}, "param_groups": [{"lr": 0.1}]}
FORMATS = pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])


class Payload:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.mark,)


def saved(path: Path, value: object, new: bool = True, **options: Any) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=new, **options)
    return path


def read(path: Path) -> dict[str, Tensor]:
    with open(path, "rb", buffering=0) as file:
        opened = TorchFile(file, path)
        return {name: opened.get(name).clone() for name in opened.tensors}


def refused(path: Path, kind: type[CheckpointError], text: str = "") -> str:
    before = sorted(path.parent.rglob("*"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(kind) as caught:
            read(path)
    assert (type(caught.value), caught.value.path) == (kind, str(path))
    assert caught.value.hint
    message = str(caught.value)
    assert text in message
    assert message.isprintable()
    assert len(message) <= 300
    assert sorted(path.parent.rglob("*")) == before
    return message


def zipped(path: Path, members: list[tuple[str, bytes]], **options: Any) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", **options) as archive:
        warnings.simplefilter("ignore")
        for name, data in members:
            archive.writestr(name, data)
    return path


def members(tmp_path: Path, value: object = STATE) -> list[tuple[str, bytes]]:
    """Members of the archive of a good file."""
    with zipfile.ZipFile(saved(tmp_path / "m.good", value)) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def with_pickle(tmp_path: Path, data: bytes) -> Path:
    return zipped(tmp_path / "x.bin", [("m/data.pkl", data), ("m/version", b"3\n"), ("m/data/0", bytes(8))])


def same(found: dict[str, Tensor], due: dict[str, Tensor]) -> bool:
    return list(found) == list(due) and all(
        found[name].dtype == tensor.dtype
        and found[name].shape == tensor.shape
        and torch.equal(found[name].reshape(-1).view(torch.uint8), tensor.contiguous().reshape(-1).view(torch.uint8))
        for name, tensor in due.items()
    )


@FORMATS
@pytest.mark.parametrize(
    "dtype",
    [
        "float64",
        "float32",
        "float16",
        "bfloat16",
        "float8_e4m3fn",
        "float8_e5m2",
        "complex64",
        "complex128",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "bool",
    ],
)
def test_every_dtype_reads_bit_for_bit(tmp_path: Path, dtype: str, new: bool) -> None:
    bits = torch.randint(0, 2, (4, 32), dtype=torch.uint8).view(getattr(torch, dtype))
    state = {"x": bits, "turned": bits.T, "slice": bits[1:3], "none": bits[:0], "scalar": bits[0, 0]}
    path = saved(tmp_path / "x.bin", state, new)
    if not new and (dtype.startswith("float8") or dtype in ("uint16", "uint32", "uint64")):
        refused(path, CheckpointMismatchError, "older format")  # torch.load has an AttributeError
    else:
        assert same(read(path), state)


@FORMATS
def test_a_state_dict_with_parameters_and_ties(tmp_path: Path, new: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    due = model.state_dict()
    assert same(read(saved(tmp_path / "x.bin", due, new)), due)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    found = read(saved(tmp_path / "y.bin", parameters, new))
    assert same(found, {name: parameter.detach() for name, parameter in parameters.items()})
    with open(tmp_path / "y.bin", "rb", buffering=0) as file:
        opened = TorchFile(file, "y.bin")
    assert (opened.metadata, opened.size) == ({}, (tmp_path / "y.bin").stat().st_size)
    assert opened.tensors["0.weight"] == opened.tensors["2.weight"] == (torch.float32, (3, 3))


def test_the_hash_is_of_the_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.bin", STATE)
    with open(path, "rb", buffering=0) as file:
        opened = TorchFile(file, path)
        opened.get("a")
        assert opened.sha256() == sha256(path.read_bytes()).hexdigest()


def load(folder: Path, **options: Any) -> nn.Module:
    model = nn.ParameterDict({"a": torch.zeros(2, 3), "b": torch.zeros(2)})
    with Snapshot(folder) as snapshot:
        Weights(snapshot, pickles=True).load_into(model, **options)
    return model


def test_it_is_not_mapped(tmp_path: Path) -> None:
    saved(tmp_path / "pytorch_model.bin", STATE)
    with pytest.raises(UsageError, match=r"mmap.*vedcore convert"):
        load(tmp_path, mmap=True)


def test_not_finite_is_told(tmp_path: Path) -> None:
    saved(tmp_path / "pytorch_model.bin", {**STATE, "a": STATE["a"] / 0})
    with pytest.raises(NonFiniteError, match=r"Inf in a"):
        load(tmp_path)


@FORMATS
def test_a_model_has_memory_of_its_own(tmp_path: Path, new: bool) -> None:
    saved(tmp_path / "pytorch_model.bin", STATE, new)
    model = load(tmp_path)
    os.truncate(tmp_path / "pytorch_model.bin", 0)
    assert same(dict(model.state_dict()), STATE)


@FORMATS
@pytest.mark.parametrize(
    ("wrap", "note"),
    [
        (lambda state: {"state_dict": state}, "'state_dict'"),
        (lambda state: {"epoch": 3, "lr": 0.1, "model": state, "best": [1, (2, None)]}, "'model'"),
        (lambda state: {"model_state_dict": state, "optimizer_state_dict": OPTIMIZER}, "'model_state_dict'"),
        (lambda state: {"net": state, "acc": 91.2, "epoch": 7}, "'net'"),
        (lambda state: {"module": state, "ds_version": "0.9", "lr_scheduler": None}, "'module'"),
        (lambda state: {"ema": {"decay": 0.99, "module": state}, "optimizer": OPTIMIZER}, "'ema.module'"),
        (lambda state: {"model": {"state_dict": state}, "ema": {"shadow": state}}, r"'model.state_dict' \(not 'ema'\)"),
        (lambda state: {"ema": {**state, "a": -state["a"]}, "model": state}, r"'model' \(not 'ema'\)"),
        (lambda state: {"captioner": state, "loss": {"t": torch.ones(1)}}, r"'captioner' \(not 'loss'\)"),
        (lambda state: {"model": {"width": 3}, "state_dict": OrderedDict(state)}, "'state_dict'"),
    ],
)
def test_the_dict_of_a_training_checkpoint_is_opened_with_a_note(
    tmp_path: Path, wrap: Any, note: str, new: bool
) -> None:
    path = saved(tmp_path / "x.bin", wrap(STATE), new)
    assert same(read(path), STATE)
    with open(path, "rb", buffering=0) as file:
        assert re.search(f"the dict under {note}", TorchFile(file, path).note)


def test_dicts_that_lead_to_no_tensors(tmp_path: Path) -> None:
    some = {"module.a": torch.ones(2), "b": torch.ones(1), "model": torch.ones(3)}
    assert same(read(saved(tmp_path / "z.bin", some)), some)
    with_itself: dict[str, Any] = {"a": torch.ones(1)}
    with_itself["model"] = with_itself
    empty, optimizer = {"model": {}}, {"optimizer": OPTIMIZER}
    for index, value in enumerate((with_itself, empty, optimizer, {"model": {"state_dict": {"a": 3}}})):
        refused(saved(tmp_path / f"{index}.bin", value), CheckpointMismatchError, "of type dict, not a tensor")


@FORMATS
@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("inside", [False, True])
def test_a_payload_is_named_and_not_run(tmp_path: Path, protocol: int, new: bool, inside: bool) -> None:
    mark = tmp_path / "MARK"
    value = {"state_dict": STATE, "x": Payload(mark)} if inside else Payload(mark)
    path = saved(tmp_path / "x.bin", value, new, pickle_protocol=protocol)
    assert "nothing was run" in refused(path, CheckpointUnsafeError, "posix.mkdir")
    assert not mark.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_a_bare_pickle_is_named_and_not_run(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(pickle.dumps(Payload(tmp_path / "MARK"), protocol))
    refused(path, CheckpointUnsafeError, "posix.mkdir")
    path.write_bytes(pickle.dumps({"a": [1.5, 2]}, protocol))
    refused(path, CheckpointMismatchError, "does not read")


def test_globals_that_torch_allows_and_weights_do_not_need(tmp_path: Path) -> None:
    for number, code in enumerate(
        (
            b"c__builtin__\nbytearray\n\x8a\x06\0\0\0\0\0\x01\x85R",
            b"ctorch\nTensor\nJ\0\0\0\x7f\x85R",
            b"ctorch.storage\nUntypedStorage\nJ\0\0\0\x7f\x85\x81",
            b"c_codecs\nencode\nX\1\0\0\0aX\5\0\0\0bz2ab\x86R",
            b"ccollections\nCounter\n)R",
            b"cos\nsystem\nX\2\0\0\0id\x85R",
            b"cbuiltins\neval\nX\1\0\0\0a\x85R",
        )
    ):
        path = with_pickle(tmp_path, b"\x80\x02" + code + b".")
        refused(path, CheckpointMismatchError if number == 2 else CheckpointUnsafeError)
    refused(with_pickle(tmp_path, b"\x80\x02ccollections\nOrderedDict\n)R}X\5\0\0\0itemsK\1sb."), CheckpointUnsafeError)


@FORMATS
@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (nn.Linear(2, 2), CheckpointUnsafeError, "torch.nn.modules.linear.Linear"),
        ({"args": argparse.Namespace(lr=1), "model": STATE}, CheckpointUnsafeError, "argparse.Namespace"),
        ({"a": numpy.float32(1)}, CheckpointUnsafeError, "multiarray.scalar"),
        ({"a": numpy.ones(2)}, CheckpointUnsafeError, "_reconstruct"),
        ([torch.ones(2)], CheckpointMismatchError, "a list"),
        (torch.ones(2), CheckpointMismatchError, "one tensor"),
        (None, CheckpointMismatchError, "NoneType"),
        ({"a": 1}, CheckpointMismatchError, "of type int, not a tensor"),
        ({1: torch.ones(2)}, CheckpointMismatchError, "1"),
        ({("a", 1): torch.ones(2)}, CheckpointMismatchError, "tuple"),
        ({"a": torch.eye(2).to_sparse()}, CheckpointMismatchError, "sparse"),
        ({"a": torch.ones(2, device="meta")}, CheckpointMismatchError, "meta"),
        ({"a": torch.ones(1).expand(1000)}, CheckpointCorruptError, "storage"),
    ],
)
def test_values_that_are_not_a_dict_of_dense_tensors(
    tmp_path: Path, value: object, kind: type[CheckpointError], text: str, new: bool
) -> None:
    refused(saved(tmp_path / "x.bin", value, new), kind, text)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"P",
        b"PK\x03\x04",
        b"<!DOCTYPE html><html>404.</html>",
        b"cat\ndog\n.",
        b"{}",
        bytes(600),
        b"\x80",
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
        b"cat\ndog\n",
        b"version https://git-lfs.github.com/spec/v1\n",
    ],
)
def test_files_that_torch_did_not_write(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(data)
    message = refused(path, CheckpointUnsafeError if data.endswith(b"dog\n.") else CheckpointCorruptError)
    assert ("git lfs pull" in message) == data.startswith(b"version")


def test_archives_that_are_not_torchs(tmp_path: Path) -> None:
    good = members(tmp_path)
    path = tmp_path / "x.bin"
    (first, data), *others = good
    top = first.partition("/")[0]
    for name in ("../../x", f"{top}/../../x", "/abs", f"{top}/data/../x", "C:\\x", f"{top}/a\\..\\b", f"{top}//x", "x"):
        refused(zipped(path, [*good, (name, b"x")]), CheckpointUnsafeError)
        refused(zipped(path, [(name, b"x"), *good]), CheckpointUnsafeError)
    refused(zipped(path, [*good, (first, data)]), CheckpointUnsafeError, "twice")
    refused(zipped(path, [*good, ("other/data.pkl", data)]), CheckpointUnsafeError, "beside")
    refused(zipped(path, good, compression=zipfile.ZIP_DEFLATED), CheckpointUnsafeError, "compressed")
    refused(zipped(path, others), CheckpointCorruptError, "data.pkl")
    refused(zipped(path, [*good, (f"{top}/constants.pkl", b"")]), CheckpointUnsafeError, "TorchScript")
    refused(zipped(path, good[:-5]), CheckpointCorruptError)
    path.write_bytes(path.read_bytes() + b"more")
    refused(path, CheckpointCorruptError, "truncated")
    with tarfile.open(path, "w") as archive:
        archive.add(tmp_path / "m.good", "pickle")
    refused(path, CheckpointUnsafeError, "tar")
    for magic in (b"7z\xbc\xaf\x27\x1c", b"\x1f\x8b", b"\xfd7zXZ\0", b"BZh9", b"Rar!\x1a\x07", b"\x28\xb5\x2f\xfd"):
        path.write_bytes(magic + bytes(100))
        refused(path, CheckpointUnsafeError, "archive")


def test_torchs_oldest_reader_which_writes_files_is_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tarfile, "open", pytest.fail)
    assert same(read(saved(tmp_path / "x.bin", STATE, new=False)), STATE)


def tensor_code(
    numel: bytes = b"K\2", size: bytes = b"K\2\x85", stride: bytes = b"K\1\x85", offset: bytes = b"K\0"
) -> bytes:
    storage = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpu" + numel + b"tQ"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset + size + stride
    return b"\x80\x02}X\1\0\0\0a" + call + b"\x89ccollections\nOrderedDict\n)RtRs."


def test_sizes_that_the_storage_does_not_have(tmp_path: Path) -> None:
    assert list(read(with_pickle(tmp_path, tensor_code()))) == ["a"]
    huge, most = b"J\0\0\0\x7f", b"\x8a\x08" + b"\xff" * 7 + b"\x7f"
    negative = b"J\xff\xff\xff\xff"
    for parts in (
        {"numel": huge},
        {"numel": most},
        {"numel": negative},
        {"numel": huge, "size": huge + b"\x85"},
        {"size": huge + b"\x85"},
        {"size": most + most + b"\x86", "stride": b"K\0K\0\x86"},
        {"offset": b"K\1"},
        {"offset": negative},
        {"stride": b"K\2\x85"},
        {"stride": negative + b"\x85"},
        {"size": b"K\2"},
        {"size": b"\x88\x85"},
        {"size": b"X\1\0\0\0a\x85"},
        {"numel": b"G" + bytes(8)},
        {"size": b"K\1K\2\x86"},
    ):
        refused(with_pickle(tmp_path, tensor_code(**parts)), CheckpointCorruptError)


def doubled(times: int) -> bytes:
    """A tuple that holds one tuple twice, which holds one twice, and so on."""
    return b")" + b"q\x00h\x00\x86" * times


def memo(count: int) -> bytes:
    """An empty list, put into the memo under many numbers that lie far apart."""
    return b"]" + b"".join(b"r" + struct.pack("<I", n << 8) for n in range(count))


COUNT = MAX_OPERATIONS - 10
DOUBLED = doubled(60)
WIDE = b"a" * 7_999_996 + "\U0001f600".encode()
BOMBS = {
    "dicts": b"}" * COUNT,
    "nested": b")" + b"\x85" * COUNT,
    "marks": b"(" * COUNT,
    "too many": b"N" * (COUNT + 100),
    "long text": b"X\xff\xff\xff\xff",
    "wide text": b"X" + struct.pack("<I", 8_000_000) + WIDE,
    "memo": memo(COUNT),
    "hash": b"}" + DOUBLED + b"K\1s",
    "in itself": b"}q\0X\1\0\0\0ah\0s",
    "list in itself": b"]q\0h\0a",
    "value": b"}X\1\0\0\0a" + DOUBLED + b"s",
    "shape": tensor_code(size=DOUBLED)[2:-1],
    "long": b"\x8b\xff\xff\xff\x7f",
    "bytes": b"\x8e" + b"\xff" * 7 + b"\x7f",
    "ordered": b"ccollections\nOrderedDict\n" + DOUBLED + b"\x85R",
    "large": b"N" * (9 << 20),
}


def bombs(tmp_path: Path, code: bytes) -> tuple[Path, Path]:
    """Files of both formats with a pickle of ``code``."""
    bomb = b"\x80\x02" + code + b"."
    path, legacy = with_pickle(tmp_path, bomb), saved(tmp_path / "y.bin", STATE, new=False)
    head, separator, _ = legacy.read_bytes().partition(b"\x80\x02}q\0(X\1\0\0\0a")
    assert separator
    legacy.write_bytes(head + bomb + bomb + bytes(100))
    return path, legacy


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused(tmp_path: Path, name: str) -> None:
    """They are refused before they are unpickled: to build or to hash some of them would not end."""
    for file in bombs(tmp_path, BOMBS[name]):
        with pytest.raises(CheckpointError):
            read(file)


@pytest.mark.parametrize(
    ("code", "size"),
    [
        (lambda n: b"}" * n, 1000),
        (lambda n: b"(" * n, 1000),
        (lambda n: b")" + b"\x85" * n, 50),
        (memo, 1000),
        (lambda n: b"}" + doubled(n) + b"K\1s", 30),  # 2 ** 30 values are too many
        (lambda n: b"ccollections\nOrderedDict\n" + doubled(n) + b"\x85R", 30),
    ],
    ids=["dicts", "marks", "nested", "memo", "hash", "ordered"],
)
def test_the_cost_of_a_refusal_grows_no_faster_than_the_pickle(
    tmp_path: Path, code: Callable[[int], bytes], size: int
) -> None:
    def cost(count: int) -> int:
        def refuse() -> None:
            for file in files:
                with pytest.raises(CheckpointError):
                    read(file)

        files = bombs(tmp_path, code(count))
        return steps(refuse)

    cost(1)
    assert cost(2 * size) < 2.2 * cost(size)


@pytest.mark.parametrize("name", ["dicts", "memo", "wide text"])
def test_bombs_take_little_memory(tmp_path: Path, name: str) -> None:
    path = with_pickle(tmp_path, b"\x80\x02" + BOMBS[name] + b".")
    tracemalloc.start()
    with pytest.raises(CheckpointError):
        read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64e6


CHILD = """
import json, sys, warnings
import torch
from vedcore.errors import VedcoreError
from vedcore.weights.torch_file import TorchFile
warnings.simplefilter("ignore")
def opened(path):
    with open(path, "rb", buffering=0) as file:
        events.clear()
        try:
            opened = TorchFile(file, path)
            [opened.get(name) for name in opened.tensors]
            return "read"
        except VedcoreError as error:
            return type(error).__name__
events, result = [], []
sys.addaudithook(lambda event, args: events.append(f"{event} {args}"))
opened(sys.argv[1]); opened(sys.argv[2])
for path in sys.argv[1:]:
    how = opened(path)
    bad = ("import", "exec", "compile", "open ", "os.", "socket", "subprocess", "shutil", "ctypes", "mmap", "tempfile",
           "pickle.find_class", "marshal", "code.")
    result.append([how, [event for event in events if event.startswith(bad) and "/proc/self/fd/" not in event]])
print(json.dumps(result))
"""


def test_an_audit_sees_nothing_run_imported_or_opened(tmp_path: Path) -> None:
    payload, mark = Payload(tmp_path / "MARK"), tmp_path / "MARK"
    bare = tmp_path / "bare.bin"
    bare.write_bytes(pickle.dumps(payload))
    escaping = zipped(tmp_path / "zip.bin", [("../../x", b"x"), *members(tmp_path)])
    paths = [
        saved(tmp_path / "a.bin", {"state_dict": STATE}),
        saved(tmp_path / "b.bin", STATE, new=False),
        saved(tmp_path / "c.bin", payload),
        saved(tmp_path / "d.bin", {"x": payload}, new=False),
        saved(tmp_path / "e.bin", nn.Linear(2, 2)),
        saved(tmp_path / "f.bin", [argparse.Namespace(a=payload)]),
        saved(tmp_path / "g.bin", payload, pickle_protocol=4),
        bare,
        escaping,
    ]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *paths], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    result = json.loads(done.stdout)
    assert [how for how, _ in result] == ["read"] * 2 + ["CheckpointUnsafeError"] * 7
    assert [events for _, events in result] == [[]] * 9
    assert not mark.exists()


def reads_well_or_is_refused(path: Path) -> dict[str, Tensor] | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read(path)
    except CheckpointError as error:
        assert error.path == str(path)
        assert len(str(error)) <= 300
        return None


def flipped(good: bytes, data: st.DataObject) -> bytes:
    changed = bytearray(good)
    for _ in range(data.draw(st.integers(0, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    return bytes(changed)


FUZZ = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@FORMATS
@FUZZ
@given(data=st.data())
def test_cuts_and_flipped_bytes(tmp_path: Path, new: bool, data: st.DataObject) -> None:
    buffer = io.BytesIO()
    torch.save({"module.a": STATE["a"], "module.b": STATE["b"]}, buffer, _use_new_zipfile_serialization=new)
    good = buffer.getvalue()
    path, cut = tmp_path / "x.bin", data.draw(st.just(len(good)) | st.integers(0, len(good)))
    path.write_bytes(flipped(good, data)[:cut])
    found = reads_well_or_is_refused(path)
    if found is not None:
        assert cut == len(good)
        if new:  # it has checksums
            assert same(dict(zip("ab", found.values(), strict=True)), STATE)


@FUZZ
@given(data=st.data())
def test_flipped_bytes_of_the_pickle_in_a_sound_archive(tmp_path: Path, data: st.DataObject) -> None:
    (name, code), *others = members(tmp_path)
    reads_well_or_is_refused(zipped(tmp_path / "x.bin", [(name, flipped(code, data)), *others]))


@FORMATS
def test_a_file_changed_after_it_was_opened(tmp_path: Path, new: bool) -> None:
    path = saved(tmp_path / "x.bin", STATE, new)
    for change in (b"", path.read_bytes()[:-40], saved(tmp_path / "y.bin", {"a": torch.ones(3)}, new).read_bytes()):
        saved(path, STATE, new)
        with open(path, "rb", buffering=0) as file:
            opened = TorchFile(file, path)
            path.write_bytes(change)
            with pytest.raises(CheckpointCorruptError, match="again"):
                opened.get("a")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (MemoryError(), MemoryError),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), MemoryError),
        (OSError(5, "Input/output error"), CheckpointError),
        (RuntimeError("failed finding central directory\nand more"), CheckpointCorruptError),
    ],
)
def test_interrupts_and_lack_of_memory_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, kind: type[BaseException]
) -> None:
    def load(*args: object, **options: object) -> None:
        raise error

    path = saved(tmp_path / "x.bin", STATE)
    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(kind) as caught:
        read(path)
    assert type(caught.value) is kind


def test_torch_load_is_restricted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, load, seen = saved(tmp_path / "epoch:3.bin", STATE), torch.load, []

    def watched(file: Any, **options: Any) -> Any:
        seen.append((options["weights_only"], options["map_location"]))
        return load(file, **options)

    monkeypatch.setattr(torch, "load", watched)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    assert same(read(path), STATE)
    assert seen == [(True, "cpu")]
