"""Tensors saved and loaded: ties, shards, odd layouts, and everything that does not fit."""

from __future__ import annotations

import json
import os
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from vedcore.errors import (
    CheckpointCorruptError,
    CheckpointLimitError,
    CheckpointMismatchError,
    CheckpointNotFoundError,
    CheckpointUnsafeError,
    CheckpointWriteError,
    NonFiniteError,
    UsageError,
)
from vedcore.model_files import SHARD_INDEX, WEIGHTS
from vedcore.weights.folder import save_folder
from vedcore.weights.loading import Weights
from vedcore.weights.safetensors_file import TensorFile
from vedcore.weights.saving import weight_files
from vedcore.weights.snapshot import Snapshot


class Net(nn.Module):
    """An embedding, a layer, an output layer that may be tied to the embedding, and a buffer."""

    def __init__(self, tied: bool = True, width: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, width)
        self.layer = nn.Linear(width, width)
        self.head = nn.Linear(width, 10, bias=False)
        self.register_buffer("counter", torch.tensor(7))
        if tied:
            self.head.weight = self.embed.weight


def save(model: nn.Module, folder: Path, **options: str | int) -> Path:
    save_folder(folder, weight_files(model.state_dict(), **options))  # type: ignore[arg-type]
    return folder


def load(folder: Path, model: nn.Module, verify: bool = True, **options: object) -> nn.Module:
    with Snapshot(folder) as snapshot:
        manifest = snapshot.manifest() if verify else None
        Weights(snapshot).load_into(model, manifest=manifest, **options)  # type: ignore[arg-type]
    return model


def assert_same(one: nn.Module, other: nn.Module) -> None:
    a, b = one.state_dict(), other.state_dict()
    assert list(a) == list(b)
    for name in a:
        assert a[name].dtype == b[name].dtype
        assert a[name].reshape(-1).view(torch.uint8).equal(b[name].reshape(-1).view(torch.uint8)), name


