"""SentencePiece models (``sentencepiece.bpe.model``, ``spiece.model``, ``tokenizer.model``), read without its package.

SentencePiece calls a token of its vocabulary a piece. The file is a protocol buffer, of which a tokenizer needs a few
fields, so the wire format is read here.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from vedcore.errors import CheckpointLimitError, TokenizerError

__all__ = ["SentencePieceModel", "parse_sentencepiece"]

MAX_PIECE_CHARACTERS = 1000
"""Limit for a single piece; SentencePiece's own default is 16."""
MAX_TOTAL_CHARACTERS = 8_000_000
"""Limit for all pieces together, as a merge is looked for at each character."""

UNIGRAM, BPE = 1, 2
"""Values of ``trainer_spec.model_type``."""
_CONTROL, _USER_DEFINED = 3, 4
_HINT = "copy the file again, or save the tokenizer with transformers, which writes a tokenizer.json"


@dataclass
class SentencePieceModel:
    """The fields of a SentencePiece file that a tokenizer needs.

    Args:
        pieces: texts and scores, in the order of their ids.
        declared: texts of control and user-defined pieces, in the order of their ids, and True for control pieces.
        algorithm: `UNIGRAM` or `BPE`.
        byte_fallback: whether characters without a piece become pieces of a byte each.
        unk_id: the id of the unknown piece; ``bos_id`` and ``eos_id`` are negative where there is no such piece.
        charsmap: the compiled normaliser; empty for none.
    """

    pieces: list[tuple[str, float]] = field(default_factory=list)
    declared: list[tuple[str, bool]] = field(default_factory=list)
    algorithm: int = UNIGRAM
    byte_fallback: bool = False
    unk_id: int = 0
    bos_id: int = 1
    eos_id: int = 2
    unk_piece: str = "<unk>"
    bos_piece: str = "<s>"
    eos_piece: str = "</s>"
    charsmap: bytes = b""

    def merges(self) -> list[tuple[str, str]]:
        """The pairs that BPE joins, best first: all that make a piece, ordered by its id, then by their lengths."""
        ids = {piece: i for i, (piece, _) in enumerate(self.pieces)}
        found: list[tuple[str, str]] = []
        for piece in ids:
            cuts = ((piece[:i], piece[i:]) for i in range(1, len(piece)))  # the shortest left side first
            found += [(left, right) for left, right in cuts if left in ids and right in ids]
        return found


def parse_sentencepiece(data: bytes, *, path: object) -> SentencePieceModel:
    """The model that ``data`` holds.

    Args:
        data: a serialised ``ModelProto``.
        path: where it came from, for messages.

    Raises:
        TokenizerError: not such a file, or a damaged or truncated one; no pieces, a piece given twice, a score that is
            not finite.
        CheckpointLimitError: a piece of more than 1,000 characters, or more than 8,000,000 in all.
    """
    model = SentencePieceModel()
    try:
        for number, value in _fields(data):
            if number == 1:
                _read_piece(model, _bytes(value))
            elif number == 2:
                _read_trainer(model, _bytes(value))
            elif number == 3:
                for inner, content in _fields(_bytes(value)):
                    if inner == 2:
                        model.charsmap = _bytes(content)
            elif not (4 <= number <= 5 or number >= 200):  # test samples, the denormaliser, extensions
                raise _Damaged(f"an unknown field {number}")
    except (ValueError, IndexError, struct.error) as error:
        reason = str(error) if isinstance(error, _Damaged) else "damaged or truncated"
        raise TokenizerError(
            f"not a SentencePiece model: {reason} (after piece {len(model.pieces):,})", path=path, hint=_HINT
        ) from None
    return _checked(model, path)


