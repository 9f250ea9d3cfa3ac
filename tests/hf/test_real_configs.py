"""config.json files of published models, as the transformers of their times wrote them: they open, texts are whole.

The models have random weights, and fewer layers and words; ``VEDCORE_WHOLE=1`` opens them whole.
"""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import vedcore
from vedcore.config import TokenIds

CONFIGS = Path(__file__).parent / "configs"
IDS = {
    "trocr-base-4.12": TokenIds(start=2, eos=(2,), pad=1),
    "trocr-small-4.14": TokenIds(start=2, eos=(2,), pad=1),
    "vit-gpt2-4.23": TokenIds(start=50256, eos=(50256,), pad=50256),
}
POSITIONS = {"trocr-base-4.12": None, "trocr-small-4.14": 512, "vit-gpt2-4.23": 1024}


def test_every_config_is_known() -> None:
    assert {file.stem for file in CONFIGS.glob("*.json")} == set(IDS)


@pytest.fixture(scope="module", params=sorted(IDS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def config_of(name: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((CONFIGS / f"{name}.json").read_text())
    if os.environ.get("VEDCORE_WHOLE") != "1":
        config["encoder"]["num_hidden_layers"] = 1
        for layers in ("decoder_layers", "n_layer"):
            if layers in config["decoder"]:
                config["decoder"][layers] = 1
        if name.startswith("trocr"):  # whose own ids are the first ones
            config["decoder"]["vocab_size"] = 1000
    return config


@pytest.fixture(scope="module")
def opened(name: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, list[str]]:
    """The model in both libraries, and the warnings of the load."""
    from transformers import VisionEncoderDecoderConfig, VisionEncoderDecoderModel

    folder = tmp_path_factory.mktemp(name)
    config = config_of(name)
    torch.manual_seed(0)
    theirs = VisionEncoderDecoderModel(VisionEncoderDecoderConfig.from_dict(config)).eval()
    theirs.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ours = vedcore.load(folder)
    return ours, theirs, [str(each.message) for each in caught if each.category is UserWarning]


def test_ids_and_options(name: str, opened: tuple[Any, Any, list[str]]) -> None:
    ours = opened[0]
    assert ours.token_ids == IDS[name]
    options = ours.generation_config
    assert options.max_length is options.max_new_tokens is None
    assert (options.num_beams, options.do_sample, options.early_stopping) == (1, False, False)
    assert ours.decoder.max_positions == POSITIONS[name]
    assert options.limits(1, ours.decoder.max_positions).max_length == (POSITIONS[name] or 1025)


def test_the_length_is_told_once(opened: tuple[Any, Any, list[str]]) -> None:
    told = [message for message in opened[2] if "max_length" in message]
    assert len(told) == 1
    assert "decoder.max_length: 20 is what transformers 4 wrote there by itself, and is not taken" in told[0]


def test_texts_are_those_of_transformers(name: str, opened: tuple[Any, Any, list[str]]) -> None:
    ours, theirs, _ = opened
    size = ours.config.preprocessing.image_size
    pixels = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    start = IDS[name].start
    with torch.no_grad():
        a = ours(pixels, decoder_input_ids=torch.tensor([[start, 5, 7]])).logits
        b = theirs(pixel_values=pixels, decoder_input_ids=torch.tensor([[start, 5, 7]])).logits
    torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)
    ids = ours.generate(pixels, max_new_tokens=24, eos_token_id=None)
    assert ids.shape == (1, 25)
    assert ids[0, 0] == start
