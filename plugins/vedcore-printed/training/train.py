"""Train `printed-line` on rendered lines, evaluate it on fonts and texts that it never saw, and save it.

    python make_data.py DATA --processes 2
    python train.py DATA --minutes 40 --output ../vedcore_printed/printed-line

The loss is cross entropy plus 0.3 times a CTC loss on the encoder's columns; without the latter, attention hardly
aligns in so short a time. The learning rate runs one cycle over ``--minutes``, at any speed of the machine.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from evaluate import edits, evaluate, table
from make_data import Lines
from torch import Tensor
from torch.nn import functional as F

import vedcore

MAX_BATCH_WIDTH = 14_000  # pixels of width of all lines in a batch, with padding
CTC_WEIGHT = 0.3
REPLACED_INPUT_SHARE = 0.05  # decoder inputs replaced at random, so that the decoder attends to the image
MAX_SHORT_CHARACTERS = 12  # length of lines in the first phase
SHORT_PHASE_SHARE = 0.05  # share of the time for the first phase
PEAK_LEARNING_RATE = 1.5e-3
VALIDATION_LINES = 1_000  # the last lines of the data


def new_model(seed: int) -> vedcore.VisionEncoderDecoder:
    """The untrained model."""
    decoder = {
        "name": "mbart",
        "d_model": 192,
        "decoder_layers": 3,
        "decoder_attention_heads": 6,
        "decoder_ffn_dim": 768,
        "max_position_embeddings": 64,
        "dropout": 0.1,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "scale_embedding": True,
    }
    return vedcore.compose("printed-columns", decoder, tokenizer="char", seed=seed)


class Batches:
    """Batches of lines of similar width, up to `MAX_BATCH_WIDTH`; composed anew in each epoch.

    Args:
        lines: all lines.
        model: model with the tokenizer for the labels.
        seed: seed of the order.
    """

    def __init__(self, lines: Lines, model: vedcore.VisionEncoderDecoder, seed: int) -> None:
        self.lines = lines
        self.rng = np.random.default_rng(seed)
        self.tokenizer = model.processor.tokenizer
        self.eos = model.token_ids.eos[0]
        self.lengths = np.array([len(text) for text in lines.texts])

    def epoch(self, longest: int | None = None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Pixels (N, 3, 32, W), mask (N, W / 4) and labels (N, T) of all lines, or of those up to ``longest``, once."""
        chosen = np.arange(len(self.lines) - VALIDATION_LINES)
        if longest is not None:
            chosen = chosen[self.lengths[chosen] <= longest]
        self.rng.shuffle(chosen)
        for pool in np.array_split(chosen, max(1, len(chosen) // 4_000)):
            pool = pool[np.argsort(self.lines.widths[pool] + self.rng.normal(0, 8, len(pool)))]
            groups, group, widest = [], [], 0
            for index in pool:
                width = int(self.lines.widths[index])
                if group and max(widest, width) * (len(group) + 1) > MAX_BATCH_WIDTH:
                    groups.append(group)
                    group, widest = [], 0
                group.append(int(index))
                widest = max(widest, width)
            groups.append(group)
            self.rng.shuffle(groups)  # type: ignore[arg-type]
            yield from map(self.batch, groups)

    def batch(self, indices: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """The lines at these indices as one batch."""
        widths = self.lines.widths[indices]
        columns = -(-widths // 4)
        pixels = np.zeros((len(indices), 1, 32, 4 * int(columns.max())), np.uint8)
        for row, index in enumerate(indices):
            pixels[row, 0, :, : widths[row]] = self.lines[index]
        ids = [[*self.tokenizer.encode(self.lines.texts[i]).ids] for i in indices]
        ids = [[*row, self.eos] if row[-1:] != [self.eos] else row for row in ids]
        labels = np.full((len(ids), max(map(len, ids))), -100, np.int64)
        for row, line in enumerate(ids):
            labels[row, : len(line)] = line
        values = torch.from_numpy(pixels).float().div_(255).expand(-1, 3, -1, -1)
        mask = torch.arange(int(columns.max())) < torch.from_numpy(columns)[:, None]
        return values, mask, torch.from_numpy(labels)


def loss_of(model: vedcore.VisionEncoderDecoder, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Cross entropy of the decoder and CTC loss of the encoder."""
    pixels, mask, labels = batch
    tokens = model.token_ids
    text = (labels != -100) & (labels != tokens.eos[0])
    with torch.autocast("cpu", torch.bfloat16):
        encoded = model.encode(pixels, mask, output_hidden_states=True)
        noise = torch.rand(labels.shape) < REPLACED_INPUT_SHARE
        inputs = torch.where(
            noise & text,
            torch.randint(first_character(model), model.decoder.vocab_size, labels.shape),
            labels,
        )
        inputs = torch.cat(
            [
                torch.full((len(labels), 1), tokens.start),
                inputs[:, :-1].masked_fill(labels[:, :-1] == -100, tokens.pad),
            ],
            1,
        )
        out = model(encoder_outputs=encoded, decoder_input_ids=inputs, labels=labels)
        scores = model.encoder.characters(encoded.hidden_states[0])  # (N, S, 1 + C)
    ctc = F.ctc_loss(
        scores.float().log_softmax(-1).transpose(0, 1),
        labels[text] - first_character(model) + 1,
        mask.sum(1),
        text.sum(1),
        zero_infinity=True,
    )
    return out.loss, ctc


def first_character(model: vedcore.VisionEncoderDecoder) -> int:
    """Id of the space, the first printable character; ids of the others follow in order."""
    return int(model.processor.tokenizer.token_to_id(" "))


def rate_at(progress: float) -> float:
    """Learning rate of one cycle: linear warm-up in the first fifth, then cosine decay."""
    if progress < 0.2:
        return PEAK_LEARNING_RATE * (0.04 + 0.96 * progress / 0.2)
    return PEAK_LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * (progress - 0.2) / 0.8))


def validate(model: vedcore.VisionEncoderDecoder, batches: Batches, count: int) -> float:
    """Character error rate on the first ``count`` validation lines."""
    total = errors = 0
    order = sorted(
        range(len(batches.lines) - VALIDATION_LINES, len(batches.lines) - VALIDATION_LINES + count),
        key=lambda i: batches.lines.widths[i],
    )
    for start in range(0, len(order), 32):
        chosen = order[start : start + 32]
        pixels, mask, _ = batches.batch(chosen)
        ids = model.generate(pixels, encoder_attention_mask=mask, max_new_tokens=48)
        for read, index in zip(ids, chosen, strict=True):
            text = batches.lines.texts[index]
            errors += edits(model.processor.decode(read), text)
            total += len(text)
    return errors / total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--log", type=Path, default=Path("training.log"))
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(chosen.seed)

    log_file = chosen.log.open("w", buffering=1)

    def log(text: str) -> None:
        print(text, flush=True)
        print(text, file=log_file)

    model = new_model(chosen.seed).train()
    model.encoder.backbone.to(memory_format=torch.channels_last)
    lines = Lines(chosen.data)
    batches = Batches(lines, model, chosen.seed)
    parameters = list(model.parameters())
    log(f"{sum(p.numel() for p in parameters):,} parameters, {len(lines):,} lines, torch {torch.__version__}")
    decayed = [p for p in parameters if p.ndim > 1]
    plain = [p for p in parameters if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}], betas=(0.9, 0.98)
    )

    start, budget, step, seen, told = time.monotonic(), chosen.minutes * 60, 0, 0, 0.0
    means = [0.0, 0.0]
    while (progress := (time.monotonic() - start) / budget) < 1:
        for batch in batches.epoch(MAX_SHORT_CHARACTERS if progress < SHORT_PHASE_SHARE else None):
            before, progress = progress, (time.monotonic() - start) / budget
            if progress >= 1 or before < SHORT_PHASE_SHARE <= progress:
                break
            for group in optimizer.param_groups:
                group["lr"] = rate_at(progress)
            entropy, ctc = loss_of(model, batch)
            optimizer.zero_grad(set_to_none=True)
            (entropy + CTC_WEIGHT * ctc).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            step, seen = step + 1, seen + len(batch[0])
            means = [0.98 * m + 0.02 * float(v.detach()) for m, v in zip(means, (entropy, ctc), strict=True)]
            if progress - told >= 0.05:
                told = progress
                log(
                    f"{progress * budget / 60:6.1f} min  step {step:6}  lines {seen:8,}  rate {rate_at(progress):.2e}  "
                    f"loss {means[0]:.4f}  ctc {means[1]:.4f}  validation {validate(model, batches, 128):.2%}"
                )
    model.eval()
    minutes, rate = (time.monotonic() - start) / 60, validate(model, batches, VALIDATION_LINES)
    log(f"{minutes:6.1f} min  step {step:6}  lines {seen:8,}  validation {rate:.2%}")
    model.save_pretrained(chosen.output, weights_dtype="float16")
    log(table(evaluate(vedcore.load(chosen.output))))


if __name__ == "__main__":
    main()
