"""Render and normalise the training lines beforehand, into shards on disk.

A shard is three files: ``shard-000.images.npy``, uint8 ``(32, all widths)``, the maps one after the other
along the width; ``shard-000.offsets.npy``, int64 ``(lines + 1,)``, where each begins; ``shard-000.json`` with
texts and conditions. Same seed, same fonts installed: same lines, whatever the number of processes.

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

SHARE = (0.27, 0.24, 0.2, 0.29)  # of the conditions, in their order
COLUMN = 4  # pixels of width that the encoder makes one column of


@cache
def _families() -> dict[str, list[Face]]:
    return by_family(find_faces("fonts.txt")[0])


def _one(rng: np.random.Generator, texts: Texts) -> tuple[NDArray[np.uint8], str, str]:
    """A map, its text and its condition; what nobody could read is drawn anew."""
    while True:
        condition = CONDITIONS[int(rng.choice(len(CONDITIONS), p=SHARE))]
        text = texts.line()
        image = render(text, pick_style(rng, _families(), condition, wide=True), rng)
        drawn = np.round(normalise_line(image, rng=rng) * 255).astype(np.uint8)
        # CTC needs a column a character and one between two alike.
        needed = len(text) + sum(one == next_ for one, next_ in pairwise(text))
        if drawn.any() and drawn.shape[1] >= COLUMN * needed:
            return drawn, text, condition


def make_shard(folder: Path, number: int, lines: int, seed: int) -> float:
    """Write one shard, the texts' file last: with it the shard is whole. Returns the seconds it took."""
    start = time.perf_counter()
    rng = np.random.default_rng([seed, number])
    texts = Texts(rng)
    maps, said, conditions = zip(*(_one(rng, texts) for _ in range(lines)), strict=True)
    offsets = np.cumsum([0, *(drawn.shape[1] for drawn in maps)], dtype=np.int64)
    name = folder / f"shard-{number:03}"
    np.save(f"{name}.images.npy", np.concatenate(maps, axis=1))
    np.save(f"{name}.offsets.npy", offsets)
    partial = Path(f"{name}.json.partial")
    partial.write_text(json.dumps({"texts": said, "conditions": conditions}))
    partial.replace(f"{name}.json")
    return time.perf_counter() - start


class Lines:
    """The lines of all whole shards in a folder, maps read from disk when asked for.

    Attributes:
        texts: What each line says.
        conditions: The condition each was drawn in.
        widths: ``(lines,)`` int64, width of each map in pixels.
    """

    def __init__(self, folder: str | Path) -> None:
        self.texts: list[str] = []
        self.conditions: list[str] = []
        self._images: list[NDArray[np.uint8]] = []
        self._places: list[tuple[int, int, int]] = []
        for path in sorted(Path(folder).glob("shard-*.json")):
            said = json.loads(path.read_text())
            offsets = np.load(path.with_suffix(".offsets.npy")).tolist()
            self._places += [(len(self._images), *span) for span in pairwise(offsets)]
            self._images.append(np.load(path.with_suffix(".images.npy"), mmap_mode="r"))
            self.texts += said["texts"]
            self.conditions += said["conditions"]
        if not self.texts:
            raise FileNotFoundError(f"no shards in {folder}; make them with: python make_data.py {folder}")
        self.widths = np.array([end - start for _, start, end in self._places], np.int64)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """Map of one line, uint8 ``(32, width)``, ink towards 255."""
        shard, start, end = self._places[index]
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
