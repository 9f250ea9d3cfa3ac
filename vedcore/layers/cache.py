"""The key-value cache of a decoder, kept between the steps of a generation.

Shape letters: B rows of text, N images (B is a multiple of N), H heads of keys and values, K head size, T new tokens,
L tokens in the cache, C capacity, S encoder tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vedcore.layers.tracing import is_traced

__all__ = ["DecoderCache", "LayerCache"]

MIN_GROWTH_TOKENS = 64
"""Tokens by which a full buffer grows at least."""


class LayerCache:
    """Keys and values of one layer, of the text and of the image.

    Args:
        capacity: as `DecoderCache` takes it.
    """

    def __init__(self, capacity: int | None) -> None:
        self.capacity = capacity
        self.length = 0
        self.keys: Tensor | None = None  # (B, H, C, K)
        self.values: Tensor | None = None
        self.cross: tuple[Tensor, Tensor] | None = None  # each (N, H, S, K): one copy per image, not per beam

    def update(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append ``keys`` and ``values``, (B, H, T, K) each, and return all tokens', (B, H, L, K) each."""
        start, self.length = self.length, self.length + keys.shape[2]
        if is_traced() or (torch.is_grad_enabled() and keys.requires_grad):  # a graph must not write in place
            self.keys, self.values = (
                new if old is None else torch.cat([old[:, :, :start], new], 2)
                for old, new in ((self.keys, keys), (self.values, values))
            )
            return self.keys, self.values
        if self.keys is None or self.values is None or self.keys.shape[2] < self.length or _is_read_only(self.keys):
            room = self.length  # no spare room after prefill: `reorder` to more rows would allocate again
            if start:
                room = max(2 * start, self.length + MIN_GROWTH_TOKENS)  # doubling keeps copies few
            if self.capacity is not None and self.capacity >= self.length:
                room = min(room, self.capacity)
            self.keys, self.values = (
                self._grown(old, new, start, room) for old, new in ((self.keys, keys), (self.values, values))
            )
        self.keys[:, :, start : self.length] = keys
        self.values[:, :, start : self.length] = values
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def since(self, length: int) -> tuple[Tensor, Tensor] | None:
        """Keys and values (B, H, T, K) of the tokens from number ``length`` on; None where there are none."""
        if self.keys is None or self.values is None:
            return None
        return self.keys[:, :, length : self.length], self.values[:, :, length : self.length]

    def reorder(self, index: Tensor, start: int = 0) -> None:
        """Make row ``i`` continue row ``index[i]``; the keys and values of the images stay as they are.

        Only tokens from ``start`` on are copied: the rows share those before.
        """
        if self.keys is not None and self.values is not None:
            self.keys, self.values = (
                _replaced(buffer, buffer[:, :, start : self.length].index_select(0, index), start)
                for buffer in (self.keys, self.values)
            )

    def select_images(self, images: Tensor) -> None:
        """Keep the keys and values of these images."""
        if self.cross is not None:
            keys, values = self.cross
            self.cross = keys.index_select(0, images), values.index_select(0, images)

    def crop(self, length: int) -> None:
        """Drop all tokens but the first ``length``."""
        self.length = min(self.length, length)

    def trim(self) -> None:
        """Give up spare room: ``keys`` and ``values`` are then (B, H, L, K)."""
        if self.keys is not None and self.values is not None and self.keys.shape[2] != self.length:
            self.keys, self.values = self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def gather(self, columns: Tensor) -> None:
        """Keep of each row the tokens at ``columns``, (B, L') indices, in that order."""
        if self.keys is not None and self.values is not None:
            seen, self.length = self.length, columns.shape[1]
            self.keys, self.values = (
                self._gathered(self.keys, columns, seen),
                self._gathered(self.values, columns, seen),
            )

    @staticmethod
    def _gathered(buffer: Tensor, columns: Tensor, length: int) -> Tensor:
        where = columns[:, None, :, None].expand(-1, buffer.shape[1], -1, buffer.shape[3])  # (B, H, L', K)
        return _replaced(buffer, buffer[:, :, :length].gather(2, where))

    @staticmethod
    def _grown(old: Tensor | None, new: Tensor, length: int, room: int) -> Tensor:
        buffer = new.new_empty(new.shape[0], new.shape[1], room, new.shape[3])  # (B, H, C, K)
        if old is not None:
            buffer[:, :, :length] = old[:, :, :length]
        return buffer


def _is_read_only(buffer: Tensor) -> bool:
    """Whether torch forbids writing: the buffer was made in inference mode, and that is off now."""
    return not torch.is_inference_mode_enabled() and buffer.is_inference()