def rewrite(folder: Path, change: object) -> None:
    """Change the tensors of a single-file folder, manifest and all."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)  # type: ignore[operator]
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    (folder / "manifest.json").unlink()


# -- there and back ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shard", ["5GB", 100])
@pytest.mark.parametrize("tied", [True, False])
def test_round_trip(tmp_path: Path, dtype: torch.dtype, shard: str | int, tied: bool) -> None:
    model = Net(tied).to(dtype)
    folder = save(model, tmp_path / "m", max_shard_size=shard)
    assert (folder / SHARD_INDEX).exists() == (shard == 100)
    back = load(folder, Net(tied))
    assert_same(model, back)
    assert (back.head.weight is back.embed.weight) == tied


def test_a_mixture_of_dtypes_stays_one(tmp_path: Path) -> None:
    model = Net()
    model.layer.bfloat16()
    assert_same(model, load(save(model, tmp_path / "m"), Net()))


def test_ties_are_stored_once_declared_and_tied_again(tmp_path: Path) -> None:
    model = Net(tied=True)
    folder = save(model, tmp_path / "m")
    assert "head.weight" not in load_file(folder / WEIGHTS)
    back = load(folder, Net(tied=False))
    assert back.head.weight is back.embed.weight
    assert_same(model, back)


def test_tied_by_hand_twice_over(tmp_path: Path) -> None:
    model, back = Net(tied=True), Net(tied=True)
    back.head.weight = nn.Parameter(torch.zeros(10, 4))
    assert_same(model, load(save(model, tmp_path / "m"), back))


@pytest.mark.parametrize("gone", ["head.weight", "embed.weight"])
def test_one_of_a_tied_pair_is_enough(tmp_path: Path, gone: str) -> None:
    model = Net(tied=True)
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items() if name != gone}
    save_file(tensors, tmp_path / WEIGHTS)
    assert_same(model, load(tmp_path, Net(tied=True), verify=False))


def test_both_of_a_tied_pair(tmp_path: Path) -> None:
    model = Net(tied=True)
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_file(tensors, tmp_path / WEIGHTS)
    assert_same(model, load(tmp_path, Net(tied=True), verify=False))
    tensors["head.weight"] += 1
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointMismatchError, match=r"embed.weight and head.weight.*tie_word_embeddings"):
        load(tmp_path, Net(tied=True), verify=False)


def test_odd_layouts(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    state = {
        "transposed": base.t(),
        "cut": base[1:3, ::2],
        "row": base[0],
        "scalar": base[0, 0],
        "none": torch.empty(0, 3),
    }
    save_folder(tmp_path / "m", weight_files(state))
    back = load_file(tmp_path / "m" / WEIGHTS)
    assert set(back) == set(state)
    assert all(back[name].equal(state[name]) for name in state)


def test_tensors_that_cannot_be_stored_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    bad = {
        "meta": torch.empty(2, device="meta"),
        "sparse": torch.eye(3).to_sparse(),
        "text": "not a tensor",
    }
    for name, tensor in bad.items():
        with pytest.raises(CheckpointWriteError, match=name):
            save_folder(tmp_path / "m", weight_files({"good": torch.ones(2), name: tensor}))  # type: ignore[dict-item]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("size", ["much", "5XB", ""])
def test_bad_shard_sizes(size: str) -> None:
    with pytest.raises(UsageError, match="max_shard_size"):
        weight_files({"x": torch.ones(2)}, size)


def test_huggingface_hub_reads_our_shards(tmp_path: Path) -> None:
    from huggingface_hub import load_torch_model

    model = Net(tied=False)
    back = Net(tied=False)
    load_torch_model(back, save(model, tmp_path / "m", max_shard_size=100), strict=True)
    assert_same(model, back)


# -- what does not fit ------------------------------------------------------------------------------------------


def test_all_of_it_is_said_at_once(tmp_path: Path) -> None:
    folder = save(Net(), tmp_path / "m")

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["layer.wait"] = tensors.pop("layer.weight")
        del tensors["layer.bias"]
        tensors["embed.weight"] = torch.zeros(10, 5)

    rewrite(folder, change)
    with pytest.raises(CheckpointMismatchError) as error:
        load(folder, Net(), verify=False)
    for word in (
        "2 missing",
        "layer.weight",
        "layer.bias",
        "1 unexpected",
        "layer.wait",
        "embed.weight [10, 5] instead of [10, 4]",
    ):
        assert word in str(error.value)
    assert "strict=False" not in error.value.hint  # it does not help with a shape


LONG = "decoder.model.decoder.layers.{}.encoder_attn.{}_proj.weight"


@pytest.mark.parametrize(
    ("change", "pair"),
    [
        (lambda name: name.replace("encoder_attn", "cross_attn"), "cross_attn"),
        (lambda name: f"captioner.{name}" if "layers.1" in name else f"x.{name}", "."),
        (lambda name: name.replace("weight", "kernel"), ".kernel"),
        (lambda name: name.replace("decoder.model", "decoder.text.model"), "text.model"),
    ],
)
def test_the_nearest_names_are_whole(tmp_path: Path, change: Any, pair: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a short path leaves room for the names
    names = [LONG.format(layer, which) for layer in range(6) for which in ("k", "v", "q", "out")]
    save_file({change(name): torch.ones(1) for name in names}, tmp_path / WEIGHTS)
    model = _Named({name: nn.Parameter(torch.ones(1)) for name in names})
    with pytest.raises(CheckpointMismatchError) as error:
        load(Path(), model, verify=False)
    line = str(error.value)
    assert len(line) <= 300
    missing, unexpected = (re.split("[,;]", line.partition(f"24 {kind}: ")[2])[0] for kind in ("missing", "unexpected"))
    assert missing in names
    assert unexpected == change(missing)
    assert pair in unexpected
    assert {f"missing: {name}" for name in names} <= set(error.value.details.splitlines())


class _Named(nn.Module):
    """A module that states names with dots as those of its parameters."""

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        super().__init__()
        self.stated = parameters

    def state_dict(self, *args: Any, **options: Any) -> Any:
        return self.stated


def test_names_that_are_longer_than_the_line_keep_their_ends(tmp_path: Path) -> None:
    name = ".".join(f"part{index}" for index in range(60))
    save_file({f"{name}.stored": torch.ones(1), "other": torch.ones(1)}, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointMismatchError) as error:
        load(
            tmp_path,
            _Named({f"{name}.due": nn.Parameter(torch.ones(1)), "bias": nn.Parameter(torch.ones(1))}),
            verify=False,
        )
    line = str(error.value)
    assert len(line) <= 300
    for word in ("2 missing: part0", ".due", "2 unexpected: part0", ".stored", "…", "is it the checkpoint"):
        assert word in line


def test_names_of_a_million_components_are_refused_in_little_work(tmp_path: Path) -> None:
    name = "a." * 1_000_000
    save_file({f"{name}b": torch.ones(1), f"module.{name}c": torch.ones(1)}, tmp_path / WEIGHTS)
    model = _Named({f"{name}d": nn.Parameter(torch.ones(1)), f"{name}c": nn.Parameter(torch.ones(1))})
    with pytest.raises(CheckpointMismatchError, match="1 missing"), pytest.warns(UserWarning, match="module"):
        load(tmp_path, model, verify=False)


def test_a_thousand_names_are_paired_in_little_work(tmp_path: Path) -> None:
    names = [LONG.format(layer, which) for layer in range(250) for which in ("k", "v", "q", "out")]
    save_file({f"{name}s": torch.ones(1) for name in names}, tmp_path / WEIGHTS)
    model = _Named({name: nn.Parameter(torch.ones(1)) for name in names})
    with pytest.raises(CheckpointMismatchError, match="1000 missing.*1000 unexpected.*nearest"):
        load(tmp_path, model, verify=False)


def test_no_more_than_five_names_and_all_in_the_details(tmp_path: Path) -> None:
    save_file({f"extra{i}": torch.ones(1) for i in range(200)}, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointMismatchError) as error:
        load(tmp_path, Net(), verify=False)
    assert len(str(error.value)) <= 300
    assert "200 unexpected" in str(error.value)
    assert error.value.details.count("extra") == 200


def test_a_mismatch_leaves_the_model_alone(tmp_path: Path) -> None:
    folder, model = save(Net(width=5), tmp_path / "m"), Net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointMismatchError):
        load(folder, model)
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())


def test_a_shape_names_the_setting(tmp_path: Path) -> None:
    folder = save(nn.ModuleDict({"decoder": Net()}), tmp_path / "m")
    with pytest.raises(CheckpointMismatchError, match=r"decoder.n_embd is 5 in config.json, and 4 in the file"):
        load(folder, nn.ModuleDict({"decoder": Net(width=5)}), settings={"decoder.n_embd": 5, "encoder.depth": 5})


def test_a_laid_out_model_is_filled_in_place(tmp_path: Path) -> None:
    """Ties stay, buffers are filled, and torch's lists of parameters, as in an LSTM, follow."""

    def laid_out() -> nn.ModuleDict:
        parts = nn.ModuleDict(
            {"a": nn.Linear(3, 3), "b": nn.Linear(3, 3), "lstm": nn.LSTM(3, 4), "norm": nn.BatchNorm1d(3)}
        )
        parts["b"].weight = parts["a"].weight
        parts["a"].bias.requires_grad_(False)
        return parts

    made = laid_out()
    save_folder(tmp_path / "m", weight_files(made.state_dict()))
    with torch.device("meta"):
        parts = laid_out()
    assert_same(made, load(tmp_path / "m", parts))
    assert not any(tensor.is_meta for tensor in parts.state_dict().values())
    assert parts["a"].weight is parts["b"].weight
    assert [p.requires_grad for p in parts["a"].parameters()] == [True, False]
    assert parts["norm"].num_batches_tracked.dtype == torch.long
    x = torch.randn(2, 1, 3)
    assert parts["lstm"](x)[0].equal(made["lstm"](x)[0])


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64, torch.int64])
def test_another_kind_of_number(tmp_path: Path, dtype: torch.dtype, strict: bool) -> None:
    """Quantized weights are refused; another width of the same kind becomes the model's type."""
    folder = save(Net(), tmp_path / "m")
    rewrite(folder, lambda tensors: tensors.update({"layer.weight": tensors["layer.weight"].to(dtype)}))
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(CheckpointMismatchError, match=rf"1 of another kind.*layer.weight {name} instead of float32"):
        load(folder, Net(), verify=False, strict=strict)
    folder = save(Net().to(torch.float64), tmp_path / "double")
    assert load(folder, Net()).layer.weight.dtype == torch.float64


