"""Reading one file of ``torch.save``: zip, or the older format of pickles one after the other.

Only ``torch.load(weights_only=True)`` builds tensors, from the file that is open already, after the container and
the pickle were checked against each other. The file is read and not mapped: a mapped file that is cut while it is
in use kills the process, and its checksums would not be looked at.
"""

from __future__ import annotations

import codecs
import io
import os
import struct
import warnings
import zipfile
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NoReturn

import torch
from torch import Tensor

from vedcore.config_files.plain import short
from vedcore.errors import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointLimitError,
    CheckpointMismatchError,
    CheckpointUnsafeError,
    UsageError,
)
from vedcore.weights.finite import is_finite
from vedcore.weights.hashing import hash_blocks
from vedcore.weights.pickled import AGAIN, SAFER, Pickled, refuse_pickle
from vedcore.weights.places import Place
from vedcore.weights.safetensors_file import StoredTensor

__all__ = ["TorchFile"]

MAX_PICKLE_BYTES = 8 << 20
MAX_DIRECTORY_BYTES = 2 << 20
"""About 25,000 entries of a zip archive."""
_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_VERSION = 1001
_MAX_SMALL = 1 << 16
_CHUNK = 1 << 22
codecs.lookup("cp437")  # zipfile would import it when a file has such a name
_CONTAINERS = {
    b"7z\xbc\xaf\x27\x1c": "7z", b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"Rar!": "rar",
    b"\x28\xb5\x2f\xfd": "zstandard", b"PK\x05\x06": "empty zip",
}  # fmt: skip


