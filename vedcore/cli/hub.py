"""``vedcore pull`` fetches a model from the hub; ``vedcore cache`` checks the local cache."""

from __future__ import annotations

import json

import click

from vedcore.errors import HubError, printable

__all__ = ["cache", "pull"]


@click.command()
@click.argument("repo")
@click.option("--revision", help="A branch, a tag or a commit; main if not given.")
@click.option("--subfolder", help="Folder within the repository that has the model.")
def pull(repo: str, revision: str | None, subfolder: str | None) -> None:
    """Fetch a model from the hub into the cache, replace damaged files there, and print its folder.

    REPO is org/name; org/name@revision and hub:org/name work too.
    """
    from vedcore import hub

    name, named_revision = _parse_repo(repo)
    if revision and named_revision:
        raise click.UsageError(f"two revisions: {printable(named_revision)} and {printable(revision)}")
    for damage in hub.repair(name):
        click.echo(f"removed {printable(damage.path)}: {damage.problem}", err=True)
    click.echo(hub.fetch_folder(name, revision or named_revision, subfolder=subfolder))


@click.group()
def cache() -> None:
    """Check the local cache of models."""


@cache.command("verify")
@click.argument("repo", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def verify(repo: str | None, as_json: bool) -> None:
    """Compare every cached file with its hash.

    REPO is org/name; without it, all cached repositories are checked.
    """
    from vedcore import hub

    count, damaged = hub.verify(None if repo is None else _parse_repo(repo)[0])
    if as_json:
        click.echo(json.dumps({"files": count, "damaged": [damage._asdict() for damage in damaged]}, indent=2))
    else:
        for damage in damaged:
            click.echo(printable(f"{damage.path}: {damage.problem}"))
        click.echo(f"{count} files, {len(damaged)} damaged")
    if damaged:
        repos = " ".join(sorted({damage.repo for damage in damaged}))
        raise HubError(f"{len(damaged)} damaged files in the cache", hint=f"run `vedcore pull` for {repos}")


def _parse_repo(repo: str) -> tuple[str, str | None]:
    """The repository and the revision of an argument."""
    from vedcore.hub.names import is_hub_name, parse_repo

    parsed = parse_repo(repo if is_hub_name(repo) else f"hub:{repo}")
    assert parsed is not None  # a name with a prefix parses, or raises
    return parsed
