"""Files of ``torch.save``, ``pytorch_model.bin``: read by torch's restricted unpickler, between two looks of our own.

Before: the archive's listing and checksums, and the pickle (`vedcore.weights.pickled`). After: every tensor against its
storage, and every storage against the archive. Nothing of a file is ever run.
"""

from __future__ import annotations

import codecs
import io
import os
import re
import struct
import warnings
import zipfile
from typing import NoReturn

import torch
from torch import Tensor

from vedcore.config_files.plain import short
from vedcore.errors import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointLimitError,
    CheckpointMismatchError,
    CheckpointUnsafeError,
)
from vedcore.weights.pickled import AGAIN, SAFER, check_pickle, unsafe
from vedcore.weights.safetensors_file import StoredTensor, not_weights, path_of, require_same_file, whole_sha256

__all__ = ["TorchFile"]

MAX_PICKLE_BYTES = 8 << 20
MAX_DIRECTORY_BYTES = 2 << 20
"""About 25,000 entries of a zip archive."""
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The first pickle of torch's format before 1.6."""
codecs.lookup("cp437")  # zipfile would import it when a file has such a name
_CONTAINERS = {
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"Rar!": "rar",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"PK\x05\x06": "empty zip",
}


class TorchFile:
    """An opened ``pytorch_model.bin``; archives are mapped, files of the older format are read into memory.

    A dict of tensors, or one such dict under ``state_dict`` or ``model``; a prefix ``module.`` that all names have is
    dropped. Both give a warning.

    Args:
        file: at its beginning and opened by its path; it is not closed.
        path: its name in messages.

    Raises:
        CheckpointUnsafeError: a pickle that asks for more than tensors, another container, or names in the archive
            that lead out of it or are there twice.
        CheckpointMismatchError: no tensors by name, or tensors that are not dense.
        CheckpointCorruptError: it is cut, or contradicts itself.
        CheckpointLimitError: a pickle or a directory beyond what is sane.
    """

    def __init__(self, file: io.FileIO, path: str | os.PathLike[str]) -> None:
        self.path = path
        self.metadata: dict[str, str] = {}
        self._file = file
        self.size = os.fstat(file.fileno()).st_size
        try:
            value, sizes = self._value()
            wrapper, state = _unwrapped(value)
            for tensor in state.values():
                _check_storage(tensor, sizes)
        except CheckpointError as error:
            raise error.at(path, error.field) from None
        except OSError as error:
            message = f"cannot be read: {error.strerror or error}"
            raise CheckpointError(message, path=path, hint="check the disk") from None
        prefix = "module." if all(name.startswith("module.") for name in state) else ""
        self._state = {name.removeprefix(prefix): tensor.detach() for name, tensor in state.items()}
        self.tensors = {name: StoredTensor(t.dtype, tuple(t.shape)) for name, t in self._state.items()}
        """By name, in the order of the pickle."""
        found = [f"the dict under {wrapper!r}"] * bool(wrapper) + ["names without 'module.'"] * bool(prefix)
        if found:
            warnings.warn(f"{path}: taken from it: {' and '.join(found)}", UserWarning, stacklevel=2)

    def sha256(self) -> str:
        """Of the whole file.

        Raises:
            CheckpointError: the disk fails.
        """
        return whole_sha256(self._file, self.path)

    def get(self, name: str, *, keep: bool = False) -> Tensor:
        """A tensor, in the mapped file where it is an archive; ``keep`` changes nothing here.

        Raises:
            CheckpointCorruptError: the file was cut meanwhile.
        """
        if os.fstat(self._file.fileno()).st_size != self.size:
            raise CheckpointCorruptError("the file was cut while it was read", path=self.path, hint=AGAIN)
        return self._state[name].resolve_conj().resolve_neg().contiguous()

    def _value(self) -> tuple[object, set[int] | None]:
        """What torch makes of the file, and the sizes of an archive's members."""
        head = self._read(512)
        if head.startswith(b"PK\x03\x04"):
            sizes = self._check_archive()
            value = _load(path_of(self._file), mmap=True)
            require_same_file(self._file, self.path)
            return value, sizes
        if not head.startswith(_LEGACY):
            self._refuse(head)
        stream = io.BytesIO(self._read(self.size))
        for _ in range(5):  # magic, version, system, tensors, keys
            check_pickle(stream)
        stream.seek(0)  # not by its path: torch would try to unpack it as tar first, which writes files
        return _load(stream, mmap=False), None

    def _read(self, count: int, at: int = 0) -> bytes:
        self._file.seek(max(0, at))
        return self._file.read(count) or b""

    def _refuse(self, head: bytes) -> NoReturn:
        """Say what a file is that ``torch.save`` did not write."""
        if not head:
            raise _corrupt("0 bytes")
        container = next((name for magic, name in _CONTAINERS.items() if head.startswith(magic)), "")
        if container or head[257:262] == b"ustar":
            message = f"a {container or 'tar'} archive, and not one of torch.save"
            raise CheckpointUnsafeError(message, hint=SAFER)
        if (error := not_weights(head, self.path)) is not None:
            raise error
        stream = io.BytesIO(self._read(MAX_PICKLE_BYTES))
        whole = [check_pickle(stream, strict=head[:1] == b"\x80") for _ in range(4)]  # of the older format
        if not whole[0]:
            raise _corrupt(f"begins with {short(head[:16])}, and is not a file of torch.save")
        raise CheckpointMismatchError("a pickle that torch.load does not read", hint=SAFER)

    def _check_archive(self) -> set[int]:
        """Refuse an archive that is not as ``torch.save`` writes it; the sizes of its members otherwise."""
        self._check_tail()
        try:
            with zipfile.ZipFile(self._file) as archive:
                entries = _checked_entries(archive.infolist(), self.size)
                top = next(iter(entries)).partition("/")[0]
                pickle = entries.get(f"{top}/data.pkl")
                if f"{top}/constants.pkl" in entries:
                    raise CheckpointUnsafeError("a TorchScript archive, which is code; nothing was run", hint=SAFER)
                if pickle is None:
                    raise _corrupt("a zip archive without data.pkl")
                if pickle.file_size > MAX_PICKLE_BYTES:
                    raise _limit(f"a pickle of {pickle.file_size:,} bytes, and at most {MAX_PICKLE_BYTES:,} are read")
                check_pickle(io.BytesIO(archive.read(pickle)))
                damaged = archive.testzip()  # torch looks at the checksums of some members only
        except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error, EOFError, LookupError) as error:
            raise _corrupt(f"a damaged zip archive: {error}") from None
        if damaged is not None:
            raise _corrupt(f"{short(damaged)} is not what its checksum says")
        return {entry.file_size for entry in entries.values()}

    def _check_tail(self) -> None:
        """The archive's directory must be where every reader of zip files looks, and small enough to be read."""
        tail = self._read(98, self.size - 98)
        start, length, after = -1, 0, 22
        if len(tail) == 98 and tail[:4] == b"PK\x06\x06" and tail[56:60] == b"PK\x06\x07":
            (length, start), after = struct.unpack("<QQ", tail[40:56]), 98
        elif tail[-22:-18] == b"PK\x05\x06":
            length, start = struct.unpack("<LL", tail[-10:-2])
        if tail[-22:-18] != b"PK\x05\x06" or start + length + after != self.size:
            raise _corrupt("a zip archive that is cut, or has more than it says")
        if length > MAX_DIRECTORY_BYTES:
            raise _limit(f"a zip directory of {length:,} bytes, and at most {MAX_DIRECTORY_BYTES:,} are read")


