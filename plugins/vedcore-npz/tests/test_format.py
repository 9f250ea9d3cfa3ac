"""A model as numpy arrays: the same bits back, options honoured, damage refused."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vedcore
from vedcore.testing import check_registration, parametrize_with_checks
from vedcore_npz.format import NpzFormat

SETTINGS: dict[str, Any] = {
    "encoder": {"name": "vit", "image_size": 32, "patch_size": 8, "hidden_size": 12, "num_hidden_layers": 1}
    | {"num_attention_heads": 2},
    "decoder": {"name": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2},
}
PIXELS = torch.rand(2, 3, 32, 32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved model."""
    model().save_pretrained(tmp_path / "saved", format="npz")
    return tmp_path / "saved"


def model(**changes: Any) -> vedcore.VisionEncoderDecoder:
    return vedcore.compose({"tokenizer": "char", **SETTINGS, **changes}, seed=0)


def arrays(folder: Path) -> dict[str, Any]:
    return dict(np.load(folder / "model.npz", allow_pickle=False))


def rewrite(folder: Path, **changed: Any) -> None:
    """The same arrays but for some, as numpy writes them; without a manifest."""
    np.savez(folder / "model.npz", **{**arrays(folder), **changed})
    (folder / "manifest.json").unlink(missing_ok=True)


@parametrize_with_checks([NpzFormat])
def test_contract(part: Any, check: Callable[[Any], None]) -> None:
    check(part)


def test_registration() -> None:
    check_registration("vedcore_npz")


@pytest.mark.parametrize("changes", [{}, {"tokenizer": None}, {"dtype": "bfloat16"}, {"dtype": "float16"}])
def test_it_comes_back_bit_for_bit(changes: dict[str, Any], tmp_path: Path) -> None:
    before = model(**changes)
    before.generation_config = before.generation_config.model_copy(update={"num_beams": 3})
    before.save_pretrained(tmp_path / "saved", format="npz")
    assert not (tmp_path / "saved" / "config.json").exists()
    after = vedcore.load(tmp_path / "saved")
    assert not after.training
    assert after.generation_config == before.generation_config
    assert after.token_ids == before.token_ids
    assert after.processor.preprocessing == before.processor.preprocessing
    assert after.state_dict().keys() == before.state_dict().keys()
    assert all(torch.equal(a, before.state_dict()[name]) for name, a in after.state_dict().items())
    assert {p.dtype for p in after.parameters()} == {p.dtype for p in before.parameters()}
    if changes == {}:
        assert torch.equal(after.generate(PIXELS, max_new_tokens=4), before.generate(PIXELS, max_new_tokens=4))


def test_numpy_reads_the_arrays(folder: Path) -> None:
    state = model().state_dict()
    found = arrays(folder)
    assert found.keys() == state.keys()
    assert all(np.array_equal(array, state[name].numpy()) for name, array in found.items())


def test_arrays_that_numpy_wrote_load(folder: Path) -> None:
    """Big-endian numbers, the order of Fortran, compression, and bfloat16 as JAX writes it."""
    found = arrays(folder)
    name, twisted = next((n, a) for n, a in found.items() if a.ndim == 2)
    found[name] = np.asfortranarray(twisted.astype(">f4"))
    short = next(n for n, a in found.items() if a.ndim == 1)
    found[short] = torch.from_numpy(found[short]).bfloat16().view(torch.int16).numpy().view("V2")
    np.savez_compressed(folder / "model.npz", **found)
    (folder / "manifest.json").unlink()
    state = vedcore.load(folder).state_dict()
    assert torch.equal(state[name], torch.from_numpy(twisted))
    assert torch.equal(state[short], model().state_dict()[short].bfloat16())


def test_options_of_load(folder: Path) -> None:
    loaded = vedcore.load(folder, dtype="bfloat16", image_size=64, preprocessing={"image_size": (64, 64)})
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    assert loaded.encoder.num_tokens() == 65
    assert loaded.processor.preprocessing.image_size == (64, 64)
    with pytest.raises(vedcore.UsageError, match="cannot be mapped"):
        vedcore.load(folder, mmap=True)


