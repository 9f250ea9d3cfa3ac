"""A check of a pickle before torch's restricted unpickler reads it; the check builds no objects.

That unpickler runs no code from the file. But it accepts some globals that weights do not need, names a refused global
only in the oldest protocols, crashes on tuples that nest too deeply, and hangs on hashing values that are shared a
billion times.
"""

from __future__ import annotations

import io
import pickletools
import re
from typing import NamedTuple

from vedcore.errors import CheckpointLimitError, CheckpointMismatchError, CheckpointUnsafeError
from vedcore.weights.snapshot import FILE_AGAIN_HINT

__all__ = ["SAFETENSORS_HINT", "check_pickle", "unsafe_global"]

MAX_OPERATIONS = 300_000
"""Opcodes of a pickle; enough for about 9,000 tensors."""
MAX_VALUES = 10_000_000
"""Values in a pickle, shared ones counted each time."""
MAX_DEPTH = 200
SAFETENSORS_HINT = "get it as safetensors, or save only the state_dict()"
_ALLOWED_GLOBALS = re.compile(
    r"collections\.OrderedDict|torch\._utils\._rebuild_(tensor(_v[23])?|parameter)"
    r"|torch\.(storage\.Untyped|\w+)Storage|torch\.(b?float|u?int|bool|complex)\w*"
)
"""The globals that weights need."""
_TENSOR_GLOBALS = ("torch._utils._rebuild_", "torch._tensor._rebuild_", "torch.serialization._get_layout")


def check_pickle(stream: io.BytesIO, *, strict: bool = True) -> bool:
    """Refuse a pickle, of any protocol, with globals that weights do not need.

    Args:
        stream: the pickle, at its beginning; afterwards at its end.
        strict: False ignores the globals of a truncated pickle: text that begins with "c" looks like one.

    Returns:
        False where the pickle is truncated.

    Raises:
        CheckpointUnsafeError: a global that weights do not need.
        CheckpointMismatchError: a tensor that is not plain and dense.
        CheckpointLimitError: too many operations, or values that nest too deeply.
    """
    names: list[str] = []
    stack = _SizeStack()
    try:
        for count, (operation, argument, _) in enumerate(pickletools.genops(stream)):
            if operation.name in ("GLOBAL", "INST"):
                names.append(str(argument).replace(" ", ".", 1))
            elif operation.name == "STACK_GLOBAL":
                names.append(".".join(value.text for value in stack.values[-2:]))
            if count > MAX_OPERATIONS:
                raise CheckpointLimitError(f"a pickle of more than {MAX_OPERATIONS:,} operations", hint=FILE_AGAIN_HINT)
            stack.apply(operation, argument)
        is_whole = True
    except (ValueError, LookupError):
        is_whole = False
    for name in names if is_whole or strict else ():
        if name.startswith(_TENSOR_GLOBALS) and not _ALLOWED_GLOBALS.fullmatch(name):
            raise CheckpointMismatchError(f"a tensor that is not plain and dense ({name})", hint=SAFETENSORS_HINT)
        if not _ALLOWED_GLOBALS.fullmatch(name):
            raise unsafe_global(name)
    return is_whole


class _Value(NamedTuple):
    """The size of a value of a pickle."""

    size: int = 1
    """Number of values in it, shared ones counted each time."""
    depth: int = 1
    """Levels of nesting."""
    text: str = "?"
    """The value itself if it is text."""


class _SizeStack:
    """The stack of an unpickler that holds sizes instead of values, to refuse values that are too deep or too large."""

    def __init__(self) -> None:
        self.values: list[_Value] = []
        self._marks: list[int] = []
        self._memo: dict[object, _Value] = {}

    def apply(self, operation: pickletools.OpcodeInfo, argument: object) -> None:
        """Apply one operation; `pickletools` knows what it takes from the stack and puts there.

        Raises:
            CheckpointLimitError: a value that nests too deeply or is too large.
            LookupError: the operation takes more than is on the stack.
        """
        if operation.name in ("MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT"):
            self._memo[len(self._memo) if argument is None else argument] = self.values[-1]
            return
        if operation.name in ("BINGET", "LONG_BINGET", "GET"):
            self.values.append(self._memo[argument])
            return
        if operation.name == "MARK":
            self._marks.append(len(self.values))
            return
        taken, under = 0, len(operation.stack_before)
        if pickletools.markobject in operation.stack_before:
            taken, under = len(self.values) - self._marks.pop(), operation.stack_before.index(pickletools.markobject)
        start = len(self.values) - taken - under
        used, self.values[start:] = self.values[start:], []
        made = _Value(
            1 + sum(value.size for value in used),
            1 + max((value.depth for value in used), default=0),
            argument if isinstance(argument, str) else "?",
        )
        if made.size > MAX_VALUES or made.depth > MAX_DEPTH:
            raise CheckpointLimitError("a pickle of values that nest too deeply", hint=FILE_AGAIN_HINT)
        self.values += [made] * len(operation.stack_after)


def unsafe_global(name: str) -> CheckpointUnsafeError:
    """The error for a global that weights do not need."""
    message = f"its pickle asks for {name[:80]}, which weights do not need; nothing was run"
    return CheckpointUnsafeError(message, hint=SAFETENSORS_HINT)
