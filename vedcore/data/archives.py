"""Tar shards in WebDataset's layout: ``key.png`` and ``key.txt`` or ``key.json``, side by side.

Members are read in their order and never extracted. A key ends at the first dot of a member's last part.
"""

from __future__ import annotations

import glob
import json
import os
import random
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, product
from operator import itemgetter
from typing import IO, Any

from vedcore.data.columns import TEXT_COLUMNS, find_column
from vedcore.data.found import IMAGE_ENDS, Found
from vedcore.data.joining import placed
from vedcore.data.rows import Data, Event, State
from vedcore.data.tables import NOT_UTF8
from vedcore.errors import DataError
from vedcore.files import open_regular

__all__ = ["SHARD_ENDS", "expand", "open_archives"]

SHARD_ENDS = (".tar", ".tar.gz", ".tgz")
"""Ends of the names of shards."""
MAX_SHARDS = 100_000
"""Limit of the shards of a pattern."""
MAX_IMAGE_BYTES = 256_000_000
"""Limit of a member that is an image."""
MAX_LABEL_BYTES = 1_000_000
"""Limit of a member that is text or JSON."""
TEXT_MEMBERS = ("gt.txt", "txt", "text", "caption", "json")
"""Ends of members that are labels; the first that there is counts."""
READ_HINT = "give a file that can be read"
DAMAGED = "it is damaged or truncated: copy it again"


def expand(pattern: str) -> list[str]:
    """The shards of a pattern: ``{000..010}`` counts, ``*`` and ``?`` stand for what there is; in order.

    Raises:
        DataError: a pattern without a file, or of more than 100,000.
    """
    if os.path.exists(pattern):
        return [pattern]
    pieces = re.split(r"\{(\d+)\.\.(\d+)\}", pattern)
    ranges = [range(int(a), int(b) + 1) for a, b in zip(pieces[1::3], pieces[2::3], strict=True)]
    total = 1
    for each in ranges:
        total *= len(each)
    if total > MAX_SHARDS:
        hint = "count fewer of them, or give a list of patterns"
        raise DataError(f"a pattern of {total:,} shards, above the limit of {MAX_SHARDS:,}", path=pattern, hint=hint)
    shards: list[str] = []
    for numbers in product(*ranges):
        digits = [f"{n:0{len(first)}d}" for n, first in zip(numbers, pieces[1::3], strict=True)]
        name = "".join(a + b for a, b in zip(pieces[0::3], [*digits, ""], strict=True))
        shards += sorted(glob.glob(name)) if re.search(r"[*?]", name) else [name]
    if not shards:
        raise DataError("no shards", path=pattern, hint="give a pattern such as data/{000..010}.tar")
    return shards


def open_archives(
    shards: Sequence[str], source: str, *, text_column: str | None = None, image_column: str | None = None
) -> Data:
    """The rows of shards, as a stream that resumes.

    Args:
        shards: paths.
        source: for messages.
        text_column: an end of members, or a key of ``key.json``.
        image_column: an end of members.

    Raises:
        DataError: a shard that is not there, or a first one that is not a tar file.
    """
    for shard in shards:
        open_regular(shard, DataError, READ_HINT).close()
    with open_regular(shards[0], DataError, READ_HINT) as file, _opened(file, shards[0]):
        pass
    return Data(source, stream=_Shards(tuple(shards), text_column, image_column))


