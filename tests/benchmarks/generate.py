"""Time and memory from images to ids: vedcore and transformers, with the same weights and the same ids.

    python tests/benchmarks/generate.py [--case vit-gpt2-greedy-1 …] [--rounds 5] [--threads 2] [--quick] [--json FILE]

Each case has its own process. There, both libraries open one folder, are checked to give the same ids, and then run in
turns (A B A B …), the encoder included. "ratio" is transformers' median time over vedcore's; beside it stand the lowest
and the highest ratio of the rounds. "peak" is how far memory rose above the weights in one more run.

The weights are random but far from ties: few tokens have long rows in the output embedding, as in a power law, and the
rest of the decoder is wide. "margin" tells how far the ids are from a tie: the smallest distance, over all steps and
images, from the chosen logit to the next best, in parts of the distance from the best logit to the mean logit. Under
beams it is the distance from the last hypothesis that is kept to the first that is dropped, and at the end from the
best to the second. Sampling has no margin, since draws decide there.
"""

from __future__ import annotations

import ctypes
import math
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
import report
import torch
import transformers as hf
from torch import Tensor, nn

import vedcore

NUM_BEAMS = 4
SAMPLING = {"do_sample": True, "top_k": 50}
SAMPLING_SEED = 0
MIN_ROUNDS = 2
"""Rounds that every case has, however long they take."""
MAX_TURNS_SECONDS = 20.0
"""No further round starts once the rounds of a case took this long."""
QUICK_TOKENS = 4
"""Tokens of each text under --quick."""


class Case(NamedTuple):
    """One line of the table."""

    model: str
    search: str
    """One of greedy, sampling and beams."""
    batch: int
    """Images in a call."""
    at_least: float | None = None
    """Lowest ratio that the project wants; None where it has set none."""
    dtype: str = "float32"
    on_request: bool = False
    """Whether the case runs only when --case names it, because it takes minutes."""

    @property
    def name(self) -> str:
        return f"{self.model}-{self.search}-{self.batch}" + ("-bf16" if self.dtype == "bfloat16" else "")

    @property
    def num_beams(self) -> int:
        return NUM_BEAMS if self.search == "beams" else 1

    @property
    def has_more(self) -> bool:
        """Whether transformers with bfloat16 products and ONNX Runtime run, too."""
        return self.model == "vit-gpt2" and self.batch == 1 and self.dtype == "float32" and self.search != "sampling"


CASES = [
    Case("vit-gpt2", "greedy", 1, 2.3),
    Case("vit-gpt2", "greedy", 8, 2.1),
    Case("vit-gpt2", "sampling", 1),
    Case("vit-gpt2", "beams", 1, 2.9),
    Case("vit-gpt2", "beams", 8, 2.8),
    Case("vit-gpt2", "beams", 32, 4.0, on_request=True),
    Case("vit-gpt2", "greedy", 1, 1.4, "bfloat16"),
    Case("vit-gpt2", "beams", 1, 1.7, "bfloat16"),
    Case("trocr", "greedy", 1, 1.9),
    Case("trocr", "greedy", 8, 1.9),
    Case("trocr", "sampling", 1),
    Case("trocr", "beams", 1, 3.5),
    Case("trocr", "beams", 8, 4.0),
    Case("swin-bert", "greedy", 1, 1.8),
    Case("swin-bert", "greedy", 8, 1.8),
    Case("swin-bert", "sampling", 1),
    Case("swin-bert", "beams", 1),
    Case("swin-bert", "beams", 8),
]
SIZES = {"vit-gpt2": 224, "trocr": 384, "swin-bert": 224}
"""Height and width of the images, in pixels."""
TOKENS = {"vit-gpt2": 16, "trocr": 32, "swin-bert": 16}
"""Tokens of each text, behind the start id."""


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
    """Write a folder of random weights whose texts do not depend on rounding and do not end early."""
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
        rows[sorted(set(ids.values()))] = 0  # special tokens have logit 0, which is never among the best
    made.save_pretrained(folder)
    hf.ViTImageProcessor(size={"height": SIZES[model], "width": SIZES[model]}).save_pretrained(folder)


class Margin(hf.LogitsProcessor):  # type: ignore[misc]
    """Records the smallest margin of a search, as the module defines it; leaves the scores alone."""

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


