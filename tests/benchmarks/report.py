"""The options that all benchmarks have, and the JSON file that each writes: its rows, the machine and the date."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

SIGNIFICANT_DIGITS = 6
"""Digits kept of each float in the file: clocks and counters of memory are no finer."""
CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "bf16")
"""Flags of /proc/cpuinfo that decide how fast matrix products are."""


def arguments(doc: str | None, rounds: int) -> argparse.ArgumentParser:
    """A parser with the shared options, described by the first line of `doc`; `rounds` is the default."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=rounds, help=f"rounds that are measured (default: {rounds})")
    parser.add_argument("--quick", action="store_true", help="one round; the results are marked as preliminary")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file, too")
    return parser


def machine(threads: int) -> dict[str, Any]:
    """The processor and the versions that the figures depend on."""
    facts: dict[str, list[str]] = {}
    cpuinfo = Path("/proc/cpuinfo")  # Linux has it; elsewhere the name comes from Python alone
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else []:
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), []).append(value.strip())
    flags = " ".join(facts.get("flags", []) + facts.get("Features", [])).split()
    return {
        "cpu": facts.get("model name", [platform.processor() or platform.machine()])[0],
        "features": [feature for feature in CPU_FEATURES if feature in flags],
        "cores": os.cpu_count(),
        "threads": threads,
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": _version_or_none("transformers"),
    }


def write(file: Path, rows: list[dict[str, Any]], threads: int, preliminary: bool) -> None:
    """The rows of a benchmark with what they depend on; `preliminary` marks figures that are not to be published."""
    results = {
        "preliminary": preliminary,
        "date": datetime.date.today().isoformat(),
        "machine": machine(threads),
        "rows": rows,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(_rounded(results), indent=2) + "\n", encoding="utf-8")


def load() -> float:
    """Processes that wanted to run, on average over the last minute; 0 where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def _version_or_none(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_rounded(entry) for entry in value]
    return value
