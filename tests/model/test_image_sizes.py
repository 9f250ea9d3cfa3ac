"""Whole models at another image size, and with one channel: as transformers' `VisionEncoderDecoderModel`."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor, nn

import vedcore
from tests.model.tiny import close, ids, spread, tiny
from vedcore.components import fit_to
from vedcore.weights.loading import Weights
from vedcore.weights.snapshot import Snapshot

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
DECODER = {"vocab_size": 50, "n_embd": 24, "n_layer": 2, "n_head": 2, "n_positions": 30}


def made(family: str, folder: Path, **fields: Any) -> Any:
    """A model of transformers, also saved in the folder."""
    encoder = transformers.AutoConfig.for_model(family, **{**ENCODERS[family], **fields})
    decoder = transformers.GPT2Config(**DECODER, bos_token_id=2, eos_token_id=3)
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 2, 1, 3
    model = transformers.VisionEncoderDecoderModel(config).eval()
    spread(model, seed=3)
    model.generation_config = transformers.GenerationConfig(
        decoder_start_token_id=2, bos_token_id=2, eos_token_id=3, pad_token_id=1
    )
    model.save_pretrained(folder)
    return model


def opened(folder: Path, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*no preprocessor_config.json")
        return vedcore.load(folder, **options)


def images(size: tuple[int, int], count: int = 2, channels: int = 3) -> Tensor:
    return torch.randn(count, channels, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [(48, 64), (64, 16), (27, 45)], ids=str)
@pytest.mark.parametrize("family", ENCODERS)
def test_one_call_at_another_size(family: str, size: tuple[int, int], tmp_path: Path) -> None:
    theirs = made(family, tmp_path)
    ours, pixels, text = opened(tmp_path), images(size), ids(2)
    option = {"interpolate_pos_encoding": True}
    with torch.no_grad():
        a = theirs(pixel_values=pixels, decoder_input_ids=text, **option)
        b = ours(pixels, decoder_input_ids=text, **option)
        encoded = ours.encode(pixels, **option)
        again = ours(encoder_outputs=encoded, decoder_input_ids=text)
    close(b.logits, a.logits)
    close(b.encoder_last_hidden_state, a.encoder_last_hidden_state)
    torch.testing.assert_close(again.logits, b.logits, atol=0, rtol=0)
    mine = ours.generate(pixels, max_new_tokens=8, **option)
    their = theirs.generate(pixels, max_new_tokens=8, do_sample=False, **option)
    assert mine.tolist() == their.tolist()
    assert ours.generate(encoder_outputs=encoded, max_new_tokens=8).tolist() == mine.tolist()


@pytest.mark.parametrize("family", ["vit", "deit", "beit"])
def test_without_the_argument_another_size_is_refused(family: str, tmp_path: Path) -> None:
    made(family, tmp_path)
    ours = opened(tmp_path)
    for call in (ours.encode, ours.generate, lambda x: ours(x, decoder_input_ids=ids(2))):
        with pytest.raises(vedcore.IncompatibleError, match="interpolate_pos_encoding=True"):
            call(images((48, 64)))


@pytest.mark.parametrize("family", ["swin", "donut-swin"])
def test_maps_need_no_argument(family: str, tmp_path: Path) -> None:
    theirs = made(family, tmp_path)
    ours, pixels, text = opened(tmp_path), images((33, 50)), ids(2)
    with torch.no_grad():
        a, b = theirs(pixel_values=pixels, decoder_input_ids=text), ours(pixels, decoder_input_ids=text)
    close(b.logits, a.logits)
    assert ours.generate(pixels, max_new_tokens=5).shape[0] == 2
    with pytest.raises(vedcore.IncompatibleError, match="smaller than a window"):
        ours.generate(images((6, 6)), max_new_tokens=5)


def test_gradients_and_many_images(tmp_path: Path) -> None:
    theirs = made("vit", tmp_path)
    ours, pixels, labels = opened(tmp_path), images((48, 24), 3), ids(3)
    for side in (theirs, ours):
        side(pixel_values=pixels, labels=labels, interpolate_pos_encoding=True).loss.backward()
    close(ours.encoder.model.pos_embed.grad, theirs.encoder.embeddings.position_embeddings.grad)
    many = images((48, 24), 19)  # a CPU encodes few at a time
    with torch.no_grad():
        whole = ours.encode(many, interpolate_pos_encoding=True).last_hidden_state
        alone = [ours.encode(image[None], interpolate_pos_encoding=True).last_hidden_state for image in many]
    close(whole, torch.cat(alone))


def test_an_assistant_sees_the_same_size(tmp_path: Path) -> None:
    made("vit", tmp_path / "a")
    model, pixels = opened(tmp_path / "a"), images((48, 24), 1)
    option = {"interpolate_pos_encoding": True, "max_new_tokens": 8}
    plain = model.generate(pixels, **option)
    assert model.generate(pixels, assistant_model=opened(tmp_path / "a"), **option).tolist() == plain.tolist()


class Foreign(vedcore.VisionEncoder):
    """An encoder whose `forward` does not know the argument."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden_size, self.preprocessing = 24, vedcore.Preprocessing(image_size=(16, 24))
        self.proj = nn.Linear(3, 24)

    def num_tokens(self, image_size: tuple[int, int] | None = None) -> int:
        return 1

    def forward(
        self,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> Any:
        return vedcore.EncoderOutput(self.proj(pixel_values.mean((2, 3)))[:, None])


def test_encoders_that_do_not_resample_refuse_the_argument() -> None:
    foreign = tiny()
    foreign.encoder = Foreign()
    timm = vedcore.compose(
        "timm/vit_tiny_patch16_224", {"name": "gpt2", **DECODER}, image_size=(16, 32), token_ids={"start": 0}
    )
    for model, name, size in ((foreign, "Foreign", "16 x 24"), (timm, "AnyTimm", "16 x 32")):
        for call in (model.encode, model.generate, lambda x, m=model, **o: m(x, decoder_input_ids=ids(2), **o)):
            with pytest.raises(vedcore.UsageError, match=f"interpolate_pos_encoding: {name} .*{size}") as error:
                call(images((32, 32)), interpolate_pos_encoding=True)
            assert len(str(error.value)) <= 300
        height, width = map(int, size.split(" x "))
        model.encode(images((height, width)))  # as the hint says


NEW_SIZES = {"vit": (16, 72), "deit": (16, 72), "beit": (64, 64), "swin": (48, 36), "donut-swin": (48, 36)}


@pytest.mark.parametrize("family", ENCODERS)
def test_a_part_of_a_checkpoint_at_another_size(family: str, tmp_path: Path) -> None:
    theirs, size = made(family, tmp_path / "theirs"), NEW_SIZES[family]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = str(tmp_path / "theirs")
        ours = vedcore.compose(folder, folder, image_size=size, token_ids={"start": 2, "eos": (3,), "pad": 1})
    assert ours.config.encoder.fields["image_size"] in (size, list(size))
    assert ours.processor.preprocessing.image_size == size
    pixels, text = images(size), ids(2)
    with torch.no_grad():
        expected = theirs(pixel_values=pixels, decoder_input_ids=text, interpolate_pos_encoding=True).logits
        close(ours(pixels, decoder_input_ids=text).logits, expected)
    report = ours.load_reports["encoder"]
    assert bool(report.resampled) == ("swin" not in family)
    assert ("resampled" in str(report)) == bool(report.resampled)
    assert all("pos" in name for name in report.resampled)
    for name in ("native", "transformers"):
        ours.save_pretrained(tmp_path / name, format=name)
        again = vedcore.load(tmp_path / name)
        with torch.no_grad():
            torch.testing.assert_close(
                again(pixels, decoder_input_ids=text).logits, ours(pixels, decoder_input_ids=text).logits
            )
    back = transformers.VisionEncoderDecoderModel.from_pretrained(tmp_path / "transformers").eval()
    with torch.no_grad():
        close(back(pixel_values=pixels, decoder_input_ids=text).logits, expected)


def test_weights_ask_before_they_report_a_mismatch(tmp_path: Path) -> None:
    made("vit", tmp_path / "theirs")
    opened(tmp_path / "theirs").save_pretrained(tmp_path / "ours")
    small = opened(tmp_path / "ours")
    model = vedcore.compose(small.config, image_size=(64, 24))
    with Snapshot(tmp_path / "ours") as snapshot:
        weights = Weights(snapshot)
        with pytest.raises(vedcore.CheckpointMismatchError, match="pos_embed"):
            weights.check(model)
        fit = fit_to(model.encoder, (32, 32), "encoder.")
        meta = vedcore.compose(small.config, image_size=(64, 24)).to("meta")
        assert weights.check(meta, fit=fit).resampled == ["encoder.model.pos_embed"]
        before = model.encoder.model.pos_embed.clone()
        report = weights.load_into(model, fit=fit)
        assert report.resampled == ["encoder.model.pos_embed"]
        assert not torch.equal(model.encoder.model.pos_embed, before)
        with pytest.raises(vedcore.CheckpointMismatchError, match=r"pos_embed \[1, 17, 24\]"):
            weights.load_into(model, fit=lambda name, tensor: tensor[:, :3] if "pos" in name else None)
    pixels, text = images((64, 24)), ids(2)
    with torch.no_grad():
        expected = small(pixels, decoder_input_ids=text, interpolate_pos_encoding=True).logits
        close(model(pixels, decoder_input_ids=text).logits, expected)
    model.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    half = vedcore.compose(small.config, image_size=16, dtype="bfloat16")
    with Snapshot(tmp_path / "half") as snapshot:
        Weights(snapshot).load_into(half, fit=fit_to(half.encoder, [64, 24], "encoder."))
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert fit_to(nn.Linear(1, 1), 32) is None


@pytest.mark.parametrize("family", ENCODERS)
def test_one_channel(family: str, tmp_path: Path) -> None:
    theirs = made(family, tmp_path / "theirs", num_channels=1)
    side = ENCODERS[family]["image_size"]
    theirs_images = transformers.ViTImageProcessor(
        size={"height": side, "width": side}, image_mean=[0.4], image_std=[0.3]
    )
    theirs_images.save_pretrained(tmp_path / "theirs")
    ours = vedcore.load(tmp_path / "theirs")
    random = np.random.default_rng(0)
    pictures = [Image.fromarray(random.integers(0, 255, (side, side), dtype=np.uint8)) for _ in range(2)]
    expected = theirs_images(pictures, return_tensors="pt")["pixel_values"]
    pixels = ours.processor(images=pictures)["pixel_values"]
    assert pixels.shape == expected.shape == (2, 1, side, side)
    torch.testing.assert_close(pixels, expected, atol=1e-5, rtol=1e-5)
    text = ids(2)
    with torch.no_grad():
        logits = theirs(pixel_values=expected, decoder_input_ids=text).logits
        close(ours(pixels, decoder_input_ids=text).logits, logits)
    mine = ours.generate(pixels, max_new_tokens=6)
    assert mine.tolist() == theirs.generate(expected, max_new_tokens=6, do_sample=False).tolist()
    with pytest.raises(vedcore.UsageError, match=r"give \(N, 1, H, W\)"):
        ours.generate(images((side, side)))
    with pytest.raises(vedcore.UsageError, match=r"give \(N, 1, H, W\)"):
        ours(images((side, side)), decoder_input_ids=text)

    for name in ("native", "transformers"):
        ours.save_pretrained(tmp_path / name, format=name)
        again = vedcore.load(tmp_path / name)
        assert again.processor.preprocessing == ours.processor.preprocessing
        assert again.config.encoder.fields["num_channels"] == 1
        with torch.no_grad():
            close(again(pixels, decoder_input_ids=text).logits, logits)
    back = transformers.VisionEncoderDecoderModel.from_pretrained(tmp_path / "transformers").eval()
    with torch.no_grad():
        close(back(pixel_values=pixels, decoder_input_ids=text).logits, logits)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "transformers")
    torch.testing.assert_close(processor(pictures, return_tensors="pt")["pixel_values"], pixels, atol=1e-5, rtol=1e-5)