def test_a_counter_that_is_a_real_number(tmp_path: Path) -> None:
    folder = save(Net(), tmp_path / "m")
    rewrite(folder, lambda tensors: tensors.update(counter=torch.tensor(7.0)))
    with pytest.raises(CheckpointMismatchError, match=r"counter float32 instead of int64"):
        load(folder, Net(), verify=False)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("mmap", [True, False])
def test_a_model_on_the_meta_device(tmp_path: Path, tied: bool, mmap: bool) -> None:
    """It is filled, keeps its ties, and keeps ``requires_grad``."""
    model = Net(tied)
    folder = save(model, tmp_path / "m")
    with torch.device("meta"):
        empty = Net(tied)
    empty.layer.bias.requires_grad_(False)
    assert_same(model, load(folder, empty, mmap=mmap))
    assert (empty.head.weight is empty.embed.weight) == tied
    assert (empty.layer.weight.requires_grad, empty.layer.bias.requires_grad) == (True, False)
    assert not any(tensor.is_meta for tensor in empty.state_dict().values())


def test_not_strict_takes_what_fits_and_says_so(tmp_path: Path) -> None:
    folder = save(Net(), tmp_path / "m")
    rewrite(folder, lambda tensors: tensors.update({"more": tensors.pop("layer.bias")}))
    model = Net()
    bias = model.layer.bias.clone()
    with pytest.warns(UserWarning, match=r"left random: layer.bias; not used: more"):
        load(folder, model, verify=False, strict=False)
    assert model.layer.bias.equal(bias)


