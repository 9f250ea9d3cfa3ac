"""How long it takes to start: import, list, plan, and building ViT-base + GPT2 against transformers.

    python tests/benchmarks/start.py [--rounds 7] [--json]

Machines are noisy, so what is compared runs in turns, A B A B, and medians are given with the spread between the
quartiles. transformers builds the same model from configs, in the same process.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable


def seconds(work: Callable[[], object]) -> float:
    gc.collect()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turns(rounds: int, **works: Callable[[], object]) -> dict[str, list[float]]:
    """Each work once to warm up, then all in turn."""
    for work in works.values():
        work()
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            taken[name].append(seconds(work))
    return taken


def python(*arguments: str) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


def summary(taken: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(taken, n=4)
    return {"median_s": middle, "low_s": low, "high_s": high}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    chosen = parser.parse_args()

    processes = in_turns(
        2 * chosen.rounds,
        python=python("-c", "pass"),
        import_vedcore=python("-c", "import vedcore"),
        list_encoders=python("-m", "vedcore", "list", "encoders"),
    )

    from transformers import GPT2Config, VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig

    import vedcore

    def theirs() -> object:
        decoder = GPT2Config(is_decoder=True, add_cross_attention=True)
        config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(), decoder)
        return VisionEncoderDecoderModel(config)

    plans = in_turns(2 * chosen.rounds, plan=lambda: vedcore.plan("vit", "gpt2"))
    builds = in_turns(chosen.rounds, compose=lambda: vedcore.compose("vit", "gpt2"), transformers=theirs)

    rows = {name: summary(taken) for name, taken in {**processes, **plans, **builds}.items()}
    start = rows["python"]["median_s"]
    figures = {
        "import vedcore, beyond Python's start, s": (rows["import_vedcore"]["median_s"] - start, 0.1),
        "vedcore list encoders, s": (rows["list_encoders"]["median_s"], 0.3),
        "plan('vit', 'gpt2') after imports, s": (rows["plan"]["median_s"], 0.1),
        "compose('vit', 'gpt2'), of transformers' time": (
            rows["compose"]["median_s"] / rows["transformers"]["median_s"], 0.6,
        ),
    }  # fmt: skip
    if chosen.json:
        print(json.dumps({"times": rows, "figures": {name: value for name, (value, _) in figures.items()}}, indent=2))
        return
    for name, row in rows.items():
        print(f"{name:16} {row['median_s']:7.3f} s   ({row['low_s']:.3f} to {row['high_s']:.3f})")
    print()
    for name, (value, limit) in figures.items():
        print(f"{name:48} {value:6.3f}   at most {limit}")


if __name__ == "__main__":
    main()
