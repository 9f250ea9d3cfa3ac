"""Rows for training, and rows that are held back."""

from __future__ import annotations

import hashlib

from vedcore.data.rows import Data
from vedcore.errors import UsageError

__all__ = ["SPLITS", "split", "split_named"]

SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "eval": "validation",
    "test": "test",
    "testing": "test",
}
"""The names of splits, in lower case, to those that vedcore gives them."""


def split_named(name: object) -> str | None:
    """The split of that name; None where it is not a name of one."""
    return SPLITS.get(str(name).strip().lower())


def split(data: Data, fraction: float = 0.1, seed: int = 0) -> tuple[Data, Data]:
    """The rows for training, and those that are held back.

    Rows that the source puts in a split stay there, and those of its test are in neither. Without rows for validation,
    a row is held back by a hash of its name, so that it stays where it is when others are added. At least one image is
    held back, and one is not, where there are two.

    Args:
        data: the rows.
        fraction: about the share to hold back, where the source has no rows for validation; 0 holds back none.
        seed: another one holds back others.

    Raises:
        UsageError: a fraction that is not from 0 to 1.
    """
    if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 <= fraction < 1:
        raise UsageError(f"{fraction!r} is not from 0 to 1", field="fraction", hint="0.1 holds back a tenth")
    if data.rows is not None:
        splits = data.rows.splits
        train = data.at([i for i, s in enumerate(splits) if s in ("train", None)])
        if "validation" in splits:
            return train, data.only("validation")
        if "test" in splits:
            data = train
    return _by_hash(data, fraction, seed)


def _by_hash(data: Data, fraction: float, seed: int) -> tuple[Data, Data]:
    def place(name: str) -> float:
        digest = hashlib.sha256(f"{seed}\0{name}".encode(errors="surrogatepass")).digest()
        return int.from_bytes(digest[:8]) / 2**64

    if data.rows is not None and fraction:  # of few rows, the hash may hold back none or all
        places = sorted({place(name) for name in data.rows.names})
        if len(places) > 1:
            fraction = min(max(fraction, (places[0] + places[1]) / 2), places[-1])
    return data.where(lambda name: place(name) >= fraction), data.where(lambda name: place(name) < fraction)
