"""Batches of labelled images, decoded in worker processes; the same for any number of them."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from vedcore.config_files.plain import short
from vedcore.data.decoding import Decoder, Loaded, takes_sizes
from vedcore.data.encoder_states import EncoderStates
from vedcore.data.plan import Plan
from vedcore.data.rows import Data, State
from vedcore.data.settings import Augment
from vedcore.errors import DataError, UsageError, VedcoreError
from vedcore.processing.encoding import OnUnknown
from vedcore.processing.processor import Processor

__all__ = ["Loaded", "Loader"]


class Loader:
    """The batches of some labelled images, epoch by epoch.

    A row that cannot be decoded is left out, and lands in ``data.problems``. Where all of a batch are, the first row of
    those behind it that can be decoded is the batch, so that each process has as many batches as the others; without
    ``shuffle``, the batch is left out.

    Args:
        data: the rows.
        processor: that of the model, ``model.processor``.
        batch_size: rows of a batch; the last of an epoch may have fewer.
        shuffle: order the rows anew in each epoch, by ``seed``; of a stream, the shards, and the rows of 50 batches at
            a time. False keeps their order, for evaluation.
        seed: of order and augmentation.
        max_label_length: limit of a label in tokens, its end included; a longer one is cut, and its end kept. None is
            the limit of the model.
        augment: as `vedcore.data.augmentation.augment` takes it.
        bucket: shuffled, put images of similar sizes, where the encoder takes several, and labels of similar lengths
            into one batch: those of 50 batches at a time.
        bucket_labels: let the lengths of labels count there. Not for a model with batch norms: a batch of short texts
            has statistics of its own, and the model would learn the length from them.
        workers: processes that decode; 0 decodes in this one.
        rank: number of this process among those that train together, which each get other batches.
        world_size: number of these processes; shuffled, they get equally many batches, of which some may come twice.
        on_unknown: as the processor takes it.
        states: kept states of the encoder, in place of images.
        pin_memory: put tensors into page-locked memory, for a GPU.

    Raises:
        UsageError: a size below 1, a rank beyond the number of processes, states with augmentation.
        TokenizerError: the processor has no tokenizer, or no id that ends a text.

    Attributes:
        data: as given.
        cut: labels that were cut so far.
    """

    def __init__(
        self,
        data: Data,
        processor: Processor,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        max_label_length: int | None = None,
        augment: Augment = "none",
        bucket: bool = True,
        bucket_labels: bool = True,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        on_unknown: OnUnknown = "warn",
        states: EncoderStates | None = None,
        pin_memory: bool = False,
    ) -> None:
        counts = ("batch_size", batch_size, 1), ("workers", workers, 0), ("world_size", world_size, 1)
        for name, value, least in counts:
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UsageError(f"{short(value)} is not a number of {least} or more", field=name, hint=f"give {least}")
        if not 0 <= rank < world_size:
            raise UsageError(f"{rank} of {world_size}", field="rank", hint=f"give 0 to {world_size - 1}")
        if states is not None and augment != "none":
            raise UsageError("kept states of the encoder do not change", field="augment", hint="leave states out")
        self.data = data
        self.cut = 0
        self._size, self._shuffle, self._rank, self._world = batch_size, shuffle, rank, world_size
        self._plan = Plan(
            data,
            batch_size,
            seed if shuffle else None,
            bucket=bucket,
            by_label=bucket_labels,
            varies=takes_sizes(processor.encoder),
            rank=rank,
            world_size=world_size,
        )
        longest = processor.model_max_length
        if max_label_length is not None and longest is not None and max_label_length > longest:
            message = f"{max_label_length} tokens, of which the model takes {longest}"
            raise UsageError(message, field="max_label_length", hint=f"give {longest}, or leave it out")
        limit = longest if max_label_length is None else max_label_length
        self._loader: DataLoader[Any] = DataLoader(
            Decoder(data, processor, limit, augment, seed, on_unknown, states),
            batch_size=None,
            sampler=self._plan,
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=pin_memory,
            persistent_workers=workers > 0,
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # torch's own generator would move with each iteration, and dropout with it
        )

    def __len__(self) -> int:
        """Batches of this process in an epoch; of rows that can all be decoded, where they are not shuffled.

        Raises:
            UsageError: a stream.
        """
        batches = -(-len(self.data) // self._size)
        return -(-batches // self._world) if self._shuffle else len(range(self._rank, batches, self._world))

    def epoch(self, number: int = 0, state: State | None = None) -> Iterator[Loaded]:
        """The batches of an epoch.

        Args:
            number: of the epoch, from 0.
            state: that of the last batch that was used, to go on behind it; one of another epoch does not count.

        Raises:
            DataError: none of many rows can be decoded, or a worker ended.
        """
        self._plan.start = number, state if state is not None and state["epoch"] == number else None
        try:
            for loaded in self._loader:
                if isinstance(loaded, VedcoreError):
                    raise loaded
                for problem in loaded.problems:
                    self.data.report(problem)
                self.cut += loaded.cut
                if loaded.names:
                    yield loaded
        except (RuntimeError, EOFError, ConnectionError) as error:  # the last two where a pipe to a worker broke
            if isinstance(error, RuntimeError) and not re.search("exited unexpectedly|by signal", str(error)):
                raise
            hint = "give workers=0, or free memory: it may have run out"
            raise DataError("a worker ended", path=self.data.source, hint=hint) from None


def _as_it_is(loaded: Any) -> Any:
    return loaded


def _start_worker(_: int) -> None:
    """Leave Ctrl-C to the process that trains, which ends the workers when it has saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
