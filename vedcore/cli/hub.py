"""``vedcore pull`` and ``vedcore cache``: models of the hub, and the folder where they are kept."""

from __future__ import annotations

import json

import click

from vedcore import hub
from vedcore.errors import HubError, printable

__all__ = ["cache", "pull"]


@click.command()
@click.argument("repo")
@click.option("--revision", help="A branch, a tag or a commit; main if not given.")
@click.option("--subfolder", help="The folder of the repo that has the model.")
def pull(repo: str, revision: str | None, subfolder: str | None) -> None:
    """Fetch a model of the hub into the cache, what is damaged there again, and print the folder.

    REPO is org/name; org/name@revision and hub:org/name work too.
    """
    name, inside = _named(repo)
    if revision and inside:
        raise click.UsageError(f"two revisions: {printable(inside)} and {printable(revision)}")
    for damage in hub.repair(name):
        click.echo(f"removed {printable(damage.path)}: {damage.problem}", err=True)
    click.echo(hub.fetch_folder(name, revision or inside, subfolder=subfolder))


@click.group()
def cache() -> None:
    """Look after the cache of models."""


@cache.command("verify")
@click.argument("repo", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def verify(repo: str | None, as_json: bool) -> None:
    """Compare every cached file with its hash.

    REPO is org/name; all that are cached if not given.
    """
    count, damaged = hub.verify(None if repo is None else _named(repo)[0])
    if as_json:
        click.echo(json.dumps({"files": count, "damaged": [damage._asdict() for damage in damaged]}, indent=2))
    else:
        for damage in damaged:
            click.echo(printable(f"{damage.path}: {damage.problem}"))
        click.echo(f"{count} files, {len(damaged)} damaged")
    if damaged:
        repos = " ".join(sorted({damage.repo for damage in damaged}))
        raise HubError(f"{len(damaged)} damaged in the cache", hint=f"run `vedcore pull` for {repos}")


def _named(repo: str) -> tuple[str, str | None]:
    """The repo and revision of an argument, which can be nothing else here."""
    named = hub.parse_repo(repo if hub.is_hub_name(repo) else f"hub:{repo}")
    assert named is not None  # with a prefix it is a repo, or an error
    return named
