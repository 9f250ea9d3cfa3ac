"""``vedcore export``: a model for another framework."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

import click

from vedcore.errors import MissingExtraError, UsageError, VedcoreError, printable
from vedcore.plugins import list_parts, load_component, registry

__all__ = ["export"]

ELSEWHERE = {"jax": "vedcore-jax", "savedmodel": "vedcore-tensorflow", "tflite": "vedcore-tensorflow"}
"""Targets of plugins that may not be installed."""


@click.command()
@click.argument("model", required=False)
@click.argument("output", metavar="OUT", required=False)
@click.option("--to", default="graph", show_default=True, help="The target; --list shows all.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="An option of the target.")
@click.option("--revision", help="Branch, tag or commit of a repository.")
@click.option("--list", "lists", is_flag=True, help="Show the targets, and what is missing for them.")
@click.option("--json", "as_json", is_flag=True, help="The report, or the list, as JSON.")
def export(
    model: str | None,
    output: str | None,
    to: str,
    settings: tuple[str, ...],
    revision: str | None,
    lists: bool,
    as_json: bool,
) -> None:
    """Write MODEL for another framework into the folder OUT, with the proof that it gives the same.

    MODEL is a name of `vedcore list models`, a folder or a repository. OUT is created, or an earlier export in it is
    replaced. OUT/export_report.json has the proof, sizes and times; where a proof does not hold, nothing is written.
    """
    if lists:
        return _list(as_json)
    if model is None or output is None:
        raise UsageError("give MODEL and OUT", field="export", hint="vedcore export MODEL OUT --to graph")
    if to in ELSEWHERE and to not in list_parts("exporter"):
        raise MissingExtraError(f"{to} needs {ELSEWHERE[to]}, which is not installed", hint=_install(ELSEWHERE[to]))
    from vedcore.composer.plan import format_bytes
    from vedcore.config_files.overrides import apply_overrides
    from vedcore.export import exporting

    exporting.make_exporter(to)  # a misspelt name, or what is missing, is told before the model is loaded
    import vedcore

    loaded = vedcore.load(model, revision=revision)
    options = apply_overrides({}, settings)
    report = exporting.export(loaded, output, to, tell=lambda text: click.echo(text, err=True), **options)
    if as_json:
        click.echo(json.dumps({"folder": output, **report}))
        return None
    click.echo(printable(output))
    for name, size in report["bytes"].items():
        click.echo(printable(f"wrote {name}, {format_bytes(size)}"), err=True)
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in report["seconds"].items())
    click.echo(f"{len(report['checks'])} checks hold; {seconds}", err=True)
    return None


def _list(as_json: bool) -> None:
    """Print the targets."""
    rows = [_row(part, part.summary) for part in list_parts("exporter")]
    rows += [
        {"name": name, "summary": "", "missing": [package], "install": _install(package)}
        for name, package in ELSEWHERE.items()
        if name not in {row["name"] for row in rows}
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        missing = [f"missing: {', '.join(row['missing'])}", *filter(None, [row["install"]])]
        said = "; ".join(missing) if row["missing"] else row["summary"]
        click.echo(printable(f"{row['name']:<{width}}  {said}"))
    for failure in registry().failures.values():
        click.echo(f"warning: {failure}", err=True)


def _row(name: str, summary: str) -> dict[str, Any]:
    try:
        target, _ = load_component("exporter", name)
    except VedcoreError as error:
        return {"name": str(name), "summary": summary, "missing": [printable(error)], "install": ""}
    missing = [module for module in target.needs if importlib.util.find_spec(module) is None]
    return {"name": str(name), "summary": summary, "missing": missing, "install": target.install if missing else ""}


def _install(package: str) -> str:
    return f"pip install {package}"
