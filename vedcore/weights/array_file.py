"""A file of another framework's arrays, ``flax_model.msgpack`` or ``tf_model.h5``, as PyTorch's tensors.

A reader of the format finds where each array lies; names and layouts become those of transformers' PyTorch classes by
the framework's table (`vedcore.weights.framework_names`), so that key maps take the file like any other.
"""

from __future__ import annotations

import io
import math
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vedcore.config_files.plain import short
from vedcore.errors import CheckpointCorruptError, CheckpointError, CheckpointLimitError
from vedcore.files import other_content_error
from vedcore.weights.framework_names import Name
from vedcore.weights.keymap import Change
from vedcore.weights.origins import Unhashed
from vedcore.weights.safetensors_file import StoredTensor, whole_sha256
from vedcore.weights.snapshot import FILE_AGAIN_HINT

__all__ = ["DTYPES", "ArrayFile", "StoredArray", "check_count", "corrupt"]

MAX_ARRAYS = 10_000
"""Groups, maps and arrays of a file."""
MAX_RANK = 8
DTYPES = {
    name: getattr(torch, name)
    for name in (
        *("float64", "float32", "float16", "bfloat16", "complex64", "bool"),
        *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"),
    )
}
"""Names of types, which are numpy's, to torch's."""


@dataclass(frozen=True)
class StoredArray:
    """An array in a file; `ArrayFile` checks it."""

    name: str
    """Its path in the file, with slashes."""
    dtype: str
    shape: Sequence[int]
    spans: Sequence[tuple[int, int]]
    """Where its bytes lie, in order: offsets of the first byte of a piece, and of the byte after the last."""


class ArrayFile:
    """An opened file of arrays: names, types and shapes are read at once, values by `get`.

    Args:
        file: the file at its beginning; it is not closed here.
        path: its name in messages.
        read: function from the file and its size to its arrays; its errors need no path.
        rename: function from the name of an array to that of the tensor, and the change of its layout.

    Raises:
        CheckpointCorruptError: the file is truncated, or contradicts itself.
        CheckpointUnsafeError: it leads to another file.
        CheckpointLimitError: too many arrays, or names that nest too deeply.
        MissingExtraError: the package that reads it is not installed.
    """

    note = ""
    """The part of the file that was taken, for a warning: all of it."""

    def __init__(
        self,
        file: io.FileIO,
        path: str | os.PathLike[str],
        read: Callable[[io.FileIO, int], Iterable[StoredArray]],
        rename: Callable[[str], Name],
    ) -> None:
        self.path = path
        self.metadata: dict[str, str] = {}
        self._file, self._lock = file, threading.Lock()
        self.size = os.fstat(file.fileno()).st_size
        self._arrays: dict[str, list[StoredArray]] = {}
        self._changes: dict[str, Change] = {}
        self.tensors: dict[str, StoredTensor] = {}
        """Names to types and shapes, in the order of the file."""
        try:
            head = file.read(512) or b""
            if (error := other_content_error(head, path, CheckpointCorruptError)) is not None:
                raise error
            for array in read(file, self.size):
                self._add(array, rename(array.name))
            self._check_spans()
        except CheckpointError as error:
            raise error.at(path, error.field) from None
        except OSError as error:
            message = f"cannot be read: {error.strerror or error}"
            raise CheckpointError(message, path=path, hint="check the disk") from None

    def _add(self, array: StoredArray, name: Name) -> None:
        """Take an array under the tensor's name; the same one twice is one that two layers of Keras share."""
        shape, dtype = tuple(array.shape), DTYPES.get(array.dtype)
        if dtype is None:
            raise corrupt(f"type {short(array.dtype)} is not one that torch has", array.name)
        held = sum(stop - start for start, stop in array.spans)
        if len(shape) > MAX_RANK or not all(0 < n <= self.size for n in shape):
            raise corrupt(f"shape {short(list(shape))}", array.name)
        if (needed := math.prod(shape) * dtype.itemsize) != held:
            raise corrupt(f"shape {short(list(shape))} takes {needed:,} bytes, and has {held:,}", array.name)
        tensor = StoredTensor(dtype, tuple(name.change.to_ours(StoredTensor(dtype, shape).empty()).shape))
        known = self._arrays.setdefault(name.name, [])
        if known and (known[0].name, self.tensors[name.name]) != (array.name, tensor):
            raise corrupt(f"{short(array.name)} and {short(known[0].name)} are one tensor, {short(name.name)}")
        known.append(array)
        self.tensors[name.name], self._changes[name.name] = tensor, name.change

    def _check_spans(self) -> None:
        """Refuse arrays that reach over the end of the file, or into each other."""
        spans = sorted((*span, a.name) for known in self._arrays.values() for a in known for span in a.spans)
        end = 0
        for start, stop, name in spans:
            if start < end:
                raise corrupt("its bytes are those of another array too", name)
            if stop > self.size:
                raise corrupt(f"its bytes end at {stop:,}, and the file at {self.size:,}", name)
            end = stop

    def sha256(self) -> str:
        """The sha256 of the whole file.

        Raises:
            CheckpointError: the file cannot be read.
        """
        return whole_sha256(self._file, self.path)

    def unhashed(self) -> Unhashed:
        """Identify the file, to tell later that it is the same file still."""
        return Unhashed.of(self.path, self._file)

    def get(self, name: str, *, keep: bool = False) -> Tensor:
        """A tensor, read into memory; ``keep`` has no effect here.

        Raises:
            CheckpointCorruptError: the file was truncated meanwhile, or has the tensor twice with different values.
        """
        first, *others = self._arrays[name]
        raw = self._read(first)
        for other in others:
            if self._read(other) != raw:
                message = "stored twice, with different values"
                raise CheckpointCorruptError(message, path=self.path, field=short(name), hint=FILE_AGAIN_HINT)
        values = torch.frombuffer(raw, dtype=DTYPES[first.dtype]).reshape(tuple(first.shape))
        return self._changes[name].to_ours(values).contiguous()

    def _read(self, array: StoredArray) -> bytearray:
        """The bytes of an array."""
        raw = bytearray(sum(stop - start for start, stop in array.spans))
        view, filled = memoryview(raw), 0
        with self._lock:
            for start, stop in array.spans:
                self._file.seek(start)
                end = filled + stop - start
                while filled < end:
                    if not (count := self._file.readinto(view[filled:end])):
                        message = "the file was truncated while it was read"
                        raise CheckpointCorruptError(message, path=self.path, hint=FILE_AGAIN_HINT)
                    filled += count
        return raw


def check_count(count: int) -> None:
    """Refuse a file of more groups, maps and arrays than are read.

    Raises:
        CheckpointLimitError: naming the limit.
    """
    if count > MAX_ARRAYS:
        raise CheckpointLimitError(f"more than {MAX_ARRAYS:,} groups and arrays", hint=FILE_AGAIN_HINT)


def corrupt(message: str, array: str | None = None) -> CheckpointCorruptError:
    """The error for a file that no framework writes so; ``array`` is the name of an array in it."""
    return CheckpointCorruptError(message, field=array and short(array), hint=FILE_AGAIN_HINT)
