"""The data of a run: letters without a token, other data beside the held-back rows, paths, the make-up of batches."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

import vedcore
from tests.data.sources import add_members, png
from tests.training.data import CONFIG, write_folder
from vedcore.training import letters, train

ONE: dict[str, Any] = {"max_steps": 1, "per_device_train_batch_size": 4, "generation_max_length": 3}


def shard(path: Path, texts: list[str]) -> str:
    """A shard in WebDataset's layout."""
    with tarfile.open(path, "w") as archive:
        for i, text in enumerate(texts):
            add_members(archive, {f"{i}.png": png(), f"{i}.txt": text.encode()})
    return str(path)


def test_a_row_with_an_unknown_token_is_not_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(letters, "LOOKED_AT", 1)
    plain = json.loads(vedcore.compose(CONFIG).processor.tokenizer.backend_tokenizer.to_str())
    plain["model"]["vocab"]["<unk>"] = len(plain["model"]["vocab"])
    (tmp_path / "tokenizer.json").write_text(json.dumps(plain))
    config = {**CONFIG, "tokenizer": str(tmp_path / "tokenizer.json")}
    rows = shard(tmp_path / "rows.tar", ["one", "öne"])
    train(config, rows, tmp_path / "run", **ONE, data_validation=str(write_folder(tmp_path / "held-back", 1)))
    assert re.search(r"not used: .*rows.tar:1: .*'ö', which becomes '<unk>'", capsys.readouterr().err)


def test_letters_of_a_stream_have_tokens_or_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(letters, "LOOKED_AT", 3)
    rows = shard(tmp_path / "rows.tar", ["one", "öne", "two", "six", "ßix"])
    options = {**ONE, "max_steps": 2, "data_validation": shard(tmp_path / "held-back.tar", ["one", "çça"])}
    model = vedcore.load(train(CONFIG, rows, tmp_path / "run", **options).last)
    told = capsys.readouterr().err
    assert "1 new letters of the labels have tokens now: 'ö' (1)" in told
    assert "the first 3 rows were searched" in told
    assert "validation: 1 letters without a token, which the model cannot write: 'ç' (2)" in told
    assert f"not used: {rows}:4: " in told
    assert "has no token for 'ß'" in told
    assert "data.letters=" in told
    vocab = model.processor.tokenizer.get_vocab()
    assert ("ö" in vocab, "ß" in vocab) == (True, False)
    train(CONFIG, rows, tmp_path / "whole", **options, data_letters="ßç")
    told = capsys.readouterr().err
    assert "3 new letters of the labels have tokens now: 'ö' (1), 'ß' (0), 'ç' (0)" in told
    assert "not used:" not in told
    assert "cannot write" not in told


def test_other_data_is_evaluated_under_its_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, old, odd = (write_folder(tmp_path / name, 4) for name in ("rows", "old", "odd"))
    write_folder(odd, 4, ("one", "twõ", "six", "twõ"))
    named = [str(old), str(odd)]
    result = train(CONFIG, rows, tmp_path / "run", **ONE, data_validation=str(old), data_also=named)
    logged = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["evaluation"] for line in logged if "evaluation" in line] == ["validation", "old", "odd"]
    assert result.scores.keys() == {"validation", "old", "odd"}
    assert "odd: 1 letters without a token, which the model cannot write: 'õ' (2)" in capsys.readouterr().err
    again = train(tmp_path / "run" / "config.yaml", output=tmp_path / "again")
    assert again.scores == result.scores


def test_paths_of_a_config_file_count_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, elsewhere = tmp_path / "kept", tmp_path / "elsewhere"
    for name in ("rows", "held-back", "also"):
        write_folder(kept / name, 4)
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    tokenizer = vedcore.compose(CONFIG).processor.tokenizer.backend_tokenizer
    tokenizer.save(str(kept / "own.json"))
    data = {"train": "rows", "validation": "held-back", "also": "also"}
    (kept / "run.yaml").write_text(yaml.safe_dump({**CONFIG, "tokenizer": "own.json", "train": ONE, "data": data}))
    assert vedcore.compose({**CONFIG, "tokenizer": str(kept / "own.json")})
    first = train(Path("../kept/run.yaml"), output="first")
    assert first.scores.keys() == {"validation", "also"}
    monkeypatch.chdir(tmp_path)
    again = train("elsewhere/first/config.yaml", output="again")  # the same run from any folder
    assert again.scores == first.scores
    write_folder(tmp_path / "rows", 2)
    config = {"model": "first/last", "train": ONE, "data": {"train": "../kept/rows"}}
    (elsewhere / "more.yaml").write_text(yaml.safe_dump(config))
    more = train("elsewhere/more.yaml", output="more", overrides=["data.validation=rows"])  # the shell's: from here
    assert more.scores["validation"]["rows"] == 2


@pytest.mark.parametrize(
    ("encoder", "options", "sorted_by_length"),
    [
        ("timm/mobilenetv3_small_050", {}, False),
        ("timm/mobilenetv3_small_050", {"freeze": "encoder", "data_cache_encoder": True}, True),
        ("vit_tiny_patch16_224", {}, True),
    ],
)
def test_batches_are_made_of_any_lengths_where_there_are_batch_norms(
    tmp_path: Path, encoder: str, options: dict[str, Any], sorted_by_length: bool
) -> None:
    rows = write_folder(tmp_path / "rows", 48, tuple("a" * length for length in (1, 4, 8, 12)))
    spreads = []

    def loss(model: Any, batch: Any, **rest: Any) -> Any:
        lengths = (batch["labels"] != -100).sum(-1)
        spreads.append(int(lengths.max() - lengths.min()))
        return model(**batch, **rest).loss

    config = {**CONFIG, "encoder": {"name": encoder, "image_size": 32}}
    held_back = str(write_folder(tmp_path / "held-back", 1))
    train(config, rows, tmp_path / "run", **{**ONE, "max_steps": 12}, **options, data_validation=held_back, loss=loss)
    assert len(spreads) == 12
    assert (sum(spreads) == 0) is sorted_by_length
    assert (sum(spreads) > 12 * 4) is not sorted_by_length