def memory(field: str) -> int:
    """Bytes of this process, from a field of /proc/self/status."""
    found = re.search(field + r":\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return 1024 * int(found[1])


def settled() -> int:
    """Resident bytes, after freed memory went back to the system; resets the peak."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def measure(case: Case, folder: Path, rounds: int, threads: int, tokens: int) -> dict[str, Any]:
    """Compare vedcore with transformers, and with the others where the case has them, in this process."""
    torch.set_num_threads(threads)
    hf.utils.logging.set_verbosity_error()
    hf.utils.logging.disable_progress_bar()
    dtype: torch.dtype = getattr(torch, case.dtype)
    size = SIZES[case.model]
    images = torch.randn(case.batch, 3, size, size, generator=torch.Generator().manual_seed(1)).to(dtype)
    options = {"max_new_tokens": tokens, "num_beams": case.num_beams}
    is_sampling = case.search == "sampling"
    drawing: dict[str, Any] = SAMPLING if is_sampling else {"do_sample": False}

    def run_vedcore() -> Tensor:
        seed = {"seed": SAMPLING_SEED} if is_sampling else {}
        return ours.generate(images, **options, **drawing, **seed)

    held = {}
    before = settled()
    ours = vedcore.load(folder, dtype=dtype)
    our_ids = run_vedcore()
    held["vedcore"], before = settled() - before, settled()
    theirs = hf.VisionEncoderDecoderModel.from_pretrained(folder, dtype=dtype).eval()

    @torch.no_grad()
    def run_transformers(**more: Any) -> Tensor:
        torch.manual_seed(SAMPLING_SEED)
        ids: Tensor = theirs.generate(images, **options, **drawing, use_cache=True, **more)
        return ids

    def run_with_bf16_products() -> Tensor:
        plain, torch.backends.mkldnn.matmul.fp32_precision = torch.backends.mkldnn.matmul.fp32_precision, "bf16"
        try:
            return run_transformers()
        finally:
            torch.backends.mkldnn.matmul.fp32_precision = plain

    margin = None if is_sampling else Margin(case.num_beams)
    their_ids = run_transformers(logits_processor=[margin] if margin else None)
    if margin:
        margin.before = None  # or its copies of the logits would count as held
    held["transformers"] = settled() - before
    if our_ids.shape != their_ids.shape or not our_ids.equal(their_ids):
        raise RuntimeError(f"{case.name}: other ids than transformers\n{our_ids.tolist()}\n{their_ids.tolist()}")
    if their_ids.shape[1] != tokens + 1:
        raise RuntimeError(f"{case.name}: {their_ids.shape[1] - 1} tokens instead of {tokens}")

    contestants: dict[str, Callable[[], Tensor]] = {"vedcore": run_vedcore, "transformers": run_transformers}
    if case.has_more:
        contestants["transformers, bf16 products"] = run_with_bf16_products
        if onnx_runtime.INSTALLED:
            contestants["onnx runtime"] = onnx_runtime.search(folder, images, case.num_beams, tokens, threads)
    peaks, ids = {}, {}
    for who, run in contestants.items():
        before = settled()
        ids[who] = run()
        peaks[who] = memory("VmHWM") - before
    seconds: dict[str, list[float]] = {who: [] for who in contestants}
    first_begun = time.perf_counter()
    for done in range(rounds):
        if done >= MIN_ROUNDS and time.perf_counter() - first_begun > MAX_TURNS_SECONDS:
            break
        for who, run in contestants.items():
            begun = time.perf_counter()
            run()
            seconds[who].append(time.perf_counter() - begun)
    return {
        "case": case.name,
        "model": case.model,
        "search": case.search,
        "batch": case.batch,
        "dtype": case.dtype,
        "at_least": case.at_least,
        "margin": min(margin.cut, margin.best) if margin else None,
        "different_texts": len(their_ids.unique(dim=0)),
        "tokens": tokens,
        "rounds": len(seconds["vedcore"]),
        "load": report.load(),
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
    """Median seconds of both, and how many times faster vedcore is: of the medians, and in single rounds."""
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    median, other = statistics.median(ours), statistics.median(theirs)
    return {"vedcore": median, "other": other, "ratio": other / median, "lowest": min(ratios), "highest": max(ratios)}


def in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call the function in a new process, so that neither caches nor memory are carried over."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def show(row: dict[str, Any]) -> None:
    """Print the lines of one case."""
    margin = "" if row["margin"] is None else f"{row['margin']:.4f}"
    for other in row["others"]:
        mark = "" if other["same_ids"] else "  (other ids)"
        floor = f"{row['at_least']:.1f}" if other["who"] == "transformers" and row["at_least"] else ""
        print(
            f"{row['case']:<23}{other['who']:<29}{other['vedcore']:>9.3f}{other['other']:>9.3f}{other['ratio']:>7.2f}"
            f"  {other['lowest']:>5.2f} to {other['highest']:<5.2f}{floor:>9}"
            f"{other['our_peak'] / 1e6:>9.0f}{other['peak'] / 1e6:>9.0f}{margin:>9}{mark}",
            flush=True,
        )


def main() -> None:
    names = {case.name: case for case in CASES}
    usual = [case.name for case in CASES if not case.on_request]
    parser = report.arguments(__doc__, rounds=5)
    parser.add_argument("--case", nargs="+", choices=names, default=usual, metavar="NAME", help=", ".join(names))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    print(f"{'':<52}{'seconds of':<18}{'':<7}{'':<23}{'peak MB of':<18}")
    print(
        f"{'case':<23}{'against':<29}{'vedcore':>9}{'it':>9}{'ratio':>7}  lowest, highest at least  vedcore"
        f"{'it':>9}{'margin':>9}",
        flush=True,
    )
    rows = []
    for model in SIZES:  # one folder at a time, to save disk space
        tokens = QUICK_TOKENS if options.quick else TOKENS[model]
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            cases = [names[name] for name in options.case if names[name].model == model]
            if cases:
                in_new_process(make, model, folder)
            for case in cases:
                if case.has_more and onnx_runtime.INSTALLED:
                    in_new_process(onnx_runtime.export, folder, case.num_beams, SIZES[model])
                rows.append(in_new_process(measure, case, folder, rounds, options.threads, tokens))
                show(rows[-1])
    print(f"up to {rounds} rounds, {options.threads} threads, load up to {max(row['load'] for row in rows):.1f}")
    if options.json:
        report.write(options.json, rows, options.threads, preliminary=options.quick)


if __name__ == "__main__":
    main()
