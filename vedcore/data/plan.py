"""The batches of an epoch, before they are decoded."""

from __future__ import annotations

import json
from collections.abc import Iterator

from vedcore.data.batching import WINDOW, batches_of, image_shape
from vedcore.data.decoding import Job
from vedcore.data.rows import Data, Problem, Row, State

__all__ = ["Plan"]

MAX_SPARES = 64
"""Limit of the rows that are tried in place of a batch of which none can be decoded."""


class Plan:
    """The jobs of one process: the sampler of a DataLoader, which sends them to its workers.

    Args:
        data: the rows.
        batch_size: rows of a batch.
        seed: of the order; None keeps it.
        bucket: put images of similar sizes together, and labels of similar lengths.
        by_label: labels count.
        varies: images have sizes that matter.
        rank: of this process.
        world_size: number of processes.

    Attributes:
        start: the epoch, and the place in it behind which the jobs begin.
    """

    def __init__(
        self,
        data: Data,
        batch_size: int,
        seed: int | None,
        bucket: bool,
        by_label: bool,
        varies: bool,
        rank: int,
        world_size: int,
    ) -> None:
        self._data, self._size, self._seed, self._bucket = data, batch_size, seed, bucket
        self._by_label, self._varies, self._rank, self._world = by_label, varies, rank, world_size
        self._sizes: list[tuple[int, ...]] | None = None
        self.start: tuple[int, State | None] = 0, None

    def __iter__(self) -> Iterator[Job]:
        epoch, state = self.start
        if self._data.is_stream:
            yield from self._jobs_of_stream(epoch, state)
            return
        rows = self._data.rows or ()
        sizes = self._known_sizes() if self._bucket and self._seed is not None else None
        batches = batches_of(sizes, len(rows), self._size, self._order(epoch), self._world)
        done = 0 if state is None else int(state["batch"])
        mine = batches[self._rank :: self._world]
        for number in range(done, len(mine)):
            behind = (mine[(number + step) % len(mine)] for step in range(1, min(len(mine), MAX_SPARES + 1)))
            spares = [row for batch in behind for row in batch][:MAX_SPARES] if self._seed is not None else None
            yield Job(mine[number], spares, epoch, {"epoch": epoch, "batch": number + 1})

    def _order(self, epoch: int) -> str | None:
        return None if self._seed is None else f"{self._seed}/{epoch}"

    def _known_sizes(self) -> list[tuple[int, ...]]:
        """Shape of each image where the encoder takes several sizes, and the length of each label where it counts."""
        if self._sizes is None:
            lengths = self._data.rows.lengths if self._data.rows is not None and self._by_label else None
            count = len(self._data)
            self._sizes = [
                (*(image_shape(self._data.row(i)) if self._varies else ()), 0 if lengths is None else lengths[i])
                for i in range(count)
            ]
        return self._sizes

    def _jobs_of_stream(self, epoch: int, state: State | None) -> Iterator[Job]:
        """Batches of a block of rows at a time; the place is that before the block, and the batches done of it."""
        place: State | None = None if state is None else state["place"]
        done = 0 if state is None else int(state["batch"])
        order = self._order(epoch)
        events = self._data.events(place, order)
        while True:
            block, behind = list[Row](), place
            for event, place_of_event in events:
                behind = place_of_event
                if isinstance(event, Problem):
                    self._data.report(event)
                else:
                    block.append(event)
                    if len(block) == WINDOW * self._size:
                        break
            if not block:
                return
            sizes = [
                (*(image_shape(row) if self._varies else ()), len(row.text) if self._by_label else 0) for row in block
            ]
            seed = None if order is None else f"{order}/{json.dumps(place)}"
            batches = batches_of(sizes if self._bucket else None, len(block), self._size, seed, self._world)
            mine = [[block[i] for i in batch] for batch in batches[self._rank :: self._world]]
            for number in range(done, len(mine)):
                last = number + 1 == len(mine)
                here = {"place": behind, "batch": 0} if last else {"place": place, "batch": number + 1}
                spares = None if order is None else block[:MAX_SPARES]
                yield Job(mine[number], spares, epoch, {"epoch": epoch, **here})
            place, done = behind, 0