class _Shards:
    """The rows from a place on: a number of the shard in the order of the epoch, and of the sample in it."""

    def __init__(self, shards: tuple[str, ...], text_column: str | None, image_column: str | None) -> None:
        self._shards, self._text, self._image = shards, text_column, image_column

    def __call__(self, state: State | None, order: str | None) -> Iterator[tuple[Event, State]]:
        before = {"shard": 0, "position": 0} | (state or {})
        return placed(self._items(before["shard"], before["position"], order), before, state)

    def _items(self, first: int, start: int, order: str | None) -> Iterator[tuple[list[Event], State]]:
        shards = list(self._shards)
        if order is not None:
            random.Random(order).shuffle(shards)
        for number, shard in enumerate(shards[first:], first):
            skipped = start if number == first else 0
            for position, (key, sample) in enumerate(_samples(shard, skipped), skipped + 1):
                found, where = Found(), f"{shard}:{key}"
                try:
                    if isinstance(sample, DataError):
                        raise sample
                    label = self._label(sample)
                    found.add(key, sample[self._image_end(sample)], label, where)
                except DataError as error:
                    found.fail(key, where, error)
                yield [*found.rows, *found.problems], {"shard": number, "position": position}

    def _image_end(self, sample: dict[str, bytes]) -> str:
        ends = [end for end in sample if _is_image(end)]
        if self._image is not None:
            ends = [self._image] if self._image in sample else []
        if len(ends) != 1:
            message = f"{len(ends)} images among its members {', '.join(sample)}"
            raise DataError(message, hint="give each key one image, or name its end: image_column='jpg'")
        return ends[0]

    def _label(self, sample: dict[str, bytes]) -> Any:
        end = self._text if self._text in sample else next((e for e in TEXT_MEMBERS if e in sample), None)
        if self._text is not None and end != self._text:
            end = "json" if "json" in sample else None  # the name of a key in it
        if end is None:
            raise DataError(f"no label among its members {', '.join(sample)}", hint="add a member key.txt or key.json")
        try:
            text = sample[end].decode("utf-8-sig")
            if not end.endswith("json"):
                return text.rstrip("\r\n")
            data = json.loads(text)
        except UnicodeDecodeError:
            raise DataError(f"{end} is not UTF-8", hint=NOT_UTF8) from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{end} is not JSON: {error}", hint="write one object") from None
        if not isinstance(data, dict):
            raise DataError(f"{end} is not an object", hint="write one object")
        if data.keys() & {"gt_parse", "gt_parses"} and self._text is None:
            return data
        return data[find_column(data, None if end == self._text else self._text, TEXT_COLUMNS, "text_column", end)]


def _samples(shard: str, skipped: int) -> Iterator[tuple[str, dict[str, bytes] | DataError]]:
    """Key and members of each sample, but for the first ``skipped``; an error in place of one that cannot be read."""
    try:
        with open_regular(shard, DataError, READ_HINT) as file, _opened(file, shard) as archive:
            for number, (key, members) in enumerate(groupby(_members(archive), itemgetter(0))):
                if number >= skipped:
                    yield key, _read(archive, members)
    except DataError as error:
        yield shard, error
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        yield shard, DataError(f"the rest of the shard cannot be read: {error}", hint=DAMAGED)


def _members(archive: tarfile.TarFile) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """Key, end and header of each regular member that has both."""
    while (member := archive.next()) is not None:
        archive.members = []  # type: ignore[attr-defined]  # of a large shard, they would fill the memory
        match = re.fullmatch(r"((?:.*/)?[^/.]+)\.([^/]*)", member.name)
        if match and member.isreg():
            yield match[1], match[2].lower(), member


def _read(archive: tarfile.TarFile, members: Iterable[tuple[str, str, tarfile.TarInfo]]) -> Any:
    sample: dict[str, bytes] = {}
    for _, end, member in members:
        limit = MAX_IMAGE_BYTES if _is_image(end) else MAX_LABEL_BYTES
        if member.size > limit and (limit == MAX_IMAGE_BYTES or end in TEXT_MEMBERS):
            return DataError(f"{end} of {member.size:,} bytes, above the limit of {limit:,}", hint="make it smaller")
        file = archive.extractfile(member) if member.size <= limit else None  # others have no use here
        sample[end] = b"" if file is None else file.read()
    return sample


def _is_image(end: str) -> bool:
    return f".{end}".endswith(IMAGE_ENDS)


def _opened(file: IO[bytes], shard: str) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=file, mode="r:*")
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        reason = str(error).partition(":\n")[0]
        raise DataError(f"not a tar file: {reason}", path=shard, hint=DAMAGED) from None
