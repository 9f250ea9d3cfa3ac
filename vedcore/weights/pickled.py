"""What a pickle of ``torch.save`` says, without building any of it.

torch's restricted unpickler runs no code of a file's, but it does allocate what the file asks for, hashes what it
nests, and lends out memory past the end of a storage. So the pickle is followed here first, with plain values in
place of tensors: every global is compared with those that weights need, and every size with its storage.
"""

from __future__ import annotations

import io
import math
import pickletools
from collections import OrderedDict
from typing import Any, NamedTuple, NoReturn

import torch

from vedcore.config_files.plain import short
from vedcore.errors import (
    CheckpointCorruptError,
    CheckpointLimitError,
    CheckpointMismatchError,
    CheckpointUnsafeError,
)
from vedcore.weights.safetensors_file import StoredTensor

__all__ = ["AGAIN", "SAFER", "Pickled", "Storage", "refuse_pickle"]

MAX_OPERATIONS = 300_000
"""About 9,000 tensors."""
AGAIN = "get the file from its source again"
SAFER = "get it as safetensors, or save only the state_dict()"
_STORAGES = {
    "torch.DoubleStorage": torch.float64, "torch.FloatStorage": torch.float32, "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16, "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128, "torch.BoolStorage": torch.bool, "torch.ByteStorage": torch.uint8,
    "torch.CharStorage": torch.int8, "torch.ShortStorage": torch.int16, "torch.IntStorage": torch.int32,
    "torch.LongStorage": torch.int64, "torch.storage.UntypedStorage": torch.uint8,
}  # fmt: skip
_DTYPES = {str(dtype): dtype for dtype in _STORAGES.values()} | {
    str(dtype): dtype
    for dtype in (
        torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu,
        torch.uint16, torch.uint32, torch.uint64,
    )
}  # fmt: skip
_CALLS = {
    "collections.OrderedDict", "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3", "torch._utils._rebuild_parameter",
}  # fmt: skip
_OTHER_TENSORS = ("torch._utils._rebuild_", "torch._tensor._rebuild_", "torch.serialization._get_layout")


class Storage(NamedTuple):
    """Numbers that tensors share."""

    key: str
    dtype: torch.dtype
    numel: int


class _Global(NamedTuple):
    name: str


