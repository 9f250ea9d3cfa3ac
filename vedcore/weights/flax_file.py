"""Flax's ``flax_model.msgpack``: maps of maps, with arrays as msgpack's extensions; only the names are parsed.

An array is extension 1, which holds msgpack again: its shape, the name of its type, and its bytes. One of more than
1 GB is a map with its shape and the pieces of its flat values.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import Any

from vedcore.config_files.plain import short
from vedcore.errors import CheckpointLimitError
from vedcore.extras import need
from vedcore.weights.array_file import StoredArray, check_count, corrupt
from vedcore.weights.snapshot import FILE_AGAIN_HINT

__all__ = ["CHUNKED", "NDARRAY", "read_flax"]

NDARRAY = 1
"""Flax's number of the extension for arrays."""
CHUNKED = "__msgpack_chunked_array__"
"""The key that marks a map as one array in pieces."""
MAX_DEPTH = 32
"""Maps within maps."""
_WINDOW = 4096
"""Bytes that a name, or what precedes an array's values, may take."""
_EXTENSIONS = {0xC7: ">B", 0xC8: ">H", 0xC9: ">I"}
"""First bytes of extensions to the format of the length that follows."""
_FIXED_EXTENSIONS = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
"""First bytes of extensions to their length."""
_BYTES = {0xC4: ">B", 0xC5: ">H", 0xC6: ">I"}
"""First bytes of byte strings to the format of the length that follows."""
_MAPS = frozenset((*range(0x80, 0x90), 0xDE, 0xDF))
"""First bytes of maps."""


def read_flax(file: io.FileIO, size: int) -> Iterator[StoredArray]:
    """The arrays of an opened file of ``size`` bytes.

    Raises:
        CheckpointCorruptError: not msgpack, truncated, or not maps of arrays.
        CheckpointLimitError: too many arrays, or maps that nest too deeply.
        MissingExtraError: msgpack is not installed.
    """
    reader = _Reader(file, size)
    if size == 0:
        raise corrupt("0 bytes")
    tree, end = reader.value(0, "", 0)
    if not isinstance(tree, dict):
        raise corrupt("not a map of arrays")
    if end != size:
        raise corrupt(f"{size - end:,} bytes after the arrays")
    yield from _arrays(tree, "")


class _Reader:
    """Reads one value after the other; the bytes of arrays are skipped."""

    def __init__(self, file: io.FileIO, size: int) -> None:
        self._msgpack: Any = need("msgpack", "legacy", "a file of Flax")
        self._file, self._size = file, size
        self._count = 0

    def value(self, at: int, name: str, depth: int) -> tuple[Any, int]:
        """The value at an offset, a dict, a `StoredArray` or a plain value, and the offset after it."""
        self._count += 1
        check_count(self._count)
        if depth > MAX_DEPTH:
            raise CheckpointLimitError(f"more than {MAX_DEPTH} maps in each other", hint=FILE_AGAIN_HINT)
        window = self._window(at)
        if not window:
            raise corrupt(f"the file ends at {self._size:,}, where a value is due", name)
        if window[0] in _EXTENSIONS or window[0] in _FIXED_EXTENSIONS:
            return self._array(window, at, name)
        if window[0] not in _MAPS:
            value, length = self._parsed(window, at, "unpack")
            return value, at + length
        count, length = self._parsed(window, at, "read_map_header")
        found, at = dict[str, Any](), at + length
        check_count(self._count + count)
        for _ in range(count):
            key, length = self._parsed(self._window(at), at, "unpack")
            if not isinstance(key, str) or not key:
                raise corrupt(f"a name that is {short(key)}, not text", name or None)
            if key in found:
                raise corrupt(f"{short(key)} is in it twice", name or None)
            found[key], at = self.value(at + length, f"{name}/{key}" if name else key, depth + 1)
        return found, at

    def _window(self, at: int) -> bytes:
        self._file.seek(at)
        return self._file.read(_WINDOW) or b""

    def _parsed(self, window: bytes, at: int, method: str) -> tuple[Any, int]:
        """The result of a method of msgpack's ``Unpacker`` at the beginning of the window, and its length there."""
        unpacker = self._msgpack.Unpacker(max_buffer_size=_WINDOW)
        unpacker.feed(window)
        try:
            return getattr(unpacker, method)(), int(unpacker.tell())
        except (self._msgpack.UnpackException, ValueError, TypeError, OverflowError):  # of foreign bytes
            raise corrupt(f"not msgpack as Flax writes it, or truncated, at byte {at:,}") from None

    def _array(self, window: bytes, at: int, name: str) -> tuple[StoredArray, int]:
        """The array of an extension, and the offset after it."""
        format = _EXTENSIONS.get(window[0])
        start = 2 + (struct.calcsize(format) if format else 0)
        length = _FIXED_EXTENSIONS.get(window[0]) or _length(window, format or "", name)
        end = at + start + length
        if end > self._size:
            raise corrupt(f"ends at byte {end:,}, and the file at {self._size:,}", name)
        if window[start - 1] != NDARRAY:
            raise corrupt(f"extension {window[start - 1]}, and an array is {NDARRAY}", name)
        inner = window[start : start + length]
        count, first = self._parsed(inner, at + start, "read_array_header")
        if count != 3:
            raise corrupt("shape, type and bytes of an array expected", name)
        shape, second = self._parsed(inner[first:], at + start + first, "unpack")
        dtype, third = self._parsed(inner[first + second :], at + start + first + second, "unpack")
        head = inner[(skipped := first + second + third) :]
        if head[:1] not in map(bytes, zip(_BYTES)) or not _is_shape(shape) or not isinstance(dtype, str):
            raise corrupt("shape, type and bytes of an array expected", name)
        format = _BYTES[head[0]]
        values = at + start + skipped + 1 + struct.calcsize(format)
        if values + _length(head, format, name) != end:
            raise corrupt("its bytes do not fill its extension", name)
        return StoredArray(name, dtype, shape, [(values, end)]), end


def _length(head: bytes, format: str, name: str) -> int:
    """The length after the first byte."""
    if len(head) < 1 + struct.calcsize(format):
        raise corrupt("the file ends within it", name)
    return int(struct.unpack_from(format, head, 1)[0])


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int for n in value)


def _arrays(tree: dict[str, Any], name: str) -> Iterator[StoredArray]:
    """The arrays in a map, those in pieces as one."""
    for key, value in tree.items():
        path = f"{name}/{key}" if name else key
        if isinstance(value, StoredArray):
            yield value
        elif not isinstance(value, dict):
            raise corrupt(f"{short(value)}, where an array is due", path)
        elif CHUNKED in value:
            yield _joined(value, path)
        else:
            yield from _arrays(value, path)


def _joined(tree: dict[str, Any], name: str) -> StoredArray:
    """The one array of a map of pieces."""
    shape, chunks = (_in_order(tree.get(key)) for key in ("shape", "chunks"))
    pieces = [chunk for chunk in chunks or () if isinstance(chunk, StoredArray)]
    if not shape or not _is_shape(shape) or not chunks or len(pieces) != len(chunks):
        raise corrupt("shape and chunks of an array in pieces expected", name)
    if len({piece.dtype for piece in pieces}) > 1:
        raise corrupt("pieces of different types", name)
    return StoredArray(name, pieces[0].dtype, shape, [span for piece in pieces for span in piece.spans])


def _in_order(values: Any) -> list[Any] | None:
    """The values of a map with the keys 0, 1, 2, …; None for anything else."""
    if not isinstance(values, dict) or values.keys() != {str(i) for i in range(len(values))}:
        return None
    return [values[str(i)] for i in range(len(values))]
