"""Bad files of Flax and TensorFlow: each is one of our errors, in one line, before anything large is allocated."""

from __future__ import annotations

import builtins
import json
import math
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import msgpack
import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vedcore
from vedcore.errors import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointLimitError,
    CheckpointNotFoundError,
    CheckpointUnsafeError,
    NonFiniteError,
)
from vedcore.weights import array_file
from vedcore.weights.opening import open_weights
from vedcore.weights.snapshot import Snapshot

FOLDERS = Path(__file__).parent / "legacy"
FLAX, TF = "flax_model.msgpack", "tf_model.h5"


def refused(path: Path, kind: type[CheckpointError], text: str = "") -> str:
    """The message of the error for a file, which comes before anything large is allocated."""

    def read() -> None:
        with Snapshot(path.parent) as snapshot:
            file = open_weights(snapshot, pickles=True)[path.name]
            for name in file.tensors:
                file.get(name)

    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError) as caught:
            read()
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert (type(caught.value), caught.value.path) == (kind, str(path))
    assert text in message
    assert caught.value.hint
    assert message.isprintable()
    assert len(message) <= 300
    return message


def array(shape: Any = (2, 3), dtype: Any = "float32", data: Any = bytes(24), code: int = 1) -> msgpack.ExtType:
    return msgpack.ExtType(code, msgpack.packb((shape, dtype, data)))


def nested(depth: int) -> Any:
    value: Any = array()
    for _ in range(depth):
        value = {"a": value}
    return value


def pieces(shape: Any, *chunks: Any) -> dict[str, Any]:
    return {
        "x": {
            "__msgpack_chunked_array__": True,
            "shape": shape,
            "chunks": {str(i): each for i, each in enumerate(chunks)},
        }
    }


