"""Rows of a key map: their meaning both ways, and tensors that are refused."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from vedcore.errors import CheckpointMismatchError
from vedcore.weights.keymap import (
    TRANSPOSED,
    Change,
    Row,
    ignored,
    never_theirs,
    their_name,
    to_ours,
    to_theirs,
    under,
    without_place,
)
from vedcore.weights.loading import Weights
from vedcore.weights.manifest import FileRecord, tensor_sha256
from vedcore.weights.safetensors_file import TensorFile
from vedcore.weights.snapshot import Snapshot

ROWS = (
    Row("[base.]embed",                    "embedding"),
    Row("[base.]h.{}.attn.c_attn",         "layers.{}.attention.query+key+value",  TRANSPOSED),
    Row("[base.]h.{}.attn.c_proj",         "layers.{}.attention.output",           TRANSPOSED),
    Row("[base.]h.{}.self.q+k+v",          "layers.{}.fused.qkv",                  optional=True),
    Row("[base.]stages.{}.down.norm",      "stages.{+1}.down.norm",                optional=True),
    Row("[base.]stages.{}.blocks.{}.fc",   "stages.{}.blocks.{}.mlp",              optional=True),
    Row("[base.]token",                    "cls_token",                            optional=True),
    Row("head",                            "output",                               optional=True),
    Row("head_bias",                       "output.bias",                          optional=True),
    Row("shared",                          "embedding", optional=True, read_only=True),
    ignored("[base.]h.{}.attn.bias"),
    ignored("pooler.*"),
)  # fmt: skip


@st.composite
def files(draw: st.DrawFn) -> dict[str, Tensor]:
    """A whole file of transformers', of any number of layers and any width."""
    size = st.integers(1, 4)
    width, layers = draw(size), draw(st.integers(1, 12))
    state = {"base.embed.weight": torch.randn(draw(size), width)}
    for i in range(layers):
        state[f"base.h.{i}.attn.c_attn.weight"] = torch.randn(width, 3 * width)
        state[f"base.h.{i}.attn.c_attn.bias"] = torch.randn(3 * width)
        state[f"base.h.{i}.attn.c_proj.weight"] = torch.randn(width, width)
        if draw(st.booleans()):
            for part in "qkv":
                state[f"base.h.{i}.self.{part}.weight"] = torch.randn(width, width)
            for part in "qkv":
                state[f"base.h.{i}.self.{part}.bias"] = torch.randn(width)
    for i in range(draw(st.integers(0, 3))):
        state[f"base.stages.{i}.down.norm.weight"] = torch.randn(width)
        for j in range(draw(st.integers(0, 2))):
            state[f"base.stages.{i}.blocks.{j}.fc.bias"] = torch.randn(width)
    if draw(st.booleans()):
        state["base.token"] = torch.randn(1, 1, width)
    if draw(st.booleans()):
        state["head.weight"] = torch.randn(3, width)
        state["head.bias"] = state["head_bias"] = torch.randn(3)
    return state


def record(path: Path) -> FileRecord:
    """The manifest's entry for a file that another library wrote."""
    with open(path, "rb", buffering=0) as raw:
        file = TensorFile(raw, path)
        hashes = {name: tensor_sha256(file.get(name)) for name in file.tensors}
        return FileRecord(file.size, header=file.header_sha256, tensors=hashes)


