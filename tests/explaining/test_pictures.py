"""Pictures of explanations, and HTML of results, models and explanations for notebooks."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vedcore
from vedcore.outputs import TextResult

pytestmark = pytest.mark.filterwarnings("ignore:.*never trained")


class Balance(HTMLParser):
    """Reads HTML: the text in it, and whether all that opens closes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert tag in ("div", "span", "pre", "b", "img")
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_pictures(model: Any, image: Image.Image, tmp_path: Path) -> None:
    found = model.explain(image, max_new_tokens=9)
    assert len(found.tokens) > 2
    one = found.image(0)
    assert one.size == image.size == found.original.size
    red, green, _ = np.asarray(one, np.int16).transpose(2, 0, 1)
    heat = found.pixel_map(0)
    assert np.corrcoef((red - green).ravel(), heat.ravel())[0, 1] > 0.7
    assert heat.shape == (90, 200)
    sheet = found.image()
    assert sheet.width <= 1200
    found.save(tmp_path / "maps.png")
    found.save(str(tmp_path / "one.JPG"), token=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["maps.png", "one.JPG"]
    assert Image.open(tmp_path / "maps.png").size == sheet.size
    assert json.loads(json.dumps(found.to_dict()))["tokens"][0]["text"] == found.tokens[0].text


def test_a_text_without_tokens_and_one_of_many(model: Any, image: Image.Image) -> None:
    eos = model.token_ids.eos[0]
    nothing = model.explain(image, forced_eos_token_id=eos, max_new_tokens=1)
    assert (nothing.text, nothing.tokens, nothing.words, nothing.grid) == ("", (), (), (0, 0))
    assert nothing.image().width > image.width
    assert not nothing.pixel_map().any()
    Balance(nothing._repr_html_())
    many = model.explain(image, eos_token_id=(), max_new_tokens=300)
    size = many.image().size
    assert size[0] * size[1] < 30_000_000


def test_html_of_an_explanation(model: Any, image: Image.Image) -> None:
    found = model.explain(image, max_new_tokens=5)
    html = found._repr_html_()
    assert f"confidence {found.confidence:.3f}" in Balance(html).text
    assert re.search(r'src="data:image/(png|jpeg);base64,', html)
    assert "http" not in html
    assert repr(found).startswith("Explanation(")


def test_html_of_a_text_is_escaped() -> None:
    result = TextResult("<script>x</script>\n&", 0.25, (("<script>", 0.5), ('"&', 1.0)), "eos")
    html = result._repr_html_()
    assert "<script>x</script>\n&" in Balance(html).text
    assert "confidence 0.250" in Balance(html).text
    failed = TextResult("", 0.0, (), "error", error=vedcore.ImageError("no <b>pixels</b>"))
    assert "ImageError: no <b>pixels</b>" in Balance(failed._repr_html_()).text
    assert repr(result).startswith("TextResult(")


def test_html_of_a_model(model: Any) -> None:
    text = Balance(model._repr_html_()).text
    for part in ("encoder", "vit", "32 x 64", "projector", "linear", "decoder", "gpt2", "98 tokens"):
        assert part in text
    assert f"{model.num_parameters():,} of float32 on cpu" in text
    assert f"{sum(p.numel() for p in model.encoder.parameters()):,}" in text
    assert repr(model).startswith("VisionEncoderDecoder(")
