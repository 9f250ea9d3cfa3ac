"""The states of a frozen encoder on disk, one file an image.

A file's name is a hash of the encoder's weights and settings, the preprocessing, and the image, so that another encoder
or image never gets it.

Shape letters: N images, S encoder tokens, D width.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vedcore.data.rows import Row
from vedcore.errors import CheckpointWriteError, DataError
from vedcore.files import open_regular
from vedcore.outputs import EncoderOutput
from vedcore.processing.pages import foreign_errors

__all__ = ["EncoderStates", "States"]

States = tuple[Tensor, Tensor | None]
"""States of an image (S, D), and its mask (S,), if any."""
NOT_KEPT = "keep them again: vedcore.data.keep_states"


class EncoderStates:
    """The kept states of some images.

    Args:
        folder: that has them.
        model: whose encoder gives them.

    Attributes:
        folder: of this encoder's states, within the given one.
    """

    def __init__(self, folder: str | os.PathLike[str], model: Any) -> None:
        digest = hashlib.sha256(type(model.encoder).__qualname__.encode())
        digest.update(repr(getattr(model.encoder, "config", None)).encode())
        digest.update(json.dumps(model.processor.preprocessing.model_dump(mode="json"), sort_keys=True).encode())
        for name, tensor in sorted(model.encoder.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        self.folder = Path(folder) / digest.hexdigest()[:32]

    def path(self, row: Row) -> Path:
        """The file of a row's image.

        Raises:
            DataError: an image that cannot be read.
        """
        digest = _image_digest(row)
        return self.folder / digest[:2] / f"{digest}.safetensors"

    def load(self, row: Row) -> States:
        """The states of a row's image.

        Raises:
            DataError: they are not kept, or the image cannot be read.
        """
        path = self.path(row)
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            reason = "no states are kept" if isinstance(error, FileNotFoundError) else f"damaged states: {error}"
            raise DataError(reason, path=path, hint=NOT_KEPT) from None
        return tensors["last_hidden_state"], tensors.get("attention_mask")

    def save(self, path: Path, states: Tensor, mask: Tensor | None) -> None:
        """Write the states of an image (S, D), and its mask (S,), whole or not at all.

        Raises:
            CheckpointWriteError: they cannot be written.
        """
        tensors = {"last_hidden_state": states} | ({} if mask is None else {"attention_mask": mask})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{os.getpid()}.part")
            save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, part)
            os.replace(part, path)
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            hint = "free space, or leave data.cache_encoder out"
            raise CheckpointWriteError(f"states cannot be kept: {reason}", path=path, hint=hint) from None

    def collate(self, states: Sequence[States]) -> EncoderOutput:
        """The states of several images as one output, (N, S, D), padded and masked where their lengths differ."""
        rows, masks = zip(*states, strict=True)
        if all(mask is None for mask in masks) and len({len(row) for row in rows}) == 1:
            return EncoderOutput(torch.stack(rows))
        whole = [torch.ones(len(row), dtype=torch.bool) if m is None else m for row, m in zip(rows, masks, strict=True)]
        return EncoderOutput(pad_sequence(list(rows), batch_first=True), pad_sequence(whole, batch_first=True))


def _image_digest(row: Row) -> str:
    image = row.image
    digest = hashlib.sha256(f"{row.page}".encode())
    if isinstance(image, (str, os.PathLike)):
        with open_regular(image, DataError, "give a file that can be read") as file:
            image = file.read()
    if isinstance(image, Image.Image):
        with foreign_errors("the image", hint="load it before its file is closed"):
            image.load()
        digest.update(f"{image.mode} {image.size} {image.getexif().get(0x0112)}".encode())
        image = image.tobytes()
    elif isinstance(image, (np.ndarray, Tensor)):
        array = np.ascontiguousarray(image)
        digest.update(f"{type(image).__name__} {array.dtype} {array.shape}".encode())
        image = array.tobytes()
    if not isinstance(image, (bytes, bytearray)):
        hint = "give a path, bytes, a Pillow image, an array or a tensor"
        raise DataError(f"{type(image).__name__} is not an image whose states can be kept", hint=hint)
    digest.update(image)
    return digest.hexdigest()