def _checked(model: SentencePieceModel, path: object) -> SentencePieceModel:
    if not model.pieces:
        raise TokenizerError("not a SentencePiece model: no pieces in it", path=path, hint=_HINT)
    longest, total = max(len(piece) for piece, _ in model.pieces), sum(len(piece) for piece, _ in model.pieces)
    if longest > MAX_PIECE_CHARACTERS or total > MAX_TOTAL_CHARACTERS:
        raise CheckpointLimitError(
            f"a piece of {longest:,} and {total:,} characters in all, above the limit of {MAX_PIECE_CHARACTERS:,} or "
            f"{MAX_TOTAL_CHARACTERS:,}",
            path=path,
            hint=_HINT,
        )
    seen: set[str] = set()
    for i, (piece, score) in enumerate(model.pieces):
        if piece in seen or not math.isfinite(score):
            reason = f"has the score {score}" if piece not in seen else "is given twice"
            raise TokenizerError(f"piece {i} {piece[:40]!r} {reason}", path=path, hint=_HINT)
        seen.add(piece)
    if model.algorithm not in (UNIGRAM, BPE):
        raise TokenizerError(
            f"algorithm {model.algorithm} (words or characters), but only 1 (unigram) and 2 (BPE) can be read",
            path=path,
            field="trainer_spec.model_type",
            hint="put the tokenizer.json of another tokenizer there",
        )
    return model


class _Damaged(ValueError):
    """A defect of the bytes; the text says which."""


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values of a message's fields; the value is an int for a varint, else its bytes."""
    offset, end = 0, len(data)
    while offset < end:
        tag, offset = _varint(data, offset)
        wire_type = tag & 7
        if wire_type == 0:
            value, offset = _varint(data, offset)
            yield tag >> 3, value
            continue
        if wire_type == 2:
            length, offset = _varint(data, offset)
        elif wire_type in (1, 5):
            length = 8 if wire_type == 1 else 4
        else:
            raise _Damaged(f"a field of wire type {wire_type} at byte {offset:,}")
        if length > end - offset:
            raise _Damaged(f"{length:,} bytes announced where {end - offset:,} are left")
        yield tag >> 3, data[offset : offset + length]
        offset += length


def _varint(data: bytes, offset: int) -> tuple[int, int]:
    """The varint at ``offset``, and the offset after it."""
    byte = data[offset]
    if byte < 128:
        return byte, offset + 1
    value = 0
    for shift in range(0, 70, 7):
        byte = data[offset]
        offset += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, offset
    raise _Damaged(f"a number of more than ten bytes at byte {offset:,}")


def _read_piece(model: SentencePieceModel, data: bytes) -> None:
    text, score, piece_type = "", 0.0, 1
    for number, value in _fields(data):
        if number == 1:
            text = _bytes(value).decode()
        elif number == 2:
            (score,) = struct.unpack("<f", _bytes(value))
        elif number == 3:
            piece_type = _int(value)
    if not text:
        raise _Damaged("a piece without text")
    model.pieces.append((text, score))
    if piece_type in (_CONTROL, _USER_DEFINED):
        model.declared.append((text, piece_type == _CONTROL))


def _read_trainer(model: SentencePieceModel, data: bytes) -> None:
    for number, value in _fields(data):
        match number:
            case 3:
                model.algorithm = _int(value)
            case 35:
                model.byte_fallback = bool(value)
            case 40:
                model.unk_id = _int(value)
            case 41:
                model.bos_id = _int(value)
            case 42:
                model.eos_id = _int(value)
            case 45:
                model.unk_piece = _bytes(value).decode() or model.unk_piece
            case 46:
                model.bos_piece = _bytes(value).decode() or model.bos_piece
            case 47:
                model.eos_piece = _bytes(value).decode() or model.eos_piece


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise _Damaged("a number where bytes were expected")
    return value


def _int(value: int | bytes) -> int:
    """A signed whole number; the wire format has it as an unsigned number of 64 bits."""
    if not isinstance(value, int):
        raise _Damaged("bytes where a number was expected")
    return value - (1 << 64) if value >> 63 else value
