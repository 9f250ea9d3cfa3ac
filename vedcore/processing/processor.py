"""Images and texts to the input of a model, and token ids to text.

Shape letters: N images or texts, H x W pixels, S encoder tokens, T label tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vedcore.config import Preprocessing, TokenIds
from vedcore.errors import (
    ConfigSchemaError,
    ImageLimitError,
    IncompatibleError,
    TokenizerError,
    UsageError,
)
from vedcore.model_files import PREPROCESSOR_CONFIG, TOKENIZER
from vedcore.processing.images import MAX_PIXELS, ImageSource, load_image
from vedcore.processing.pages import Pages
from vedcore.processing.reader import ImageReader, Place
from vedcore.processing.tokenizers import (
    IGNORE_INDEX,
    decode_ids,
    encode_labels,
    make_tokenizer,
    parse_tokenizer,
    token_ids_of,
    vocab_size_of,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from vedcore.components import VisionEncoder

__all__ = ["Batch", "Processor", "load_image", "make_tokenizer", "prepare_image", "token_ids_of", "vocab_size_of"]

TRANSFORMERS_KEYS = frozenset({"do_resize", "size", "resample", "do_rescale", "rescale_factor", "do_normalize"})
"""Keys of transformers' image processors that repeat settings of `Preprocessing`."""


