"""Draw scenes of two shapes, with captions such as "a large red circle above a small blue star".

    python scenes.py FOLDER [--train 12000] [--validation 100] [--test 100] [--seed 0]

FOLDER gets a folder for each split, and tokenizer.json, a token for each word. There are 7,080 captions. Two things
that stand together in the validation or in the test do so in no other split, in whatever order or place.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
from pathlib import Path

from PIL import Image, ImageDraw
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

SIDE = 128
"""Height and width of an image in pixels."""
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (235, 200, 30),
    "purple": (150, 50, 170),
    "black": (25, 25, 25),
}
CORNERS = {"square": 4, "triangle": 3}
SHAPES = ("circle", "square", "triangle", "star", "cross")
SIZES = {"large": (19, 24), "small": (9, 12)}
"""Least and largest radius in pixels."""
PLACES = {"above": ((64, 32), (64, 96)), "left of": ((32, 64), (96, 64))}
"""Centres of the first and of the second shape."""
ALONG, ACROSS = 5, 18
"""Most pixels between a shape and its centre, along the line of the two and across it."""
THINGS = [f"{size} {colour} {shape}" for size in SIZES for colour in COLOURS for shape in SHAPES]


def split_of(one: str, other: str) -> str:
    """The split of the scenes with two things: a tenth of the pairs each for validation and test."""
    pair = " ".join(sorted((one, other)))
    share = int.from_bytes(hashlib.sha256(pair.encode()).digest()[:2]) % 10
    return ("validation", "test")[share] if share < 2 else "train"


def polygon(x: float, y: float, radii: list[float], turn: float) -> list[tuple[float, float]]:
    """Corners around a centre, the first straight above it but for the turn, in radians."""
    steps = [turn - math.pi / 2 + 2 * math.pi * i / len(radii) for i in range(len(radii))]
    return [(x + r * math.cos(angle), y + r * math.sin(angle)) for r, angle in zip(radii, steps, strict=True)]


def draw_thing(draw: ImageDraw.ImageDraw, thing: str, x: float, y: float, rng: random.Random) -> None:
    """Draw a thing such as "large red circle" around a centre."""
    size, colour, shape = thing.split(" ")
    r = rng.uniform(*SIZES[size])
    fill = tuple(max(0, min(255, level + rng.randint(-20, 20))) for level in COLOURS[colour])
    turn = rng.uniform(-0.15, 0.15)
    if shape == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    elif shape == "star":
        draw.polygon(polygon(x, y, [1.15 * r, 0.45 * r] * 5, turn), fill=fill)
    elif shape == "cross":
        for bar in (0.0, math.pi / 2):
            ends = polygon(x, y, [r], turn + bar) + polygon(x, y, [r], turn + bar + math.pi)
            draw.line(ends, fill=fill, width=round(0.55 * r))
    else:
        corner = math.pi / 4 if shape == "square" else 0.0
        draw.polygon(polygon(x, y, [1.15 * r] * CORNERS[shape], turn + corner), fill=fill)


def scene(split: str, rng: random.Random) -> tuple[Image.Image, str]:
    """A scene of a split, (SIDE, SIDE) in RGB, and its caption."""
    one, other = rng.sample(THINGS, 2)
    while split_of(one, other) != split:
        one, other = rng.sample(THINGS, 2)
    place = rng.choice(list(PLACES))
    image = Image.new("RGB", (SIDE, SIDE), tuple(rng.randint(225, 255) for _ in range(3)))
    draw = ImageDraw.Draw(image)
    for thing, (x, y) in zip((one, other), PLACES[place], strict=True):
        reach = (ACROSS, ALONG) if place == "above" else (ALONG, ACROSS)
        draw_thing(draw, thing, x + rng.uniform(-reach[0], reach[0]), y + rng.uniform(-reach[1], reach[1]), rng)
    return image, f"a {one} {place} a {other}"


def write_split(folder: Path, split: str, count: int, seed: int) -> None:
    """Write the images of a split, and metadata.jsonl beside them."""
    rng = random.Random(f"{seed}/{split}")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metadata.jsonl").open("w", encoding="utf-8") as file:
        for i in range(count):
            image, caption = scene(split, rng)
            image.save(folder / f"{i:05}.png")
            file.write(json.dumps({"file_name": f"{i:05}.png", "text": caption}) + "\n")


def word_tokenizer() -> Tokenizer:
    """A token for each word of the captions, with the space before it."""
    words = {"a", *" ".join(PLACES).split(), *" ".join(THINGS).split()}
    tokens = ["<s>", "</s>", "<pad>", "a", *(f" {word}" for word in sorted(words))]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_next")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(tokens[:3])
    return tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for split, count in {"train": 12_000, "validation": 100, "test": 100}.items():
        parser.add_argument(f"--{split}", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    for split in ("train", "validation", "test"):
        write_split(chosen.folder / split, split, getattr(chosen, split), chosen.seed)
    word_tokenizer().save(str(chosen.folder / "tokenizer.json"))


if __name__ == "__main__":
    main()