TWICE = b"\x82\xa1a" + msgpack.packb(array()) + b"\xa1a" + msgpack.packb(array())
LONG = b"\x81\xa1a\xc9" + (1 << 31).to_bytes(4, "big") + b"\x01"
BAD_FLAX: dict[str, tuple[Any, str]] = {
    "empty": (b"", "0 bytes"),
    "text": (b"hello", "not a map"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs"),
    "web page": (b"<!doctype html><html>", "web page"),
    "pickle": (b"\x80\x04\x95\x10\x00\x00\x00", "bytes after"),
    "list": ([array()], "not a map"),
    "trailing": (msgpack.packb({"a": array()}) + b"\0", "1 bytes after"),
    "name twice": (TWICE, "'a' is in it twice"),
    "number as name": ({1: array()}, "a name that is 1"),
    "empty name": ({"": array()}, "not text"),
    "list as name": (b"\x81\x91\x01\x01", "a name that is [1]"),
    "deep list": (b"\x81\xa1a" + b"\x91" * 4000 + b"\x01", "not msgpack"),
    "many elements": (b"\x81\xa1a\xdd\xff\xff\xff\xff", "not msgpack"),
    "long bytes": (b"\x81\xa1a\xc6\xff\xff\xff\xff", "not msgpack"),
    "text in its place": ({"a": "x"}, "'x', where an array is due"),
    "none in its place": ({"a": None}, "None, where an array is due"),
    "cut array": (LONG, "ends at byte"),
    "another extension": ({"a": array(code=2)}, "extension 2"),
    "object": ({"a": array(dtype="object")}, "type 'object'"),
    "text type": ({"a": array(dtype="U3")}, "type 'U3'"),
    "type number": ({"a": array(dtype=3)}, "shape, type and bytes"),
    "negative": ({"a": array((-2, -3))}, "shape [-2, -3]"),
    "no numbers": ({"a": array((0, 3), data=b"")}, "shape [0, 3]"),
    "huge": ({"a": array((1 << 62, 1 << 62))}, "shape ["),
    "wrapping": ({"a": array((1 << 32, 1 << 32, 6))}, "shape ["),
    "too large": ({"a": array((2, 4))}, "takes 32 bytes, and has 24"),
    "rank": ({"a": array((1,) * 30 + (6,))}, "shape [1, 1"),
    "shape of text": ({"a": array(("2", "3"))}, "shape, type and bytes"),
    "bool in the shape": ({"a": array((True, 6))}, "shape, type and bytes"),
    "no shape": ({"a": array(None)}, "shape, type and bytes"),
    "text for bytes": ({"a": array(data="x" * 24)}, "shape, type and bytes"),
    "two fields": ({"a": msgpack.ExtType(1, msgpack.packb(((2, 3), "float32")))}, "shape, type and bytes"),
    "bytes beyond": ({"a": msgpack.ExtType(1, msgpack.packb(((6,), "float32", bytes(24))) + b"\0")}, "do not fill"),
    "empty extension": ({"a": msgpack.ExtType(1, b"")}, "not msgpack"),
    "one tensor twice": ({"a": {"kernel": array(), "weight": array()}}, "are one tensor, 'a.weight'"),
    "one name twice": ({"a": {"b": array()}, "a.b": array()}, "are one tensor, 'a.b'"),
    "pieces without shape": (pieces({}, array()), "in pieces expected"),
    "pieces of other numbers": (pieces({"0": 2, "2": 3}, array()), "in pieces expected"),
    "pieces of no arrays": (pieces({"0": 2}, 3), "in pieces expected"),
    "pieces of two types": (pieces({"0": 12}, array(), array(dtype="int32")), "different types"),
    "pieces too few": (pieces({"0": 13}, array(), array()), "takes 52 bytes, and has 48"),
    "pieces wrapping": (pieces({"0": 1 << 40, "1": 1 << 40}, array()), "shape ["),
    "escapes": ({"a\x1b[31m\u202e\n": "x"}, "where an array is due"),
}


@pytest.mark.parametrize("case", BAD_FLAX)
def test_bad_files_of_flax(tmp_path: Path, case: str) -> None:
    content, text = BAD_FLAX[case]
    path = tmp_path / FLAX
    path.write_bytes(content if isinstance(content, bytes) else msgpack.packb(content))
    refused(path, CheckpointCorruptError, text)


def test_limits_of_flax(tmp_path: Path) -> None:
    path = tmp_path / FLAX
    path.write_bytes(msgpack.packb(nested(40)))
    refused(path, CheckpointLimitError, "maps in each other")
    path.write_bytes(b"\x81\xa1a" * 100_000 + b"\x80")
    refused(path, CheckpointLimitError, "maps in each other")
    path.write_bytes(msgpack.packb({str(i): {} for i in range(array_file.MAX_ARRAYS + 1)}))
    refused(path, CheckpointLimitError, "more than 10,000")
    path.write_bytes(b"\xdf\xff\xff\xff\xff")
    refused(path, CheckpointLimitError, "more than 10,000")


def layer(file: h5py.File) -> h5py.Group:
    group = file.create_group("layer")
    group.attrs["weight_names"] = [b"m/a/kernel:0"]
    return group


def bad_h5(path: Path, write: Callable[[h5py.Group], object]) -> Path:
    with h5py.File(path, "w") as file:
        group = layer(file)
        group.create_dataset("m/good:0", data=numpy.ones((2, 3), "f4"))
        write(group)
    return path


def custom_float(group: h5py.Group) -> None:
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_ebias(1)
    h5py.h5d.create(group.id, b"x", kind, h5py.h5s.create_simple((2, 3))).write(
        h5py.h5s.ALL, h5py.h5s.ALL, numpy.ones((2, 3), "f4")
    )


def half_float(group: h5py.Group) -> None:
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_fields(15, 7, 8, 0, 7)
    kind.set_size(2)
    h5py.h5d.create(group.id, b"x", kind, h5py.h5s.create_simple((2, 3))).write(
        h5py.h5s.ALL, h5py.h5s.ALL, numpy.ones((2, 3), "f4")
    )


def cycle(group: h5py.Group) -> None:
    group["again"] = group


def virtual(group: h5py.Group) -> None:
    layout = h5py.VirtualLayout(shape=(2, 3), dtype="f4")
    layout[:] = h5py.VirtualSource("/etc/hostname", "x", shape=(2, 3))
    group.create_virtual_dataset("x", layout)


def deep(group: h5py.Group) -> None:
    for _ in range(40):
        group = group.create_group("a")


def outside(group: h5py.Group) -> None:
    group.create_dataset("x", (2, 3), "f4", external=[("/etc/hostname", 0, 24)])


BAD_H5: dict[str, tuple[Callable[[h5py.Group], object], type[CheckpointError], str]] = {
    "external link": (
        lambda group: group.__setitem__("x", h5py.ExternalLink("/etc/hostname", "/x")),
        CheckpointUnsafeError,
        "a link",
    ),
    "external link of a layer": (
        lambda group: group.file.__setitem__("x", h5py.ExternalLink("other.h5", "/x")),
        CheckpointUnsafeError,
        "a link",
    ),
    "soft link": (lambda group: group.__setitem__("x", h5py.SoftLink("/layer/m")), CheckpointUnsafeError, "a link"),
    "values outside": (outside, CheckpointUnsafeError, "another file"),
    "virtual": (virtual, CheckpointUnsafeError, "another file"),
    "deep": (deep, CheckpointLimitError, "groups in each other"),
    "cycle": (cycle, CheckpointLimitError, "groups"),
    "type": (lambda group: group.__setitem__("x", numpy.dtype("f4")), CheckpointCorruptError, "neither a group"),
    "chunked": (lambda group: group.create_dataset("x", (2, 3), "f4", chunks=True), CheckpointCorruptError, "chunked"),
    "bomb": (
        lambda group: group.create_dataset("x", (1 << 20, 1 << 20), "f4", chunks=(64, 64), compression="gzip"),
        CheckpointCorruptError,
        "chunked",
    ),
    "without values": (lambda group: group.create_dataset("x", (2, 3), "f4"), CheckpointCorruptError, "without values"),
    "empty": (lambda group: group.create_dataset("x", dtype="f4"), CheckpointCorruptError, "without values"),
    "declared": (
        lambda group: group.create_dataset("x", (1 << 40, 1 << 20), "f4"),
        CheckpointCorruptError,
        "without values",
    ),
    "big-endian": (
        lambda group: group.create_dataset("x", data=numpy.ones(3, ">f4")),
        CheckpointCorruptError,
        "not plain",
    ),
    "strings": (lambda group: group.create_dataset("x", data=["a", "b"]), CheckpointCorruptError, "not plain object"),
    "fields": (
        lambda group: group.create_dataset("x", data=numpy.zeros(3, [("a", "f4")])),
        CheckpointCorruptError,
        "type 'void32'",
    ),
    "other floats": (custom_float, CheckpointCorruptError, "not plain"),
    "halves": (half_float, CheckpointCorruptError, "not plain"),
    "shared bytes": (
        lambda group: group.__setitem__("m/b:0", group["m/good:0"]),
        CheckpointCorruptError,
        "of another array too",
    ),
    "one tensor twice": (
        lambda group: [group.create_dataset(f"m/b/{name}:0", data=numpy.ones(3, "f4")) for name in ("gamma", "weight")],
        CheckpointCorruptError,
        "are one tensor",
    ),
}


@pytest.mark.parametrize("case", BAD_H5)
def test_bad_files_of_tensorflow(tmp_path: Path, case: str) -> None:
    write, kind, text = BAD_H5[case]
    refused(bad_h5(tmp_path / TF, write), kind, text)


def test_the_same_weight_of_two_layers_has_one_value(tmp_path: Path) -> None:
    def shared(value: float) -> Path:
        with h5py.File(tmp_path / TF, "w") as file:
            for name, values in (("a", 1.0), ("b", value)):
                group = file.create_group(name)
                group.attrs["weight_names"] = [b"m/x/embeddings:0"]
                group.create_dataset("m/x/embeddings:0", data=numpy.full((2, 3), values, "f4"))
        return tmp_path / TF

    with Snapshot(shared(1.0).parent) as snapshot:
        assert open_weights(snapshot, pickles=True)[TF].get("x.weight").tolist() == [[1.0] * 3] * 2
    refused(shared(2.0), CheckpointCorruptError, "stored twice, with different values")


@pytest.mark.parametrize("name", ["vit-bert-flax", "vit-bert-tf"])
def test_cut_files(tmp_path: Path, name: str) -> None:
    file = TF if name.endswith("tf") else FLAX
    data = (FOLDERS / name / file).read_bytes()
    for size in (*range(0, 12), 100, len(data) // 3, len(data) // 2, len(data) - 100, len(data) - 1):
        (tmp_path / file).write_bytes(data[:size])
        refused(tmp_path / file, CheckpointCorruptError)


@pytest.mark.parametrize("name", ["vit-bert-flax", "vit-gpt2-tf"])
def test_flipped_bytes_give_tensors_or_our_error(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    file = TF if name.endswith("tf") else FLAX
    data = (FOLDERS / name / file).read_bytes()
    path = tmp_path_factory.mktemp("flipped") / file
    patches = st.tuples(
        st.integers(0, len(data) - 1),
        st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([b"\xff" * 8, b"\0" * 8, b"\0" * 5 + b"\1\0\0"])),
    )

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(patches, min_size=1, max_size=4))
    def check(changes: list[tuple[int, bytes]]) -> None:
        changed = bytearray(data)
        for at, new in changes:
            changed[at : at + len(new)] = new
        path.write_bytes(changed[: len(data)])
        try:
            with Snapshot(path.parent) as snapshot:
                found = open_weights(snapshot, pickles=True)[file]
                total = sum(found.get(each).nbytes for each in found.tensors)
                assert total <= len(data)
        except CheckpointError as error:
            assert str(error).isprintable()
            assert len(str(error)) <= 300

    check()


def test_a_file_that_is_cut_after_it_was_opened(tmp_path: Path) -> None:
    path = Path(shutil.copy(FOLDERS / "vit-bert-flax" / FLAX, tmp_path))
    with Snapshot(tmp_path) as snapshot:
        file = open_weights(snapshot, pickles=True)[FLAX]
        path.write_bytes(b"")
        with pytest.raises(CheckpointCorruptError, match="truncated while it was read"):
            file.get(next(iter(file.tensors)))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite(tmp_path: Path, value: float) -> None:
    for name, file in (("vit-bert-tf", TF), ("vit-bert-flax", FLAX)):
        folder = shutil.copytree(FOLDERS / name, tmp_path / name)
        data = bytearray((folder / file).read_bytes())
        known = numpy.float32(0)
        with Snapshot(folder) as snapshot:
            known = open_weights(snapshot, pickles=True)[file].get("enc_to_dec_proj.bias")[3].numpy()
        at = data.index(known.tobytes())
        data[at : at + 4] = numpy.float32(value).tobytes()
        (folder / file).write_bytes(data)
        with pytest.raises(NonFiniteError, match=r"NaN or Inf in enc_to_dec_proj\.bias"):
            vedcore.load(folder)


@pytest.mark.parametrize("name", ["vit-gpt2-flax-shards", "vit-bert-tf-shards"])
def test_indexes_of_shards(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    index = ("tf_model.h5" if "tf" in name else "flax_model.msgpack") + ".index.json"
    folder = shutil.copytree(FOLDERS / name, tmp_path / "x")
    good = json.loads((folder / index).read_text())
    first, shard = next(iter(good["weight_map"].items()))
    opened: list[str] = []
    real = builtins.open
    monkeypatch.setattr(
        builtins, "open", lambda path, *rest, **more: opened.append(str(path)) or real(path, *rest, **more)
    )

    def load(kind: type[CheckpointError], text: str) -> None:
        with pytest.raises(kind, match=text):
            vedcore.load(folder)

    for bad in ("../x.msgpack", "/etc/passwd", "C:\\x.h5", "", ".", "a\0b.h5", None, 5, "x.bin", "model.safetensors"):
        changed = {**good, "weight_map": {**good["weight_map"], first: bad}}
        (folder / index).write_text(json.dumps(changed))
        load(CheckpointUnsafeError, "shard|plain file name")
    assert not [path for path in opened if "passwd" in path]
    (folder / index).write_text(json.dumps({**good, "weight_map": {**good["weight_map"], "no/such/kernel": shard}}))
    load(CheckpointCorruptError, r"no\.such\.weight|such\.weight")
    (folder / index).write_text(json.dumps(good))
    (folder / shard).rename(folder / "aside")
    load(CheckpointNotFoundError, shard)
    shutil.copy(FOLDERS / name / sorted(set(good["weight_map"].values()))[-1], folder / shard)
    load(CheckpointCorruptError, "is in two shards")
