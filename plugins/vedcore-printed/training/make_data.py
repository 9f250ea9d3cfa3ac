"""Render and normalise the training lines in advance, into shards on disk.

A shard is three files: ``shard-000.images.npy``, uint8 ``(32, sum of widths)``, has the maps side by side;
``shard-000.offsets.npy``, int64 ``(lines + 1,)``, the column at which each begins; ``shard-000.json`` the texts and
conditions. The same seed and fonts give the same lines, for any number of processes.

    python make_data.py /path/to/data --lines 190000 --processes 2
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from fonts import Face, by_family, find_faces
from numpy.typing import NDArray
from render import CONDITIONS, pick_style, render
from text import Texts

from vedcore_printed.normalise import HEIGHT, normalise_line

__all__ = ["Lines", "make_shard"]

CONDITION_SHARES = (0.27, 0.24, 0.2, 0.29)  # in the order of CONDITIONS
COLUMN_WIDTH = 4  # pixels of width for each column of the encoder


@cache
def _families() -> dict[str, list[Face]]:
    return by_family(find_faces("fonts.txt")[0])


def _render_one(rng: np.random.Generator, texts: Texts) -> tuple[NDArray[np.uint8], str, str]:
    """A map, its text and its condition; an unreadable line is rendered again with other random choices."""
    while True:
        condition = CONDITIONS[int(rng.choice(len(CONDITIONS), p=CONDITION_SHARES))]
        text = texts.line()
        image = render(text, pick_style(rng, _families(), condition, wide=True), rng)
        drawn = np.round(normalise_line(image, rng=rng) * 255).astype(np.uint8)
        # CTC needs one column for each character and one between two equal characters.
        needed = len(text) + sum(one == next_ for one, next_ in pairwise(text))
        if drawn.any() and drawn.shape[1] >= COLUMN_WIDTH * needed:
            return drawn, text, condition


def make_shard(folder: Path, number: int, lines: int, seed: int) -> float:
    """Write one shard, and return the seconds it took. The JSON file comes last: it marks the shard as complete."""
    start = time.perf_counter()
    rng = np.random.default_rng([seed, number])
    texts = Texts(rng)
    maps, lines_of_text, conditions = zip(*(_render_one(rng, texts) for _ in range(lines)), strict=True)
    offsets = np.cumsum([0, *(drawn.shape[1] for drawn in maps)], dtype=np.int64)
    name = folder / f"shard-{number:03}"
    np.save(f"{name}.images.npy", np.concatenate(maps, axis=1))
    np.save(f"{name}.offsets.npy", offsets)
    partial = Path(f"{name}.json.partial")
    partial.write_text(json.dumps({"texts": lines_of_text, "conditions": conditions}))
    partial.replace(f"{name}.json")
    return time.perf_counter() - start


class Lines:
    """The lines of all complete shards in a folder; a map is read from disk when it is indexed.

    Attributes:
        texts: text of each line.
        conditions: condition of each line.
        widths: ``(lines,)`` int64, width of each map in pixels.
    """

    def __init__(self, folder: str | Path) -> None:
        self.texts: list[str] = []
        self.conditions: list[str] = []
        self._images: list[NDArray[np.uint8]] = []
        self._spans: list[tuple[int, int, int]] = []
        for path in sorted(Path(folder).glob("shard-*.json")):
            shard = json.loads(path.read_text())
            offsets = np.load(path.with_suffix(".offsets.npy")).tolist()
            self._spans += [(len(self._images), *span) for span in pairwise(offsets)]
            self._images.append(np.load(path.with_suffix(".images.npy"), mmap_mode="r"))
            self.texts += shard["texts"]
            self.conditions += shard["conditions"]
        if not self.texts:
            raise FileNotFoundError(f"no shards in {folder}; make them with: python make_data.py {folder}")
        self.widths = np.array([end - start for _, start, end in self._spans], np.int64)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """Map of one line, uint8 ``(32, width)``, with ink towards 255."""
        shard, start, end = self._spans[index]
        return self._images[shard][:, start:end]

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self[index] for index in range(len(self)))


def _job(job: tuple[Path, int, int, int]) -> tuple[int, float]:
    return job[1], make_shard(*job)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lines", type=int, default=190_000)
    parser.add_argument("--shard-lines", type=int, default=5_000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    counts = [chosen.shard_lines] * (chosen.lines // chosen.shard_lines)
    counts += [rest] if (rest := chosen.lines % chosen.shard_lines) else []
    jobs = [
        (chosen.folder, number, count, chosen.seed)
        for number, count in enumerate(counts)
        if not (chosen.folder / f"shard-{number:03}.json").exists()
    ]
    print(f"{len(jobs)} shards, maps {HEIGHT} px high", flush=True)
    start = time.perf_counter()
    with Pool(chosen.processes) as pool:
        for number, seconds in pool.imap_unordered(_job, jobs):
            print(f"shard {number:03}: {seconds:.0f} s, {time.perf_counter() - start:.0f} s in all", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
