"""A look at a pickle before torch's restricted unpickler gets it: nothing of it is built.

That unpickler runs no code of a file's, but it takes some globals that weights do not need, names others only in the
oldest protocols, crashes on tuples that nest without end, and hashes what a file shares a billion times.
"""

from __future__ import annotations

import io
import pickletools
import re
from typing import NamedTuple

from vedcore.errors import CheckpointLimitError, CheckpointMismatchError, CheckpointUnsafeError

__all__ = ["AGAIN", "SAFER", "check_pickle", "unsafe"]

MAX_OPERATIONS = 300_000
"""About 9,000 tensors."""
MAX_VALUES = 10_000_000
MAX_DEPTH = 200
AGAIN = "get the file from its source again"
SAFER = "get it as safetensors, or save only the state_dict()"
_NEEDED = re.compile(
    r"collections\.OrderedDict|torch\._utils\._rebuild_(tensor(_v[23])?|parameter)"
    r"|torch\.(storage\.Untyped|\w+)Storage|torch\.(b?float|u?int|bool|complex)\w*"
)
"""The globals that weights need."""
_OTHER_TENSORS = ("torch._utils._rebuild_", "torch._tensor._rebuild_", "torch.serialization._get_layout")


def check_pickle(stream: io.BytesIO, *, strict: bool = True) -> bool:
    """Refuse a pickle that asks for what weights do not need, in any protocol; False where it is cut.

    Args:
        stream: at its beginning; left after its last byte.
        strict: False forgives a global in a pickle that is cut: text that begins with c looks like one.
    """
    names: list[str] = []
    sizes = _Sizes()
    try:
        for count, (operation, argument, _) in enumerate(pickletools.genops(stream)):
            if operation.name in ("GLOBAL", "INST"):
                names.append(str(argument).replace(" ", ".", 1))
            elif operation.name == "STACK_GLOBAL":
                names.append(".".join(value.text for value in sizes.stack[-2:]))
            if count > MAX_OPERATIONS:
                raise CheckpointLimitError(f"a pickle of more than {MAX_OPERATIONS:,} operations", hint=AGAIN)
            sizes.follow(operation, argument)
        is_whole = True
    except (ValueError, LookupError):
        is_whole = False
    for name in names if is_whole or strict else ():
        if name.startswith(_OTHER_TENSORS) and not _NEEDED.fullmatch(name):
            raise CheckpointMismatchError(f"a tensor that is not plain and dense ({name})", hint=SAFER)
        if not _NEEDED.fullmatch(name):
            raise unsafe(name)
    return is_whole


class _Value(NamedTuple):
    """A value of a pickle, by what it would take to walk through it."""

    size: int = 1
    """Values in it, those that are shared each time."""
    depth: int = 1
    text: str = "?"


class _Sizes:
    """The stack of a pickle, followed without its values: nothing may nest without end, nor grow by sharing."""

    def __init__(self) -> None:
        self.stack: list[_Value] = []
        self._marks: list[int] = []
        self._memo: dict[object, _Value] = {}

    def follow(self, operation: pickletools.OpcodeInfo, argument: object) -> None:
        """One operation, by what `pickletools` says that it takes from the stack and leaves there.

        Raises:
            CheckpointLimitError: a value that nests too deeply, or is too large when it is written out.
            LookupError: there is no such thing on the stack.
        """
        if operation.name in ("MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT"):
            self._memo[len(self._memo) if argument is None else argument] = self.stack[-1]
            return
        if operation.name in ("BINGET", "LONG_BINGET", "GET"):
            self.stack.append(self._memo[argument])
            return
        if operation.name == "MARK":
            self._marks.append(len(self.stack))
            return
        taken, under = 0, len(operation.stack_before)
        if pickletools.markobject in operation.stack_before:
            taken, under = len(self.stack) - self._marks.pop(), operation.stack_before.index(pickletools.markobject)
        at = len(self.stack) - taken - under
        used, self.stack[at:] = self.stack[at:], []
        made = _Value(
            1 + sum(value.size for value in used),
            1 + max((value.depth for value in used), default=0),
            argument if isinstance(argument, str) else "?",
        )
        if made.size > MAX_VALUES or made.depth > MAX_DEPTH:
            raise CheckpointLimitError("a pickle of values that nest too deeply, or without end", hint=AGAIN)
        self.stack += [made] * len(operation.stack_after)


def unsafe(name: str) -> CheckpointUnsafeError:
    """The error for a global that weights do not need."""
    message = f"its pickle asks for {name[:80]}, which no weights need; nothing was run"
    return CheckpointUnsafeError(message, hint=SAFER)
