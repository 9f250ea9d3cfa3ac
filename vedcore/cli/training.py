"""``vedcore train``: from labelled images to a model, in one command."""

from __future__ import annotations

import json
import os

import click

from vedcore.errors import printable

__all__ = ["train"]


@click.command()
@click.argument("model", metavar="MODEL|CONFIG")
@click.argument("rest", nargs=-1, metavar="[DATA] [KEY=VALUE ...]")
@click.option("--output", "-o", required=True, type=click.Path(), help="Folder of the run; it resumes there.")
@click.option("--lora", is_flag=True, help="Train adapters of low rank in place of the weights (extra lora).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object at the end.")
def train(model: str, rest: tuple[str, ...], output: str, lora: bool, as_json: bool) -> None:
    """Train a model on labelled images; OUTPUT/best is the best one.

    MODEL is a name of `vedcore list models`, a folder or a repository; CONFIG a .yaml, .toml or .json file with train:,
    data:, and either model: or encoder: and decoder:. DATA is a folder of images with metadata.jsonl or x.gt.txt files,
    a .csv, .tsv, .jsonl or .parquet file, or tar shards. Settings follow as train.max_steps=200 or
    data.validation_fraction=0.2.

    Ctrl-C saves; the same command goes on from there.
    """
    from vedcore.training import train as run

    data = rest[0] if rest and ("=" not in rest[0] or os.path.exists(rest[0])) else None
    overrides = [*rest[data is not None :], *(["train.lora=true"] if lora else [])]
    result = run(model, data, output, overrides=overrides)
    if os.environ.get("RANK", "0") != "0":  # of several processes, the first answers
        return
    if as_json:
        scores = {name: dict(each) for name, each in result.scores.items()}
        found = {"best": str(result.best), "last": str(result.last), "steps": result.steps}
        click.echo(json.dumps({**found, "best_step": result.best_step, "metric": result.metric, "scores": scores}))
    else:
        click.echo(printable(result.best))