def prepare_image(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    """An image as (3, H, W) float32: resized, scaled to 0 to 1, minus mean, divided by std.

    The steps, of which ``preprocessing`` selects some, in order: cut the margins, turn, resize, shrink to a thumbnail,
    pad, crop, normalise. Resize modes: ``squash`` stretches the image to H x W. ``crop`` resizes the largest centred
    part with the proportions of H x W. ``pad`` makes the image as large as fits, centred, and fills the rest with the
    mean, which is zero afterwards. H x W is ``image_size``; for the other modes see `Preprocessing.resize_mode`.

    Raises:
        ImageLimitError: an image so long that it would have more than 50 million pixels after resizing.
    """
    if image.mode != "RGB":
        image = load_image(image)
    if preprocessing.do_crop_margin:
        image = _crop_margin(image)
    height, width = preprocessing.image_size
    if preprocessing.do_align_long_axis and (width - height) * (image.width - image.height) < 0:
        image = image.transpose(Image.Transpose.ROTATE_270)
    if preprocessing.resize_mode == "pad":
        scale = min(width / image.width, height / image.height)
        size = max(1, min(width, round(image.width * scale))), max(1, min(height, round(image.height * scale)))
        pixels = _normalise(_resize(image, size, preprocessing), preprocessing)  # (3, h, w)
        left, top = (width - size[0]) // 2, (height - size[1]) // 2
        return torch.nn.functional.pad(pixels, (left, width - size[0] - left, top, height - size[1] - top))
    image = _resized(image, preprocessing)
    if preprocessing.thumbnail is not None:
        image = _thumbnail(image, preprocessing)
    if preprocessing.do_pad:
        image = _window(image, -((width - image.width) // 2), -((height - image.height) // 2), width, height)
    if preprocessing.do_center_crop:
        image = _window(image, (image.width - width) // 2, (image.height - height) // 2, width, height)
    return _normalise(image, preprocessing)


def _crop_margin(image: Image.Image) -> Image.Image:
    """The image without the light rows and columns at its edges: greys of 200 or more, stretched to 0 to 255."""
    grey = np.array(image.convert("L"))  # (H, W)
    low, high = int(grey.min()), int(grey.max())
    if low == high:
        return image
    dark = ((np.arange(256) - low) / (high - low) * 255 < 200)[grey]
    rows, columns = (np.flatnonzero(dark.any(axis)) for axis in (1, 0))
    return image.crop((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))


def _resized(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    height, width = preprocessing.resize_size or preprocessing.image_size
    match preprocessing.resize_mode:
        case "crop":
            scale = max(width / image.width, height / image.height)
            half_width, half_height = width / scale / 2, height / scale / 2
            middle_x, middle_y = image.width / 2, image.height / 2
            box = (
                max(0.0, middle_x - half_width),
                max(0.0, middle_y - half_height),
                min(float(image.width), middle_x + half_width),
                min(float(image.height), middle_y + half_height),
            )
            return _resize(image, (width, height), preprocessing, box)
        case "squash":
            return _resize(image, (width, height), preprocessing)
        case "shortest_edge":
            short = min(height, width)
            long = int(short * max(image.size) / min(image.size))
            return _resize(image, (short, long) if image.width <= image.height else (long, short), preprocessing)
        case _:
            return image


def _thumbnail(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    height, width = (min(pair) for pair in zip(preprocessing.image_size, (image.height, image.width), strict=True))
    if (width, height) == image.size:
        return image
    if image.height > image.width:
        width = max(1, int(image.width * height / image.height))
    elif image.width > image.height:
        height = max(1, int(image.height * width / image.width))
    if preprocessing.thumbnail == "bicubic":
        return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
    if preprocessing.interpolation == "nearest":  # as Donut's class, which reads its number, 0, as unset
        preprocessing = preprocessing.model_copy(update={"interpolation": "bicubic"})
    return _resize(image, (width, height), preprocessing)


def _resize(
    image: Image.Image,
    size: tuple[int, int],
    preprocessing: Preprocessing,
    box: tuple[float, float, float, float] | None = None,
) -> Image.Image:
    """Resize to ``size``, which is (width, height) as in Pillow, from the part in ``box``."""
    if size[0] * size[1] > MAX_PIXELS:
        raise ImageLimitError(
            f"{image.width} x {image.height} would be resized to {size[0]} x {size[1]}, {size[0] * size[1]:,} pixels",
            hint=f"cut it into parts that give at most {MAX_PIXELS:,}",
        )
    return image.resize(size, Image.Resampling[preprocessing.interpolation.upper()], box)


def _window(image: Image.Image, left: int, top: int, width: int, height: int) -> Image.Image:
    """The part of ``width`` x ``height`` pixels at ``left`` and ``top``; black outside of the image."""
    return image.crop((left, top, left + width, top + height))


def _normalise(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format)
    mean = torch.tensor(preprocessing.image_mean)[:, None, None]  # (3, 1, 1)
    std = torch.tensor(preprocessing.image_std)[:, None, None]
    return pixels.div_(255).sub_(mean).div_(std)


class Batch(dict[str, Tensor]):
    """Tensors by the names of the model's arguments: ``model(**batch)``."""

    def to(self, device: str | torch.device) -> Self:
        """A batch with every tensor on ``device``."""
        return type(self)({name: tensor.to(device) for name, tensor in self.items()})


class Processor:
    """Images and texts to a `Batch`, and token ids to text.

    Args:
        preprocessing: settings for images.
        tokenizer: for texts and ids; None if the model has none.
        encoder: its ``preprocess`` may prepare images, and its ``token_mask`` marks padding; None does without.
        token_ids: their end id ends labels; None takes the tokenizer's.
        max_pixels: limit of an image's width times height.

    Attributes: the arguments, under their names.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        tokenizer: Tokenizer | None = None,
        encoder: VisionEncoder | None = None,
        token_ids: TokenIds | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.preprocessing = preprocessing
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.token_ids = token_ids or (TokenIds() if tokenizer is None else token_ids_of(tokenizer))
        self.max_pixels = max_pixels

    def __call__(
        self,
        images: ImageSource | Sequence[ImageSource] | None = None,
        text: str | Sequence[str] | None = None,
        *,
        pages: Pages | None = None,
        dpi: float | None = None,
        max_length: int | None = None,
    ) -> Batch:
        """The input of a model for images, texts or both.

        Args:
            images: an image or a list of images, each as `load_image` takes it.
            text: a text or a list of texts, as many as images if both are given; a chosen page is an image.
            pages: the pages to read of each TIFF and PDF, such as ``"1-3"`` (see `Pages`); by default the first, with a
                warning if there are more.
            dpi: pixels an inch of a page of a PDF, as `load_image` takes it.
            max_length: limit of labels for a text; a longer text is cut, and still ends with the end id.

        Returns:
            ``pixel_values`` (N, 3, H, W) float32 if images are given; ``labels`` (N, T) int64 if texts are given, each
            row with the end id after its text, and then -100. ``encoder_attention_mask`` (N, S) bool if the encoder's
            ``preprocess`` gives images of different sizes, which are padded at the right and at the bottom.

        Raises:
            ImageError: with the image's path, or its index in the list.
            TokenizerError: no tokenizer, no end id, or a text that cannot be encoded.
            UsageError: neither images nor texts, or different numbers of them.
            IncompatibleError: images of different sizes, and an encoder that cannot mask padding.
        """
        sources: list[Any] = [] if images is None else list(images) if isinstance(images, (list, tuple)) else [images]
        texts = [] if text is None else [text] if isinstance(text, str) else list(text)
        if not sources and not texts:
            raise UsageError("nothing to process", hint="give images, text or both, one or more")
        batch = Batch()
        with self.open_images(sources, pages=pages, first_page_only=True, dpi=dpi) as reader:
            if images is not None and text is not None and len(reader.places) != len(texts):
                message = f"{len(reader.places)} images, but {len(texts)} texts"
                raise UsageError(message, field="text", hint="give one text for each image")
            if sources:
                batch.update(self.batch_of([self.pixels_at(reader, place) for place in reader.places]))
        if texts:
            batch["labels"] = self._labels(texts, max_length)
        return batch

    def open_images(self, sources: Sequence[ImageSource], **options: Any) -> ImageReader:
        """A reader of the images of ``sources``; ``options`` as `ImageReader` takes them."""
        return ImageReader(sources, **options, max_pixels=self.max_pixels)

    def batch_of(self, pixels: Sequence[Tensor]) -> Batch:
        """The images that `pixels_at` gave as one batch, padded where their sizes differ.

        Raises:
            IncompatibleError: images of different sizes, and an encoder that cannot mask padding.
        """
        sizes = torch.tensor([p.shape[1:] for p in pixels])  # (N, 2)
        height, width = (int(n) for n in sizes.amax(0))
        if bool((sizes == sizes[0]).all()):
            return Batch(pixel_values=torch.stack(list(pixels)))
        mask = None if self.encoder is None else self.encoder.token_mask(sizes, (height, width))
        if mask is None:
            shown = ", ".join(f"{h} x {w}" for h, w in sizes[:3].tolist())
            raise IncompatibleError(
                f"images of different sizes ({shown}), but the encoder cannot mask padding",
                field="images",
                hint="give them one by one, or resize them to the same size",
            )
        padded = pixels[0].new_zeros(len(pixels), 3, height, width)
        for row, p in zip(padded, pixels, strict=True):
            row[:, : p.shape[1], : p.shape[2]] = p
        return Batch(pixel_values=padded, encoder_attention_mask=mask)

    def pixels_at(self, reader: ImageReader, place: Place) -> Tensor:
        """The image of a place as the encoder takes it, (3, H, W).

        Raises:
            ImageError: as `ImageReader.read`, or an image that cannot be resized.
        """
        image = reader.read(place)
        pixels = None if self.encoder is None else self.encoder.preprocess(image)
        if pixels is None:
            return prepare_image(image, self.preprocessing)
        if pixels.ndim != 3 or pixels.shape[0] != 3 or not pixels.is_floating_point():
            raise IncompatibleError(
                f"the encoder's preprocess gave {tuple(pixels.shape)} of {pixels.dtype}",
                field="encoder",
                hint="it must give (3, H, W) float",
            )
        return pixels

    def _labels(self, texts: Sequence[str], max_length: int | None) -> Tensor:
        tokenizer = self._tokenizer()
        if not self.token_ids.eos:
            raise TokenizerError(
                "no token id ends a text", field="token_ids.eos", hint="compose with token_ids={'eos': …}"
            )
        rows = [encode_labels(tokenizer, text, self.token_ids.eos[0], max_length) for text in texts]
        labels = torch.full((len(rows), max(map(len, rows))), IGNORE_INDEX)  # (N, T)
        for label, row in zip(labels, rows, strict=True):
            label[: len(row)] = torch.tensor(row)
        return labels

    def _tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise TokenizerError(
                "the model has no tokenizer", field="tokenizer", hint="compose with tokenizer='char', 'byte' or a file"
            )
        return self.tokenizer

    def decode(self, ids: Tensor | Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of a row of ids, (T,); -100, as in labels, is left out.

        Raises:
            TokenizerError: no tokenizer, or not a single row of ids.
        """
        return decode_ids(self._tokenizer(), ids, skip_special_tokens)

    def batch_decode(
        self, ids: Tensor | Iterable[Tensor | Sequence[int]], skip_special_tokens: bool = True
    ) -> list[str]:
        """The text of each row of ids, from (N, T) or a list of rows."""
        return [self.decode(row, skip_special_tokens) for row in ids]

    def token_text(self, token: int) -> str:
        """The text of a single id, or the name of a special token; empty for an id outside of the vocabulary."""
        return decode_ids(self._tokenizer(), [token], skip_special_tokens=False)

    def to_files(self) -> dict[str, bytes]:
        """The processor as files, name to content: the preprocessing, and the tokenizer if there is one.

        ``preprocessor_config.json`` holds the fields of `Preprocessing`. If transformers' plain image processors do the
        same (``squash`` and no other step), it also holds their keys.
        """
        plain = {**self.preprocessing.model_dump(mode="json"), **_transformers_keys(self.preprocessing)}
        files = {PREPROCESSOR_CONFIG: (json.dumps(plain, indent=2) + "\n").encode()}
        if self.tokenizer is not None:
            files[TOKENIZER] = self.tokenizer.to_str(pretty=True).encode()
        return files

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], *, folder: object = None) -> Self:
        """The processor that `to_files` gave the files of.

        Args:
            files: name to content.
            folder: the folder that they came from, for messages.

        Raises:
            ConfigSchemaError: preprocessing that is missing, unknown or contradicts itself.
            TokenizerError, IncompatibleError, ConfigLimitError: as `make_tokenizer`.
        """

        def path(name: str) -> str:
            return name if folder is None else f"{folder}/{name}"

        if PREPROCESSOR_CONFIG not in files:
            raise ConfigSchemaError("no such file", path=path(PREPROCESSOR_CONFIG), hint="save the model again")
        preprocessing = _read_preprocessing(files[PREPROCESSOR_CONFIG], path(PREPROCESSOR_CONFIG))
        data = files.get(TOKENIZER)
        tokenizer = None if data is None else parse_tokenizer(data, path=path(TOKENIZER))
        return cls(preprocessing, tokenizer)


def _transformers_keys(preprocessing: Preprocessing) -> dict[str, Any]:
    """The keys of transformers' image processors for the same settings; empty if these cannot do the same."""
    plain = preprocessing.model_dump(include={"image_size", "image_mean", "image_std", "interpolation"})
    if Preprocessing(**plain) != preprocessing:
        return {}
    height, width = preprocessing.image_size
    return {
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": int(Image.Resampling[preprocessing.interpolation.upper()]),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
    }


def _read_preprocessing(data: bytes, path: str) -> Preprocessing:
    try:
        plain = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ConfigSchemaError(f"not JSON: {error}", path=path, hint="save the model again") from None
    if not isinstance(plain, dict):
        raise ConfigSchemaError(f"object expected, got {type(plain).__name__}", path=path, hint="save the model again")
    common = {key: plain.pop(key) for key in TRANSFORMERS_KEYS & plain.keys()}
    preprocessing = Preprocessing.parse(plain, path=path)
    expected = _transformers_keys(preprocessing)
    for key, value in sorted(
        common.items()
    ):  # a key and a field may say the same: an edit of only one of them is an error
        if value != expected.get(key):
            raise ConfigSchemaError(
                f"{value!r} contradicts the other settings, which give {expected.get(key)!r}",
                path=path,
                field=key,
                hint=f"leave {key} out: it follows from image_size, interpolation and resize_mode",
            )
    return preprocessing