class Pickled:
    """One pickle, followed to its end.

    Args:
        stream: at its beginning; left after its last byte.
        most: the operations that are followed.

    Raises:
        CheckpointUnsafeError: naming a global that weights do not need.
        CheckpointMismatchError: tensors that are not dense, or a protocol that torch does not read.
        CheckpointCorruptError: it is cut, or contradicts itself.
        CheckpointLimitError: more operations than ``most``.

    Attributes:
        value: dicts, lists and so on as they are, and a `StoredTensor` for each tensor.
        storages: what the tensors lie in, by key.
    """

    def __init__(self, stream: io.BytesIO, most: int = MAX_OPERATIONS) -> None:
        self.value: object = None
        self.storages: dict[str, Storage] = {}
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        try:
            for count, (operation, argument, _) in enumerate(pickletools.genops(stream), 1):
                if count > most:
                    raise CheckpointLimitError(f"a pickle of more than {most:,} operations", hint=AGAIN)
                if not self._follow(operation.name, argument):
                    unknown, _ = _first_global(stream)
                    if unknown:
                        raise _unsafe(unknown)
                    what = f"protocol {argument}" if operation.name == "PROTO" else f"operation {operation.name}"
                    raise CheckpointMismatchError(f"a pickle with {what}, which torch.load does not read", hint=SAFER)
            (self.value,) = self._stack if not self._marks else []
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise _corrupt(f"no pickle of tensors: {short(str(error))}") from None
        finally:
            self._stack, self._marks, self._memo = [], [], {}

    def _follow(self, name: str, argument: Any) -> bool:
        """One operation; False where torch's unpickler has none of that name."""
        stack = self._stack
        match name:
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE":
                stack.append(argument)
            case "SHORT_BINSTRING":
                stack.append(argument.encode("latin-1").decode())
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
                stack.append({"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}[name]())
            case "MARK":
                self._marks.append(stack)
                self._stack = []
            case "TUPLE":
                items = self._since_mark()
                self._stack.append(tuple(items))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                if len(stack) < count:
                    raise _corrupt("its pickle takes more than it has")
                stack[-count:] = [tuple(stack[-count:])]
            case "APPEND":
                self._extend([stack.pop()])
            case "APPENDS":
                self._extend(self._since_mark())
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self._set(self._stack[-1], [key, value])
            case "SETITEMS":
                items = self._since_mark()
                self._set(self._stack[-1], items)
            case "GLOBAL":
                stack.append(_Global(_checked(argument.replace(" ", ".", 1))))
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case "REDUCE":
                arguments, call = stack.pop(), stack.pop()
                stack.append(self._call(call, arguments))
            case "BUILD":
                state = stack.pop()
                if not isinstance(stack[-1], OrderedDict) or type(state) is not dict or set(state) - {"_metadata"}:
                    raise CheckpointUnsafeError("its pickle sets attributes; nothing was run", hint=SAFER)
            case "PROTO":
                return bool(argument == 2)
            case "STOP":
                pass
            case _:
                return False
        return True

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _extend(self, items: list[Any]) -> None:
        if type(self._stack[-1]) is not list:
            raise _corrupt("its pickle appends to what is no list")
        self._stack[-1].extend(items)

    def _set(self, target: Any, items: list[Any]) -> None:
        if type(target) not in (dict, OrderedDict) or len(items) % 2:
            raise _corrupt("its pickle sets items of what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int):  # a nested tuple may take for ever to hash
                raise CheckpointMismatchError(f"a name that is {_kind(key)}, not text", hint=SAFER)
            target[key] = value

    def _storage(self, identity: Any) -> Storage:
        match identity if type(identity) is tuple else ():
            case ("storage", _Global(kind), str(key), str(), int(numel), *view) if view in ([], [None]):
                if view and kind == "torch.storage.UntypedStorage":
                    message = "numbers of a type that torch.load does not read from this older format"
                    raise CheckpointMismatchError(message, hint=SAFER)
                found = Storage(key, _STORAGES[kind], numel)
                if numel < 0 or self.storages.setdefault(key, found) != found:
                    raise _corrupt(f"storage {short(key)} is described twice, differently")
                return found
        raise _corrupt("its pickle asks for what is no storage")

    def _call(self, call: Any, arguments: Any) -> object:
        if type(call) is not _Global or type(arguments) is not tuple:
            raise _corrupt("its pickle calls what is no function")
        match call.name.rpartition(".")[2], arguments:
            case "OrderedDict", ():
                return OrderedDict()
            case "OrderedDict", (list(pairs),) if all(type(p) in (list, tuple) and len(p) == 2 for p in pairs):
                made: OrderedDict[Any, Any] = OrderedDict()
                self._set(made, [part for pair in pairs for part in pair])
                return made
            case "_rebuild_tensor", (Storage() as storage, offset, size, stride):
                return _tensor(storage, storage.dtype, offset, size, stride)
            case "_rebuild_tensor_v2", (Storage() as storage, offset, size, stride, bool(), hooks, *extra):
                if not hooks and not any(extra):
                    return _tensor(storage, storage.dtype, offset, size, stride)
            case "_rebuild_tensor_v3", (Storage() as storage, offset, size, stride, bool(), hooks, dtype, *extra):
                if not hooks and not any(extra) and type(dtype) is _Global and storage.dtype == torch.uint8:
                    return _tensor(storage, _DTYPES[dtype.name], offset, size, stride)
            case "_rebuild_parameter", (StoredTensor() as data, bool(), hooks) if not hooks:
                return data
        raise CheckpointMismatchError(f"a tensor with more than numbers ({call.name})", hint=SAFER)


def _tensor(storage: Storage, dtype: torch.dtype, offset: object, size: Any, stride: Any) -> StoredTensor:
    """The tensor, once all its numbers are known to lie in its storage."""
    if type(size) is not tuple or type(stride) is not tuple or not len(size) == len(stride) <= 64:
        raise _corrupt("a tensor without a size and a stride for each dimension")
    if not all(type(n) is int and 0 <= n < 1 << 63 for n in (offset, *size, *stride)):
        raise _corrupt("a tensor whose size, stride or offset is no number of elements")
    assert isinstance(offset, int)
    held = storage.numel * storage.dtype.itemsize // dtype.itemsize
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if all(size) else -1
    if last >= held or math.prod(size) > held:
        raise _corrupt(f"a tensor of size {short(size)} in storage {short(storage.key)} of {short(held)} numbers")
    return StoredTensor(dtype, size, 0, 0)


def _is_foreign(name: str) -> bool:
    return name not in _STORAGES and name not in _DTYPES and name not in _CALLS


def _checked(name: str) -> str:
    """A global's name, if weights need it."""
    if not _is_foreign(name):
        return name
    if name.startswith(_OTHER_TENSORS):
        raise CheckpointMismatchError(f"a tensor that is not plain and dense ({name})", hint=SAFER)
    raise _unsafe(name)


def _first_global(stream: io.BytesIO) -> tuple[str, bool]:
    """The first global from here on that weights do not need, in any protocol; and whether the pickle has an end."""
    found, texts, fresh = "", ["?", "?"], False
    memo: dict[int, str] = {}
    argument: Any
    try:
        for count, (operation, argument, _) in enumerate(pickletools.genops(stream)):
            name = ""
            match operation.name:
                case "GLOBAL" | "INST":
                    name = argument.replace(" ", ".", 1)
                case "STACK_GLOBAL":
                    name = ".".join(texts)
                case "MEMOIZE":
                    memo[len(memo)] = texts[1] if fresh else "?"
                case "BINPUT" | "LONG_BINPUT":
                    memo[argument] = texts[1] if fresh else "?"
                case "BINGET" | "LONG_BINGET":
                    argument = memo.get(argument, "?")
            if name and _is_foreign(name):
                found = found or name
            fresh = isinstance(argument, str)
            if fresh:
                texts = [texts[1], argument]
            if count > MAX_OPERATIONS:
                return found, False
    except ValueError:
        return found, False
    return found, True


def refuse_pickle(head: bytes) -> NoReturn:
    """Say what a file is that ``torch.save`` did not write, or not in a protocol that torch reads.

    Args:
        head: its first bytes, or all of them.
    """
    stream, name, ends = io.BytesIO(head), "", True
    for number in range(4):  # as many as are before the storages of the older format
        name, ends = _first_global(stream)
        if name and (ends or head[:1] == b"\x80"):  # a text that begins with c looks like a global of protocol 0
            raise _unsafe(name)
        if not ends and not number:
            raise _corrupt(f"begins with {short(head[:16])}, and is no file of torch.save")
    raise CheckpointMismatchError("a pickle that torch.load does not read", hint=SAFER)


def _kind(value: object) -> str:
    if isinstance(value, _Global):
        return value.name
    return "a tensor" if isinstance(value, StoredTensor) else f"a {type(value).__name__}"


def _unsafe(name: str) -> CheckpointUnsafeError:
    message = f"its pickle asks for {name[:80]}, which no weights need; nothing was run"
    return CheckpointUnsafeError(message, hint=SAFER)


def _corrupt(message: str) -> CheckpointCorruptError:
    return CheckpointCorruptError(message, hint=AGAIN)
