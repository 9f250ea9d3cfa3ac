"""A few rows learnt by a copy of a model: what cannot learn eight rows learns no more of them."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from vedcore.data.doctor.findings import Finding, Overfit, Sample

__all__ = ["overfit", "overfit_finding"]

LEARNING_RATE = 0.1
"""Divided by the decoder's width: a larger model takes smaller steps."""
MAX_LEARNING_RATE = 2e-3
ENCODER = 10.0
"""Divides the encoder's rate: its batch norms keep their statistics, which faster changes make wrong."""
WARMUP = 10
"""Steps over which the rate grows."""
PATIENCE = 25
"""Steps from a look at what the copy writes to the next."""


def overfit(model: Any, samples: Sequence[Sample], letters: str, steps: int, seconds: float) -> Overfit:
    """Train a copy of a model on a few rows, until it writes their labels.

    Args:
        model: stays as it is.
        samples: the rows.
        letters: the characters that the tokenizer lacks.
        steps: limit of optimizer steps.
        seconds: limit of time.
    """
    started = time.monotonic()
    with torch.random.fork_rng(), torch.enable_grad():
        learner = copy.deepcopy(model).float()
        learner.extend_alphabet(letters)
        for part in ("encoder", "projector", "decoder"):
            learner.unfreeze(part)
        learner.eval()  # no dropout
        rows = [{"pixel_values": each.pixels, "labels": list(each.ids)} for each in samples]
        batch = learner.processor.collate(rows).to(learner.device)
        rate = min(MAX_LEARNING_RATE, LEARNING_RATE / learner.decoder.hidden_size)
        parts = {"encoder": rate / ENCODER, "projector": rate, "decoder": rate}
        groups = [{"params": list(getattr(learner, part).parameters()), "rate": each} for part, each in parts.items()]
        optimizer = torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=0.0)
        loss, reason, read, step, look = float("nan"), "steps", 0, 0, 0
        for step in range(1, steps + 1):
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * min(1.0, step / WARMUP)
            out = learner(**batch)
            loss = float(out.loss.detach())
            if loss != loss or loss == float("inf"):
                reason = "loss"
                break
            right = (out.logits.argmax(-1) == batch["labels"]) | (batch["labels"] == -100)
            is_late = time.monotonic() - started > seconds
            if is_late or step == steps or (bool(right.all()) and step >= look):
                read, look = _read_back(learner, batch, samples), step + PATIENCE
                reason = "read back" if read == len(samples) else "time" if is_late else "steps"
                if reason != "steps":
                    break
            optimizer.zero_grad()
            out.loss.backward()
            nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
            optimizer.step()
    return Overfit(len(samples), read, step, time.monotonic() - started, loss, reason)


def _read_back(learner: Any, batch: dict[str, Any], samples: Sequence[Sample]) -> int:
    """Rows whose label the model writes exactly, with its own options."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    ids = learner.generate(**inputs, max_new_tokens=batch["labels"].shape[1] + 4)
    written = learner.processor.batch_decode(ids)
    wanted = learner.processor.batch_decode([each.ids for each in samples])
    return sum(one == other for one, other in zip(written, wanted, strict=True))


def overfit_finding(found: Overfit) -> Finding | None:
    """The finding of rows that are not read back."""
    if found.reason == "read back":
        return None
    remedies = {
        "loss": "check the weights and the images for values that are not finite",
        "time": "give it more time, overfit_seconds= of vedcore.data.examine, or a smaller model",
        "steps": "look at the batch that --output draws; run `vedcore check MODEL`; check the options of generation",
    }
    return Finding("overfits", str(found), remedies[found.reason])
