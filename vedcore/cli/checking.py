"""``vedcore check``: contracts of parts, formats and models, the wiring of a model, and its data, as a table."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from vedcore.errors import UnknownComponentError, did_you_mean, printable

if TYPE_CHECKING:
    from vedcore.model.wiring import Result

__all__ = ["check"]


@click.command()
@click.argument("name", metavar="NAME|DISTRIBUTION|FOLDER|CONFIG")
@click.option("--data", help="Examine these labelled images, and how the model and they fit, in place of contracts.")
@click.option("--output", "-o", type=click.Path(file_okay=False), help="With --data: folder for a drawn batch.")
@click.option("--overfit", metavar="N", type=click.IntRange(1), help="With --data: let a copy learn N rows.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array, with --data one object.")
def check(name: str, data: str | None, output: str | None, overfit: int | None, as_json: bool) -> int:
    """Check that parts, formats and models keep their contracts, and that a model is wired.

    NAME is a part, a format or a model, as `vedcore list` shows it; a distribution, for all that it registers; or a
    model's folder or repository of the hub. Parts are built small where their configs allow it. A model is loaded, and
    checked with its own weights; a local folder of vedcore's format keeps the result as wiring.json. The exit code is 1
    where a check fails.

    With --data, NAME is a model, or a config file as `vedcore train` and `vedcore compose` take it. Each fault of the
    data, and of how model and data fit, comes with its remedy, and the exit code is then 1. --output draws a batch as
    the model gets it: images after resizing, texts of the labels' ids. --overfit 8 trains a copy of the model on 8
    rows until it reads them back, within 500 steps and 5 minutes.
    """
    if data is not None:
        return _examine(name, data, output, overfit or 0, as_json)
    if output is not None or overfit is not None:
        option = "--overfit" if output is None else "--output"
        raise click.UsageError(f"{option} is about data: name it with --data")
    failed, found = False, []
    for group in _groups(name):
        failed = failed or any(each["outcome"] == "failed" for each in group["checks"])
        found.append(group)
        if not as_json:
            click.echo(f"{group['kind']} {printable(group['name'])}")
            for line in group.pop("lines"):
                click.echo(f"  {line}")
        group.pop("lines", None)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    return int(failed)


def _examine(name: str, data: str, output: str | None, overfit: int, as_json: bool) -> int:
    from vedcore.data import examine
    from vedcore.data.doctor import draw
    from vedcore.training.run import Run

    run = Run.of(name, data)
    model = run.make_model()
    found = examine(model, data, settings=run.data, overfit=overfit, progress=True)
    sheet = None
    if output is not None and found.samples:
        os.makedirs(output, exist_ok=True)
        sheet = os.path.join(output, "batch.png")
        draw(found.samples, model.processor.preprocessing).save(sheet)
    if as_json:
        click.echo(json.dumps({"model": name, **found.to_data(), "sheet": sheet}, indent=2))
        return int(bool(found.findings))
    click.echo(found)
    for each in found.samples[:3]:
        click.echo(f"  {printable(each.source)}: {len(each.ids)} ids, decoded {printable(each.decoded)[:100]!r}")
    if sheet is not None:
        click.echo(printable(sheet))
    return int(bool(found.findings))


def _groups(name: str) -> Iterator[dict[str, Any]]:
    """The results of each thing that ``name`` means, as JSON data, with the lines of a table."""
    from vedcore.checkpoints.formats import resolve_folder
    from vedcore.hub import is_hub_name
    from vedcore.testing import run_checks
    from vedcore.testing.registered import known_names, registered_cases, registering_modules
    from vedcore.testing.registration import registration_result

    is_path = os.sep in name or "/" in name
    is_saved = is_hub_name(name) or (is_path and os.path.isdir(name))
    modules = [] if is_saved else registering_modules(name)
    for module in modules:
        yield _group("plugin", module, [registration_result(module)])
    cases = [] if is_saved else registered_cases(name)
    for kind, each, case in cases:
        yield _group(kind, each, run_checks(case))
        if kind == "model" and not modules:
            yield from _of_model(resolve_folder(each), each, keeps=False)
    if cases or modules:
        return
    if not is_saved and not is_path and not os.path.isdir(name):
        names = known_names()
        hint = did_you_mean(name, names) or "`vedcore list` and `vedcore plugins` show the names"
        raise UnknownComponentError("no part, model, distribution or folder of that name", field=name, hint=hint)
    yield from _of_model(resolve_folder(name), name, keeps=os.path.isdir(name))


def _of_model(folder: Any, name: str, keeps: bool) -> Iterator[dict[str, Any]]:
    """The contracts of a model's parts, and its wiring, which a folder keeps."""
    import vedcore
    from vedcore.checkpoints.wiring import keep_wiring
    from vedcore.testing import check_wiring, run_checks
    from vedcore.testing.registered import part_cases

    model = vedcore.load(folder)
    for kind, each, case in part_cases(model):
        yield _group(kind, each, run_checks(case))
    report = check_wiring(model)
    reason = keep_wiring(folder, report) if keeps else ""
    yield {**_group("wiring", name, report.results), "kept": keeps and not reason}
    if reason:
        click.echo(f"not kept as wiring.json: {printable(reason)}", err=True)


def _group(kind: str, name: str, results: Iterable[Result]) -> dict[str, Any]:
    results = list(results)
    checks = [dataclasses.asdict(each) for each in results]
    return {"kind": kind, "name": name, "checks": checks, "lines": list(map(str, results))}
