"""Running the cases of a proof, in a process that cannot import the modules named in BLOCKED.

    python -m vedcore.export.replay FOLDER RUNTIME CASES RESULTS [BLOCKED ...]

CASES is a ``.npz`` with the arrays ``<number>/<argument>``, and ``cases``, a JSON list of the method of each number and
of its other arguments. RESULTS becomes one with ``<number>``, or ``<number>/<name>`` where a method gives several.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["main"]


class _Blocked(MetaPathFinder):
    """Refuses to import some modules."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname.partition(".")[0] in self.names:
            raise ImportError(f"{fullname} is blocked in a proof", name=fullname)


def main(arguments: Sequence[str]) -> None:
    """Run the cases, as the module's text says."""
    folder, runtime, given, results, *blocked = arguments
    sys.meta_path.insert(0, _Blocked(blocked))
    module, _, name = runtime.partition(":")
    made = getattr(importlib.import_module(module), name)(Path(folder))
    found: dict[str, Any] = {}
    with np.load(given) as cases:
        for i, case in enumerate(json.loads(str(cases["cases"]))):
            arrays = {key.partition("/")[2]: cases[key] for key in cases.files if key.startswith(f"{i}/")}
            value = getattr(made, case["method"])(**arrays, **case["arguments"])
            if isinstance(value, dict):
                found |= {f"{i}/{key}": np.asarray(each) for key, each in value.items()}
            else:
                found[str(i)] = np.asarray(value)
    np.savez(results, **found)


if __name__ == "__main__":
    main(sys.argv[1:])
