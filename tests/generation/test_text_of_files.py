"""Texts of files of several pages, of images that fail, and with their special tokens."""

from __future__ import annotations

import io
import math
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

import vedcore
from tests.processing.pictures import encoded, encrypted_pdf, several
from vedcore.errors import GenerationError, ImageDecodeError, ImageError, ImageLimitError, NonFiniteError, UsageError

OPTIONS: dict[str, Any] = {"max_new_tokens": 6, "eos_token_id": 1, "pad_token_id": 2}


@pytest.fixture(scope="module")
def pictures(pair: Any) -> list[Image.Image]:
    """Nine pictures of which the model writes different texts."""
    generator = torch.Generator().manual_seed(3)
    parts = [torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=generator) for _ in range(9)]
    return [Image.fromarray(part.permute(1, 2, 0).numpy()) for part in parts]


@pytest.fixture(params=["gpt2", "bart"])
def model(pair: Any, request: pytest.FixtureRequest) -> Any:
    return pair(request.param).ours


def texts(results: list[vedcore.TextResult]) -> list[str]:
    return [result.text for result in results]


def places(results: list[vedcore.TextResult]) -> list[tuple[int, int | None]]:
    return [(result.source, result.page) for result in results]


# -- pages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_every_page_has_a_text(model: Any, pictures: list[Image.Image], batch_size: int, tmp_path: Path) -> None:
    tiff, photo, pdf = tmp_path / "a.tiff", tmp_path / "b.png", tmp_path / "c.pdf"
    tiff.write_bytes(several(pictures[:3], "TIFF"))
    pictures[3].save(photo)
    pdf.write_bytes(several(pictures[4:9], "PDF", quality=100))
    expected = texts(model.generate_text(pictures, **OPTIONS))
    assert len(set(expected)) > 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = model.generate_text([tiff, photo, pdf], batch_size=batch_size, dpi=72, **OPTIONS)
    assert places(found) == [(0, 1), (0, 2), (0, 3), (1, None), (2, 1), (2, 2), (2, 3), (2, 4), (2, 5)]
    assert texts(found)[:4] == expected[:4]
    drawn = [vedcore.processing.images.load_image(pdf, pages=page, dpi=72) for page in range(1, 6)]
    assert texts(found)[4:] == texts(model.generate_text(drawn, **OPTIONS))
    chosen = model.generate_text([pdf, tiff], pages="3,1-2", dpi=72, batch_size=batch_size, **OPTIONS)
    assert places(chosen) == [(0, 3), (0, 1), (0, 2), (1, 3), (1, 1), (1, 2)]
    assert texts(chosen) == [texts(found)[i] for i in (6, 4, 5, 2, 0, 1)]


def test_several_texts_a_page(model: Any, pictures: list[Image.Image]) -> None:
    options = {"num_beams": 2, "num_return_sequences": 2, **OPTIONS}
    found = model.generate_text([pictures[0], several(pictures[1:3], "TIFF")], **options)
    assert places(found) == [(0, None), (0, None), (1, 1), (1, 1), (1, 2), (1, 2)]
    assert texts(found) == texts(model.generate_text(pictures[:3], **options))


def test_pages_count_as_images(pair: Any, pictures: list[Image.Image]) -> None:
    model, sources = pair("gpt2").ours, [several(pictures[:2], "TIFF"), pictures[2]]
    starts = [5, 40, 41]
    found = model.generate_text(sources, batch_size=2, decoder_start_token_id=starts, **OPTIONS)
    alone = [
        model.generate_text(picture, decoder_start_token_id=start, **OPTIONS)[0]
        for picture, start in zip(pictures, starts, strict=False)
    ]
    assert texts(found) == texts(alone)
    with pytest.raises(UsageError, match="2 ids for 3 images"):
        model.generate_text(sources, decoder_start_token_id=starts[:2], **OPTIONS)
    tokenizer = model.processor.tokenizer
    word = [tokenizer.encode(text, add_special_tokens=False).ids[0] for text in "abc"]
    found = model.generate_text(
        sources,
        batch_size=2,
        prefix_allowed_tokens_fn=lambda image, row: [word[image] if len(row) == 1 else 1],
        **OPTIONS,
    )
    assert texts(found) == ["a", "b", "c"]


def test_pages_that_cannot_be_had(pair: Any, pictures: list[Image.Image], tmp_path: Path) -> None:
    model, path = pair("gpt2").ours, tmp_path / "scan.pdf"
    path.write_bytes(several(pictures[:3], "PDF"))
    with pytest.raises(ImageError, match=r"scan.pdf: pages: no page 4, it has 3 pages"):
        model.generate_text([path, pictures[0]], pages="1-4", on_error="raise")
    with pytest.raises(UsageError, match="^pages: "):
        model.generate_text(path, pages="one", on_error="return")
    with pytest.raises(UsageError, match="^dpi: "):
        model.generate_text(path, dpi=0)
    with pytest.raises(ImageDecodeError, match=r"images\[1\]: an encrypted PDF"):
        model.generate_text([pictures[0], encrypted_pdf()])


