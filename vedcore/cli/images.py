"""The image files of a command line's arguments: files as named, folders searched."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["ImageWalk"]

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pbm", ".pdf", ".pgm", ".png", ".pnm", ".ppm"}
    | {".tif", ".tiff", ".webp"}
)


@dataclass
class ImageWalk:
    """Paths of image files, from file and folder names; iterate to get them.

    A named file is always yielded, so that an unreadable one is reported. In a folder, and in its subfolders, regular
    files with an image's suffix are yielded in sorted order. ``skipped`` lists other entries with such a suffix (a
    FIFO, a socket, a broken or circular link) and unreadable folders. Links to folders are followed, each folder once,
    except links to a parent folder: one to ``/`` would search the whole machine.
    """

    named: Iterable[str]
    skipped: list[str] = field(default_factory=list)
    """Paths that were skipped, each with the reason."""
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
            elif os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                if stat.S_ISREG(mode):
                    yield path
                else:
                    self._skip(path, "not a regular file")

    def _skip(self, path: str, reason: str) -> None:
        self.skipped.append(f"{path}: {reason}")


def _holds(outer: str, inner: str) -> bool:
    return Path(os.path.realpath(inner)).is_relative_to(os.path.realpath(outer))
