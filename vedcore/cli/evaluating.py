"""``vedcore evaluate``: a model's texts against labels."""

from __future__ import annotations

from typing import Any

import click

from vedcore.cli.generation_options import generation_options, generation_settings
from vedcore.errors import printable

__all__ = ["evaluate"]

MAX_NOT_READ = 10
"""Rows that could not be read which are named."""


@click.command()
@click.argument("model")
@click.argument("data")
@click.option("--output", "-o", type=click.Path(file_okay=False), help="Folder for a page and JSON.")
@click.option("--against", metavar="OTHER", help="Another model to compare with, on the same rows.")
@click.option("--split", help="train, validation or test: only the rows of that split.")
@click.option("--limit", type=click.IntRange(1), help="Read the first rows only.")
@click.option(
    "--target-error",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="Wanted share of wrong characters in the texts that are not rejected.",
)
@click.option("--text-column", help="Column of the labels.  [default: text]")
@click.option("--image-column", help="Column of the images.  [default: file_name]")
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Images read together.")
@click.option(
    "--explain/--no-explain",
    default=True,
    show_default=True,
    help="Show on the page where the model looked in the images of the worst rows.",
)
@generation_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object, with all rows.")
def evaluate(
    model: str,
    data: str,
    output: str | None,
    text_column: str | None,
    image_column: str | None,
    as_json: bool,
    against: str | None,
    split: str | None,
    limit: int | None,
    target_error: float,
    batch_size: int,
    explain: bool,
    device: str | None,
    overrides: tuple[str, ...],
    **options: Any,
) -> int:
    """Read labelled images with MODEL and compare its texts with the labels.

    MODEL is a folder, or the name of an installed model. DATA is a folder of images with metadata.jsonl or x.gt.txt
    files, a .csv, .tsv, .jsonl or .parquet file, or tar shards. A row that cannot be read is named on stderr, and the
    exit code is then 1.
    """
    settings = generation_settings(options, overrides)
    from vedcore.data import open_data
    from vedcore.evaluation import evaluate as run
    from vedcore.evaluation.evaluation import make_folder
    from vedcore.extras import need

    if output is not None:
        need("matplotlib", "train", "the page of an evaluation")
        make_folder(output)
    found = run(
        model,
        open_data(data, text_column=text_column, image_column=image_column),
        against=against,
        split=split,
        limit=limit,
        target_error=target_error,
        batch_size=batch_size,
        device=device,
        cases=0 if output is None else 30,
        explain=explain and output is not None,
        progress=True,
        **settings,
    )
    click.echo(found.to_json() if as_json else str(found))
    for problem in found.not_read[:MAX_NOT_READ]:
        click.echo(f"not read: {problem}", err=True)
    if len(found.not_read) > MAX_NOT_READ:
        click.echo(f"and {len(found.not_read) - MAX_NOT_READ:,} more", err=True)
    if output is not None:
        click.echo(f"page: {printable(found.save(output))}", err=True)
    return 1 if found.not_read else 0