class TorchFile:
    """An opened ``pytorch_model.bin``.

    A dict of tensors, or one such dict under ``state_dict`` or ``model``; a prefix ``module.`` that all names have is
    dropped. Both give a warning.

    Args:
        file: it is read from, and not closed.
        path: what to call it in messages.

    Raises:
        CheckpointUnsafeError: a pickle that asks for more than tensors, another container, or names in the archive
            that lead out of it or are there twice.
        CheckpointMismatchError: no tensors by name, or tensors that are not dense.
        CheckpointCorruptError: it is cut, or contradicts itself.
        CheckpointLimitError: a pickle or a directory beyond what is sane.
    """

    def __init__(self, file: io.FileIO, path: str | os.PathLike[str]) -> None:
        self.path = path
        self.sha256: tuple[str, ...] = ()
        """Of the file, once `read` has taken it."""
        self.not_finite: list[str] = []
        """Tensors in which `read` has found NaN or Inf."""
        self.metadata: dict[str, str] = {}
        self._file = file
        self.size = os.fstat(file.fileno()).st_size
        try:
            head = self._bytes(0, min(self.size, 512))
            if head.startswith(b"PK\x03\x04"):
                value = self._check_zip()
            elif head.startswith(_MAGIC):
                value = self._check_legacy()
            else:
                self._refuse(head)
            self._wrapper, stored = _unwrapped(value)
        except CheckpointError as error:
            raise error.at(path, error.field) from None
        self._prefix = bool(stored) and all(name.startswith("module.") for name in stored)
        self.tensors = {self._named(name): tensor for name, tensor in stored.items()}
        """By name, in the order of the pickle."""
        found = [f"the dict under {self._wrapper!r}"] * bool(self._wrapper) + ["names without 'module.'"] * self._prefix
        if found:
            warnings.warn(f"{path}: taken from it: {' and '.join(found)}", UserWarning, stacklevel=2)

    def _bytes(self, start: int, count: int) -> bytes:
        """That part of the file, or less at its end."""
        try:
            self._file.seek(start)
            parts = []
            while count > 0 and (part := self._file.read(count)):
                parts.append(part)
                count -= len(part)
            return b"".join(parts)
        except OSError as error:
            raise CheckpointError(f"cannot be read: {error.strerror}", hint="check the disk") from None

    def _refuse(self, head: bytes) -> NoReturn:
        if not head:
            raise _corrupt("0 bytes")
        container = next((name for magic, name in _CONTAINERS.items() if head.startswith(magic)), "")
        if container or head[257:262] == b"ustar":
            message = f"a {container or 'tar'} archive, and not one of torch.save"
            raise CheckpointUnsafeError(message, hint=SAFER)
        if head.startswith(b"version https://git-lfs"):
            raise CheckpointCorruptError("a pointer of git-lfs, not the file itself", hint="run: git lfs pull")
        refuse_pickle(self._bytes(0, MAX_PICKLE_BYTES))

    def _check_zip(self) -> object:
        self._check_tail()
        try:
            with zipfile.ZipFile(_Nameless(self._file)) as archive:
                entries = _checked_entries(archive.infolist(), self.size)
                top = next(iter(entries)).partition("/")[0]
                pickle = entries.get(f"{top}/data.pkl")
                if f"{top}/constants.pkl" in entries:
                    raise CheckpointUnsafeError("a TorchScript archive, which is code; nothing was run", hint=SAFER)
                if pickle is None:
                    raise _corrupt("a zip archive without data.pkl")
                if pickle.file_size > MAX_PICKLE_BYTES:
                    raise _limit(f"a pickle of {pickle.file_size:,} bytes, and at most {MAX_PICKLE_BYTES:,} are read")
                stream = io.BytesIO(archive.read(pickle))
        except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error, EOFError, LookupError) as error:
            raise _corrupt(f"a damaged zip archive: {error}") from None
        pickled = Pickled(stream)
        for key, storage in pickled.storages.items():
            entry = entries.get(f"{top}/data/{key}")
            has, needs = -1 if entry is None else entry.file_size, storage.numel * storage.dtype.itemsize
            if has != needs:
                there = "is not in the archive" if entry is None else f"has {has:,} bytes"
                raise _corrupt(f"storage {short(key)} {there}, and the pickle needs {short(needs)}")
        return pickled.value

    def _check_tail(self) -> None:
        """The archive's directory must be where every reader of zip files looks, and small enough to be read."""
        tail = self._bytes(max(0, self.size - 98), 98)
        start, length, after = -1, 0, 22
        if len(tail) == 98 and tail[:4] == b"PK\x06\x06" and tail[56:60] == b"PK\x06\x07":
            (length, start), after = struct.unpack("<QQ", tail[40:56]), 98
        elif tail[-22:-18] == b"PK\x05\x06":
            length, start = struct.unpack("<LL", tail[-10:-2])
        if tail[-22:-18] != b"PK\x05\x06" or start + length + after != self.size:
            raise _corrupt("a zip archive that is cut, or has more than it says")
        if length > MAX_DIRECTORY_BYTES:
            raise _limit(f"a zip directory of {length:,} bytes, and at most {MAX_DIRECTORY_BYTES:,} are read")

    def _check_legacy(self) -> object:
        """Five pickles - magic, version, system, tensors, keys - and then each storage after its length."""
        stream = io.BytesIO(self._bytes(0, MAX_PICKLE_BYTES))
        stream.seek(len(_MAGIC))
        if Pickled(stream, _MAX_SMALL).value != _VERSION:
            raise _corrupt("not of the one version of this format")
        Pickled(stream, _MAX_SMALL)
        pickled = Pickled(stream)
        keys = Pickled(stream, _MAX_SMALL)
        at = stream.tell()
        order = keys.value if type(keys.value) is list else []
        if not all(type(key) is str for key in order) or sorted(order) != sorted(pickled.storages):
            raise _corrupt("the storages are not those that its tensors need")
        for key in order:
            storage = pickled.storages[key]
            if self._bytes(at, 8) != storage.numel.to_bytes(8, "little"):
                raise _corrupt(f"storage {short(key)} is not where it should be")
            at += 8 + storage.numel * storage.dtype.itemsize
        if at != self.size:
            raise _corrupt(f"{self.size:,} bytes, and {short(at)} are due")
        return pickled.value

    def map(self) -> dict[str, Tensor]:
        """What cannot be done with such a file.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            f"{self.path} is no safetensors file, and cannot be mapped", field="mmap",
            hint="leave it out, or convert the folder first: `vedcore convert`",
        )  # fmt: skip

    def read(
        self,
        places: Mapping[str, Place],
        *,
        mapped: Mapping[str, Tensor] = MappingProxyType({}),
        block: int | None = None,
        check_finite: bool = True,
    ) -> None:
        """Read all tensors, once, and copy those that have a place; all are in memory at first.

        Args:
            places: by name, for those that are wanted.
            mapped: none.
            block: set `sha256` of the file's blocks of so many bytes.
            check_finite: name in `not_finite` those with NaN or Inf.

        Raises:
            CheckpointCorruptError: what is stored is not what its checksums say, or was changed meanwhile.
        """
        values = self._load()
        for name in self.tensors:
            tensor, place = values.pop(name), places.get(name)
            if place is not None:
                tensor = tensor.resolve_conj().resolve_neg().contiguous()
                if check_finite and not is_finite(tensor):
                    self.not_finite.append(name)
                place.put(tensor)
        if block is not None:
            try:
                self.sha256 = hash_blocks(self._file, self.size, block)
            except OSError as error:
                message = f"cannot be read: {error.strerror}"
                raise CheckpointError(message, path=self.path, hint="check the disk") from None

    def _load(self) -> dict[str, Tensor]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._check_sums()
                self._file.seek(0)
                reader = io.BufferedReader(_Nameless(self._file))
                value: Any = torch.load(reader, map_location="cpu", weights_only=True, mmap=False)
            value = value[self._wrapper] if self._wrapper else value
            values = {self._named(name): tensor.detach() for name, tensor in value.items()}
            described = {name: StoredTensor(tensor.dtype, tuple(tensor.shape), 0, 0) for name, tensor in values.items()}
        except MemoryError:
            raise
        except OSError as error:
            message = f"cannot be read: {error.strerror or error}"
            raise CheckpointError(message, path=self.path, hint="check the disk") from None
        except Exception as error:
            if "allocate memory" in str(error):  # what torch's allocator says where Python has a MemoryError
                raise MemoryError(f"{self.path}: {self.size:,} bytes") from None
            raise _corrupt(f"cannot be read: {str(error).strip().partition(chr(10))[0]}").at(self.path) from None
        if described != self.tensors:
            raise _corrupt("the file was changed while it was read").at(self.path)
        return values

    def _check_sums(self) -> None:
        """Read each member of an archive against its checksum: torch looks at those of some only."""
        self._file.seek(0)
        if self._file.read(2) != b"PK":
            return
        with zipfile.ZipFile(_Nameless(self._file)) as archive:
            for entry in archive.infolist():
                with archive.open(entry) as member:
                    while member.read(_CHUNK):
                        pass

    def _named(self, name: str) -> str:
        return name.removeprefix("module.") if self._prefix else name


class _Nameless(io.RawIOBase):
    """A file without descriptor and name: who is given it can read it, and open nothing else."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        return self._file.readinto(buffer)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)


