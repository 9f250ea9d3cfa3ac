"""Draw receipts, with their fields as data: one to three things with their prices, and the total.

    python receipts.py FOLDER [--train 12000] [--validation 50] [--test 100] [--seed 0]

FOLDER gets a folder for each split, and tokenizer.json, a token for each character and for each tag of a field.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tokenizers import AddedToken, Tokenizer

import vedcore

WIDTH, HEIGHT = 96, 72
"""Of an image in pixels."""
THINGS = (
    "apple", "beans", "bread", "cake", "cheese", "coffee", "eggs", "fish", "honey", "jam", "juice", "lemon", "milk",
    "onion", "pasta", "pear", "rice", "salt", "soap", "soup", "sugar", "tea", "water", "yeast",
)  # fmt: skip
FONT = ImageFont.load_default(13)


def receipt(rng: random.Random) -> dict[str, Any]:
    """The fields of a receipt, prices in cents added up."""
    cents = [rng.randint(10, 999) for _ in range(rng.randint(1, 3))]
    return {
        "menu": [
            {"nm": name, "price": money(price)}
            for name, price in zip(rng.sample(THINGS, len(cents)), cents, strict=True)
        ],
        "total": money(sum(cents)),
    }


def money(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02}"


def draw(fields: dict[str, Any], rng: random.Random) -> Image.Image:
    """A receipt on paper, (HEIGHT, WIDTH) in RGB."""
    image = Image.new("L", (WIDTH, HEIGHT), rng.randint(215, 255))
    pen = ImageDraw.Draw(image)
    ink = rng.randint(0, 70)
    lines = [(item["nm"], item["price"]) for item in fields["menu"]] + [("total", fields["total"])]
    left, right, top = rng.randint(3, 5), WIDTH - rng.randint(3, 5), rng.randint(1, 5)
    for i, (name, value) in enumerate(lines):
        pen.text((left, top + 17 * i), name, ink, FONT)
        pen.text((right, top + 17 * i), value, ink, FONT, anchor="ra")
    pixels = np.asarray(image, np.float32) + np.random.default_rng(rng.getrandbits(32)).normal(0, 4, (HEIGHT, WIDTH))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert("RGB")


def write_split(folder: Path, split: str, count: int, seed: int) -> None:
    """Write the images of a split, and metadata.jsonl beside them."""
    rng = random.Random(f"{seed}/{split}")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metadata.jsonl").open("w", encoding="utf-8") as file:
        for i in range(count):
            fields = receipt(rng)
            draw(fields, rng).save(folder / f"{i:05}.png")
            file.write(json.dumps({"file_name": f"{i:05}.png", "text": fields}) + "\n")


def tag_tokenizer() -> Tokenizer:
    """A token for each small letter, digit and dot, and for each tag."""
    tokenizer = vedcore.make_tokenizer("char:abcdefghijklmnopqrstuvwxyz0123456789.")
    tags = vedcore.fields.tokens(receipt(random.Random(0)))
    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in [*tags, "<sep/>"]])
    return tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for split, count in {"train": 12_000, "validation": 50, "test": 100}.items():
        parser.add_argument(f"--{split}", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    for split in ("train", "validation", "test"):
        write_split(chosen.folder / split, split, getattr(chosen, split), chosen.seed)
    tag_tokenizer().save(str(chosen.folder / "tokenizer.json"))


if __name__ == "__main__":
    main()
