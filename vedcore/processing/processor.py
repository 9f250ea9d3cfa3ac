"""Images and texts to the input of a model, and token ids to text.

Shape letters: N images or texts, C channels, H x W pixels, S encoder tokens, T label tokens.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from types import NoneType
from typing import TYPE_CHECKING, Any, Self

import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor

from vedcore.config import ModelConfig, Preprocessing, TokenIds
from vedcore.errors import ConfigSchemaError, IncompatibleError, TokenizerError, UsageError, warn_caller
from vedcore.hub import push_folder
from vedcore.model_files import PREPROCESSOR_CONFIG, TOKENIZER
from vedcore.processing.batch import Batch, check_return_tensors
from vedcore.processing.encoding import OnUnknown, encode_labels
from vedcore.processing.images import MAX_PIXELS, ImageSource
from vedcore.processing.pages import Pages
from vedcore.processing.placement import Placement
from vedcore.processing.preparation import place_image, prepare_image
from vedcore.processing.reader import ImageOrigin, ImageReader
from vedcore.processing.text_tokenizer import TextTokenizer, length_limit, padded_length, shall_cut
from vedcore.processing.tokenizers import (
    IGNORE_INDEX,
    decode_ids,
    make_tokenizer,
    parse_tokenizer,
    token_ids_of,
    vocab_size_of,
)
from vedcore.transformers_names import PROCESSING, PROCESSOR, missing_attribute, refuse_unknown

if TYPE_CHECKING:
    from vedcore.components import VisionEncoder

__all__ = ["Batch", "Processor", "make_tokenizer", "token_ids_of", "vocab_size_of"]

TRANSFORMERS_KEYS = frozenset({"do_resize", "size", "resample", "do_rescale", "rescale_factor", "do_normalize"})
"""Keys of transformers' image processors that repeat settings of `Preprocessing`."""