def _checked_entries(found: list[zipfile.ZipInfo], size: int) -> dict[str, zipfile.ZipInfo]:
    """By name: plain members of one folder, each once, none compressed, and together no larger than the file."""
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in found:
        name = entry.orig_filename
        parts = name.split("/")
        if len(parts) < 2 or {"", ".", ".."} & set(parts) or name[1:2] == ":" or set("\\\0") & set(name):
            raise CheckpointUnsafeError(f"the archive has {short(name)}, which is no plain name", hint=AGAIN)
        if name in entries:
            raise CheckpointUnsafeError(f"the archive has {short(name)} twice", hint=AGAIN)
        if parts[0] != found[0].orig_filename.partition("/")[0]:
            raise CheckpointUnsafeError(f"the archive has {short(name)} beside its one folder", hint=AGAIN)
        if (entry.compress_type, entry.flag_bits & 1, entry.compress_size) != (zipfile.ZIP_STORED, 0, entry.file_size):
            raise CheckpointUnsafeError(f"{short(name)} is compressed, and torch.save never does", hint=AGAIN)
        if entry.external_attr & 0x10:  # torch would read a folder as nothing, and leave memory as it is
            raise CheckpointUnsafeError(f"{short(name)} says that it is a folder", hint=AGAIN)
        entries[name] = entry
    if not entries:
        raise _corrupt("an empty zip archive")
    if sum(entry.file_size for entry in found) > size:
        raise CheckpointUnsafeError("members of the archive overlap", hint=AGAIN)
    return entries


def _unwrapped(value: object) -> tuple[str, dict[str, StoredTensor]]:
    """The key that the tensors are under, or none, and the tensors."""
    if not isinstance(value, dict):
        kind = "one tensor" if isinstance(value, StoredTensor) else f"a {type(value).__name__}"
        raise CheckpointMismatchError(f"{kind}, not tensors by name", hint=SAFER)
    wrapper = next((key for key in ("state_dict", "model") if isinstance(value.get(key), dict)), "")
    tensors = value[wrapper] if wrapper else value
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            raise CheckpointMismatchError(f"the name {short(name)} is not text", hint=SAFER)
        if not isinstance(tensor, StoredTensor):
            raise CheckpointMismatchError(
                f"of type {type(tensor).__name__}, not a tensor", field=short(name), hint=SAFER
            )
    return wrapper, tensors


def _corrupt(message: str) -> CheckpointCorruptError:
    return CheckpointCorruptError(message, hint=AGAIN)


def _limit(message: str) -> CheckpointLimitError:
    return CheckpointLimitError(message, hint=AGAIN)
