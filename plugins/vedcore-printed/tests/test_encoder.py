"""The encoder of printed lines: its contract, and its independence of padding."""

from __future__ import annotations

import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

import vedcore
from vedcore_printed.encoder import PrintedColumnsConfig, PrintedColumnsEncoder


@pytest.fixture(scope="module")
def encoder() -> PrintedColumnsEncoder:
    """A small encoder whose normalisation statistics make leaks from padding visible."""
    torch.manual_seed(0)
    built = PrintedColumnsEncoder(PrintedColumnsConfig(stem_width=16, channels=(16, 16, 24, 24)))
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
    return built.eval()


def lines(widths: list[int]) -> tuple[list[Tensor], Tensor, Tensor]:
    """Random lines one by one, and as a padded batch with its sizes."""
    alone = [torch.rand(1, 1, 32, width).expand(-1, 3, -1, -1) for width in widths]
    batch = torch.cat([nn.functional.pad(line, (0, max(widths) - line.shape[3])) for line in alone])
    return alone, batch, torch.tensor([[32, width] for width in widths])


@pytest.mark.parametrize("widths", [[40, 200], [4, 8, 12], [320, 316, 100]])
def test_padding_changes_nothing(encoder: PrintedColumnsEncoder, widths: list[int]) -> None:
    alone, batch, sizes = lines(widths)
    mask = encoder.token_mask(sizes, (32, max(widths)))
    assert mask.sum(1).tolist() == [width // 4 for width in widths]
    with torch.no_grad():
        together = encoder(batch, mask).last_hidden_state
        for row, line in enumerate(alone):
            states = encoder(line).last_hidden_state[0]
            torch.testing.assert_close(together[row, : len(states)], states, atol=1e-5, rtol=1e-5)


def test_a_line_has_a_token_for_each_four_pixels(encoder: PrintedColumnsEncoder) -> None:
    states = encoder(torch.rand(1, 3, 32, 88)).last_hidden_state
    assert states.shape == (1, encoder.num_tokens((32, 88)), encoder.hidden_size) == (1, 22, 24)


def test_columns_know_their_places(encoder: PrintedColumnsEncoder) -> None:
    blank = encoder(torch.zeros(1, 3, 32, 400)).last_hidden_state[0]
    assert (blank[40] - blank[60]).abs().max() > 0.1


def test_wrong_sizes_are_refused(encoder: PrintedColumnsEncoder) -> None:
    for shape in ((1, 3, 31, 40), (1, 3, 32, 42)):
        with pytest.raises(vedcore.UsageError, match="multiple of 4"):
            encoder(torch.rand(shape))


def small() -> vedcore.VisionEncoderDecoder:
    return vedcore.compose(
        {"name": "printed-columns", "stem_width": 16, "channels": [16, 16, 24, 24]},
        {
            "name": "mbart",
            "d_model": 16,
            "decoder_layers": 1,
            "decoder_attention_heads": 2,
            "decoder_ffn_dim": 16,
            "max_position_embeddings": 16,
        },
        tokenizer="char",
        seed=0,
    )


def test_a_frozen_encoder_keeps_its_statistics() -> None:
    model = small().train()
    model.encoder.requires_grad_(False)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model(torch.rand(2, 3, 32, 40), labels=model.processor(text=["ab", "cd"]).labels)
    assert any("running_mean" in name for name in before)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_pictures_of_any_size_become_one_batch() -> None:
    model = small()
    pictures = []
    for text in ("a", "some words", "a longer line of print"):
        picture = Image.new("RGB", (400, 60), "white")
        ImageDraw.Draw(picture).text((10, 10), text, fill="black", font=ImageFont.load_default(30))
        pictures.append(picture)
    batch = model.processor(images=pictures)
    assert batch["pixel_values"].shape[:3] == (3, 3, 32)
    assert batch["encoder_attention_mask"].shape[1] * 4 == batch["pixel_values"].shape[3]
    together = model.generate_text(pictures, max_new_tokens=6)
    alone = [model.generate_text(picture, max_new_tokens=6)[0] for picture in pictures]
    assert [r.text for r in together] == [r.text for r in alone]
    for a, b in zip(together, alone, strict=True):
        assert a.confidence == pytest.approx(b.confidence, abs=1e-5)
