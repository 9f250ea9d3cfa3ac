"""``vedcore check``: the contracts of parts, as a table."""

from __future__ import annotations

import dataclasses
import json

import click

from vedcore.errors import printable

__all__ = ["check"]

MARKS = {"passed": "✓", "failed": "✗", "not applicable": "-", "expected": "x"}


@click.command()
@click.argument("name", metavar="NAME|DISTRIBUTION")
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
def check(name: str, as_json: bool) -> int:
    """Check that encoders, decoders and projectors keep their contracts, on small real tensors.

    NAME is a part, as `vedcore list` shows it, or a distribution, for all of its parts. Each is built small where its
    config allows it. The exit code is 1 where a check fails.
    """
    from vedcore.testing import run_checks
    from vedcore.testing.registered import registered_cases

    failed, found = False, []
    for kind, part, case in registered_cases(name):
        results = run_checks(case)
        failed = failed or any(each.outcome == "failed" for each in results)
        found.append({"kind": kind, "name": part, "checks": [dataclasses.asdict(each) for each in results]})
        if not as_json:
            click.echo(f"{kind} {printable(part)}")
            for each in results:
                said = each.message if each.outcome == "failed" else each.behaviour
                click.echo(f"  {MARKS[each.outcome]} {each.check}: {printable(said)}")
    if as_json:
        click.echo(json.dumps(found, indent=2))
    return int(failed)
