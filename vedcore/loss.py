"""The loss of a text: labels checked, shifted into the decoder's input, and compared with the logits.

Shape letters: B rows of text, T text tokens, V vocabulary size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from vedcore.config import MAX_VOCAB_SIZE
from vedcore.config_files.plain import short
from vedcore.errors import UsageError, warn_caller
from vedcore.layers.tracing import is_traced

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["check_labels", "cross_entropy", "shift_tokens_right"]


def shift_tokens_right(labels: Tensor, pad_token_id: int, start_token_id: int) -> Tensor:
    """The decoder's input for ``labels``: the start id, then the labels but the last; -100 becomes the pad id.

    As transformers' ``VisionEncoderDecoderModel`` does it.

    Args:
        labels: (B, T).
        pad_token_id: replaces -100.
        start_token_id: comes first.

    Returns:
        (B, T).
    """
    shifted = F.pad(labels, (1, -1), value=start_token_id)
    return shifted.masked_fill(shifted == -100, pad_token_id)


def check_labels(
    labels: Tensor, vocab_size: int, start_token_id: int | None = None, tokenizer: Tokenizer | None = None
) -> None:
    """Refuse labels that are not (B, T) ids of the vocabulary, or -100; warn where one begins with the start id.

    Ids are looked at only on a CPU, as a GPU would have to be waited for.

    Args:
        labels: (B, T).
        vocab_size: number of ids.
        start_token_id: comes before the labels in the decoder's input; None if there is none.
        tokenizer: names an id beyond the vocabulary.

    Raises:
        UsageError: saying what they are.
    """
    if labels.ndim != 2 or 0 in labels.shape or labels.dtype != torch.long:
        raise UsageError(
            f"labels of shape {tuple(labels.shape)} and type {labels.dtype}",
            field="labels",
            hint="give (B, T) of torch.long, at least one of each",
        )
    if labels.device.type != "cpu" or is_traced():
        return
    counted = labels[labels != -100]
    if not counted.numel():
        return
    low, high = int(counted.min()), int(counted.max())
    if not 0 <= low <= high < vocab_size:
        token = None if tokenizer is None or high < vocab_size else tokenizer.id_to_token(high)
        named = f" ({short(token)})" if token else ""
        raise UsageError(
            f"labels run from {low} to {high}{named}, but the vocabulary has {vocab_size}",
            field="labels",
            hint="use -100 for what is to be ignored"
            + (
                f"; for added tokens first call model.resize_vocabulary({high + 1})"
                if vocab_size <= high < MAX_VOCAB_SIZE
                else ""
            ),
        )
    if start_token_id is not None and labels.shape[1] > 1:
        doubled = (labels[:, 0] == start_token_id) & (labels[:, 1] != -100)  # a lone start id may be an end id too
        if bool(doubled.any()):
            warn_caller(
                f"labels begin with the start id {start_token_id}, which the model puts before them itself, so that it "
                "comes twice; leave it out"
            )


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0, items: int | Tensor | None = None) -> Tensor:
    """The mean cross entropy of the labels that count, in float32.

    Args:
        logits: (B, T, V).
        labels: (B, T); -100 does not count.
        smoothing: share of the target that is spread over the vocabulary.
        items: divides the sum, in place of the number of labels that count.

    Raises:
        UsageError: labels of another shape than the logits, or smoothing outside 0 to 1.
    """
    if labels.shape != logits.shape[:2]:
        raise UsageError(
            f"labels of shape {tuple(labels.shape)} for logits of {tuple(logits.shape[:2])}",
            field="labels",
            hint="give one label for each token of the decoder's input",
        )
    if not 0.0 <= smoothing <= 1.0:
        raise UsageError(f"{smoothing} is not from 0 to 1", field="label_smoothing", hint="0.1 is common, 0 is none")
    loss = F.cross_entropy(
        logits.float().flatten(0, 1),  # (B, T, V) -> (B*T, V)
        labels.flatten().to(logits.device),
        ignore_index=-100,
        label_smoothing=smoothing,
        reduction="mean" if items is None else "sum",
    )
    return loss if items is None else loss / items
