"""The check of a plugin's registering module."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

from vedcore.errors import CheckError, VedcoreError
from vedcore.model.wiring import Result
from vedcore.plugins import check_command, check_exporter
from vedcore.plugins.contracts import check_part
from vedcore.plugins.guarded import GuardedFormat
from vedcore.registry import KINDS, Entry, Kind, Owner, check_entry

__all__ = ["check_registration", "registration_result"]

HEAVY = ("torch", "timm", "torchvision", "transformers")
"""Packages that a look at the list of parts must not wait for."""
TIMEOUT_SECONDS = 120
_NAME = "registering_imports_no_torch"
_CODE = """
import importlib, json, sys
import vedcore
module = importlib.import_module(sys.argv[1])
found = {name: len(value()) for name, value in vars(module).items() if name.startswith("register_") and callable(value)}
print(json.dumps([found, [name for name in sys.argv[2:] if name in sys.modules]]))
"""


def check_registration(module: str) -> None:
    """Check the module that an entry point of the group ``vedcore`` names.

    Registering imports none of torch, timm, torchvision and transformers, in a process of its own; each hook gives
    entries; what they name can be imported, and keeps the contract of its class.

    Args:
        module: its dotted name.

    Raises:
        CheckError: one of these does not hold.
    """
    done = subprocess.run(
        [sys.executable, "-c", _CODE, module, *HEAVY], capture_output=True, text=True, timeout=TIMEOUT_SECONDS
    )
    if done.returncode:
        raise _failed(module, "it to register", (done.stderr.strip().splitlines() or ["no output"])[-1])
    counts, heavy = json.loads(done.stdout.strip().splitlines()[-1])
    if heavy:
        raise _failed(module, "no heavy imports to register", ", ".join(heavy))
    if not counts:
        raise _failed(module, "a hook such as register_encoders", "none")
    registering = importlib.import_module(module)
    for hook in counts:
        kind = next((k for k in KINDS if hook == f"register_{k}s"), None)
        if kind is not None:
            for entry in getattr(registering, hook)():
                _check_entry(module, kind, entry)


def registration_result(module: str) -> Result:
    """The result of `check_registration`."""
    behaviour = "Registering imports no torch, and each entry loads and keeps its contract."
    try:
        check_registration(module)
    except CheckError as error:
        return Result(_NAME, behaviour, "failed", error.message)
    return Result(_NAME, behaviour, "passed")


def _check_entry(module: str, kind: Kind, entry: Entry) -> None:
    try:
        check_entry(kind, entry, Owner(module))
        target = entry.load()
        if kind in ("encoder", "decoder", "projector"):
            check_part(kind, entry, target)
        elif kind == "format":
            GuardedFormat(entry, target)
        elif kind == "command":
            check_command(entry, target)
        elif kind == "exporter":
            check_exporter(entry, target)
        elif not callable(target):
            raise _failed(module, f"a function, the target of {kind} {entry.name!r}", type(target).__name__)
    except CheckError:
        raise
    except VedcoreError as error:
        raise _failed(module, "an entry that loads and keeps its contract", error.message) from error


def _failed(module: str, expected: str, came: str) -> CheckError:
    return CheckError(f"{module}: expected {expected}, came {came}", field=_NAME)