def test_colours_become_grey(tmp_path: Path) -> None:
    made("vit", tmp_path, num_channels=1)
    ours = opened(tmp_path)
    colours = Image.fromarray(np.random.default_rng(1).integers(0, 255, (40, 50, 3), dtype=np.uint8))
    rgb, grey = (ours.processor(images=image)["pixel_values"] for image in (colours, colours.convert("L")))
    torch.testing.assert_close(rgb, grey, atol=0, rtol=0)
    for mode in ("pad", "crop", "none", "shortest_edge"):
        preprocessing = ours.processor.preprocessing.changed(resize_mode=mode)
        assert vedcore.processing.preparation.prepare_image(colours, preprocessing).shape[0] == 1


@pytest.mark.parametrize(
    ("mean", "expected", "warned"),
    [([0.5, 0.5, 0.5], 0.5, False), (0.25, 0.25, False), ([0.1, 0.2, 0.6], 0.3, True), (None, 0.5, False)],
    ids=str,
)
def test_three_means_for_one_channel(mean: Any, expected: float, warned: bool, tmp_path: Path) -> None:
    made("vit", tmp_path, num_channels=1)
    written = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}, "image_mean": mean}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(written))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ours = vedcore.load(tmp_path)
    assert ours.processor.preprocessing.image_mean == (pytest.approx(expected),)
    assert [str(w.message) for w in caught if "grey" in str(w.message)] == (
        [str(w.message) for w in caught if "image_mean" in str(w.message)] if warned else []
    )
    assert any("their mean" in str(w.message) for w in caught) == warned


