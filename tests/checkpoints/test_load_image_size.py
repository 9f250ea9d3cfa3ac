"""`vedcore.load` and `vedcore.compose` of a checkpoint for images of another size: all else stays."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

import vedcore
from tests.model.tiny import spread

VIT = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "patch_size": 8,
    "image_size": 32,
}
SWIN = {"embed_dim": 12, "depths": [2, 2], "num_heads": [2, 3], "window_size": 3, "patch_size": 2, "image_size": 24}
ENCODERS: dict[str, dict[str, Any]] = {
    "vit": VIT,
    "deit": VIT,
    "beit": {**VIT, "use_absolute_position_embeddings": True, "use_relative_position_bias": True},
    "swin": SWIN,
    "donut-swin": SWIN,
}


def saved(family: str, folder: Path) -> Any:
    """A model of transformers with a projection, in a folder with its options and its image processor."""
    encoder = hf.AutoConfig.for_model(family, **ENCODERS[family])
    decoder = hf.GPT2Config(
        vocab_size=50, n_embd=36, n_layer=2, n_head=3, n_positions=30, bos_token_id=2, eos_token_id=3
    )
    model = hf.VisionEncoderDecoderModel(hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder))
    spread(model.eval(), seed=3)
    model.generation_config = hf.GenerationConfig(
        decoder_start_token_id=9, eos_token_id=3, pad_token_id=1, num_beams=2, max_length=9
    )
    model.save_pretrained(folder)
    side = ENCODERS[family]["image_size"]
    hf.ViTImageProcessor(
        size={"height": side, "width": side}, image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7]
    ).save_pretrained(folder)
    return model


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def images(size: tuple[int, int]) -> torch.Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


def assert_same(a: vedcore.VisionEncoderDecoder, b: vedcore.VisionEncoderDecoder) -> None:
    for (name, x), (other, y) in zip(a.state_dict().items(), b.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(x, y), name
    assert (a.token_ids, a.generation_config) == (b.token_ids, b.generation_config)
    assert a.processor.preprocessing == b.processor.preprocessing


@pytest.mark.parametrize("size", [(16, 64), (48, 48)], ids=str)
@pytest.mark.parametrize("family", ENCODERS)
def test_another_size_is_that_of_transformers(family: str, size: tuple[int, int], tmp_path: Path) -> None:
    theirs, path = saved(family, tmp_path), str(tmp_path)
    ours, whole = vedcore.load(path, image_size=size), vedcore.load(path)
    pixels, text = images(size), torch.tensor([[9, 4, 5], [9, 6, 7]])
    with torch.no_grad():
        a = theirs(pixel_values=pixels, decoder_input_ids=text, interpolate_pos_encoding=True).logits
        b = ours(pixels, decoder_input_ids=text).logits
        ids = theirs.generate(pixels, interpolate_pos_encoding=True)
    torch.testing.assert_close(b / a.abs().max(), a / a.abs().max(), atol=2e-4, rtol=0)
    assert ours.generate(pixels).tolist() == ids.tolist()
    assert torch.equal(ours.projector.state_dict()["proj.weight"], whole.projector.state_dict()["proj.weight"])
    assert ours.token_ids == whole.token_ids == vedcore.TokenIds(start=9, eos=(3,), pad=1)
    assert ours.generation_config == whole.generation_config
    assert ours.processor.preprocessing == whole.processor.preprocessing.changed(image_size=size)
    assert tuple(ours.config.encoder.fields["image_size"]) == size

    assert_same(vedcore.compose(path, path, image_size=size), ours)
    assert_same(vedcore.compose({"name": path, "image_size": size}, path), ours)
    assert_same(vedcore.load(path, image_size=size, mmap=True), ours)
    assert_same(vedcore.load(path, image_size=size, strict=False), ours)
    ours.save_pretrained(tmp_path / "native")
    assert_same(vedcore.load(tmp_path / "native"), ours)
    assert_same(vedcore.compose(str(tmp_path / "native"), str(tmp_path / "native")), ours)


@pytest.mark.parametrize("family", ENCODERS)
def test_a_native_folder_at_another_size(family: str, tmp_path: Path) -> None:
    saved(family, tmp_path)
    vedcore.load(tmp_path).save_pretrained(tmp_path / "native")
    wanted = vedcore.load(tmp_path, image_size=(48, 64))
    assert_same(vedcore.load(tmp_path / "native", image_size=(48, 64)), wanted)
    again = vedcore.load(tmp_path / "native", image_size=ENCODERS[family]["image_size"])
    assert_same(again, vedcore.load(tmp_path))


def test_one_number_is_a_square_and_a_crop_keeps_its_proportion(tmp_path: Path) -> None:
    saved("vit", tmp_path)
    hf.ViTImageProcessor(
        size={"height": 40, "width": 48}, do_center_crop=True, crop_size={"height": 32, "width": 32}
    ).save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    settings |= {"image_processor_type": "DeiTImageProcessor", "do_center_crop": True, "crop_size": 32}
    path.write_text(json.dumps(settings))
    model = vedcore.load(tmp_path, image_size=64)
    found = model.processor.preprocessing
    assert (found.image_size, found.resize_size) == ((64, 64), (80, 96))
    assert vedcore.compose(str(tmp_path), str(tmp_path), image_size=64).processor.preprocessing == found
    given = vedcore.load(tmp_path, image_size=[16, 64], preprocessing={"image_size": (8, 8), "resize_mode": "pad"})
    assert given.processor.preprocessing == vedcore.Preprocessing(image_size=(16, 64), resize_mode="pad")


def test_a_size_that_the_encoder_cannot_take_is_the_callers(tmp_path: Path) -> None:
    saved("vit", tmp_path)
    for size in ((33, 64), 4, 1 << 30):
        with pytest.raises(vedcore.ConfigError, match=r"^image_size[.:]"):
            vedcore.load(tmp_path, image_size=size)


def test_tables_of_another_size_are_not_resampled_unasked(tmp_path: Path) -> None:
    saved("vit", tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["encoder"]["image_size"] = 64
    path.write_text(json.dumps(config))
    with pytest.raises(vedcore.CheckpointMismatchError, match="position_embeddings"):
        vedcore.load(tmp_path, preprocessing={"image_size": (64, 64)})
    with pytest.raises(vedcore.CheckpointMismatchError, match="position_embeddings"):
        vedcore.compose(str(tmp_path), str(tmp_path), preprocessing={"image_size": (64, 64)})


def test_the_hint_for_images_of_another_size_is_followed(tmp_path: Path) -> None:
    saved("vit", tmp_path)
    path = str(tmp_path)
    for model in (vedcore.load(path), vedcore.compose(path, path)):
        with pytest.raises(vedcore.IncompatibleError, match="image_size=") as caught:
            model.generate(images((16, 64)))
        assert "(16, 64)" in caught.value.hint
    for model in (vedcore.load(path, image_size=(16, 64)), vedcore.compose(path, path, image_size=(16, 64))):
        model.generate(images((16, 64)))
    with pytest.raises(vedcore.IncompatibleError) as caught:
        vedcore.load(path).generate(images((17, 64)))
    assert "image_size=" not in caught.value.hint  # 17 rows are not a number of patches
