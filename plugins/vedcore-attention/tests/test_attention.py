"""The command draws the attention that the model has, and keeps the habits of the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vedcore
from vedcore.cli import main
from vedcore.testing import check_registration

TINY: dict[str, Any] = {
    "encoder": {"name": "vit", "image_size": (32, 64), "patch_size": 8, "hidden_size": 12, "num_hidden_layers": 1}
    | {"num_attention_heads": 2},
    "decoder": {"name": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2},
    "tokenizer": "char",
}


@pytest.fixture(scope="module")
def model() -> vedcore.VisionEncoderDecoder:
    made = vedcore.compose(TINY, seed=0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(4)  # so that the attention is uneven
    return made


@pytest.fixture(scope="module")
def folder(model: vedcore.VisionEncoderDecoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder / "tiny")
    Image.effect_noise((64, 32), 80).convert("RGB").save(folder / "image.png")
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["attention", *map(str, arguments)])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_registration() -> None:
    check_registration("vedcore_attention")


def test_the_picture_and_the_text(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (folder / "tiny", folder / "image.png", "--max-new-tokens", 7)
    code, out, err = run(capsys, *arguments, "-o", tmp_path / "maps.png")
    text = vedcore.load(folder / "tiny").generate_text(folder / "image.png", max_new_tokens=7)[0].text
    assert (code, out, err) == (0, f"{text}\n", f"wrote {tmp_path / 'maps.png'}\n")
    picture = Image.open(tmp_path / "maps.png")
    assert picture.width <= 1200
    red, green, _ = np.asarray(picture.convert("RGB"), np.int16).transpose(2, 0, 1)
    assert (red - green).max() > 100
    assert [file.name for file in tmp_path.iterdir()] == ["maps.png"]


def test_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, folder / "tiny", folder / "image.png", "--max-new-tokens", 3, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["grid"] == [4, 8]
    assert "".join(each["token"] for each in found["tokens"]) == found["text"]
    assert [each["word"] for each in found["words"]] == found["text"].split()
    for each in found["tokens"]:
        assert 0 < sum(map(sum, each["attention"])) <= 1.0001


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "give --output maps.png, or --json"),
        (["-o", "maps.txt"], 2, "'maps.txt' is not the name of a picture: end it in .png"),
        (["--json", "--layer", "2"], 2, "the decoder has 2 layers; give one from 0 to 1"),
        (["--json", "--grid", "4"], 2, "'4' is not a grid: write rows and columns, such as 7x14"),
        (["--json", "--grid", "5x7"], 2, "5 x 7, and the image has 33 tokens"),
    ],
)
def test_wrong_usage(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    found, out, err = run(capsys, folder / "tiny", folder / "image.png", *arguments)
    assert (found, out) == (code, "")
    assert message in err


def test_inputs_that_cannot_be_read(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    for image in (tmp_path / "broken.png", tmp_path / "absent.png"):
        code, out, err = run(capsys, folder / "tiny", image, "-o", tmp_path / "maps.png")
        assert (code, out) == (1, "")
        assert image.name in err
    assert not (tmp_path / "maps.png").exists()
    code, _, err = run(capsys, tmp_path / "no-model", folder / "image.png", "--json")
    assert code == 1
    assert "no-model" in err