def _replaced(buffer: Tensor, seen: Tensor, start: int = 0) -> Tensor:
    """``buffer`` (B, H, C, K) with ``seen`` (B', H, L, K) from token ``start`` on; in place where B' is at most B."""
    rows, length = seen.shape[0], seen.shape[2]
    if seen.requires_grad:  # an in-place write would break the autograd graph
        return torch.cat([buffer[:, :, :start], seen], 2) if start else seen
    if rows > len(buffer):
        buffer = buffer.new_empty(rows, *buffer.shape[1:])
    elif _is_read_only(buffer):
        buffer = buffer.clone()
    buffer[:rows, :, start : start + length] = seen
    return buffer[:rows]


class DecoderCache:
    """Keys and values of all layers of one decoder over one batch of texts.

    Args:
        num_layers: layers of the decoder.
        capacity: tokens that are expected at most, so that buffers do not grow past it in advance; None where unknown.
    """

    def __init__(self, num_layers: int, capacity: int | None = None) -> None:
        self.layers = [LayerCache(capacity) for _ in range(num_layers)]
        self.attention_mask: Tensor | None = None
        """(B, L) bool, False where a token is padding; None when none is."""
        self.positions: Tensor | None = None
        """(B, 1) tokens of each row that have taken a position; None when that is ``length`` in every row."""
        self.encoder_mask: Tensor | None = None
        """(N, S) bool, False where an encoder token shows padding."""
        self.key_positions: Tensor | None = None
        """(1 or B, L) positions of the tokens, where the decoder declares `TextDecoder.relative_positions`."""

    @property
    def length(self) -> int:
        """L, tokens in the cache, padding included."""
        return self.layers[0].length if self.layers else 0

    @property
    def rows(self) -> int:
        """B, rows of text; 0 while the cache is empty."""
        keys = self.layers[0].keys if self.layers else None
        return 0 if keys is None else keys.shape[0]

    @property
    def heads(self) -> int:
        """H of the first layer; 0 while the cache is empty."""
        keys = self.layers[0].keys if self.layers else None
        return 0 if keys is None else keys.shape[1]

    def get_seq_length(self) -> int:
        """``length``, by transformers' name."""
        return self.length

    def since(self, length: int) -> tuple[tuple[Tensor, Tensor] | None, ...]:
        """Each layer's keys and values (B, H, T, K) of the tokens from number ``length`` on, as views."""
        return tuple(layer.since(length) for layer in self.layers)

    def extend(self, new: tuple[tuple[Tensor, Tensor] | None, ...]) -> None:
        """Append each layer's keys and values (B, H, T, K) of new tokens; None of a layer that has none."""
        for layer, keys_and_values in zip(self.layers, new, strict=True):
            if keys_and_values is not None:
                layer.update(*keys_and_values)

    def reorder(self, index: Tensor, start: int = 0) -> None:
        """Make each row ``i`` continue row ``index[i]``.

        Args:
            index: (B',) row numbers. A row must stay with its image: ``B'`` is a multiple of N, and image ``n`` has
                the rows from ``n * B' / N`` up to ``(n + 1) * B' / N``.
            start: number of first tokens that all rows of an image share, which are not copied; 0 unless ``B'`` is B.
        """
        for layer in self.layers:
            layer.reorder(index, start)
        if self.attention_mask is not None:
            self.attention_mask = self.attention_mask.index_select(0, index)
        if self.positions is not None:
            self.positions = self.positions.index_select(0, index)
        if self.key_positions is not None and self.key_positions.shape[0] > 1:
            self.key_positions = self.key_positions.index_select(0, index)

    def select(self, rows: Tensor, images: Tensor) -> None:
        """Keep some rows of text and their images, and drop all others.

        Args:
            rows: (B',) rows to keep; those of an image stay adjacent.
            images: (N',) images to keep; ``B'`` is a multiple of N'.
        """
        self.reorder(rows)
        for layer in self.layers:
            layer.select_images(images)
        if self.encoder_mask is not None:
            self.encoder_mask = self.encoder_mask.index_select(0, images)

    def crop(self, length: int) -> None:
        """Drop all tokens but the first ``length``; the caller sets ``positions`` where they are counted."""
        for layer in self.layers:
            layer.crop(length)
        if self.attention_mask is not None:
            self.attention_mask = self.attention_mask[:, :length]
        if self.key_positions is not None:
            self.key_positions = self.key_positions[:, :length]

    def gather(self, columns: Tensor) -> None:
        """Keep of each row the tokens at ``columns``, (B, L') indices, in that order."""
        for layer in self.layers:
            layer.gather(columns)
        if self.attention_mask is not None:
            self.attention_mask = self.attention_mask.gather(1, columns)
        if self.key_positions is not None:
            self.key_positions = self.key_positions.expand(len(columns), -1).gather(1, columns)
