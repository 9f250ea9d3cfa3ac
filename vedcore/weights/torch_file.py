"""Files of ``torch.save``, ``pytorch_model.bin``: read by torch's restricted unpickler, with checks before and after.

Before it: the archive's entries and checksums, and the pickle (`vedcore.weights.pickled`). After it: each tensor
against its storage, and each storage against the archive. Nothing in a file is ever executed.
"""

from __future__ import annotations

import codecs
import io
import os
import re
import struct
import warnings
import zipfile
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
)
from vedcore.files import other_content_error
from vedcore.weights.origins import Unhashed
from vedcore.weights.pickled import SAFETENSORS_HINT, check_pickle, unsafe_global
from vedcore.weights.safetensors_file import (
    StoredTensor,
    reopen_path,
    require_same_file,
    whole_sha256,
)
from vedcore.weights.snapshot import FILE_AGAIN_HINT

__all__ = ["TorchFile"]

MAX_PICKLE_BYTES = 8 << 20
MAX_DIRECTORY_BYTES = 2 << 20
"""Enough for about 25,000 entries of a zip archive."""
MAX_KEYS = 8
"""Depth of the weights within the dicts of a training checkpoint."""
MAX_KEYS_SHOWN = 3
"""Keys beside the one that is taken that the note shows."""
STATE_KEYS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "module",
    "ema",
    "ema_state_dict",
    "state_dict_ema",
    "model_ema",
    "ema_model",
)
"""Keys of the weights in training checkpoints, in the order in which they are taken."""
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The first pickle of torch's format before 1.6."""
codecs.lookup("cp437")  # else zipfile imports it while it reads an untrusted file
_CONTAINER_MAGICS = {
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

    The file holds a dict of tensors, directly or within the dict of a training checkpoint, under one of the keys
    ``state_dict``, ``model_state_dict``, ``model``, ``net``, ``network``, ``module``, or those of an average of weights
    (``ema``), at any depth. Where it has several of them, the first of this order is taken; where it has none, the
    largest dict of tensors. ``note`` names the key and the others.

    Args:
        file: the file at its beginning, opened by its path; it is not closed here.
        path: its name in messages.

    Raises:
        CheckpointUnsafeError: a pickle with globals that weights do not need, another container, or an archive with
            unsafe or duplicate names.
        CheckpointMismatchError: not a dict of tensors, or tensors that are not dense.
        CheckpointCorruptError: the file is truncated, or contradicts itself.
        CheckpointLimitError: the pickle or the directory of the archive is too large.
    """

    def __init__(self, file: io.FileIO, path: str | os.PathLike[str]) -> None:
        self.path = path
        self.metadata: dict[str, str] = {}
        self._file = file
        self.size = os.fstat(file.fileno()).st_size
        try:
            value, sizes = self._value()
            self.note, state = _unwrapped(value)
            """The dict that was taken, for a warning; empty where the file holds the tensors directly."""
            for tensor in state.values():
                _check_storage(tensor, sizes)
        except CheckpointError as error:
            raise error.at(path, error.field) from None
        except OSError as error:
            message = f"cannot be read: {error.strerror or error}"
            raise CheckpointError(message, path=path, hint="check the disk") from None
        self._state = {name: tensor.detach() for name, tensor in state.items()}
        self.tensors = {name: StoredTensor(t.dtype, tuple(t.shape)) for name, t in self._state.items()}
        """Names to types and shapes, in the order of the pickle."""

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
        """A tensor, mapped where the file is an archive; ``keep`` has no effect here.

        Raises:
            CheckpointCorruptError: the file was truncated meanwhile.
        """
        if os.fstat(self._file.fileno()).st_size != self.size:
            message = "the file was truncated while it was read"
            raise CheckpointCorruptError(message, path=self.path, hint=FILE_AGAIN_HINT)
        return self._state[name].resolve_conj().resolve_neg().contiguous()

    def _value(self) -> tuple[object, set[int] | None]:
        """The value that torch reads from the file, and for an archive the sizes of its members."""
        head = self._read(512)
        if head.startswith(b"PK\x03\x04"):
            sizes = self._check_archive()
            value = _load(reopen_path(self._file), mmap=True)
            require_same_file(self._file, self.path)
            return value, sizes
        if not head.startswith(_LEGACY_MAGIC):
            self._refuse(head)
        stream = io.BytesIO(self._read(self.size))
        for _ in range(5):  # magic, version, system, tensors, keys
            check_pickle(stream)
        stream.seek(0)  # not by path: torch would first try to unpack the file as tar, which writes files
        return _load(stream, mmap=False), None

    def _read(self, count: int, start: int = 0) -> bytes:
        self._file.seek(max(0, start))
        return self._file.read(count) or b""

    def _refuse(self, head: bytes) -> NoReturn:
        """Raise the error for a file that ``torch.save`` did not write, naming what it is."""
        if not head:
            raise _corrupt("0 bytes")
        container = next((name for magic, name in _CONTAINER_MAGICS.items() if head.startswith(magic)), "")
        if container or head[257:262] == b"ustar":
            message = f"a {container or 'tar'} archive, not a file of torch.save"
            raise CheckpointUnsafeError(message, hint=SAFETENSORS_HINT)
        if (error := other_content_error(head, self.path, CheckpointCorruptError)) is not None:
            raise error
        stream = io.BytesIO(self._read(MAX_PICKLE_BYTES))
        whole = [check_pickle(stream, strict=head[:1] == b"\x80") for _ in range(4)]  # of the older format
        if not whole[0]:
            raise _corrupt(f"begins with {short(head[:16])}, and is not a file of torch.save")
        raise CheckpointMismatchError("a pickle that torch.load does not read", hint=SAFETENSORS_HINT)

    def _check_archive(self) -> set[int]:
        """Refuse an archive that ``torch.save`` would not write; the sizes of its members."""
        self._check_tail()
        try:
            with zipfile.ZipFile(self._file) as archive:
                found = archive.infolist()
                if any(entry.orig_filename.endswith("/constants.pkl") for entry in found):
                    raise CheckpointUnsafeError(
                        "a TorchScript archive, which is code; nothing was run", hint=SAFETENSORS_HINT
                    )
                entries = _checked_entries(found, self.size)
                top = next(iter(entries)).partition("/")[0]
                pickle = entries.get(f"{top}/data.pkl")
                if pickle is None:
                    raise _corrupt("a zip archive without data.pkl")
                if pickle.file_size > MAX_PICKLE_BYTES:
                    raise _limit(f"a pickle of {pickle.file_size:,} bytes, and at most {MAX_PICKLE_BYTES:,} are read")
                check_pickle(io.BytesIO(archive.read(pickle)))
                damaged = archive.testzip()  # torch checks the checksums of some members only
        except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error, EOFError, LookupError) as error:
            raise _corrupt(f"a damaged zip archive: {error}") from None
        if damaged is not None:
            raise _corrupt(f"{short(damaged)} does not match its checksum")
        return {entry.file_size for entry in entries.values()}

    def _check_tail(self) -> None:
        """Refuse an archive whose directory is too large, or not at the end, where all readers of zip files look."""
        tail = self._read(98, self.size - 98)
        start, length, after = -1, 0, 22
        if len(tail) == 98 and tail[:4] == b"PK\x06\x06" and tail[56:60] == b"PK\x06\x07":
            (length, start), after = struct.unpack("<QQ", tail[40:56]), 98
        elif tail[-22:-18] == b"PK\x05\x06":
            length, start = struct.unpack("<LL", tail[-10:-2])
        if tail[-22:-18] != b"PK\x05\x06" or start + length + after != self.size:
            raise _corrupt("a zip archive that is truncated, or has extra bytes")
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
            raise CheckpointMismatchError(message, hint=SAFETENSORS_HINT) from None
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found:
            raise unsafe_global(found[1]) from None
        raise _corrupt(f"cannot be read: {str(error).strip().partition(chr(10))[0]}") from None


def _checked_entries(found: list[zipfile.ZipInfo], size: int) -> dict[str, zipfile.ZipInfo]:
    """The entries of the archive by name: uncompressed files in one folder, without duplicates or overlaps."""
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in found:
        name = entry.orig_filename
        parts = name.split("/")
        if len(parts) < 2 or {"", ".", ".."} & set(parts) or name[1:2] == ":" or set("\\\0") & set(name):
            raise _unsafe(f"the archive has {short(name)}, which is not a plain name")
        if name in entries:
            raise _unsafe(f"the archive has {short(name)} twice")
        if parts[0] != found[0].orig_filename.partition("/")[0]:
            raise _unsafe(f"the archive has {short(name)} beside its one folder")
        if (entry.compress_type, entry.flag_bits & 1, entry.compress_size) != (zipfile.ZIP_STORED, 0, entry.file_size):
            raise _unsafe(f"{short(name)} is compressed, which torch.save never does")
        if entry.external_attr & 0x10:  # torch would read nothing from a folder, and leave memory uninitialised
            raise _unsafe(f"{short(name)} is marked as a folder")
        entries[name] = entry
    if not entries:
        raise _corrupt("an empty zip archive")
    if sum(entry.file_size for entry in found) > size:
        raise _unsafe("members of the archive overlap")
    return entries


def _unwrapped(value: object) -> tuple[str, dict[str, Tensor]]:
    """A note of the keys that lead to the tensors, empty where there are none, and the tensors by name."""
    if not isinstance(value, dict):
        kind = "one tensor" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise CheckpointMismatchError(f"{kind}, not tensors by name", hint=SAFETENSORS_HINT)
    if set(getattr(value, "__dict__", ())) - {"_metadata"}:
        raise CheckpointUnsafeError("its pickle sets attributes; nothing was run", hint=SAFETENSORS_HINT)
    keys, others, state = list[str](), list[str](), value
    while len(keys) < MAX_KEYS and (found := _state_keys(state)):
        others += [".".join([*keys, key]) for key in found[1:]]
        keys.append(found[0])
        state = state[found[0]]
    if not state:
        raise CheckpointMismatchError("no tensors in it", hint=SAFETENSORS_HINT)
    for name, tensor in state.items():
        if not isinstance(name, str):
            shown = short(name) if isinstance(name, int) else f"a {type(name).__name__}"  # its repr may be huge
            raise CheckpointMismatchError(f"a name that is {shown}, not text", hint=SAFETENSORS_HINT)
        if not isinstance(tensor, Tensor):
            message = f"of type {type(tensor).__name__}, not a tensor"
            raise CheckpointMismatchError(message, field=short(name), hint=SAFETENSORS_HINT)
    apart = f" (not {', '.join(map(short, others[:MAX_KEYS_SHOWN]))})" if others else ""
    return f"the dict under {short('.'.join(keys))}{apart}" if keys else "", state


def _state_keys(value: dict[Any, Any]) -> list[str]:
    """The keys of a training checkpoint under which there are tensors by name, the one to take first."""
    known = [key for key in STATE_KEYS if isinstance(value.get(key), dict) and _holds_tensors(value[key])]
    states = {
        key: len(inner)
        for key, inner in value.items()
        if isinstance(key, str) and key not in STATE_KEYS and isinstance(inner, dict) and _is_state(inner)
    }
    return known + sorted(states, key=lambda key: -states[key])


def _is_state(value: dict[Any, Any]) -> bool:
    return bool(value) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())


def _holds_tensors(value: dict[Any, Any]) -> bool:
    """Whether the dict, or one within it at any depth, has a tensor under a name; a dict in itself counts once."""
    pending, seen = [value], set[int]()
    while pending:
        if id(inner := pending.pop()) in seen:
            continue
        seen.add(id(inner))
        if any(isinstance(k, str) and isinstance(v, Tensor) for k, v in inner.items()):
            return True
        pending += [v for v in inner.values() if isinstance(v, dict)]
    return False


def _check_storage(tensor: Tensor, sizes: set[int] | None) -> None:
    """Refuse a tensor that is larger than its storage, and a storage that is not a member of the archive."""
    if tensor.layout != torch.strided or tensor.is_meta:
        raise CheckpointMismatchError("a tensor that is not plain and dense", hint=SAFETENSORS_HINT)
    held = tensor.untyped_storage().nbytes()
    if tensor.nbytes > held or (sizes is not None and held not in sizes):
        raise _corrupt(f"a tensor of size {short(tuple(tensor.shape))} in a storage of {held:,} bytes")


def _corrupt(message: str) -> CheckpointCorruptError:
    return CheckpointCorruptError(message, hint=FILE_AGAIN_HINT)


def _unsafe(message: str) -> CheckpointUnsafeError:
    return CheckpointUnsafeError(message, hint=FILE_AGAIN_HINT)


def _limit(message: str) -> CheckpointLimitError:
    return CheckpointLimitError(message, hint=FILE_AGAIN_HINT)