# -- damage -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shard", ["5GB", 100])
def test_a_flipped_bit_is_found_by_the_manifest(tmp_path: Path, shard: str | int) -> None:
    folder = save(Net(), tmp_path / "m", max_shard_size=shard)
    for path in sorted(folder.glob("*.safetensors")):
        raw = path.read_bytes()
        for at in (len(raw) - 1, len(raw) - 9):
            path.write_bytes(raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1 :])
            with pytest.raises(CheckpointCorruptError, match=rf"{path.name}.*another sha256.*verify=False"):
                load(folder, Net())
        path.write_bytes(raw)
    load(folder, Net())


def test_a_flipped_bit_is_found_anywhere_in_a_large_file(tmp_path: Path) -> None:
    """The file has 145 MB, and is hashed and read by several threads."""
    torch.manual_seed(0)
    big = nn.Sequential(nn.Linear(6000, 6000), nn.Linear(400, 300))
    folder = save(big, tmp_path / "m")
    path = folder / "model.safetensors"
    other = nn.Sequential(nn.Linear(6000, 6000), nn.Linear(400, 300))
    load(folder, other)
    assert all(one.equal(two) for one, two in zip(big.parameters(), other.parameters(), strict=True))
    for at in (1 << 26, (1 << 26) - 1, (1 << 26) + 12345, 1 << 27, path.stat().st_size - 1, 100_000):
        with open(path, "r+b") as file:
            file.seek(at)
            byte = file.read(1)
            file.seek(at)
            file.write(bytes([byte[0] ^ 1]))
            file.flush()
            with pytest.raises(CheckpointCorruptError, match="another sha256"):
                load(folder, other)
            file.seek(at)
            file.write(byte)
    load(folder, other)


