"""Evaluate a reader of lines: character error rates by condition, on fonts and texts that training never saw.

python evaluate.py [MODEL] [--lines 200] [--words 100] [--seed 7]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

from judge import judge_set

import vedcore


@dataclass(frozen=True)
class Score:
    """Errors on the lines, or on the single words, of one condition."""

    condition: str
    kind: str
    edits: int
    characters: int
    worst: tuple[tuple[str, str], ...]

    @property
    def rate(self) -> float:
        """Character error rate."""
        return self.edits / self.characters


def edits(read: str, text: str) -> int:
    """Levenshtein distance in characters."""
    row = list(range(len(text) + 1))
    for i, a in enumerate(read, 1):
        corner, row[0] = row[0], i
        for j, b in enumerate(text, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (a != b))
    return row[-1]


def evaluate(model: vedcore.VisionEncoderDecoder, lines: int = 200, words: int = 100, seed: int = 7) -> list[Score]:
    """Two scores for each condition: one of lines, one of single words."""
    groups: dict[tuple[str, str], list[tuple[str, str]]] = {}
    judged = sorted(judge_set(lines, words, seed), key=lambda line: line.image.width / line.image.height)
    results = model.generate_text([line.image for line in judged], batch_size=16)
    for line, result in zip(judged, results, strict=True):
        groups.setdefault((line.kind, line.condition), []).append((result.text, line.text))
    scores = []
    for (kind, condition), pairs in sorted(groups.items()):
        worst = sorted(pairs, key=lambda pair: -edits(*pair))[:3]
        scores.append(
            Score(
                condition,
                kind,
                sum(edits(*pair) for pair in pairs),
                sum(len(text) for _, text in pairs),
                tuple(pair for pair in worst if edits(*pair)),
            )
        )
    return scores


def table(scores: list[Score]) -> str:
    """The scores as text, each with its worst readings below."""
    rows = []
    for score in scores:
        rows.append(f"{score.kind:6} {score.condition:6} {score.rate:7.2%} of {score.characters:6,} characters")
        rows += [f"       read {read!r} for {text!r}" for read, text in score.worst]
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="printed-line")
    parser.add_argument("--lines", type=int, default=200)
    parser.add_argument("--words", type=int, default=100)
    parser.add_argument("--seed", type=int, default=7)
    chosen = parser.parse_args()
    model = vedcore.load(chosen.model)
    start = time.perf_counter()
    scores = evaluate(model, chosen.lines, chosen.words, chosen.seed)
    count = 4 * (chosen.lines + chosen.words)
    print(table(scores))
    print(f"{count} images in {time.perf_counter() - start:.1f} s, rendering included")


if __name__ == "__main__":
    main()
