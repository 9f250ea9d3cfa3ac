"""Find font faces to render lines with: faces of listed Debian packages that have all 95 glyphs, readably.

``python fonts.py`` prints the accepted faces, and the refused ones with the reason.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFont

HERE = Path(__file__).parent
PRINTABLE = "".join(chr(code) for code in range(32, 127))

HELD_OUT_FAMILIES = re.compile(
    r"lato\b|carlito|\binter\b|vollkorn|roboto slab|jetbrains|mononoki|cabin|old ?standard|comic neue"
    r"|\bpt\b|\bpt[ _-]?(sans|serif|mono)|quicksand|libertine|libertinus|eb ?garamond",
    re.IGNORECASE,
)
"""Families reserved for evaluation, and families with the same design."""

NOTO_LATIN_FAMILIES = re.compile(r"noto (sans|serif)( display)?( condensed| mono)?|noto mono", re.IGNORECASE)
WEIGHTS = re.compile(
    r"\b(light|medium|(semi|demi|extra)? ?bold|black|heavy|(semi)? ?condensed|italic)\b", re.IGNORECASE
)
UNWANTED_NAMES = re.compile(
    r"thin\b|hairline|ultra ?light|extra ?light|small ?caps|\bsc\b|caps\b|smcp|symbol|dingbat|initial"
    r"|ornament|math|swash|outline|inline|shadow|unicase|upright|dunhill|fibonacci|funny|alternate"
    r"|ultra ?condensed|extra ?condensed|chancery|z003|chorus|phon|unslanted|size[0-9]|nonunicode"
    r"|integrals|variants|keyboard|emoji|backslanted|webfont",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Face:
    """One font file, with the family and style recorded in it."""

    path: str
    family: str
    style: str

    @property
    def slanted(self) -> bool:
        return bool(re.search(r"italic|oblique|slanted|kursiv", f"{self.family} {self.style}", re.IGNORECASE))


def packages(name: str) -> list[str]:
    """Package names from a list beside this file."""
    return (HERE / name).read_text().split()


def find_faces(listed: str, *, judging: bool = False) -> tuple[list[Face], dict[str, str]]:
    """Accepted faces of the packages in a list, and ``{path: reason}`` of the refused ones."""
    output = subprocess.run(["dpkg", "-L", *packages(listed)], capture_output=True, text=True, check=True).stdout
    files = sorted({line for line in output.splitlines() if re.search(r"\.(otf|ttf|ttc)$", line, re.IGNORECASE)})
    known_glyphs = _KnownGlyphs()
    taken: list[Face] = []
    refused: dict[str, str] = {}
    names: set[tuple[str, str]] = set()
    for path in files:
        try:
            family, style = ImageFont.truetype(path, 40).getname()
        except OSError as error:
            refused[path] = f"not readable: {error}"
            continue
        face = Face(path, family or Path(path).stem, style or "Regular")
        reason = _unwanted_name(face, judging) or ("seen before" if (face.family, face.style) in names else "")
        reason = reason or known_glyphs.objection(path)
        if reason:
            refused[path] = f"{face.family} {face.style}: {reason}"
        else:
            taken.append(face)
            names.add((face.family, face.style))
    return taken, refused


def by_family(faces: list[Face]) -> dict[str, list[Face]]:
    """Faces grouped by family; weights that are part of a family's name do not split it."""
    groups: dict[str, list[Face]] = {}
    for face in faces:
        plain = WEIGHTS.sub("", face.family)
        groups.setdefault(" ".join(plain.split()), []).append(face)
    return groups


def _unwanted_name(face: Face, judging: bool) -> str:
    full = f"{face.family} {face.style} {Path(face.path).stem}"
    if bool(HELD_OUT_FAMILIES.search(full)) != judging:
        return "a family reserved for evaluation" if not judging else "not a family reserved for evaluation"
    if face.family.startswith("Noto") and not NOTO_LATIN_FAMILIES.fullmatch(WEIGHTS.sub("", face.family).strip()):
        return "Noto for another script"
    found = UNWANTED_NAMES.search(full)
    return f"'{found.group()}' in its name" if found else ""


class _KnownGlyphs:
    """Compares glyphs, each scaled to 24 x 24 pixels, with those of well-known faces."""

    def __init__(self) -> None:
        known = [
            "truetype/dejavu/DejaVuSans.ttf",
            "truetype/dejavu/DejaVuSerif.ttf",
            "truetype/dejavu/DejaVuSansMono.ttf",
            "truetype/liberation2/LiberationSerif-Italic.ttf",
            "truetype/liberation2/LiberationSans-Bold.ttf",
        ]
        self.known = [self._shapes(f"/usr/share/fonts/{path}") for path in known]

    @staticmethod
    def _glyph(font: ImageFont.FreeTypeFont, char: str) -> tuple[bytes, NDArray[np.float64] | None]:
        mask = font.getmask(char, "L")
        if not mask.size[0] or not mask.size[1]:
            return b"", None
        pixels = np.array(mask, np.float64).reshape(mask.size[1], mask.size[0])
        rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
        if not len(rows):
            return b"", None
        cut = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        down = np.linspace(0, cut.shape[0] - 1, 24).round().astype(int)
        across = np.linspace(0, cut.shape[1] - 1, 24).round().astype(int)
        box = cut[np.ix_(down, across)]
        box = box - box.mean()
        return bytes(mask), box / (np.linalg.norm(box) + 1e-9)

    def _shapes(self, path: str) -> dict[str, NDArray[np.float64]]:
        font = ImageFont.truetype(path, 40)
        shapes = {char: self._glyph(font, char)[1] for char in PRINTABLE[1:]}
        return {char: shape for char, shape in shapes.items() if shape is not None}

    def objection(self, path: str) -> str:
        """The reason why the face is not readable print; empty where it is."""
        font = ImageFont.truetype(path, 40, layout_engine=ImageFont.Layout.BASIC)
        missing = self._glyph(font, "\ue123")[0]
        raw: dict[str, bytes] = {}
        shapes: dict[str, NDArray[np.float64]] = {}
        for char in PRINTABLE[1:]:
            raw[char], shape = self._glyph(font, char)
            if shape is None or raw[char] == missing:
                return f"no glyph for {char!r}"
            shapes[char] = shape
        if not 2 < font.getlength(" ") < 40:
            return "no usable space"
        same = [
            (a, b)
            for a, b in combinations(PRINTABLE[1:], 2)
            if raw[a] == raw[b] and {a, b} not in ({"I", "l"}, {"I", "|"}, {"l", "|"}, {"l", "1"}, {"'", "`"})
        ]
        if same:
            return f"one glyph for {same[0]}"
        letters = "abdefghijlmnqrty"
        alike = float(np.mean([np.sum(shapes[c] * shapes[c.upper()]) for c in letters]))
        if alike > 0.6:
            return f"lower case like upper case ({alike:.2f})"
        letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789&@#?"
        best = [max(float(np.sum(shapes[c] * known[c])) for known in self.known) for c in letters]
        if np.mean(best) < 0.48 or np.quantile(best, 0.1) < 0.12:
            return f"unlike known letters ({np.mean(best):.2f}, {np.quantile(best, 0.1):.2f})"
        return ""


if __name__ == "__main__":
    judging = "judge" in sys.argv[1:]
    faces, refused = find_faces("judge_fonts.txt" if judging else "fonts.txt", judging=judging)
    for path, reason in refused.items():
        print("refused", path, reason)
    for family, members in by_family(faces).items():
        print(family, len(members), "|", ", ".join(face.style for face in members)[:100])
    print(len(faces), "faces in", len(by_family(faces)), "families;", len(refused), "refused")