def test_sizes_are_looked_at_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sizes of all shards are compared first; a file that the manifest lacks is refused."""
    folder = save(Net(), tmp_path / "m", max_shard_size=100)
    monkeypatch.setattr(TensorFile, "get", lambda *_, **__: pytest.fail("read"))
    manifest = json.loads((folder / "manifest.json").read_text())
    last = max(name for name in manifest["files"] if name.endswith(".safetensors"))
    manifest["files"][last]["size"] += 1
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointCorruptError, match=rf"{last}.*bytes instead of"):
        load(folder, Net())
    (folder / "manifest.json").write_text('{"files": {}}')
    with pytest.raises(CheckpointCorruptError, match="not in the manifest"):
        load(folder, Net())


def test_no_manifest(tmp_path: Path) -> None:
    folder = save(Net(), tmp_path / "m")
    (folder / "manifest.json").unlink()
    with pytest.raises(CheckpointNotFoundError, match="manifest.json"):
        load(folder, Net())
    load(folder, Net(), verify=False)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": 3}', '{"files": {"a": 1}}', '{"files": {"a": 1, "a": 2}}'])
def test_a_damaged_manifest(tmp_path: Path, text: str) -> None:
    folder = save(Net(), tmp_path / "m")
    (folder / "manifest.json").write_text(text)
    with pytest.raises(CheckpointCorruptError, match="manifest.json"):
        load(folder, Net())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e5m2])
def test_not_finite(tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    model = Net()
    with torch.no_grad():
        model.layer.weight[1, 2] = value
    model.to(dtype)
    folder = save(model, tmp_path / "m")
    with pytest.raises(NonFiniteError, match=r"layer.weight"):
        load(folder, Net())
    with pytest.warns(RuntimeWarning, match=r"layer.weight"):
        load(folder, Net(), check_finite="warn")
    with warnings.catch_warnings(action="error"):
        load(folder, Net(), check_finite=False)


def test_a_sum_that_overflows_is_finite(tmp_path: Path) -> None:
    model = Net()
    torch.nn.init.constant_(model.layer.weight, 3e38)
    load(save(model, tmp_path / "m"), Net())


# -- shards -----------------------------------------------------------------------------------------------------


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return save(Net(), tmp_path / "m", max_shard_size=100)


def test_a_shard_is_gone(sharded: Path) -> None:
    gone = sorted(sharded.glob("*.safetensors"))[0]
    gone.unlink()
    with pytest.raises(CheckpointNotFoundError, match=rf"{gone.name}.*{SHARD_INDEX}"):
        load(sharded, Net())


def test_a_shard_is_cut(sharded: Path) -> None:
    cut = sorted(sharded.glob("*.safetensors"))[0]
    os.truncate(cut, 100)
    with pytest.raises(CheckpointCorruptError, match=cut.name):
        load(sharded, Net())


UNSAFE = [
    "../x",
    "/abs",
    "a/../../x",
    "C:\\x",
    "\\\\h\\s\\x",
    "",
    ".",
    "..",
    "a\0b",
    "a\nb",
    5,
    None,
    [1],
    "x.bin",
    "a" * 300,
]


@pytest.mark.parametrize("name", UNSAFE, ids=lambda name: repr(name)[:20])
def test_unsafe_shard_names(sharded: Path, name: object) -> None:
    index = json.loads((sharded / SHARD_INDEX).read_text())
    index["weight_map"]["layer.bias"] = name
    (sharded / SHARD_INDEX).write_text(json.dumps(index))
    with pytest.raises((CheckpointUnsafeError, CheckpointCorruptError), match=SHARD_INDEX):
        load(sharded, Net())


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": []}', '{"weight_map": {"a": "b']
)
def test_damaged_index(sharded: Path, text: str) -> None:
    (sharded / SHARD_INDEX).write_text(text)
    with pytest.raises(CheckpointCorruptError, match=SHARD_INDEX):
        load(sharded, Net())


def test_an_index_of_11_megabytes(sharded: Path) -> None:
    os.truncate(sharded / SHARD_INDEX, 11_000_000)
    with pytest.raises(CheckpointCorruptError, match=r"11,000,000 bytes"):
        load(sharded, Net())


def test_an_index_that_names_what_is_not_there(sharded: Path) -> None:
    index = json.loads((sharded / SHARD_INDEX).read_text())
    index["weight_map"]["ghost"] = index["weight_map"]["layer.bias"]
    (sharded / SHARD_INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointCorruptError, match="ghost"):
        load(sharded, Net())


def test_the_single_file_counts_where_both_are(sharded: Path) -> None:
    model = Net()
    save_file({n: t for n, t in model.state_dict().items() if n != "head.weight"}, sharded / WEIGHTS)
    (sharded / "pytorch_model.bin").write_bytes(b"never opened")
    assert_same(model, load(sharded, Net(), verify=False))


def test_links(tmp_path: Path) -> None:
    """A link out of the folder is refused; the links that the Hugging Face cache is made of are followed."""
    model = Net()
    real = save(model, tmp_path / "real")
    folder = tmp_path / "cache" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (folder / WEIGHTS).symlink_to(real / WEIGHTS)
    with pytest.raises(CheckpointUnsafeError, match="a link to"):
        load(folder, Net(), verify=False)
    (folder / WEIGHTS).unlink()
    blobs = tmp_path / "cache" / "blobs"
    blobs.mkdir()
    os.link(real / WEIGHTS, blobs / "0a1b")
    (folder / WEIGHTS).symlink_to("../../blobs/0a1b")
    assert_same(model, load(folder, Net(), verify=False))
    (blobs / "0a1b").unlink()
    (blobs / "0a1b").symlink_to(real / WEIGHTS)
    with pytest.raises(CheckpointUnsafeError):
        load(folder, Net(), verify=False)
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to(WEIGHTS)
    with pytest.raises(CheckpointUnsafeError):
        load(folder, Net(), verify=False)


def test_files_that_are_not_regular_are_never_waited_for(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "a" / WEIGHTS)
    (tmp_path / "b" / WEIGHTS).mkdir(parents=True)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / WEIGHTS).symlink_to("/dev/zero")
    for name in "abc":
        with pytest.raises(CheckpointUnsafeError):
            load(tmp_path / name, Net(), verify=False)


def test_no_weights(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(CheckpointNotFoundError, match=r"there are: notes.txt"):
        load(tmp_path, Net(), verify=False)


def test_reading_a_file_of_settings_has_a_limit(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(bytes(100))
    with Snapshot(tmp_path) as snapshot, pytest.raises(CheckpointLimitError):
        snapshot.read("x.json", limit=99)
