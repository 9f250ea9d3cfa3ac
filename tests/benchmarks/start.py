"""How soon vedcore is there: import, list, plan, and building ViT-base + GPT2 against transformers.

    python tests/benchmarks/start.py [--rounds 7] [--json]

What is compared runs in turns (A B A B …), so that a neighbour on the machine slows both; a table shows the median, and
the fastest and slowest of the rounds.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

Seconds = list[float]
TARGETS = {
    "import vedcore, beyond python -c pass": 0.1,
    "vedcore list encoders": 0.3,
    "plan, vit + gpt2, after imports": 0.1,
    "compose over transformers": 0.6,
}


def in_turns(rounds: int, *runs: Callable[[], object]) -> list[Seconds]:
    """Seconds of each run, one list a run; a first round warms caches and is not counted."""
    times: list[Seconds] = [[] for _ in runs]
    for round_number in range(rounds + 1):
        for run, seconds in zip(runs, times, strict=True):
            gc.collect()
            start = time.perf_counter()
            result = run()
            elapsed = time.perf_counter() - start
            del result  # freeing a gigabyte is no part of building one
            if round_number:
                seconds.append(elapsed)
    return times


def child(*arguments: str) -> Callable[[], object]:
    """A run of Python in a process of its own."""
    return lambda: subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


def measure_processes(rounds: int) -> dict[str, Seconds]:
    """Processes that start, do one thing and end."""
    bare, importing, listing = in_turns(
        rounds, child("-c", "pass"), child("-c", "import vedcore"), child("-m", "vedcore", "list", "encoders")
    )
    beyond = [b - a for a, b in zip(bare, importing, strict=True)]
    return {"python -c pass": bare, "import vedcore, beyond python -c pass": beyond, "vedcore list encoders": listing}


def measure_building(rounds: int) -> dict[str, Seconds]:
    """Plan and compose in this process, and transformers' own construction of the same."""
    import vedcore

    start = time.perf_counter()
    vedcore.plan("vit", "gpt2")
    first = [time.perf_counter() - start]
    (planning,) = in_turns(rounds * 3, lambda: vedcore.plan("vit", "gpt2"))
    found = {"first plan, with imports": first, "plan, vit + gpt2, after imports": planning}
    try:
        import transformers as hf
    except ImportError:
        (found["compose, vit + gpt2"],) = in_turns(rounds, lambda: vedcore.compose("vit", "gpt2"))
        return found

    def theirs() -> object:
        encoder = hf.ViTModel(hf.ViTConfig(), add_pooling_layer=False)
        decoder = hf.GPT2LMHeadModel(hf.GPT2Config(is_decoder=True, add_cross_attention=True))
        return hf.VisionEncoderDecoderModel(encoder=encoder, decoder=decoder)

    ours, their = in_turns(rounds, lambda: vedcore.compose("vit", "gpt2"), theirs)
    found["compose, vit + gpt2"], found[f"the same in transformers {hf.__version__}"] = ours, their
    found["compose over transformers"] = [a / b for a, b in zip(ours, their, strict=True)]
    return found


def summary(found: dict[str, Seconds]) -> list[dict[str, Any]]:
    """A row a measurement."""
    return [
        {
            "what": what,
            "median": statistics.median(seconds),
            "fastest": min(seconds),
            "slowest": max(seconds),
            "rounds": len(seconds),
            "target": TARGETS.get(what),
        }
        for what, seconds in found.items()
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """The rows for people; times in seconds."""
    width = max(len(row["what"]) for row in rows)
    lines = [f"{'':<{width}}    median   fastest   slowest  rounds  at most"]
    for row in rows:
        target = row["target"]
        verdict = "" if target is None else f"{target:.1f} {'ok' if row['median'] <= target else 'MISSED'}"
        figures = "".join(f"{row[key]:>10.3f}" for key in ("median", "fastest", "slowest"))
        lines.append(f"{row['what']:<{width}}{figures}{row['rounds']:>8}  {verdict}".rstrip())
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each comparison")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    rows = summary({**measure_processes(options.rounds), **measure_building(options.rounds)})
    import torch

    machine = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
    }
    if options.json:
        print(json.dumps({"machine": machine, "rows": rows}, indent=2))
    else:
        print(f"{table(rows)}\n\n{', '.join(f'{key} {value}' for key, value in machine.items())}")


if __name__ == "__main__":
    main()
