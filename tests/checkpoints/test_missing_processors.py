"""A Trainer's checkpoint without tokenizer or image processor: the warning says where these are likely to be."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import transformers as hf

import vedcore
from tests.checkpoints.test_added_tokens import made

PROCESSOR, TOKENIZER = "preprocessor_config.json", ["tokenizer.json", "tokenizer_config.json"]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The weights and settings that a Trainer without a processor writes."""
    folder = made(tmp_path / "run" / "checkpoint-500", "gpt2", [])
    for name in (PROCESSOR, *TOKENIZER):
        (folder / name).unlink()
    return folder


def said(folder: Path) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        vedcore.load(folder)
    return [str(warning.message) for warning in caught]


def named(folder: Path, **sections: str) -> None:
    """Set ``_name_or_path``, as transformers 4 does, at the top or in a section."""
    config = json.loads((folder / "config.json").read_text())
    for section, name in sections.items():
        (config if section == "top" else config[section])["_name_or_path"] = name
    (folder / "config.json").write_text(json.dumps(config))


def test_the_parent_folder_is_named(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(checkpoint.parent, "gpt2", [])
    named(checkpoint, top="org/start")
    lines = said(checkpoint)
    assert len(lines) == 2
    assert all(f"; {checkpoint.parent} has it" in line for line in lines)
    assert [word in line for word, line in zip((PROCESSOR, "no tokenizer"), lines, strict=True)] == [True, True]
    monkeypatch.chdir(checkpoint)
    assert all(str(checkpoint.parent) in line for line in said(Path()))


def test_a_folder_beside_a_checkpoint_is_named(checkpoint: Path) -> None:
    """Among the checkpoints of one run; not among folders of other names, which may be of any model."""
    other = made(checkpoint.parent / "final", "gpt2", [])
    assert all(f"; {other} has it" in line for line in said(checkpoint))
    renamed = checkpoint.rename(checkpoint.with_name("captioner"))
    assert not any("has it" in line for line in said(renamed))


@pytest.mark.parametrize("where", ["run", "run/checkpoint-1000"])
def test_a_native_folder_without_its_tokenizer(tmp_path: Path, where: str) -> None:
    whole = vedcore.load(made(tmp_path / "start", "gpt2", []))
    folder = tmp_path / "run" / "checkpoint-500"
    for path in (tmp_path / where, folder):
        path.parent.mkdir(exist_ok=True)
        whole.save_pretrained(path)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(vedcore.TokenizerError) as caught:
        vedcore.load(folder)
    assert (caught.value.path, caught.value.message) == (str(folder / "tokenizer.json"), "no such file")
    assert f"{where} has it: copy it from there" in caught.value.hint
    assert "or give tokenizer=" in caught.value.hint
    (folder / "tokenizer.json").write_bytes((tmp_path / where / "tokenizer.json").read_bytes())
    assert vedcore.load(folder).processor.tokenizer is not None


def test_the_model_that_training_began_with_is_named(checkpoint: Path) -> None:
    named(checkpoint, top="", encoder="org/vit", decoder="org/gpt2")
    images, text = said(checkpoint)
    assert "'org/vit', which training began with" in images
    assert "'org/gpt2', which training began with" in text
    named(checkpoint, top="org/captioner")
    assert all("'org/captioner', which training began with" in line for line in said(checkpoint))


def test_each_file_is_sought_for_itself(checkpoint: Path) -> None:
    hf.ViTImageProcessor().save_pretrained(checkpoint.parent)
    named(checkpoint, top="org/captioner")
    images, text = said(checkpoint)
    assert str(checkpoint.parent) + " has it" in images
    assert "org/captioner" in text


@pytest.mark.parametrize("name", ["", "itself"])
def test_nothing_is_guessed(checkpoint: Path, name: str) -> None:
    named(checkpoint, top=str(checkpoint) if name else "")
    (line,) = said(checkpoint)
    assert line.endswith("if the model saw others")