def test_one_mean_for_three_channels(tmp_path: Path) -> None:
    made("vit", tmp_path)
    written = {"image_processor_type": "ViTImageProcessor", "size": 32, "image_mean": [0.2], "image_std": [0.3]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(written))
    preprocessing = vedcore.load(tmp_path).processor.preprocessing
    assert (preprocessing.image_mean, preprocessing.image_std) == ((0.2,) * 3, (0.3,) * 3)


def test_a_composed_model_of_one_channel() -> None:
    for family in ("vit", "swin"):
        model = vedcore.compose(
            family,
            "gpt2",
            encoder_num_channels=1,
            tokenizer="char",
            decoder_n_layer=1,
            decoder_n_embd=24,
            decoder_n_head=2,
            **({"encoder_depths": (1, 1, 1, 1)} if family == "swin" else {"encoder_num_hidden_layers": 1}),
        )
        assert model.num_channels == 1
        assert len(model.generate_text([Image.new("RGB", (30, 40), "red")], max_new_tokens=2)) == 1
    with pytest.raises(vedcore.ConfigSchemaError, match=r"encoder\.num_channels"):
        vedcore.compose("vit", "gpt2", encoder_num_channels=4)


def test_a_preprocessing_of_another_size_is_refused_with_what_to_pass() -> None:
    encoder, decoder = {"name": "vit", **VIT}, {"name": "gpt2", **DECODER}
    for size, hint in (((48, 64), "or image_size=(48, 64)"), ((33, 64), "")):
        wrong = {"image_size": size}
        with pytest.raises(vedcore.IncompatibleError) as error:
            vedcore.compose(encoder, decoder, preprocessing=wrong)
        assert error.value.hint.endswith(hint)
        assert ("or image_size" in error.value.hint) == bool(hint)
        assert vedcore.compose(encoder, decoder, preprocessing={"image_size": (32, 32)}).num_channels == 3
        if hint:
            model = vedcore.compose(encoder, decoder, preprocessing=wrong, image_size=size)
            assert model.encoder.image_size == model.processor.preprocessing.image_size == size
    swin = vedcore.compose({"name": "swin", **SWIN}, decoder, preprocessing={"image_size": (33, 50)})
    assert swin.processor(images=Image.new("RGB", (9, 9)))["pixel_values"].shape[2:] == (33, 50)


