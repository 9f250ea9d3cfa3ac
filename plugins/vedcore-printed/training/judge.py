"""Rendered lines for evaluation, in font families and from texts that training never sees.

The texts are licences and copyright notes of Debian; the families are those that ``fonts.py`` holds out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from fonts import Face, by_family, find_faces
from PIL import Image
from render import CONDITIONS, pick_style, render

__all__ = ["JudgedLine", "judge_set"]


@dataclass(frozen=True)
class JudgedLine:
    """One image with its text; ``kind`` is ``lines`` or ``words``."""

    image: Image.Image
    text: str
    condition: str
    kind: str


@cache
def _source() -> list[str]:
    paths = sorted(path for path in Path("/usr/share/common-licenses").iterdir() if not path.is_symlink())
    paths += sorted(Path("/usr/share/doc").glob("lib*/copyright"))
    lines: list[str] = []
    for path in paths:
        for line in path.read_text(errors="ignore").splitlines():
            line = re.sub(r"\s+", " ", line).strip(" *#")
            # Sentences only: some of these notes are lists of files.
            if len(line) >= 30 and line.count(" ") > len(line) / 10 and line.isascii() and line.isprintable():
                lines.append(line)
    return sorted(set(lines))


@cache
def _families() -> dict[str, list[Face]]:
    return by_family(find_faces("judge_fonts.txt", judging=True)[0])


def _line(rng: np.random.Generator) -> str:
    words = _source()[int(rng.integers(len(_source())))].split(" ")
    length, start = int(rng.integers(3, 41)), int(rng.integers(len(words) // 2))
    text = " ".join(words[start:])
    return text[: length + 1].rsplit(" ", 1)[0][:40] if len(text) > length else text


def _word(rng: np.random.Generator) -> str:
    words = _source()[int(rng.integers(len(_source())))].split(" ")
    return words[int(rng.integers(len(words)))][:24]


def judge_set(lines: int = 200, words: int = 100, seed: int = 7) -> list[JudgedLine]:
    """For each condition, ``lines`` lines of 3 to 40 characters and ``words`` single words; fixed by the seed."""
    rng = np.random.default_rng(seed)
    judged: list[JudgedLine] = []
    for condition in CONDITIONS:
        for kind, count in (("lines", lines), ("words", words)):
            done = 0
            while done < count:
                text = _line(rng) if kind == "lines" else _word(rng)
                if len(text) < 3 or not re.search(r"[A-Za-z0-9]{2}", text):
                    continue
                style = pick_style(rng, _families(), condition, wide=False)
                judged.append(JudgedLine(render(text, style, rng), text, condition, kind))
                done += 1
    return judged
