"""Running a frozen encoder over all rows once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from vedcore.data.decoding import prepared_image, takes_sizes
from vedcore.data.encoder_states import EncoderStates
from vedcore.data.rows import Data, Problem, Row
from vedcore.data.settings import Augment
from vedcore.errors import UsageError, VedcoreError

__all__ = ["keep_states"]

TIMED_ROWS = 20
"""Rows whose states are read to say how long that takes."""


def keep_states(
    model: Any,
    data: Data,
    folder: str | os.PathLike[str],
    *,
    batch_size: int = 8,
    workers: int = 0,
    augment: Augment = "none",
    tell: Callable[[str], None] = lambda _: None,
) -> EncoderStates:
    """The states of a frozen encoder for all rows, kept on disk; those that are there already stay.

    Args:
        model: whose encoder is frozen, as ``model.freeze("encoder")`` does.
        data: the rows; those that cannot be decoded land in its ``problems``.
        folder: for the states, about as large as ``S * D * 4`` bytes an image.
        batch_size: images to encode at a time; an encoder that takes several sizes gets one.
        workers: threads that decode; 0 is one.
        augment: of the training, which must be ``"none"``.
        tell: is told how long it takes to encode an image, and to read its states.

    Returns:
        The ``states`` of a `Loader`.

    Raises:
        UsageError: an encoder that is trained, or augmentation.
        CheckpointWriteError: the states cannot be written, as for want of space.
    """
    if augment != "none":
        hint = "give data.augment='none', or leave data.cache_encoder out"
        raise UsageError("states cannot be kept of images that change", field="data.cache_encoder", hint=hint)
    if model.encoder.training or any(p.requires_grad for p in model.encoder.parameters()):
        hint = "freeze it: model.freeze('encoder'), or leave data.cache_encoder out"
        raise UsageError("states cannot be kept of an encoder that is trained", field="data.cache_encoder", hint=hint)
    states = EncoderStates(folder, model)
    size = 1 if takes_sizes(model.encoder) else batch_size
    images, seconds, known = 0, 0.0, list[Row]()

    def prepared(row: Row) -> tuple[Path, Tensor] | Problem | None:
        """The file of a row's states and its image (C, H, W); None where the file is there."""
        try:
            path = states.path(row)
            return None if path.exists() else (path, prepared_image(model.processor, row))
        except VedcoreError as error:
            return Problem(row.name, row.source, str(error))

    total = None if data.is_stream else -(-len(data) // size)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for rows in tqdm(_groups(data, size), desc="encoder states", total=total, disable=None):
            ready = dict[Path, Tensor]()
            for row, done in zip(rows, pool.map(prepared, rows), strict=True):
                if isinstance(done, Problem):
                    data.report(done)
                    continue
                known += [row] if len(known) < TIMED_ROWS else []
                if done is not None:
                    ready[done[0]] = done[1]
            if not ready:
                continue
            started = time.perf_counter()
            batch = model.processor.batch_of(list(ready.values())).to(model.device)
            with torch.no_grad():
                out = model.encode(**batch)
            for number, path in enumerate(ready):
                mask = None if out.attention_mask is None else out.attention_mask[number]
                states.save(path, out.last_hidden_state[number], mask)
            seconds += time.perf_counter() - started
            images += len(ready)
    started = time.perf_counter()
    for row in known:
        states.load(row)
    read = (time.perf_counter() - started) / max(1, len(known))
    encoded = f"{images:,} encoded in {1000 * seconds / images:.1f} ms an image" if images else "all there already"
    tell(f"encoder states in {states.folder}: {encoded}, read in {1000 * read:.1f} ms an image")
    return states


def _groups(data: Data, size: int) -> Iterator[list[Row]]:
    rows = iter(data)
    while group := list(islice(rows, size)):
        yield group
