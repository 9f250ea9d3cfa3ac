"""A batch of labelled images, from rows, in a process that may be a worker.

Shape letters: N images, C channels, H x W pixels, T label tokens.
"""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.data import Dataset

from vedcore.components import VisionEncoder
from vedcore.data.augmentation import augment as augmented
from vedcore.data.encoder_states import EncoderStates
from vedcore.data.rows import Data, Problem, Row, State
from vedcore.data.settings import Augment
from vedcore.errors import DataError, UsageError, VedcoreError
from vedcore.processing.encoding import OnUnknown, encode_text
from vedcore.processing.processor import Batch, Processor

__all__ = ["Decoder", "Job", "Loaded", "prepared_image", "takes_sizes"]


@dataclass(frozen=True)
class Loaded:
    """A batch, and its place."""

    inputs: Batch
    """Arguments of the model: ``pixel_values`` (N, C, H, W), or ``encoder_outputs`` of kept states; ``labels`` (N, T),
    -100 behind the end of each; ``encoder_attention_mask`` where images of different sizes are padded."""
    names: tuple[str, ...]
    """The names of the rows."""
    texts: tuple[str, ...]
    """The labels as text, whole."""
    sources: tuple[str, ...]
    """Where the rows stand, for messages."""
    state: State
    """The place behind it, as JSON holds it: ``loader.epoch(state["epoch"], state)`` goes on from there."""
    cut: int = 0
    """Labels that are cut."""
    problems: tuple[Problem, ...] = ()
    """Rows that are left out, as they cannot be decoded."""

    def to(self, device: str | torch.device, non_blocking: bool = False) -> Loaded:
        """The same with all tensors on a device."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Loaded:
        """The same with all tensors in page-locked memory; a DataLoader calls it."""
        return self._mapped(lambda tensor: tensor.pin_memory())

    def _mapped(self, change: Any) -> Loaded:
        moved = {name: pytree.tree_map_only(Tensor, change, value) for name, value in self.inputs.items()}
        return dataclasses.replace(self, inputs=Batch(moved))


@dataclass(frozen=True)
class Job:
    """A batch to be made."""

    rows: Sequence[int | Row]
    """Rows, or their numbers."""
    spares: Sequence[int | Row] | None
    """Rows to try where none of these can be decoded; None leaves the batch out."""
    epoch: int
    state: State


class Decoder(Dataset[Any]):
    """The batch of a job: the dataset of the DataLoader."""

    def __init__(
        self,
        data: Data,
        processor: Processor,
        limit: int | None,
        augment: Augment,
        seed: int,
        on_unknown: OnUnknown,
        states: EncoderStates | None,
    ) -> None:
        self._data = None if data.is_stream else data
        self._processor, self._limit, self._on_unknown = processor, limit, on_unknown
        self._augment, self._seed, self._states = augment, seed, states
        if processor.tokenizer is None or not processor.token_ids.eos:
            processor(text="")  # raises the error of what is missing
        if limit is not None and limit < 2:
            raise UsageError(f"{limit} leaves no token beside the end", field="max_label_length", hint="give 2 or more")

    def __getstate__(self) -> bytes:
        """For a process that starts anew: without the weights of the encoder, and no tensor in shared memory."""
        processor = copy.copy(self._processor)
        processor.settings_of_model = None
        processor.encoder = _without_weights(processor.encoder) if takes_sizes(processor.encoder) else None
        return pickle.dumps({**self.__dict__, "_processor": processor})

    def __setstate__(self, state: bytes) -> None:
        self.__dict__.update(pickle.loads(state))

    def __getitem__(self, job: Job) -> Loaded | VedcoreError:
        """The batch, or the error that ends all, which the DataLoader would give another type."""
        try:
            return self._batch(job)
        except VedcoreError as error:
            return error

    def _batch(self, job: Job) -> Loaded:
        problems: list[Problem] = []
        decoded = [self._decode(row, job.epoch, problems) for row in job.rows]
        examples = [each for each in decoded if each is not None]
        for row in (job.spares or ()) if not examples else ():
            if (spare := self._decode(row, job.epoch, problems)) is not None:
                examples.append(spare)
                break
        if not examples and job.spares is not None:
            source = self._data.source if self._data is not None else "stream"
            message = f"none of {len(problems)} rows can be decoded; the first: {problems[0]}"
            raise DataError(message, path=source, details="\n".join(map(str, problems)))
        rows = [row for row, _, _ in examples]
        return Loaded(
            self._collate([example for _, example, _ in examples]) if examples else Batch(),
            tuple(row.name for row in rows),
            tuple(row.text for row in rows),
            tuple(row.source for row in rows),
            job.state,
            sum(cut for _, _, cut in examples),
            tuple(problems),
        )

    def _decode(self, place: int | Row, epoch: int, problems: list[Problem]) -> tuple[Row, dict[str, Any], bool] | None:
        """A row, what goes into the batch of it, and whether its label is cut; None where it cannot be decoded."""
        row: Row | Problem = place if isinstance(place, Row) else self._data.row(place)  # type: ignore[union-attr]
        if isinstance(row, Problem):
            problems.append(row)
            return None
        try:
            tokenizer = self._processor.tokenizer
            assert tokenizer is not None
            ids = encode_text(tokenizer.backend_tokenizer, row.text, on_unknown=self._on_unknown)
            kept = ids if self._limit is None else ids[: self._limit - 1]
            example: dict[str, Any] = {"labels": [*kept, self._processor.token_ids.eos[0]]}
            if self._states is not None:
                example["states"] = self._states.load(row)
            else:
                seed = f"{self._seed}/{epoch}/{row.source}"
                example["pixel_values"] = prepared_image(self._processor, row, self._augment, seed)
            return row, example, len(kept) < len(ids)
        except VedcoreError as error:
            problems.append(Problem(row.name, row.source, str(error)))
            return None

    def _collate(self, examples: list[dict[str, Any]]) -> Batch:
        if self._states is None:
            return self._processor.collate(examples)
        batch = self._processor.collate([{"labels": example["labels"]} for example in examples])
        batch["encoder_outputs"] = self._states.collate([example["states"] for example in examples])
        return batch


def prepared_image(processor: Processor, row: Row, augment: Augment = "none", seed: str = "") -> Tensor:
    """A row's image as the encoder takes it, (C, H, W), augmented before.

    Raises:
        ImageError: it cannot be decoded or prepared.
    """
    with processor.open_images([row.image], pages=row.page, first_page_only=True) as reader:
        if augment == "none":
            return processor.pixels_at(reader, reader.origins[0])
        image = augmented(reader.read(reader.origins[0]), augment, seed)
    with processor.open_images([image]) as reader:
        return processor.pixels_at(reader, reader.origins[0])


def takes_sizes(encoder: Any) -> bool:
    """Whether an encoder prepares images itself, or takes several sizes in one batch."""
    own = ((getattr(type(encoder), name, None), getattr(VisionEncoder, name)) for name in ("preprocess", "token_mask"))
    return any(method not in (None, inherited) for method, inherited in own)


def _without_weights(encoder: Any) -> Any:
    """A copy of an encoder whose parameters are on the meta device."""
    if not isinstance(encoder, nn.Module):
        return encoder
    weights = {id(p): nn.Parameter(p.detach().to("meta"), requires_grad=False) for p in encoder.parameters()}
    return copy.deepcopy(encoder, weights)