def test_windows_shrink_and_grow_back(tmp_path: Path) -> None:
    """transformers cannot run an image whose maps are smaller than a window."""
    theirs = made("swin", tmp_path / "theirs", window_size=6)
    size, ids_ = (12, 48), {"start": 2, "eos": (3,), "pad": 1}
    pixels, text = images(size), ids(2)
    with pytest.raises(RuntimeError):
        theirs(pixel_values=pixels, decoder_input_ids=text)
    folder = str(tmp_path / "theirs")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(vedcore.IncompatibleError, match="window of 6 x 6; make them 21 x 21 pixels"):
            opened(tmp_path / "theirs").generate(pixels)
        small = vedcore.compose(folder, folder, image_size=size, token_ids=ids_)
    assert {name.split(".")[2] for name in small.load_reports["encoder"].resampled} == {"1"}  # the second stage
    with pytest.raises(vedcore.IncompatibleError, match="a map is smaller than a window"):
        small.save_pretrained(tmp_path / "back", format="transformers")
    small.save_pretrained(tmp_path / "small")
    again = vedcore.load(tmp_path / "small")
    with torch.no_grad():
        found = small(pixels, decoder_input_ids=text).logits
        torch.testing.assert_close(again(pixels, decoder_input_ids=text).logits, found)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = str(tmp_path / "small")
        large = vedcore.compose(folder, folder, image_size=24, token_ids=ids_)
    tables = [block.attn.relative_position_bias_table for block in large.encoder.model.layers[1].blocks]
    assert {tuple(table.shape) for table in tables} == {(121, 3)}
    large.save_pretrained(tmp_path / "large", format="transformers")
    fresh = transformers.VisionEncoderDecoderModel.from_pretrained(tmp_path / "large").eval()
    pixels = images((24, 24))
    with torch.no_grad():
        close(
            large(pixels, decoder_input_ids=text).logits,
            fresh(pixel_values=pixels, decoder_input_ids=text).logits,
        )


def test_texts_of_images_that_keep_their_size() -> None:
    """The hint of the error works with whatever was called."""
    preprocessing = {"image_size": (32, 32), "resize_mode": "none"}
    encoder, decoder = {"name": "vit", **VIT}, {**DECODER, "name": "gpt2", "vocab_size": 98}
    model = vedcore.compose(encoder, decoder, preprocessing=preprocessing, tokenizer="char", seed=0)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 24, 3), dtype=np.uint8))
    for call in (
        lambda **o: model.generate_text(picture, **o)[0].text,
        lambda **o: "".join(model.stream(picture, **o)),
    ):
        with pytest.raises(vedcore.IncompatibleError, match="pass interpolate_pos_encoding=True"):
            call(max_new_tokens=6)
    pixels = model.processor(images=picture)["pixel_values"]
    ids_ = model.generate(pixels, max_new_tokens=6, interpolate_pos_encoding=True)
    text = model.generate_text(picture, max_new_tokens=6, interpolate_pos_encoding=True)[0].text
    assert text == model.processor.decode(ids_[0])
    assert "".join(model.stream(picture, max_new_tokens=6, interpolate_pos_encoding=True)) == text