class Processor:
    """Images and texts to a `Batch`, and token ids to text.

    Args:
        preprocessing: settings for images.
        tokenizer: for texts and ids; None if the model has none.
        encoder: its ``preprocess`` may prepare images, and its ``token_mask`` marks padding; None does without.
        token_ids: their end id ends labels; None takes the tokenizer's.
        max_pixels: limit of an image's width times height.

    Attributes: the arguments, under their names. ``tokenizer`` is a `TextTokenizer` over the given one.
    """

    model_input_names = ("pixel_values",)
    """transformers' name of what a model takes; Trainer groups examples by the length of the first."""

    def __init__(
        self,
        preprocessing: Preprocessing,
        tokenizer: Tokenizer | None = None,
        encoder: VisionEncoder | None = None,
        token_ids: TokenIds | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.preprocessing = preprocessing
        self.encoder = encoder
        self.max_pixels = max_pixels
        self._token_ids = token_ids or (TokenIds() if tokenizer is None else token_ids_of(tokenizer))
        self._tokenizer: TextTokenizer | None = None
        self._model_max_length: int | None = None
        self.settings_of_model: tuple[ModelConfig, Any] | None = None
        """Config and generation config of the model, from when its ``state_dict`` was last asked for."""
        self.tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        raise missing_attribute("a processor", name, PROCESSOR) or AttributeError(f"a processor has no {name!r}")

    @property
    def tokenizer(self) -> TextTokenizer | None:
        """For texts and ids; set it to another one, or to a name or path as `make_tokenizer` takes it, to change it."""
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Tokenizer | str | os.PathLike[str] | None) -> None:
        self._token_ids = self.token_ids
        backend: Any = getattr(tokenizer, "backend_tokenizer", tokenizer)
        if not isinstance(backend, (Tokenizer, NoneType)):
            backend = make_tokenizer(backend)
        self._tokenizer = None if backend is None else TextTokenizer(backend, self._token_ids, self._model_max_length)

    @property
    def token_ids(self) -> TokenIds:
        """The ids of the model; their end id ends labels. Setting ``tokenizer.pad_token`` changes them too."""
        return self._token_ids if self._tokenizer is None else self._tokenizer.token_ids

    @token_ids.setter
    def token_ids(self, ids: TokenIds) -> None:
        self._token_ids = ids
        if self._tokenizer is not None:
            self._tokenizer.token_ids = ids

    @property
    def model_max_length(self) -> int | None:
        """The most tokens that the model takes; None for no limit."""
        return self._model_max_length

    @model_max_length.setter
    def model_max_length(self, length: int | None) -> None:
        self._model_max_length = length
        if self._tokenizer is not None:
            self._tokenizer.model_max_length = length

    def __call__(
        self,
        images: ImageSource | Sequence[ImageSource] | None = None,
        text: str | Sequence[str] | None = None,
        *,
        pages: Pages | None = None,
        dpi: float | None = None,
        padding: bool | str = True,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        return_tensors: str | None = "pt",
        untrusted: bool = False,
        on_unknown: OnUnknown = "warn",
        **more: Any,
    ) -> Batch:
        """The input of a model for images, texts or both.

        Names of special and added tokens in a text are those tokens.

        Args:
            images: an image or a list of images, each as `load_image` takes it.
            text: a text or a list of texts, as many as images if both are given; a chosen page is an image.
            pages: the pages to read of each TIFF and PDF, such as ``"1-3"`` (see `Pages`); by default the first, with a
                warning if there are more.
            dpi: pixels an inch of a page of a PDF, as `load_image` takes it.
            padding: True or ``"longest"`` fills labels up with -100 to the longest of them, ``"max_length"`` to
                ``max_length``; False refuses texts of different lengths.
            truncation: True cuts labels to ``max_length``, where they still end with the end id, False does not; by
                default they are cut where a ``max_length`` is given.
            max_length: length of the labels; where one is needed, the most tokens that the model takes by default.
            return_tensors: ``"pt"``, torch's, are the only ones.
            untrusted: spell out the names of special and added tokens in the texts, so that only their characters
                count.
            on_unknown: what to do about pieces of a text that the tokenizer has no token for: ``"warn"`` names them in
                one warning, ``"error"`` raises, ``"ignore"`` does neither.
            more: nothing; a name of transformers is an error that says what to write.

        Returns:
            ``pixel_values`` (N, C, H, W) float32 if images are given; ``labels`` (N, T) int64 if texts are given, each
            row with the end id after its text, and then -100. ``encoder_attention_mask`` (N, S) bool if the encoder's
            ``preprocess`` gives images of different sizes, which are padded at the right and at the bottom.

        Raises:
            ImageError: with the image's path, or its index in the list.
            TokenizerError: no tokenizer, no end id, or a text that cannot be encoded.
            UsageError: neither images nor texts, different numbers of them, or arguments that contradict each other
                or are unknown.
            IncompatibleError: images of different sizes, and an encoder that cannot mask padding.
        """
        refuse_unknown(more, self.__call__, PROCESSING)
        check_return_tensors(return_tensors)
        sources: list[Any] = [] if images is None else list(images) if isinstance(images, (list, tuple)) else [images]
        texts = [] if text is None else [text] if isinstance(text, str) else list(text)
        if not sources and not texts:
            raise UsageError("nothing to process", hint="give images, text or both, one or more")
        limit = length_limit(max_length, self.model_max_length, padding, truncation)
        cut = limit if shall_cut(truncation, limit, default=True) else None
        batch = Batch()
        with self.open_images(sources, pages=pages, first_page_only=True, dpi=dpi) as reader:
            if images is not None and text is not None and len(reader.origins) != len(texts):
                message = f"{len(reader.origins)} images, but {len(texts)} texts"
                raise UsageError(message, field="text", hint="give one text for each image")
            if sources:
                batch.update(self.batch_of([self.pixels_at(reader, origin) for origin in reader.origins]))
        if texts:
            tokenizer, eos = self._backend(), self._eos()
            rows = encode_labels(tokenizer, texts, eos, cut, untrusted=untrusted, on_unknown=on_unknown)
            self._warn_of_start(rows)
            batch["labels"] = _label_rows(rows, padded_length(padding, limit, rows))
        return batch

    def open_images(self, sources: Sequence[ImageSource], **options: Any) -> ImageReader:
        """A reader of the images of ``sources``; ``options`` as `ImageReader` takes them."""
        return ImageReader(sources, **options, max_pixels=self.max_pixels)

    def batch_of(self, pixels: Sequence[Tensor]) -> Batch:
        """Images (C, H, W) as one batch, padded where their sizes differ.

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
        padded = pixels[0].new_zeros(len(pixels), len(pixels[0]), height, width)
        for row, p in zip(padded, pixels, strict=True):
            row[:, : p.shape[1], : p.shape[2]] = p
        return Batch(pixel_values=padded, encoder_attention_mask=mask)

    def pixels_at(self, reader: ImageReader, origin: ImageOrigin) -> Tensor:
        """The image of an origin as the encoder takes it, (C, H, W).

        Raises:
            ImageError: as `ImageReader.read`, or an image that cannot be resized.
        """
        return self.pixels_of(reader.read(origin))

    def pixels_of(self, image: Image.Image) -> Tensor:
        """An RGB image as the encoder takes it, (C, H, W).

        Raises:
            ImageError: an image that cannot be resized.
        """
        pixels = None if self.encoder is None else self.encoder.preprocess(image)
        if pixels is None:
            return prepare_image(image, self.preprocessing)
        channels = getattr(self.encoder, "num_channels", 3)
        if pixels.ndim != 3 or pixels.shape[0] != channels or not pixels.is_floating_point():
            raise IncompatibleError(
                f"the encoder's preprocess gave {tuple(pixels.shape)} of {pixels.dtype}",
                field="encoder",
                hint=f"it must give ({channels}, H, W) float",
            )
        return pixels

    def placement_of(self, image: Image.Image) -> Placement:
        """Where the pixels of `pixels_of` lie in an RGB image.

        Raises:
            IncompatibleError: the encoder prepares images its own way, and does not say.
        """
        if self.encoder is not None:
            found = self.encoder.placement(image) if hasattr(self.encoder, "placement") else None
            if found is not None:
                return Placement(*found)
            if self.encoder.preprocess(image) is not None:
                name = type(self.encoder).__name__
                raise IncompatibleError(
                    f"{name} prepares images its own way, and does not say where their pixels lie",
                    field="encoder",
                    hint=f"give {name} a method placement, as vedcore.VisionEncoder has it",
                )
        return place_image(image, self.preprocessing)[1]

    def collate(self, examples: Sequence[Any]) -> Batch:
        """A batch of examples: ``collate_fn=`` of a DataLoader, ``data_collator=`` of transformers' Trainer.

        Args:
            examples: all of one kind. Mappings may have ``pixel_values``, (3, H, W) or (1, 3, H, W), or ``image``, as
                `load_image` takes it; and ``labels``, ids with the end id last, or ``text``. Pairs are an image and a
                text. The Trainer hands on ``image`` and ``text`` only with ``remove_unused_columns=False``.

        Returns:
            As `__call__` does.

        Raises:
            UsageError: examples that have nothing of these, or not the same.
        """
        rows = [{"image": e[0], "text": e[1]} if isinstance(e, (tuple, list)) and len(e) == 2 else e for e in examples]
        known = {"pixel_values", "image", "images", "labels", "text"}
        keys = set(rows[0]) if rows and isinstance(rows[0], Mapping) else set()
        if not keys or keys - known or any(not isinstance(row, Mapping) or set(row) != keys for row in rows):
            raise UsageError(
                "examples that cannot be put into a batch",
                field="examples",
                hint="give mappings of the same names (pixel_values or image, labels or text), or pairs (image, text)",
            )
        columns = {name: [row[name] for row in rows] for name in sorted(keys)}
        images = columns.get("image", columns.get("images"))
        batch = Batch() if images is None and "text" not in columns else self(images, columns.get("text"))
        if "pixel_values" in columns:
            pixels = [torch.as_tensor(p) for p in columns["pixel_values"]]
            batch.update(self.batch_of([p[0] if p.ndim == 4 and len(p) == 1 else p for p in pixels]))
        if "labels" in columns:
            ids = [torch.as_tensor(row, dtype=torch.long).flatten().tolist() for row in columns["labels"]]
            batch["labels"] = _label_rows(ids, max(map(len, ids)))
        return batch

    def _warn_of_start(self, rows: Sequence[Sequence[int]]) -> None:
        start = self.token_ids.start
        first = next((i for i, row in enumerate(rows) if len(row) > 1 and row[0] == start), None)
        if first is not None:
            warn_caller(
                f"text[{first}] begins with the start id {start}, which the model puts before the labels itself, so "
                "that it comes twice; leave it out"
            )

    def _eos(self) -> int:
        if not self.token_ids.eos:
            raise TokenizerError(
                "no token id ends a text",
                field="token_ids.eos",
                hint="set model.token_ids = model.token_ids.changed(eos=(…,)), or those of a processor alone",
            )
        return self.token_ids.eos[0]

    def _backend(self) -> Tokenizer:
        return self._known_tokenizer().backend_tokenizer

    def _known_tokenizer(self) -> TextTokenizer:
        if self.tokenizer is None:
            raise TokenizerError(
                "the model has no tokenizer",
                field="tokenizer",
                hint="give tokenizer= to vedcore.load or compose, or set processor.tokenizer to a tokenizer.json",
            )
        return self.tokenizer

    def decode(self, ids: Tensor | Sequence[int] = (), skip_special_tokens: bool = True, **options: Any) -> str:
        """The text of a row of ids, (T,); -100, as in labels, is left out.

        Args:
            ids: the row.
            skip_special_tokens: leave out special tokens.
            options: ``clean_up_tokenization_spaces``, as `TextTokenizer.decode` takes it.

        Raises:
            TokenizerError: no tokenizer, or not a single row of ids.
            UsageError: an unknown argument.
        """
        return self._known_tokenizer().decode(ids, skip_special_tokens, **options)

    def batch_decode(
        self, ids: Tensor | Iterable[Tensor | Sequence[int]] = (), skip_special_tokens: bool = True, **options: Any
    ) -> list[str]:
        """The text of each row of ids, from (N, T) or a list of rows; ``options`` as `decode` takes them."""
        return self._known_tokenizer().batch_decode(ids, skip_special_tokens, **options)

    def token_text(self, token: int) -> str:
        """The text of a single id, or the name of a special token; empty for an id outside of the vocabulary."""
        return decode_ids(self._backend(), [token], skip_special_tokens=False)

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Write the preprocessing and the tokenizer to a folder, that of the model for one; `from_pretrained` reads it.

        Where the folder has new weights without settings, as transformers' Trainer, accelerate and ``save_file`` leave
        it after ``model.state_dict()``, those of the model are written too, so that `vedcore.load` opens it.

        Raises:
            CheckpointWriteError: the folder cannot be written.
        """
        from vedcore.plugins import load_component

        load_component("format", "native")[0].save_processor(self, save_directory)

    @classmethod
    def from_pretrained(cls, folder_or_name: str | os.PathLike[str], **options: Any) -> Processor:
        """The processor of a folder or repository, of vedcore or transformers, without the model.

        ``model.processor`` of a loaded model also has what only the model knows: the encoder's own preprocessing.

        Args:
            folder_or_name: as `vedcore.load` takes it.
            options: ``revision``, ``subfolder``, ``token``, ``cache_dir`` and ``local_files_only``, as there.

        Raises:
            CheckpointNotFoundError: no such folder, or no settings of images in it.
            ConfigError, TokenizerError, HubError: as `vedcore.load`.
        """
        from vedcore.plugins import load_component

        processor: Processor = load_component("format", "native")[0].load_processor(folder_or_name, **options)
        return processor

    def push_to_hub(self, repo: str, *, commit_message: str = "Upload processor", **options: Any) -> str:
        """Write the processor's files to a repository of the hub, in one commit, beside whatever is in it.

        Args:
            repo: ``org/name``; a missing repository is created.
            commit_message: of the commit.
            options: ``revision``, ``private``, ``create_pr`` and ``token``, as ``model.push_to_hub`` takes them.

        Returns:
            The address of the commit.

        Raises:
            HubError: the hub refuses it.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return push_folder(folder, repo, commit_message=commit_message, **options)

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
            raise ConfigSchemaError(
                "no such file", path=path(PREPROCESSOR_CONFIG), hint="give it too, as processor.to_files() does"
            )
        preprocessing = _read_preprocessing(files[PREPROCESSOR_CONFIG], path(PREPROCESSOR_CONFIG))
        data = files.get(TOKENIZER)
        tokenizer = None if data is None else parse_tokenizer(data, path=path(TOKENIZER))
        return cls(preprocessing, tokenizer)


def _label_rows(rows: Sequence[Sequence[int]], width: int) -> Tensor:
    """(N, T) labels, filled up with -100 to ``width``.

    Raises:
        UsageError: rows of different lengths, and no width.
    """
    if not width and len(set(map(len, rows))) > 1:
        raise UsageError("texts of different lengths", field="padding", hint="give padding=True")
    labels = torch.full((len(rows), width or len(rows[0])), IGNORE_INDEX)  # (N, T)
    for label, row in zip(labels, rows, strict=True):
        label[: len(row)] = torch.tensor(row)
    return labels


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
        raise ConfigSchemaError(f"not JSON: {error}", path=path, hint="copy the file again") from None
    if not isinstance(plain, dict):
        raise ConfigSchemaError(f"object expected, got {type(plain).__name__}", path=path, hint="copy the file again")
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
