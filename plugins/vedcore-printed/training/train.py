"""Train `printed-line` on rendered lines, evaluate it on fonts and texts that it never saw, and save it.

    python make_data.py DATA --processes 2
    python train.py DATA --run RUN --output ../vedcore_printed/printed-line

The loop is that of `vedcore.training`: RUN gets its log and its checkpoints, and the same command goes on after a stop.
The loss is cross entropy plus 0.3 times a CTC loss on the encoder's columns; without the latter, attention hardly
aligns in so short a time. A twentieth of the steps is done on short lines before.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evaluate import evaluate, table
from make_data import Lines
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import vedcore
from vedcore.data import Row
from vedcore.training import TrainingResult, train
from vedcore_printed.encoder import COLUMN_WIDTH

CTC_WEIGHT = 0.3
REPLACED_INPUT_SHARE = 0.05  # decoder inputs replaced at random, so that the decoder attends to the image
MAX_SHORT_CHARACTERS = 12  # length of lines in the first phase
SHORT_PHASE_SHARE = 0.05  # share of the steps for the first phase
VALIDATION_LINES = 1_000  # the last lines of the data
SETTINGS = {
    "per_device_train_batch_size": 48,
    "learning_rate": 1.5e-3,
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.2,
    "weight_decay": 0.02,
    "adam_beta2": 0.98,
    "bf16": True,
    "eval_steps": 500,
    "eval_rows": 256,
    "generation_max_length": 48,
}


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


def as_it_is(image: Image.Image) -> Tensor:
    """A line that is normalised already, as the encoder takes it: (3, 32, W), W a multiple of 4."""
    line = torch.from_numpy(np.array(image.convert("L"), np.float32) / 255)
    return F.pad(line, (0, -line.shape[1] % COLUMN_WIDTH)).expand(3, -1, -1)


def rows_of(lines: Lines) -> list[Row]:
    """All lines as labelled images; their maps stay on disk."""
    held_back = len(lines) - min(VALIDATION_LINES, len(lines) // 10)
    return [
        Row(f"line-{i}", lines[i], text, f"lines[{i}]", split="train" if i < held_back else "validation")
        for i, text in enumerate(lines.texts)
    ]


def loss_of(model: vedcore.VisionEncoderDecoder, batch: Mapping[str, Tensor], num_items_in_batch: int) -> Tensor:
    """Cross entropy of the decoder and CTC loss of the encoder, each for a token.

    Args:
        model: in training.
        batch: ``pixel_values`` (N, 3, 32, W), ``encoder_attention_mask`` (N, W / 4) and ``labels`` (N, T).
        num_items_in_batch: tokens of the step.
    """
    labels, tokens, first = batch["labels"], model.token_ids, first_character(model)
    text = (labels != -100) & (labels != tokens.eos[0])
    noise = text & (torch.rand(labels.shape, device=labels.device) < REPLACED_INPUT_SHARE)
    inputs = torch.where(noise, torch.randint_like(labels, first, model.decoder.vocab_size), labels)
    inputs = F.pad(inputs, (1, -1), value=tokens.start).masked_fill_(F.pad(labels, (1, -1)) == -100, tokens.pad)
    out = model(**batch, decoder_input_ids=inputs, output_hidden_states=True, num_items_in_batch=num_items_in_batch)
    columns = out.encoder_hidden_states[0]  # (N, S, D)
    mask = batch.get("encoder_attention_mask")
    widths = torch.full((len(columns),), columns.shape[1]) if mask is None else mask.sum(1)
    ctc = F.ctc_loss(
        model.encoder.characters(columns).float().log_softmax(-1).transpose(0, 1),  # (S, N, 1 + C)
        labels[text] - first + 1,
        widths,
        text.sum(1),
        reduction="sum",
        zero_infinity=True,
    )
    loss: Tensor = out.loss + CTC_WEIGHT * ctc / num_items_in_batch
    return loss


def first_character(model: vedcore.VisionEncoderDecoder) -> int:
    """Id of the space, the first printable character; ids of the others follow in order."""
    return int(model.processor.tokenizer.token_to_id(" "))


def train_reader(lines: Lines, folder: Path, steps: int, seed: int = 0, **settings: Any) -> TrainingResult:
    """Train a new model on short lines, then on all.

    Args:
        lines: the last ones are held back.
        folder: of the runs ``short`` and ``all``.
        steps: of both together.
        seed: of the weights, and of the order of lines.
        settings: of training, in place of `SETTINGS`.
    """
    model = new_model(seed)
    model.encoder.backbone.to(memory_format=torch.channels_last)
    model.encoder.preprocess = as_it_is
    rows = rows_of(lines)
    short = [row for row in rows if len(row.text) <= MAX_SHORT_CHARACTERS]
    phases: dict[str, tuple[Sequence[Row], int]] = {}
    if first := round(SHORT_PHASE_SHARE * steps):
        phases["short"] = short, first
    phases["all"] = rows, steps - first
    for name, (chosen, count) in phases.items():
        result = train(
            model, chosen, folder / name, loss=loss_of, **{**SETTINGS, "max_steps": count, "seed": seed, **settings}
        )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--run", type=Path, default=Path("run"), help="folder of the log and the checkpoints")
    parser.add_argument("--steps", type=int, default=8_500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    result = train_reader(Lines(chosen.data), chosen.run, chosen.steps, chosen.seed)
    vedcore.load(result.best).save_pretrained(chosen.output, weights_dtype="float16")
    print(table(evaluate(vedcore.load(chosen.output))))


if __name__ == "__main__":
    main()
