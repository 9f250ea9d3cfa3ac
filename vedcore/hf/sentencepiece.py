"""SentencePiece models (``sentencepiece.bpe.model``, ``spiece.model``, ``tokenizer.model``), read without its package.

The file is a protocol buffer. What a tokenizer needs of it is a few fields, so a reader of the wire format is enough.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from vedcore.errors import CheckpointLimitError, TokenizerError

__all__ = ["SentencePieceModel", "parse_sentencepiece"]

MAX_PIECE = 1000
"""Characters of one piece; SentencePiece itself makes 16 unless told otherwise."""
MAX_CHARACTERS = 8_000_000
"""Characters of all pieces, as each is a place where a merge may be."""

UNIGRAM, BPE = 1, 2
_CONTROL, _USER_DEFINED = 3, 4
_HINT = "copy the file again, or save the tokenizer with transformers, which writes a tokenizer.json"


@dataclass
class SentencePieceModel:
    """What a SentencePiece file says.

    Args:
        pieces: texts and scores, in the order of their ids.
        declared: control and user-defined pieces, and whether each is a control; their ids are in order too.
        algorithm: `UNIGRAM` or `BPE`.
        byte_fallback: whether characters without a piece become pieces of bytes.
        unk_id: the id of the unknown piece; ``bos_id`` and ``eos_id`` are below 0 where there is none.
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
        """The pairs that BPE joins, best first: all that give a piece, ordered by its id, then by their lengths."""
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
        TokenizerError: damaged, cut, no such file; no pieces, one given twice, a score that is no number.
        CheckpointLimitError: pieces of more than 1,000 characters, or more than 8,000,000 in all.
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
            elif not (4 <= number <= 5 or number >= 200):  # samples and texts to test it with, extensions
                raise _Damaged(f"a field {number}, which there is not")
    except (ValueError, IndexError, struct.error) as error:
        reason = str(error) if isinstance(error, _Damaged) else "it is damaged or cut"
        raise TokenizerError(
            f"not a SentencePiece model: {reason} (after piece {len(model.pieces):,})", path=path, hint=_HINT
        ) from None
    return _checked(model, path)


def _checked(model: SentencePieceModel, path: object) -> SentencePieceModel:
    if not model.pieces:
        raise TokenizerError("not a SentencePiece model: no pieces in it", path=path, hint=_HINT)
    longest, total = max(len(piece) for piece, _ in model.pieces), sum(len(piece) for piece, _ in model.pieces)
    if longest > MAX_PIECE or total > MAX_CHARACTERS:
        raise CheckpointLimitError(
            f"a piece of {longest:,} and {total:,} characters in all, above {MAX_PIECE:,} or {MAX_CHARACTERS:,}",
            path=path,
            hint="is it the right file?",
        )
    seen: set[str] = set()
    for i, (piece, score) in enumerate(model.pieces):
        if piece in seen or not math.isfinite(score):
            reason = f"has the score {score}" if piece not in seen else "is given twice"
            raise TokenizerError(f"piece {i} {piece[:40]!r} {reason}", path=path, hint=_HINT)
        seen.add(piece)
    if model.algorithm not in (UNIGRAM, BPE):
        raise TokenizerError(
            f"algorithm {model.algorithm} (of words or characters), but 1 (unigram) and 2 (BPE) are what can be read",
            path=path,
            field="trainer_spec.model_type",
            hint="use another tokenizer",
        )
    return model


class _Damaged(ValueError):
    """What is wrong with the bytes, in words."""


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values of a message's fields: whole numbers, or the bytes of everything else."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        if kind == 2:
            length, at = _varint(data, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise _Damaged(f"a field of kind {kind} at byte {at:,}")
        if length > end - at:
            raise _Damaged(f"{length:,} bytes announced where {end - at:,} are left")
        yield tag >> 3, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    byte = data[at]
    if byte < 128:
        return byte, at + 1
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise _Damaged(f"a number of more than ten bytes at byte {at:,}")


def _read_piece(model: SentencePieceModel, data: bytes) -> None:
    text, score, kind = "", 0.0, 1
    for number, value in _fields(data):
        if number == 1:
            text = _bytes(value).decode()
        elif number == 2:
            (score,) = struct.unpack("<f", _bytes(value))
        elif number == 3:
            kind = _int(value)
    if not text:
        raise _Damaged("a piece without text")
    model.pieces.append((text, score))
    if kind in (_CONTROL, _USER_DEFINED):
        model.declared.append((text, kind == _CONTROL))


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
        raise _Damaged("a number where bytes were due")
    return value


def _int(value: int | bytes) -> int:
    """A whole number of 32 bits with a sign, which the wire holds in 64."""
    if not isinstance(value, int):
        raise _Damaged("bytes where a number was due")
    return value - (1 << 64) if value >> 63 else value
