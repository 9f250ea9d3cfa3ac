"""The doctor: a small folder with each fault, and one without any."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from tests.data.sources import labelled, lines, png, shards, write
from tests.model.tiny import tiny
from vedcore.cli.app import main
from vedcore.config import TokenIds
from vedcore.data import DataConfig, examine
from vedcore.data.doctor.findings import CHECKS
from vedcore.processing.tokenizers import make_tokenizer


@pytest.fixture
def model() -> Any:
    return tiny("bert", tokenizer="char", token_ids=None, decoder_vocab_size=98)


def rows(folder: Path, *texts: str, **images: bytes) -> Path:
    """A folder with an image for each text, drawn of its number, or that of the same number in ``images``."""
    files: dict[str, bytes | str] = {f"{n}.png": images.get(f"n{n}", png(str(n))) for n in range(len(texts))}
    table = lines([{"file_name": f"{n}.png", "text": text} for n, text in enumerate(texts)])
    return write(folder, files | {"metadata.jsonl": table})


def plain(width: int, height: int, colour: str = "white", mark: bool = False) -> bytes:
    image, file = Image.new("RGB", (width, height), colour), io.BytesIO()
    if mark:
        image.paste("black", (0, 0, width // 2, height))
    image.save(file, "PNG")
    return file.getvalue()


def test_a_folder_without_faults(model: Any, tmp_path: Path) -> None:
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = examine(model, labelled(tmp_path))
    assert not found.findings, str(found)
    assert set(found.passed) == CHECKS.keys() - {"overfits"}
    assert (found.total, found.examined, len(found.samples)) == (10, 10, 8)
    assert all(sample.decoded == sample.text and sample.ids[-1] == 1 for sample in found.samples)
    assert len(str(found).splitlines()) == len(found.passed) + 1
    json.dumps(found.to_data())
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in weights.items())


def broken(folder: Path) -> Path:
    rows(folder, "a", "b", "c", n1=b"GIF8 not an image")
    with (folder / "metadata.jsonl").open("a") as file:
        file.write('{"file_name": "gone.png", "text": "d"}\n{"file_name":\n')
    return folder


def double(folder: Path) -> Path:
    rows(folder, "a", "b", "c", "a")
    table = [{"file_name": f"{n}.png", "text": "a", "split": "validation" if n else "train"} for n in range(2)]
    return write(folder, {"0.png": png("x"), "1.png": png("x"), "metadata.jsonl": lines(table)})


CASES: dict[str, tuple[Callable[[Path], Path], int, str, str]] = {
    "rows_open": (broken, 3, "metadata.jsonl:4", "leave the row out"),
    "characters_have_tokens": (lambda f: rows(f, "aü", "b", "üße\u0301"), 2, ":1", r"extend_alphabet('ßü\u0301')"),
    "labels_end": (lambda f: rows(f, "a</s>", "b", "c"), 1, "metadata.jsonl:1", "take </s> out"),
    "start_comes_once": (lambda f: rows(f, "a", "<s>b", "c"), 1, "metadata.jsonl:2", "take <s> out"),
    "labels_fit": (lambda f: rows(f, "a" * 29, "b" * 30, "c"), 1, "metadata.jsonl:2", "positions"),
    "images_show_something": (
        lambda f: rows(f, "a", "b", "c", n2=plain(30, 20)),
        1,
        "metadata.jsonl:3",
        "look at these images",
    ),
    "sizes_are_near": (
        lambda f: rows(f, "a", "b", "c", n0=plain(400, 20, mark=True)),
        1,
        "metadata.jsonl:1",
        "image_size=",
    ),
    "splits_share_nothing": (double, 1, "metadata.jsonl:1 = ", "one split"),
}
"""Names of checks to a folder, the number of rows with that fault, one of them, and a part of the remedy."""


@pytest.mark.parametrize("check", CASES)
def test_a_fault(check: str, model: Any, tmp_path: Path) -> None:
    make, count, where, remedy = CASES[check]
    found = examine(model, make(tmp_path))
    (finding,) = found.findings
    assert (finding.check, finding.count) == (check, count)
    assert any(where in row for row in finding.rows), finding.rows
    assert remedy in finding.remedy
    assert check not in found.passed
    assert f"✗ {check} ({count} row" in str(found)


def test_an_end_that_there_is_not(tmp_path: Path) -> None:
    model = tiny("bert", tokenizer="char", token_ids={"start": 0, "eos": (), "pad": 2}, decoder_vocab_size=98)
    (finding,) = examine(model, rows(tmp_path, "a", "b")).findings
    assert (finding.check, finding.message) == ("labels_end", "no token id ends a label")
    model.token_ids = TokenIds(start=0, eos=(1,), pad=2)
    assert not examine(model, tmp_path).findings


def test_tokenizers_that_are_not_the_decoders(model: Any, tmp_path: Path) -> None:
    folder = rows(tmp_path, "ab", "b")
    model.processor.tokenizer.add_tokens(["ab"])
    (finding,) = examine(model, folder).findings
    assert (finding.check, finding.count) == ("ids_in_vocabulary", 1)
    assert "model.resize_vocabulary(99)" in finding.remedy
    without = tiny("bert")
    (finding,) = examine(without, folder).findings
    assert finding.message == "the model has no tokenizer"
    without.processor.tokenizer = make_tokenizer("char:ab")
    (finding,) = examine(without, folder).findings
    assert finding.check == "tokenizer_is_the_decoders"
    assert finding.message == "the model ends a text with id 3, which the tokenizer has as 'a', an ordinary token"
    large = tiny("bert", tokenizer="char", token_ids=None, decoder_vocab_size=5000)
    (finding,) = examine(large, folder).findings
    assert finding.message == "the decoder has 5,000 tokens, the tokenizer 98"


def test_labels_that_are_read_back_otherwise(tmp_path: Path) -> None:
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["<s>", "</s>", "<pad>", "<unk>", "one"])}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens(["<s>", "</s>", "<pad>", "<unk>"])
    model = tiny("bert", tokenizer=words, token_ids=None, decoder_vocab_size=5)
    found = {finding.check: finding for finding in examine(model, rows(tmp_path, "one", "one  two")).findings}
    assert "'one  two' as 'one <unk>'" in found["labels_read_back"].message
    assert found["labels_read_back"].count == 1


def test_few_of_many_rows_are_looked_at(model: Any, tmp_path: Path) -> None:
    found = examine(model, labelled(tmp_path / "a", 20), settings=DataConfig(validation_fraction=0.0), max_rows=5)
    assert (found.total, found.examined) == (20, 5)
    assert "20 rows, 5 of them examined" in str(found)
    found = examine(model, shards(tmp_path / "b"), max_rows=5)
    assert (found.total, found.examined, found.findings) == (None, 5, ())
    assert "splits_share_nothing" not in found.passed
    both = examine(model, tmp_path / "a", tmp_path / "a", max_rows=5)
    assert [finding.check for finding in both.findings] == ["splits_share_nothing"]


def test_a_copy_of_the_model_learns_a_few_rows(model: Any, tmp_path: Path) -> None:
    folder = rows(tmp_path, "ab", "cä", "a", n0=plain(30, 20, "red", True), n1=plain(30, 20, "blue", True))
    before, draws = {name: tensor.clone() for name, tensor in model.state_dict().items()}, torch.get_rng_state()
    settings = DataConfig(validation_fraction=0.0)
    found = examine(model, folder, settings=settings, overfit=2)
    assert [finding.check for finding in found.findings] == ["characters_have_tokens"]
    assert found.overfit is not None
    assert (found.overfit.reason, found.overfit.rows, found.overfit.read_back) == ("read back", 2, 2)
    few = examine(model, folder, settings=settings, overfit=2, overfit_steps=1)
    assert [finding.check for finding in few.findings] == ["characters_have_tokens", "overfits"]
    late = examine(model, folder, settings=settings, overfit=2, overfit_seconds=0)
    assert "overfit_seconds=" in late.findings[-1].remedy
    assert torch.equal(torch.get_rng_state(), draws)
    assert not any(parameter.grad is not None for parameter in model.parameters())
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    assert model.decoder.vocab_size == 98


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["check", *arguments])
    return int(ended.value.code or 0)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = {
        "encoder": {"name": "vit_tiny_patch16_224", "num_hidden_layers": 1, "image_size": [16, 32]},
        "decoder": {"name": "gpt2", "n_layer": 1, "n_embd": 24, "n_head": 2, "n_positions": 30},
        "tokenizer": "char",
        "train": {"max_steps": 5},
        "data": {"text_column": "text"},
    }
    file, folder, sheet = tmp_path / "config.json", labelled(tmp_path / "a"), tmp_path / "out" / "batch.png"
    file.write_text(json.dumps(config))
    assert run(str(file), "--data", str(folder), "--output", str(sheet.parent), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["findings"], found["sheet"], len(found["batch"])) == ([], str(sheet), 8)
    with Image.open(sheet) as image:
        assert np.ptp(np.asarray(image)) > 200
    broken(tmp_path / "b")
    assert run(str(file), "--data", str(tmp_path / "b")) == 1
    out = capsys.readouterr().out
    assert "✗ rows_open (3 rows): " in out
    assert "metadata.jsonl:5: not JSON" in out
    assert "decoded 'a'" in out
    assert run(str(file), "--overfit", "8") == 2
    assert "name it with --data" in capsys.readouterr().err
    file.write_text(json.dumps({**config, "data": {"text_colum": "text"}}))
    assert run(str(file), "--data", str(folder)) == 3
    assert "text_column" in capsys.readouterr().err
    assert run(str(tmp_path / "none"), "--data", str(folder)) == 1
