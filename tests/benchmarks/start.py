"""Time to start: import, list, plan, and building ViT-base + GPT2, the latter against transformers.

    python tests/benchmarks/start.py [--rounds 7] [--quick] [--json FILE]

Runs that are compared take turns (A B A B …), so that other load on the machine slows both. The table shows the median,
the fastest and the slowest of the rounds, in seconds.
"""

from __future__ import annotations

import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import report

Seconds = list[float]
AT_MOST = {
    "import vedcore, beyond python -c pass": 0.1,
    "vedcore list encoders": 0.3,
    "plan, vit + gpt2, after imports": 0.1,
    "compose over transformers": 0.6,
}
"""The highest median that the project wants: seconds, and in the last line a ratio."""


def in_turns(rounds: int, *runs: Callable[[], object]) -> list[Seconds]:
    """Seconds of each run, one list per run; a first round warms caches and is not counted."""
    times: list[Seconds] = [[] for _ in runs]
    for round_number in range(rounds + 1):
        for run, seconds in zip(runs, times, strict=True):
            gc.collect()
            start = time.perf_counter()
            result = run()
            elapsed = time.perf_counter() - start
            del result  # freeing a gigabyte is not part of building it
            if round_number:
                seconds.append(elapsed)
    return times


def child(*arguments: str) -> Callable[[], object]:
    """A run of Python in a new process."""
    return lambda: subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


def measure_processes(rounds: int) -> dict[str, Seconds]:
    """Seconds of processes that start, do one thing and end."""
    bare, importing, listing = in_turns(
        rounds, child("-c", "pass"), child("-c", "import vedcore"), child("-m", "vedcore", "list", "encoders")
    )
    beyond = [b - a for a, b in zip(bare, importing, strict=True)]
    return {"python -c pass": bare, "import vedcore, beyond python -c pass": beyond, "vedcore list encoders": listing}


def measure_building(rounds: int) -> dict[str, Seconds]:
    """Seconds of plan and compose in this process, and of the same model built by transformers."""
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
    found["compose, vit + gpt2"], found["the same in transformers"] = ours, their
    found["compose over transformers"] = [a / b for a, b in zip(ours, their, strict=True)]
    return found


def summary(found: dict[str, Seconds]) -> list[dict[str, Any]]:
    """One row per measurement."""
    return [
        {
            "name": name,
            "median": statistics.median(seconds),
            "fastest": min(seconds),
            "slowest": max(seconds),
            "rounds": len(seconds),
            "at_most": AT_MOST.get(name),
        }
        for name, seconds in found.items()
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text."""
    width = max(len(row["name"]) for row in rows)
    lines = [f"{'':<{width}}    median   fastest   slowest  rounds  at most"]
    for row in rows:
        limit = row["at_most"]
        verdict = "" if limit is None else f"{limit:g} {'ok' if row['median'] <= limit else 'MISSED'}"
        figures = "".join(f"{row[key]:>10.3f}" for key in ("median", "fastest", "slowest"))
        lines.append(f"{row['name']:<{width}}{figures}{row['rounds']:>8}  {verdict}".rstrip())
    return "\n".join(lines)


def main() -> None:
    options = report.arguments(__doc__, rounds=7).parse_args()
    rounds = 1 if options.quick else options.rounds
    rows = summary({**measure_processes(rounds), **measure_building(rounds)})
    import torch  # late, as the first plan is measured with its imports

    print(f"{table(rows)}\n\n{rounds} rounds, {torch.get_num_threads()} threads, load {report.load():.1f}")
    if options.json:
        report.write(options.json, rows, torch.get_num_threads(), preliminary=options.quick)


if __name__ == "__main__":
    main()
