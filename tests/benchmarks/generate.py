"""How fast and in how little memory images become text: vedcore and transformers, the same weights, the same ids.

    python tests/benchmarks/generate.py [--case vit-gpt2-greedy-1 …] [--rounds 5] [--threads 2] [--json]

Each case has a process of its own, in which both open one folder, are checked to give the same ids, and then run in
turns (A B A B …), the encoder included. "ratio" is transformers' median time over ours, and beside it the lowest and
the highest of the rounds; "peak" is how far memory rose above the weights in one more run.

The weights are random but far from ties: few tokens have long rows in the output embedding, as a power law gives them,
and the rest of the decoder is wide. "margin" is the smallest distance, over all steps and images, from what was chosen
to what was not (under beams: from the last that lived on to the first that did not, and in the end from the best to the
second), in parts of the distance from the best logit to their mean.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import onnx_runtime
import torch
import transformers as hf
from torch import Tensor, nn

import vedcore


class Case(NamedTuple):
    """One line of the table."""

    model: str
    beams: int
    batch: int
    at_least: float
    """What the ratio is to be."""
    dtype: str = "float32"

    @property
    def name(self) -> str:
        kind = "beams" if self.beams > 1 else "greedy"
        return f"{self.model}-{kind}-{self.batch}" + ("-bf16" if self.dtype == "bfloat16" else "")

    @property
    def has_more(self) -> bool:
        """Whether others than the two run as well."""
        return self.model == "vit-gpt2" and self.batch == 1 and self.dtype == "float32"


CASES = [
    Case("vit-gpt2", 1, 1, 2.3),
    Case("vit-gpt2", 1, 8, 2.1),
    Case("vit-gpt2", 4, 1, 2.9),
    Case("vit-gpt2", 4, 8, 2.8),
    Case("vit-gpt2", 4, 32, 4.0),
    Case("trocr", 1, 1, 1.9),
    Case("trocr", 1, 8, 1.9),
    Case("trocr", 4, 1, 3.5),
    Case("trocr", 4, 8, 4.0),
    Case("swin-bert", 1, 1, 1.8),
    Case("swin-bert", 1, 8, 1.8),
    Case("vit-gpt2", 1, 1, 1.4, "bfloat16"),
    Case("vit-gpt2", 4, 1, 1.7, "bfloat16"),
]
SIZES = {"vit-gpt2": 224, "trocr": 384, "swin-bert": 224}
TOKENS = {"vit-gpt2": 16, "trocr": 32, "swin-bert": 16}


def configs(model: str) -> tuple[Any, Any, dict[str, int]]:
    """The settings of encoder and decoder as published, and the token ids."""
    cross = {"is_decoder": True, "add_cross_attention": True}
    if model == "vit-gpt2":
        ids = {"decoder_start_token_id": 50256, "eos_token_id": 50256, "pad_token_id": 50256}
        return hf.ViTConfig(), hf.GPT2Config(**cross), ids
    if model == "trocr":
        ids = {"decoder_start_token_id": 2, "eos_token_id": 2, "pad_token_id": 1}
        return (
            hf.ViTConfig(image_size=384, qkv_bias=False),
            hf.TrOCRConfig(**cross, cross_attention_hidden_size=768),
            ids,
        )
    ids = {"decoder_start_token_id": 101, "eos_token_id": 102, "pad_token_id": 0}
    sizes = {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32]}
    return hf.SwinConfig(**sizes), hf.BertConfig(**cross), ids


def make(model: str, folder: Path) -> None:
    """A folder of random weights whose texts do not hang on rounding, and do not end early."""
    torch.manual_seed(0)
    hf.utils.logging.disable_progress_bar()
    encoder, decoder, ids = configs(model)
    made = hf.VisionEncoderDecoderModel(
        hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder, **ids)
    )
    made.generation_config.update(**ids)
    with torch.no_grad():
        for module in made.decoder.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(0, 1.5 / math.sqrt(module.in_features))
            elif isinstance(module, hf.pytorch_utils.Conv1D):
                module.weight.normal_(0, 1.5 / math.sqrt(len(module.weight)))
        rows = made.decoder.get_output_embeddings().weight
        rows.normal_(0, 0.002).mul_(torch.rand(len(rows), 1).clamp(min=1e-4).pow(-0.5))
        rows[sorted(set(ids.values()))] = 0  # their logits are 0, and never the best
    made.save_pretrained(folder)
    hf.ViTImageProcessor(size={"height": SIZES[model], "width": SIZES[model]}).save_pretrained(folder)


class Margin(hf.LogitsProcessor):  # type: ignore[misc]
    """The smallest margin of a search, as the module says; changes nothing."""

    def __init__(self, beams: int) -> None:
        self.beams, self.cut, self.best = beams, math.inf, math.inf
        self.before: tuple[Tensor, Tensor, Tensor] | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        ids = input_ids.unflatten(0, (-1, self.beams))  # (N, W, T)
        rows = scores.double().unflatten(0, (-1, self.beams))  # (N, W, V)
        if self.before is None:
            sums = rows.new_full(rows.shape[:2], -1e9)  # (N, W)
            sums[:, 0] = 0
        else:
            old_ids, old_sums, old_rows = self.before
            parent = (ids[:, :, None, :-1] == old_ids[:, None]).all(-1).int().argmax(-1)  # (N, W)
            step = old_rows.gather(1, parent[..., None].expand_as(old_rows)).gather(2, ids[..., -1:])[..., 0]
            sums = old_sums.gather(1, parent) + step
        self.before = ids, sums, rows
        top = (sums[..., None] + rows).flatten(1).topk(self.beams + 1).values  # (N, W + 1)
        scale = rows[:, 0].amax(-1) - rows[:, 0].mean(-1)
        self.cut = min(self.cut, float(((top[:, -2] - top[:, -1]) / scale).min()))
        self.best = float(((top[:, 0] - top[:, 1]) / scale).min())
        return scores


def memory(word: str) -> int:
    """Bytes, of the kernel's own account of this process."""
    found = re.search(word + r":\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return 1024 * int(found[1])


def settled() -> int:
    """Bytes that are held once what was freed has been given back; the peak is forgotten."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def measure(case: Case, folder: Path, rounds: int, threads: int) -> dict[str, Any]:
    """Both of them, and the others where the case has them, in this process."""
    torch.set_num_threads(threads)
    hf.utils.logging.set_verbosity_error()
    hf.utils.logging.disable_progress_bar()
    dtype: torch.dtype = getattr(torch, case.dtype)
    size, tokens = SIZES[case.model], TOKENS[case.model]
    images = torch.randn(case.batch, 3, size, size, generator=torch.Generator().manual_seed(1)).to(dtype)
    options = {"max_new_tokens": tokens, "num_beams": case.beams}

    held = {}
    start = settled()
    ours = vedcore.load(folder, dtype=dtype)
    our_ids = ours.generate(images, **options)
    held["vedcore"], start = settled() - start, settled()
    theirs = hf.VisionEncoderDecoderModel.from_pretrained(folder, dtype=dtype).eval()
    margin = Margin(case.beams)

    @torch.no_grad()
    def transformers(**more: Any) -> Tensor:
        ids: Tensor = theirs.generate(images, **options, do_sample=False, use_cache=True, **more)
        return ids

    def rounded() -> Tensor:
        before, torch.backends.mkldnn.matmul.fp32_precision = torch.backends.mkldnn.matmul.fp32_precision, "bf16"
        try:
            return transformers()
        finally:
            torch.backends.mkldnn.matmul.fp32_precision = before

    their_ids = transformers()
    held["transformers"] = settled() - start
    transformers(logits_processor=[margin])
    if our_ids.shape != their_ids.shape or not our_ids.equal(their_ids):
        raise RuntimeError(f"{case.name}: other ids than transformers\n{our_ids.tolist()}\n{their_ids.tolist()}")
    if their_ids.shape[1] != tokens + 1:
        raise RuntimeError(f"{case.name}: {their_ids.shape[1] - 1} tokens instead of {tokens}")

    contestants = {"vedcore": lambda: ours.generate(images, **options), "transformers": transformers}
    if case.has_more:
        contestants["transformers, bf16 products"] = rounded
        if onnx_runtime.INSTALLED:
            contestants["onnx runtime"] = onnx_runtime.search(folder, images, case.beams, tokens, threads)
    peaks, ids = {}, {}
    for who, run in contestants.items():
        before = settled()
        ids[who] = run()
        peaks[who] = memory("VmHWM") - before
    seconds: dict[str, list[float]] = {who: [] for who in contestants}
    for _ in range(rounds):
        for who, run in contestants.items():
            begun = time.perf_counter()
            run()
            seconds[who].append(time.perf_counter() - begun)
    return {
        "case": case.name,
        "at_least": case.at_least,
        "margin": min(margin.cut, margin.best),
        "different_texts": len(their_ids.unique(dim=0)),
        "tokens": tokens,
        "threads": threads,
        "load": os.getloadavg()[0],
        "held": held,
        "others": [
            {
                "who": who,
                "same_ids": ids[who].equal(our_ids),
                **compared(seconds["vedcore"], seconds[who]),
                "our_peak": peaks["vedcore"],
                "peak": peaks[who],
            }
            for who in contestants
            if who != "vedcore"
        ],
    }


def compared(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Median seconds of both, and how many times faster we are."""
    rounds = [b / a for a, b in zip(ours, theirs, strict=True)]
    median, other = statistics.median(ours), statistics.median(theirs)
    return {"vedcore": median, "other": other, "ratio": other / median, "lowest": min(rounds), "highest": max(rounds)}


def in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function returns there, so that neither caches nor memory are carried over."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def show(row: dict[str, Any]) -> None:
    """The lines of one case."""
    for other in row["others"]:
        mark = "" if other["same_ids"] else "  (other ids)"
        floor = f"{row['at_least']:.1f}" if other["who"] == "transformers" else ""
        print(
            f"{row['case']:<23}{other['who']:<29}{other['vedcore']:>9.3f}{other['other']:>9.3f}{other['ratio']:>7.2f}"
            f"  {other['lowest']:>5.2f} to {other['highest']:<5.2f}{floor:>9}"
            f"{other['our_peak'] / 1e6:>9.0f}{other['peak'] / 1e6:>9.0f}{row['margin']:>9.4f}{mark}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    names = {case.name: case for case in CASES}
    parser.add_argument("--case", nargs="+", choices=names, default=list(names), metavar="NAME", help=", ".join(names))
    parser.add_argument("--rounds", type=int, default=5, help="rounds, after one that warms caches")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    if not options.json:
        print(f"{'':<52}{'seconds of':<18}{'':<7}{'':<23}{'peak MB of':<18}")
        print(
            f"{'case':<23}{'against':<29}{'vedcore':>9}{'it':>9}{'ratio':>7}  lowest, highest at least  vedcore"
            f"{'it':>9}{'margin':>9}",
            flush=True,
        )
    rows = []
    for model in SIZES:  # one folder at a time, for the sake of the disk
        with tempfile.TemporaryDirectory() as place:
            cases = [names[name] for name in options.case if names[name].model == model]
            if cases:
                in_new_process(make, model, Path(place))
            for case in cases:
                if case.has_more and onnx_runtime.INSTALLED:
                    in_new_process(onnx_runtime.export, Path(place), case.beams, SIZES[model])
                rows.append(in_new_process(measure, case, Path(place), options.rounds, options.threads))
                if not options.json:
                    show(rows[-1])
    if not options.json:
        print(f"{options.rounds} rounds, {options.threads} threads, load up to {max(row['load'] for row in rows):.1f}")
    else:
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
