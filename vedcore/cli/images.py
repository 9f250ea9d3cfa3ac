"""Which images a command line names: files as they are, folders walked."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["ImageWalk"]

SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm"}
    | {".tif", ".tiff", ".webp"}
)


@dataclass
class ImageWalk:
    """Paths of images below files and folders, each file once, in sorted order.

    A file that is named is always given, whatever it is, so that its error is told. In a folder, files that have an
    image's suffix are given; anything else that has one (a FIFO, a socket, a broken or circular link), and folders
    that cannot be read, are noted in ``skipped``. Links to folders are followed, each folder once,
    but for those that lead upwards: one to ``/`` would bring in the whole machine.
    """

    named: Iterable[str]
    skipped: list[str] = field(default_factory=list)
    """Paths that were left out, each with its reason."""
    _folders: set[tuple[int, int]] = field(default_factory=set, repr=False)

    def __iter__(self) -> Iterator[str]:
        for name in self.named:
            if os.path.isdir(name):
                yield from self._walk(name)
            else:
                yield name

    def _walk(self, folder: str) -> Iterator[str]:
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in self._folders:
                self._skip(folder, "a folder seen before")
                return
            self._folders.add((status.st_dev, status.st_ino))
            names = sorted(os.listdir(folder))
        except OSError as error:
            self._skip(folder, error.strerror or str(error))
            return
        for name in names:
            path = os.path.join(folder, name)
            try:
                mode = os.stat(path).st_mode
            except OSError as error:
                self._skip(path, error.strerror or str(error))
                continue
            if stat.S_ISDIR(mode) and os.path.islink(path) and _holds(path, folder):
                self._skip(path, "a link to a folder that holds this one")
            elif stat.S_ISDIR(mode):
                yield from self._walk(path)
            elif os.path.splitext(name)[1].lower() in SUFFIXES:
                if stat.S_ISREG(mode):
                    yield path
                else:
                    self._skip(path, "not a regular file")

    def _skip(self, path: str, reason: str) -> None:
        self.skipped.append(f"{path}: {reason}")


def _holds(outer: str, inner: str) -> bool:
    return Path(os.path.realpath(inner)).is_relative_to(os.path.realpath(outer))