def test_a_stream_of_a_page(pair: Any, pictures: list[Image.Image], tmp_path: Path) -> None:
    model, path = pair("gpt2").ours, tmp_path / "scan.tif"
    path.write_bytes(several(pictures[:3], "TIFF"))
    with pytest.raises(UsageError, match="3 pages cannot be one stream; choose one: pages=1"):
        model.stream(path)
    with pytest.raises(UsageError, match="2 pages cannot be one stream; choose one: pages=2"):
        model.stream(path, pages="2-3")
    with pytest.raises(ImageError, match="no page 4, it has 3 pages"):
        model.stream(path, pages=4)
    for page, picture in enumerate(pictures[:3], 1):
        [expected] = model.generate_text(picture, **OPTIONS)
        assert "".join(model.stream(path, pages=page, **OPTIONS)) == expected.text


def test_a_file_of_many_pages_is_open_a_batch_at_a_time(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page is decoded when its batch comes, and no image outlives its batch."""
    model, order = pair("gpt2").ours, []
    encode = model.encoder.forward
    monkeypatch.setattr(
        model.encoder, "forward", lambda pixels, **kw: (order.append(len(pixels)), encode(pixels, **kw))[1]
    )
    prepare = vedcore.processing.processor.prepare_image
    monkeypatch.setattr(
        vedcore.processing.processor, "prepare_image", lambda image, p: (order.append("page"), prepare(image, p))[1]
    )
    data = several([Image.new("L", (8, 8), 9 * i) for i in range(10)], "TIFF")
    model.generate_text(data, batch_size=4, max_new_tokens=1)
    assert order == [*["page"] * 4, 4, *["page"] * 4, 4, *["page"] * 2, 2]


# -- errors ---------------------------------------------------------------------------------------------------------


BAD: dict[str, tuple[Any, type[vedcore.VedcoreError]]] = {
    "text": (b"hello", ImageDecodeError),
    "no such file": ("gone.png", ImageDecodeError),
    "cut short": (encoded(Image.effect_noise((40, 40), 90), "PNG")[:300], ImageDecodeError),
    "too large": (b"P5 99999 99999 255\n", ImageLimitError),
    "another object": (None, ImageDecodeError),
    "a URL": ("https://example.org/a.png", ImageError),
    "not finite": (torch.full((3, 8, 8), math.nan), ImageDecodeError),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_a_bad_image_is_its_own_failure(model: Any, pictures: list[Image.Image], kind: str, batch_size: int) -> None:
    bad, error = BAD[kind]
    images: list[Any] = [*pictures[:3], bad, *pictures[3:7]]
    expected = texts(model.generate_text(pictures[:7], **OPTIONS))
    found = model.generate_text(images, batch_size=batch_size, on_error="return", **OPTIONS)
    assert places(found) == [(i, None) for i in range(8)]
    failed = found.pop(3)
    assert isinstance(failed.error, error)
    assert (failed.text, failed.tokens, failed.confidence, failed.finish_reason) == ("", (), 0.0, "error")
    assert texts(found) == expected
    assert {result.error for result in found} == {None}
    with pytest.raises(type(failed.error)) as caught:
        model.generate_text(images, batch_size=batch_size, **OPTIONS)
    assert str(caught.value) == str(failed.error)


def test_bad_images_only(pair: Any) -> None:
    model = pair("gpt2").ours
    options = {"num_return_sequences": 3, "num_beams": 3, **OPTIONS}
    found = model.generate_text([b"", "gone.png"], on_error="return", **options)
    assert places(found) == [(0, None)] * 3 + [(1, None)] * 3
    assert all(result.error is not None for result in found)
    assert model.generate_text([], on_error="return") == []
    with pytest.raises(UsageError, match="on_error: 'ignore' is unknown; give 'raise' or 'return'"):
        model.generate_text([], on_error="ignore")


def test_a_bad_page_is_its_own_failure(pair: Any, pictures: list[Image.Image], tmp_path: Path) -> None:
    model, path = pair("bart").ours, tmp_path / "scan.tif"
    data = several(pictures[:4], "TIFF")
    path.write_bytes(data[: len(data) * 7 // 8])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = model.generate_text([path, pictures[5]], on_error="return", **OPTIONS)
    assert places(found) == [(0, 1), (0, 2), (0, 3), (0, 4), (1, None)]
    assert [result.error is None for result in found] == [True, True, True, False, True]
    assert "scan.tif: page 4: " in str(found[3].error)
    assert [found[i].text for i in (0, 1, 2, 4)] == texts(model.generate_text([*pictures[:3], pictures[5]], **OPTIONS))


@pytest.mark.parametrize("options", [{}, {"num_beams": 2, "num_return_sequences": 2}], ids=str)
def test_nan_from_one_image_is_its_own_failure(
    model: Any, pictures: list[Image.Image], options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = Image.new("RGB", (32, 32), "white")
    images = [*pictures[:3], poison, *pictures[3:7]]
    brightest = model.processor(poison)["pixel_values"].min()
    encode = model.encoder.forward

    def forward(pixels: torch.Tensor, **arguments: Any) -> Any:
        out = encode(pixels, **arguments)
        out.last_hidden_state[pixels.amin((1, 2, 3)) >= brightest] = math.nan
        return out

    monkeypatch.setattr(model.encoder, "forward", forward)
    options = {**options, **OPTIONS}
    with pytest.raises(NonFiniteError, match="row 3"):
        model.generate_text(images, **options)
    found = model.generate_text(images, on_error="return", **options)
    count = options.get("num_return_sequences", 1)
    failed = found[3 * count : 4 * count]
    assert all(isinstance(result.error, NonFiniteError) and result.text == "" for result in failed)
    assert "row 3" in str(failed[0].error)
    rest = [result for result in found if result.source != 3]
    assert texts(rest) == texts(model.generate_text(pictures[:7], **options))
    assert [result.source for result in rest] == [i for i in range(8) if i != 3 for _ in range(count)]


def test_a_function_that_allows_nothing_for_one_image(pair: Any, pictures: list[Image.Image]) -> None:
    model = pair("gpt2").ours
    found = model.generate_text(
        [*pictures[:2], b"", *pictures[2:5]],
        on_error="return",
        prefix_allowed_tokens_fn=lambda image, row: [] if image == 4 else [50 + image],
        **OPTIONS,
    )
    assert [type(result.error) for result in found] == [
        *[type(None)] * 2,
        ImageDecodeError,
        type(None),
        GenerationError,
        type(None),
    ]
    assert "for image 4" in str(found[4].error)
    token = model.processor.token_text
    assert [found[i].text for i in (0, 1, 3, 5)] == [token(50 + i) * 6 for i in (0, 1, 3, 5)]


def test_a_failure_keeps_no_images_in_memory(pair: Any, pictures: list[Image.Image]) -> None:
    def forbidden(image: int, row: torch.Tensor) -> list[int]:
        return []

    for images in (pictures[:1], [b""]):
        [result] = pair("gpt2").ours.generate_text(images, on_error="return", prefix_allowed_tokens_fn=forbidden)
        assert result.error is not None
        assert result.error.__traceback__ is None
        again = pickle.loads(pickle.dumps(result))
        assert (str(again.error), again.error.hint) == (str(result.error), result.error.hint)


def test_errors_of_the_call_are_raised(pair: Any, pictures: list[Image.Image]) -> None:
    model = pair("gpt2").ours
    with pytest.raises(GenerationError, match="positions"):
        model.generate_text(pictures, prompt="a" * 100, on_error="return")
    with pytest.raises(UsageError):
        model.generate_text(pictures, max_new_tokens=10**6, on_error="return")
    with pytest.raises(UsageError, match="criterion gave"):
        model.generate_text(pictures, stopping_criteria=lambda *_: torch.ones(99), on_error="return")


# -- special tokens -------------------------------------------------------------------------------------------------


def test_special_tokens_in_texts_are_those_of_transformers(model: Any, pictures: list[Image.Image]) -> None:
    theirs = PreTrainedTokenizerFast(tokenizer_object=model.processor.tokenizer)
    options = {**OPTIONS, "eos_token_id": [*range(4, 98, 3)], "max_new_tokens": 9}
    plain = model.generate_text(pictures, **options)
    kept = model.generate_text(pictures, skip_special_tokens=False, **options)
    assert "eos" in {result.finish_reason for result in kept}
    for picture, without, result in zip(pictures, plain, kept, strict=True):
        ids = model.generate(model.processor(picture)["pixel_values"], **options)
        assert [result.text] == theirs.batch_decode(ids, skip_special_tokens=False)
        assert (result.tokens, result.text != without.text) == (without.tokens, True)
        assert "".join(model.stream(picture, skip_special_tokens=False, **options)) == result.text
    [text] = texts(model.generate_text(pictures[0], prompt="<pad>x", skip_special_tokens=False, **options))
    assert text.startswith("<pad>x")


def test_an_end_id_is_kept(pair: Any, pictures: list[Image.Image]) -> None:
    model = pair("bart").ours
    end, start = model.processor.token_text(1), model.processor.token_text(model.token_ids.start)
    found = model.generate_text(pictures[:2], lexicon=["cat", "doge"], skip_special_tokens=False, **OPTIONS)
    assert {text.removeprefix(start).removesuffix(end) for text in texts(found)} <= {"cat", "doge"}
    assert all(text.startswith(start) and text.endswith(end) for text in texts(found))


def test_a_file_object_is_left_open(pair: Any, pictures: list[Image.Image]) -> None:
    file = io.BytesIO(several(pictures[:2], "TIFF"))
    assert len(pair("gpt2").ours.generate_text(file, **OPTIONS)) == 2
    assert not file.closed
