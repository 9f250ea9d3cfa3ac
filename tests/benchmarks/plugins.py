"""Time to find the installed plugins among 1,000 distributions, and to list them without importing their parts.

    python tests/benchmarks/plugins.py [--rounds 7] [--quick] [--json FILE]

Runs that are compared take turns (A B A B …). Seconds of commands are those of a whole process; beside them stands the
ratio to ``python -c pass``, since other load on the machine slows both.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path

import report
import start

DISTRIBUTIONS = 1000
COMMANDS = {
    "vedcore --help": ["--help"],
    "vedcore list encoders": ["list", "encoders"],
    "vedcore plugins": ["plugins"],
}
start.AT_MOST = {"scan, no plugin": 0.05, "scan, 500 plugins": 0.05, "vedcore plugins": 0.3, "vedcore --help": 0.3}


def write_distributions(site: Path, group: str) -> None:
    """Metadata of distributions, half of which have an entry point of that group."""
    for number in range(DISTRIBUTIONS):
        info = site / f"dist{number}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dist{number}\nVersion: 1.0\n")
        if number % 2:
            (info / "entry_points.txt").write_text(f"[{group}]\nx = dist{number}\n")


def measure_scans(rounds: int, folder: Path) -> dict[str, start.Seconds]:
    """Seconds of finding entry points on a path that has 1,000 distributions more than this environment."""
    from vedcore.plugins.scan import scan

    found: dict[str, start.Seconds] = {}
    path = sys.path[:]
    for name, group in (("scan, no plugin", "console_scripts"), ("scan, 500 plugins", "vedcore")):
        write_distributions(folder / group, group)
        sys.path[:] = [str(folder / group), *path]
        importlib.invalidate_caches()
        (found[name],) = start.in_turns(rounds, scan)
    sys.path[:] = path
    return found


def measure_commands(rounds: int) -> dict[str, start.Seconds]:
    """Seconds of whole processes, and what each takes over a Python that does nothing."""
    runs = [start.child("-m", "vedcore", *arguments) for arguments in COMMANDS.values()]
    bare, *commands = start.in_turns(rounds, start.child("-c", "pass"), *runs)
    found = {"python -c pass": bare}
    for name, seconds in zip(COMMANDS, commands, strict=True):
        found[name] = seconds
        found[f"{name}, over python -c pass"] = [a / b for a, b in zip(seconds, bare, strict=True)]
    return found


def main() -> None:
    options = report.arguments(__doc__, rounds=7).parse_args()
    rounds = 1 if options.quick else options.rounds
    with tempfile.TemporaryDirectory() as folder:
        rows = start.summary({**measure_scans(rounds, Path(folder)), **measure_commands(rounds)})
    print(f"{start.table(rows)}\n\n{rounds} rounds, load {report.load():.1f}")
    if options.json:
        report.write(options.json, rows, 1, preliminary=options.quick)


if __name__ == "__main__":
    main()
