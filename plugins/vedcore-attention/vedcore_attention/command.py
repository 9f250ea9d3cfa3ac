"""``vedcore attention``: an image in, its text and a picture of the attention out."""

from __future__ import annotations

import json
from pathlib import Path

import click

__all__ = ["attention"]


@click.command()
@click.argument("model")
@click.argument("image")
@click.option("--output", "-o", metavar="FILE", help="Picture to write, such as maps.png.")
@click.option("--layer", type=click.IntRange(0), help="Layer of the decoder, from 0.  [default: the mean of all]")
@click.option("--grid", metavar="ROWSxCOLUMNS", help="Grid of the image's tokens, where it cannot be guessed.")
@click.option("--max-new-tokens", type=click.IntRange(1), help="Most tokens of the text.")
@click.option("--device", help="cpu, cuda, cuda:1, ...")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: the text, and each token's attention.")
def attention(
    model: str,
    image: str,
    output: str | None,
    layer: int | None,
    grid: str | None,
    max_new_tokens: int | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Draw where MODEL looks in IMAGE while it writes each token of its text.

    MODEL is a folder, or the name of an installed model. The text goes to stdout. The picture shows the image as the
    model sees it, once for each token: red is where its cross-attention is.
    """
    import vedcore  # torch is imported when the command runs, not when its help is shown
    from vedcore_attention.drawing import check_name, draw, write
    from vedcore_attention.maps import attention_maps, parse_grid

    if output is None and not as_json:
        raise click.UsageError("nothing to write: give --output maps.png, or --json")
    if output is not None:
        check_name(output)
    cells = None if grid is None else parse_grid(grid)
    loaded = vedcore.load(model, device=device)
    found = attention_maps(loaded, image, layer=layer, grid=cells, max_new_tokens=max_new_tokens)
    if output is not None:
        write(draw(found), Path(output))
        click.echo(f"wrote {output}", err=True)
    if as_json:
        weights = found.maps.double().round(decimals=6).tolist()
        tokens = [{"token": token, "attention": rows} for token, rows in zip(found.tokens, weights, strict=True)]
        click.echo(json.dumps({"image": image, "text": found.text, "grid": found.grid, "tokens": tokens}))
    else:
        click.echo(found.text)
