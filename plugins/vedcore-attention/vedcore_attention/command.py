"""``vedcore attention``: an image in, its text and a picture of the attention out."""

from __future__ import annotations

import json
import re
from typing import Any

import click

__all__ = ["attention"]


@click.command()
@click.argument("model")
@click.argument("image")
@click.option("--output", "-o", metavar="FILE", help="Picture to write, such as maps.png.")
@click.option("--layer", type=click.IntRange(0), help="Layer of the decoder, from 0.  [default: the mean of all]")
@click.option("--head", type=click.IntRange(0), help="Head of the attention, from 0.  [default: the mean of all]")
@click.option("--grid", metavar="ROWSxCOLUMNS", help="Grid of the image's tokens, where the model does not say.")
@click.option("--max-new-tokens", type=click.IntRange(1), help="Most tokens of the text.")
@click.option("--device", help="cpu, cuda, cuda:1, ...")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: the text, its words, each token's attention.")
def attention(
    model: str,
    image: str,
    output: str | None,
    layer: int | None,
    head: int | None,
    grid: str | None,
    max_new_tokens: int | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Draw where MODEL looks in IMAGE while it writes each token of its text.

    MODEL is a folder, or the name of an installed model. The text goes to stdout. The picture shows the image with a
    box around each word, then once for each token: red is where its cross-attention is.
    """
    import vedcore  # torch is imported when the command runs, not when its help is shown

    if output is None and not as_json:
        raise click.UsageError("nothing to write: give --output maps.png, or --json")
    if output is not None and not re.search(r"\.(png|jpe?g|webp|tiff?)$", output, re.IGNORECASE):
        raise click.UsageError(f"{output!r} is not the name of a picture: end it in .png")
    limit: dict[str, Any] = {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}
    cells = None if grid is None else _parsed(grid)
    found = vedcore.load(model, device=device).explain(image, layer=layer, head=head, grid=cells, **limit)
    if output is not None:
        found.save(output)
        click.echo(f"wrote {output}", err=True)
    if not as_json:
        click.echo(found.text)
        return
    tokens = [
        {"token": token.text, "attention": token.map.double().round(decimals=6).tolist()} for token in found.tokens
    ]
    words = [{"word": word.text, "confidence": word.confidence, "box": word.box} for word in found.words]
    plain = {"image": image, "text": found.text, "grid": found.grid, "words": words, "tokens": tokens}
    click.echo(json.dumps(plain))


def _parsed(grid: str) -> tuple[int, int]:
    """The rows and columns of a text such as ``7x14``."""
    found = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", grid)
    if found is None:
        raise click.UsageError(f"{grid!r} is not a grid: write rows and columns, such as 7x14")
    return int(found[1]), int(found[2])