class Bag(nn.Module):
    """Tensors by any name."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.tensors = {name: torch.full_like(tensor, 7) for name, tensor in tensors.items()}

    def state_dict(self, *, keep_vars: bool = False) -> dict[str, Tensor]:  # type: ignore[override]
        return self.tensors


@settings(deadline=None, max_examples=60)
@given(
    files(),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    st.integers(1, 3),
    st.sampled_from(["copied", "mapped", "pickled"]),
    st.booleans(),
)
def test_files_are_read_to_where_they_belong(
    state: dict[str, Tensor], dtype: torch.dtype, shards: int, how: str, verify: bool
) -> None:
    """Tensors that are joined, split and transposed while read, across shards too, have the same bits as in memory."""
    state = {name: tensor.to(dtype) if "attn" in name else tensor for name, tensor in state.items()}
    ours = to_ours(state, ROWS)
    model, files = Bag(ours), dict[str, dict[str, Tensor]]()
    for i, name in enumerate(state):
        files.setdefault(f"m-{i % shards}.{'bin' if how == 'pickled' else 'safetensors'}", {})[name] = state[name]
    with tempfile.TemporaryDirectory() as folder:
        for file, tensors in files.items():
            if how == "pickled":
                torch.save(tensors, Path(folder, file))
            else:
                save_file({name: tensor.clone() for name, tensor in tensors.items()}, Path(folder, file))
        index = {"weight_map": {name: file for file, tensors in files.items() for name in tensors}}
        layout = "pytorch_model.bin" if how == "pickled" else "model.safetensors"
        Path(folder, f"{layout}.index.json").write_text(json.dumps(index))
        verify = verify and how != "pickled"  # whose files no manifest of ours lists
        manifest = {file: record(Path(folder, file)) for file in files} if verify else None
        with Snapshot(Path(folder)) as snapshot:
            Weights(snapshot, ROWS, pickles=True).load_into(model, manifest=manifest, mmap=how == "mapped")
        for name, tensor in ours.items():
            assert model.tensors[name].dtype == tensor.dtype
            assert model.tensors[name].equal(tensor)
            assert how == "mapped" or model.tensors[name].is_contiguous()


@pytest.mark.parametrize("mmap", [False, True])
def test_changes_of_a_plugins_own(tmp_path: Path, mmap: bool) -> None:
    """A tensor that cannot be a view of the file is made after the file has been read."""
    halved = Change("halved", lambda t: t / 2, lambda t: t * 2)
    flipped = Change("flipped", lambda t: t.flip(0), lambda t: t.flip(0))
    rows = (Row("a", "x", halved), Row("b+c", "y", flipped), Row("d", "p+q", flipped))
    state = {f"{name}.weight": torch.randn(4, 3) for name in "abcd"}
    save_file(state, tmp_path / "model.safetensors")
    ours = to_ours(state, rows)
    model = Bag(ours)
    with Snapshot(tmp_path) as snapshot:
        Weights(snapshot, rows).load_into(model, mmap=mmap)
    assert model.tensors.keys() == ours.keys() == {"x.weight", "y.weight", "p.weight", "q.weight"}
    assert all(model.tensors[name].equal(tensor) for name, tensor in ours.items())


@settings(deadline=None, max_examples=60)
@given(files(), st.randoms())
def test_tensors_survive_a_round_trip(state: dict[str, Tensor], random: object) -> None:
    """Names and bits come back, whatever the order of the file."""
    names = list(state)
    random.shuffle(names)  # type: ignore[attr-defined]
    shuffled = {name: state[name] for name in names}
    ours = to_ours(shuffled, ROWS)
    back = to_theirs(ours, ROWS)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())
    assert all(t.is_contiguous() for t in (*ours.values(), *back.values()))
    assert to_ours(back, ROWS).keys() == ours.keys()


def whole() -> dict[str, Tensor]:
    """The smallest file of transformers'."""
    return {
        "base.embed.weight": torch.randn(4, 2),
        "base.h.0.attn.c_attn.weight": torch.arange(12.0).reshape(2, 6),
        "base.h.0.attn.c_attn.bias": torch.arange(6.0),
        "base.h.0.attn.c_proj.weight": torch.randn(2, 2),
    }


def test_cut_and_transposed() -> None:
    """Columns of transformers' weight are rows of ours; a bias is only split; the parts share no memory."""
    ours = to_ours(whole(), ROWS)
    assert ours["layers.0.attention.key.weight"].tolist() == [[2.0, 8.0], [3.0, 9.0]]
    assert ours["layers.0.attention.value.bias"].tolist() == [4.0, 5.0]
    pointers = {t.untyped_storage().data_ptr() for n, t in ours.items() if ".bias" in n}
    assert len(pointers) == 3


def test_layer_numbers_may_be_shifted() -> None:
    """A layer at the end of a stage there is at the start of the next stage here."""
    ours = to_ours(whole() | {"base.stages.0.down.norm.bias": torch.ones(1)}, ROWS)
    assert "stages.1.down.norm.bias" in ours
    assert "base.stages.0.down.norm.bias" in to_theirs(ours, ROWS)


def test_other_spellings() -> None:
    """Names without the optional prefix, old names of a norm's tensors, and second names are read."""
    plain = {name.removeprefix("base."): tensor for name, tensor in whole().items()}
    assert to_ours(plain, ROWS).keys() == to_ours(whole(), ROWS).keys()
    norm = {"base.stages.0.down.norm.gamma": torch.ones(2), "stages.0.down.norm.beta": torch.ones(2)}
    old = to_ours(whole() | norm, ROWS)
    assert {"stages.1.down.norm.weight", "stages.1.down.norm.bias"} <= old.keys()
    both = to_ours(whole() | {"shared.weight": torch.zeros(1)}, ROWS)
    assert both["embedding.weight"].numel() == 8  # the first row wins
    assert "shared.weight" not in to_theirs(both, ROWS)
    only = (Row("embed", "embedding", optional=True), *ROWS[-3:])
    assert to_ours({"shared.weight": torch.zeros(3)}, only)["embedding.weight"].numel() == 3


