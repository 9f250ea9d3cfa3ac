"""The plots of an evaluation, by matplotlib (extra ``train``)."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from vedcore.evaluation.confidence import BINS, Confidence
from vedcore.extras import need

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["confidence_plots"]

THEMES = {"light": "default", "dark": "dark_background"}
"""The colours of a page, and matplotlib's styles for them."""
DOTS = 120
"""Pixels an inch."""


def confidence_plots(confidence: Confidence, theme: str) -> tuple[bytes, bytes]:
    """A reliability plot, and the error against the share of rejected rows, as PNG.

    Args:
        confidence: to draw.
        theme: a key of `THEMES`.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    need("matplotlib.figure", "train", "a plot")
    from matplotlib import style

    with style.context(THEMES[theme]):
        return _drawn(_reliability, confidence), _drawn(_rejection, confidence)


def _drawn(draw: Any, confidence: Confidence) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    draw(figure.add_subplot(), confidence)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DOTS)
    return file.getvalue()


def _reliability(axes: Axes, confidence: Confidence) -> None:
    bins = confidence.bins
    middles = [(each.low + each.high) / 2 for each in bins]
    axes.bar(middles, [each.exact for each in bins], 0.9 / BINS, color="tab:blue", alpha=0.6, label="exact rows")
    axes.plot([0, 1], [0, 1], "--", color="tab:gray", label="as confident as right")
    right = [max(0.0, 1 - each.cer) for each in bins]
    axes.plot([each.confidence for each in bins], right, "o-", color="tab:orange", label="right characters")
    for middle, each in zip(middles, bins, strict=True):
        axes.annotate(f"{each.rows:,}", (middle, 0), xytext=(0, 2), textcoords="offset points", ha="center", fontsize=7)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence", ylabel="share")
    _legend(axes)


def _rejection(axes: Axes, confidence: Confidence) -> None:
    rejected = [100 * (1 - each.share) for each in confidence.curve]
    axes.step(rejected, [100 * each.wrong for each in confidence.curve], where="mid", label="rows with an error")
    axes.step(rejected, [100 * each.cer for each in confidence.curve], where="mid", label="wrong characters (CER)")
    axes.axhline(100 * confidence.target_error, linestyle="--", color="tab:gray", label="wanted error")
    if confidence.reject is not None:
        axes.plot([100 * (1 - confidence.reject.share)], [100 * confidence.reject.cer], "o", color="tab:red")
    axes.set(xlim=(0, 100), ylim=(0, None), xlabel="rejected rows, %", ylabel="error of the others, %")
    _legend(axes)


def _legend(axes: Axes) -> None:
    """The legend above the plot, where it hides nothing."""
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, fontsize=8, frameon=False)
