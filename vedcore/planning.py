"""What a plan says of a model that is not there yet."""

from __future__ import annotations

from typing import Any

from vedcore.config import Config, TokenIds

__all__ = ["PartPlan", "Plan", "in_units"]


class PartPlan(Config):
    """One part of a plan."""

    name: str
    """The family."""
    owner: str
    """The distribution that brought it, and its version."""
    config: dict[str, Any]
    """All of its fields."""
    hidden_size: int
    """Width of what it gives; for a decoder, its own width."""
    parameters: int
    """Number of its parameters, shared ones once."""


class Plan(Config):
    """What a model will be, before anything is allocated; ``str(plan)`` is a table."""

    encoder: PartPlan
    """The vision encoder."""
    projector: PartPlan
    """What stands between."""
    decoder: PartPlan
    """The text decoder."""
    image_size: tuple[int, int]
    """Height and width in pixels of what the encoder sees."""
    image_tokens: int
    """Encoder tokens an image gives, after the projector."""
    vocab_size: int
    """Token ids of the decoder."""
    max_positions: int | None
    """Tokens a text may have."""
    token_ids: TokenIds
    """Start, end and padding."""
    parameters: int
    """All of them."""
    fresh_parameters: int
    """Those that start at random; a checkpoint that has cross-attention leaves fewer than are counted here."""
    dtype: str
    """Type of the parameters."""
    weight_bytes: int
    """Bytes of the parameters."""
    cache_bytes_per_image: int
    """Bytes of cross-attention keys and values of one image, whatever the beams."""
    cache_bytes_per_token: int
    """Bytes of self-attention keys and values of one token of one text."""
    notes: tuple[str, ...] = ()
    """What is worth knowing before training."""

    def __str__(self) -> str:
        (height, width), ids, positions = self.image_size, self.token_ids, self.max_positions or "any number"
        rows = [
            ("encoder", _describe(self.encoder), f"{height} x {width} px -> {self.image_tokens} tokens"),
            (
                "projector", _describe(self.projector),
                f"width {self.encoder.hidden_size} -> {self.projector.hidden_size}",
            ),
            ("decoder", _describe(self.decoder), f"vocabulary {self.vocab_size:,}, positions {positions}"),
        ]  # fmt: skip
        widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
        lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in rows]
        image, token = in_units(self.cache_bytes_per_image), in_units(self.cache_bytes_per_token)
        lines += [
            f"token ids   start {ids.start}, eos {', '.join(map(str, ids.eos)) or None}, pad {ids.pad}",
            f"parameters  {self.parameters:,} ({self.fresh_parameters:,} fresh), {in_units(self.weight_bytes)}",
            f"caches      {image} an image, {token} a token of a text, as {self.dtype}",
            *(f"note        {note}" for note in self.notes),
        ]
        return "\n".join(lines)


def _describe(part: PartPlan) -> str:
    return f"{part.config.get('variant') or part.name} ({part.parameters:,} parameters)"


def in_units(count: int) -> str:
    """A number of bytes for people."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"
