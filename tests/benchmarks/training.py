"""A step of training ViT-base + GPT2 against transformers', its memory, and the cost of vedcore's loop over a bare one.

    python tests/benchmarks/training.py [--rounds 3] [--quick] [--json FILE]

A step: 4 images, 16 labels each, forward, backward, gradients cut to norm 1, AdamW. The compared steps take turns.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import report
import torch
from PIL import Image

import vedcore

BATCH, LABELS = 4, 16
LOOP_STEPS = 40


def ours() -> Any:
    return vedcore.compose("vit", "gpt2", seed=0)


def theirs() -> Any:
    from transformers import GPT2Config, VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig

    decoder = GPT2Config(add_cross_attention=True, is_decoder=True)
    model = VisionEncoderDecoderModel(VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(), decoder))
    model.config.decoder_start_token_id = model.config.pad_token_id = decoder.eos_token_id
    return model


def stepper(model: Any, *, bf16: bool) -> Callable[[], None]:
    """One step of a model."""
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-5)
    pixels, labels = torch.randn(BATCH, 3, 224, 224), torch.randint(0, 50000, (BATCH, LABELS))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(pixel_values=pixels, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def exact(run: Callable[[], None], precision: str) -> Callable[[], None]:
    """A run with torch's products of float32 matrices in a precision."""

    def inside() -> None:
        torch.set_float32_matmul_precision(precision)
        run()
        torch.set_float32_matmul_precision("highest")

    return inside


def in_turns(rounds: int, *runs: Callable[[], None]) -> list[list[float]]:
    """Wall seconds of each run, after one that warms up."""
    times: list[list[float]] = [[] for _ in runs]
    for number in range(rounds + 1):
        for run, seconds in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            if number:
                seconds.append(time.perf_counter() - start)
    return times


def peak_memory(library: str) -> float:
    """Most MB that a process has which trains three steps."""
    run = subprocess.run([sys.executable, __file__, "--memory", library], check=True, capture_output=True, text=True)
    return float(run.stdout)


def loop_over_bare(rounds: int) -> tuple[list[float], list[float]]:
    """Processor seconds of the loop, and of a bare one over the same loader, for a small model."""
    from accelerate import Accelerator

    from vedcore.data import Loader, open_data
    from vedcore.training import TrainingConfig
    from vedcore.training.loop import TrainingLoop
    from vedcore.training.progress import Display

    rows = [
        {
            "image": Image.fromarray(np.random.default_rng(i).integers(0, 255, (64, 64, 3), dtype=np.uint8)),
            "text": "abc",
        }
        for i in range(8 * LOOP_STEPS)
    ]
    config = TrainingConfig(max_steps=LOOP_STEPS, eval_steps=10**9, save_steps=10**9)

    class Unjudged:
        """In place of evaluations, which are no part of a step."""

        def evaluate(self, *_: Any) -> dict[str, float]:
            return {"cer": 1.0}

        def lines(self, _: int) -> list[dict[str, Any]]:
            return []

    def model_and_loader() -> tuple[Any, Any]:
        model = vedcore.compose(
            "vit_tiny_patch16_224",
            "gpt2",
            decoder_n_layer=4,
            decoder_n_embd=192,
            decoder_n_head=3,
            image_size=64,
            tokenizer="char",
            seed=0,
        )
        return model, Loader(open_data(rows), model.processor, 8, seed=1)

    looped, bare = [], []
    for _ in range(rounds):
        model, loader = model_and_loader()
        with tempfile.TemporaryDirectory() as folder:
            loop = TrainingLoop(
                model,
                config,
                loader,
                Unjudged(),
                Path(folder),
                Accelerator(cpu=True),
                Display(Path(folder), shown=False),  # type: ignore[arg-type]
            )
            loop._save = loop._evaluate = lambda: None  # type: ignore[method-assign]
            start = time.process_time()
            loop.run()
            looped.append(time.process_time() - start)
        model, loader = model_and_loader()
        optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-5)
        start = time.process_time()
        for loaded in loader.epoch(0):
            loss = model(**loaded.inputs).loss
            loss.backward()
            float(loss.detach())
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        bare.append(time.process_time() - start)
    return looped, bare


def main() -> None:
    parser = report.arguments(__doc__, rounds=3)
    parser.add_argument("--memory", choices=["ours", "theirs"], help="print the peak of one library, in MB")
    chosen = parser.parse_args()
    if chosen.memory:
        step = stepper({"ours": ours, "theirs": theirs}[chosen.memory](), bf16=False)
        for _ in range(3):
            step()
        status = Path("/proc/self/status").read_text()  # rusage begins with the peak of the process before exec
        print(int(status.partition("VmHWM:")[2].split()[0]) / 1024)
        return
    rounds = 1 if chosen.quick else chosen.rounds
    rows: list[dict[str, Any]] = []
    for bf16 in (False, True):
        runs = [stepper(theirs(), bf16=bf16), ours_step := stepper(ours(), bf16=bf16)]
        if not bf16:
            runs.append(exact(ours_step, "medium"))
        times = in_turns(rounds, *runs)
        named = zip(("transformers", "vedcore", "vedcore, train.optimize"), times, strict=False)
        for name, seconds in named:
            ratio = statistics.median(a / b for a, b in zip(times[0], seconds, strict=True))
            rows.append({"case": f"step, {'bf16' if bf16 else 'fp32'}, {name}", "seconds": seconds, "ratio": ratio})
    memory = {name: peak_memory(name) for name in ("theirs", "ours")}
    rows.append({"case": "peak memory", "MB": memory, "ratio": memory["ours"] / memory["theirs"]})
    looped, bare = loop_over_bare(rounds)
    ratio = statistics.median(a / b for a, b in zip(looped, bare, strict=True))
    rows.append({"case": f"loop over bare loop, {LOOP_STEPS} steps", "seconds": looped, "bare": bare, "ratio": ratio})
    for row in rows:
        print(json.dumps(row))
    if chosen.json:
        report.write(chosen.json, rows, torch.get_num_threads(), chosen.quick)


if __name__ == "__main__":
    main()