def test_the_other_files_are_not_read_where_options_replace_them(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(vedcore.TokenizerError, match="tokenizer.json"):
        vedcore.load(folder)
    vedcore.load(folder, tokenizer="char")


def test_names_and_numbers_are_checked(folder: Path) -> None:
    found = arrays(folder)
    name = next(iter(found))
    rewrite(folder, **{name: np.full_like(found[name], np.nan)})
    with pytest.raises(vedcore.NonFiniteError, match=name):
        vedcore.load(folder)
    with pytest.warns(RuntimeWarning, match="NaN"):
        vedcore.load(folder, check_finite="warn")
    rewrite(folder, **{name: np.zeros((1, 2, 3), np.float32)})
    with pytest.raises(vedcore.CheckpointMismatchError, match=name):
        vedcore.load(folder)
    del found[name]
    np.savez(folder / "model.npz", extra=np.zeros(3, np.float32), **found)
    with pytest.raises(vedcore.CheckpointMismatchError) as raised:
        vedcore.load(folder)
    assert name in raised.value.details
    assert "extra" in raised.value.details
    with pytest.warns(UserWarning, match="extra"):
        vedcore.load(folder, strict=False)


def test_another_file_than_was_saved(folder: Path) -> None:
    np.savez(folder / "model.npz", **{name: array + 1 for name, array in arrays(folder).items()})
    with pytest.raises(vedcore.CheckpointCorruptError, match="sha256"):
        vedcore.load(folder)
    vedcore.load(folder, verify=False)


def damaged(content: bytes, how: str) -> bytes:
    """The bytes of a .npz file, damaged in a way."""
    if how == "one bit":
        return content[:2000] + bytes([content[2000] ^ 1]) + content[2001:]
    if how == "an array that announces more":
        return content.replace(b"(16,)", b"(96,)", 1)
    return {"empty": b"", "half": content[: len(content) // 2], "text": b"not a zip", "no end": content[:-9]}[how]


@pytest.mark.parametrize("how", ["empty", "half", "text", "no end", "one bit", "an array that announces more"])
def test_damage_is_refused(folder: Path, how: str) -> None:
    path = folder / "model.npz"
    path.write_bytes(damaged(path.read_bytes(), how))
    (folder / "manifest.json").unlink()
    with pytest.raises(vedcore.CheckpointCorruptError) as raised:
        vedcore.load(folder)
    assert "model.npz" in str(raised.value)


class Mark:
    """A class whose instances would be unpickled."""


def test_nothing_is_unpickled(folder: Path) -> None:
    rewrite(folder, extra=np.array([Mark()], dtype=object))
    with pytest.raises(vedcore.CheckpointUnsafeError, match=r"model.npz: extra: a pickled object"):
        vedcore.load(folder)


def test_types_that_torch_does_not_have(folder: Path) -> None:
    rewrite(folder, extra=np.array(["text"]))
    with pytest.raises(vedcore.CheckpointMismatchError, match="extra: numbers of type <U4"):
        vedcore.load(folder)


def test_a_member_that_is_not_an_array(folder: Path) -> None:
    with zipfile.ZipFile(folder / "model.npz", "a") as archive:
        archive.writestr("notes.txt", "hello")
    (folder / "manifest.json").unlink()
    with pytest.raises(vedcore.CheckpointCorruptError, match=r"notes\.txt is not an array"):
        vedcore.load(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "vedcore-npz.json"), ("{}", "model and generation"), ('{"model": 3, "generation": {}}', "object expected")],
)
def test_damaged_settings(folder: Path, text: str, message: str) -> None:
    (folder / "vedcore-npz.json").write_text(text)
    with pytest.raises(vedcore.ConfigError, match=message) as raised:
        vedcore.load(folder)
    assert "vedcore-npz.json" in str(raised.value)


def test_missing_weights(folder: Path) -> None:
    (folder / "model.npz").unlink()
    (folder / "manifest.json").unlink()
    with pytest.raises(vedcore.CheckpointNotFoundError, match=r"model\.npz"):
        vedcore.load(folder)


def test_a_save_replaces_a_model_of_another_format(tmp_path: Path) -> None:
    model().save_pretrained(tmp_path / "saved")
    other = model(decoder={**SETTINGS["decoder"], "n_layer": 2})
    other.save_pretrained(tmp_path / "saved", format="npz")
    assert len(vedcore.load(tmp_path / "saved").decoder.layers) == 2
    model().save_pretrained(tmp_path / "saved")
    assert len(vedcore.load(tmp_path / "saved").decoder.layers) == 1
    assert not (tmp_path / "saved" / "vedcore-npz.json").exists()


def test_a_failed_save_leaves_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(vedcore.CheckpointWriteError):
        model().save_pretrained(folder, format="npz")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_options_of_save_are_refused(tmp_path: Path) -> None:
    with pytest.raises(vedcore.UsageError, match="max_shard_size"):
        model().save_pretrained(tmp_path / "saved", format="npz", max_shard_size="1MB")
    assert not (tmp_path / "saved").exists()


def test_other_folders_are_not_claimed(tmp_path: Path) -> None:
    np.savez(tmp_path / "model.npz", a=np.zeros(3))
    with pytest.raises(vedcore.CheckpointNotFoundError, match=r"no config\.json"):
        vedcore.load(tmp_path)


def test_the_same_model_gives_the_same_bytes(folder: Path) -> None:
    first = (folder / "model.npz").read_bytes()
    model().save_pretrained(folder, format="npz")
    assert (folder / "model.npz").read_bytes() == first