def test_ignored() -> None:
    """Ignored tensors are dropped, and are not written back."""
    others = dict.fromkeys(["h.0.attn.bias", "pooler.dense.weight", "pooler.x.y.z"], torch.ones(1))
    assert to_ours(whole() | others, ROWS).keys() == to_ours(whole(), ROWS).keys()


def test_never_theirs() -> None:
    rows = (Row("h.{}.fc", "layers.{}.mlp"), never_theirs("layers.{}.cross_attention.*"), never_theirs("gate"))
    theirs = {"h.0.fc.weight": torch.ones(2), "h.1.fc.weight": torch.zeros(2)}
    ours = to_ours(theirs, rows)
    assert {*ours} == {"layers.0.mlp.weight", "layers.1.mlp.weight"}
    extra = ("layers.0.cross_attention.query.weight", "layers.1.cross_attention.norm.bias", "gate")
    whole = {**ours, **dict.fromkeys(extra, torch.ones(1))}
    written = to_theirs(whole, rows)
    assert written.keys() == theirs.keys()
    assert all(torch.equal(written[name], theirs[name]) for name in theirs)
    assert without_place(whole, rows) == [*extra]
    with pytest.raises(CheckpointMismatchError, match=r"unexpected \(other\)"):
        to_theirs({**whole, "other": torch.ones(1)}, rows)
    for name in extra:  # not a name of theirs either
        with pytest.raises(CheckpointMismatchError, match="unexpected"):
            to_ours({**theirs, name: torch.ones(1)}, rows)
    below = under(rows, "model.", "decoder.")
    assert {*to_theirs({f"decoder.{name}": t for name, t in whole.items()}, below)} == {f"model.{n}" for n in theirs}
    assert their_name("gate", rows) is None


def test_everything_wrong_is_said_at_once() -> None:
    """The message has the count and five names, the details have all."""
    state = {**whole(), **{f"stray.{i}": torch.ones(1) for i in range(7)}}
    del state["base.embed.weight"]
    state["base.h.1.attn.c_attn.weight"] = torch.ones(2, 7)
    state["base.h.1.self.q.weight"] = torch.ones(2, 2)
    with pytest.raises(CheckpointMismatchError) as caught:
        to_ours(state, ROWS)
    message, details = str(caught.value), caught.value.details
    assert len(message) <= 300
    assert "\n" not in message
    assert message.startswith("4 tensors missing (")
    assert "8 tensors unexpected (stray.0" in message
    assert {line for line in details.splitlines() if line.startswith("missing")} == {
        "missing: base.embed",
        "missing: base.h.1.attn.c_proj",
        "missing: base.h.1.self.k.weight",
        "missing: base.h.1.self.v.weight",
    }
    assert details.count("unexpected: stray") == 7
    assert "base.h.1.attn.c_attn.weight of shape (2, 7), not divisible into 3" in details


def test_going_back_is_as_strict() -> None:
    """It refuses a tensor that no row names, and the lack of one of three that should be joined."""
    ours = to_ours(whole(), ROWS)
    del ours["layers.0.attention.key.bias"]
    said = r"1 tensor missing \(layers.0.attention.key.bias\); 1 tensor unexpected \(zorg\)"
    with pytest.raises(CheckpointMismatchError, match=said):
        to_theirs({**ours, "zorg": torch.ones(1)}, ROWS)


@pytest.mark.parametrize(
    "name",
    [
        "h.00.attn.c_proj.weight",
        "h.-1.attn.c_proj.weight",
        "h.1.2.attn.c_proj.weight",
        "h.1٣.attn.c_proj.weight",
        "xh.0.attn.c_proj.weight",
        "base.base.embed.weight",
        "embed.weight.weight",
        "embedXweight",
        "embed.evil",
        "",
        "head\n",
    ],
)
def test_names_that_only_look_right(name: str) -> None:
    """No row matches them."""
    with pytest.raises(CheckpointMismatchError, match="1 tensor unexpected"):
        to_ours({**whole(), name: torch.ones(1)}, ROWS)