def _load(source: str | io.BytesIO, *, mmap: bool) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)
    except (MemoryError, OSError):
        raise
    except Exception as error:
        if "allocate memory" in str(error):  # torch's allocator has no MemoryError
            raise MemoryError(str(error)) from None
        if isinstance(error, AttributeError) and "UntypedStorage" in str(error):
            message = "numbers of a type that torch.load does not read from this older format"
            raise CheckpointMismatchError(message, hint=SAFER) from None
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found:
            raise unsafe(found[1]) from None
        raise _corrupt(f"cannot be read: {str(error).strip().partition(chr(10))[0]}") from None


def _checked_entries(found: list[zipfile.ZipInfo], size: int) -> dict[str, zipfile.ZipInfo]:
    """By name: plain members of one folder, each once, none compressed, and together no larger than the file."""
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in found:
        name = entry.orig_filename
        parts = name.split("/")
        if len(parts) < 2 or {"", ".", ".."} & set(parts) or name[1:2] == ":" or set("\\\0") & set(name):
            raise CheckpointUnsafeError(f"the archive has {short(name)}, which is not a plain name", hint=AGAIN)
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


def _unwrapped(value: object) -> tuple[str, dict[str, Tensor]]:
    """The key that the tensors are under, or none, and the tensors."""
    if not isinstance(value, dict):
        kind = "one tensor" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise CheckpointMismatchError(f"{kind}, not tensors by name", hint=SAFER)
    if set(getattr(value, "__dict__", ())) - {"_metadata"}:
        raise CheckpointUnsafeError("its pickle sets attributes; nothing was run", hint=SAFER)
    wrapper = next((key for key in ("state_dict", "model") if isinstance(value.get(key), dict)), "")
    state = value[wrapper] if wrapper else value
    if not state:
        raise CheckpointMismatchError("no tensors in it", hint=SAFER)
    for name, tensor in state.items():
        if not isinstance(name, str):
            shown = short(name) if isinstance(name, int) else f"a {type(name).__name__}"  # which may be large
            raise CheckpointMismatchError(f"a name that is {shown}, not text", hint=SAFER)
        if not isinstance(tensor, Tensor):
            message = f"of type {type(tensor).__name__}, not a tensor"
            raise CheckpointMismatchError(message, field=short(name), hint=SAFER)
    return wrapper, state


def _check_storage(tensor: Tensor, sizes: set[int] | None) -> None:
    """Refuse a tensor of more numbers than are stored for it, and a storage that is not one of the archive's."""
    if tensor.layout != torch.strided or tensor.is_meta:
        raise CheckpointMismatchError("a tensor that is not plain and dense", hint=SAFER)
    held = tensor.untyped_storage().nbytes()
    if tensor.nbytes > held or (sizes is not None and held not in sizes):
        raise _corrupt(f"a tensor of size {short(tuple(tensor.shape))} in a storage of {held:,} bytes")


def _corrupt(message: str) -> CheckpointCorruptError:
    return CheckpointCorruptError(message, hint=AGAIN)


def _limit(message: str) -> CheckpointLimitError:
    return CheckpointLimitError(message, hint=AGAIN)
