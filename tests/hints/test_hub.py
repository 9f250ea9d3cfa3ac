"""Hints about the hub and its cache: each is given where the user stands, followed there, and works."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

import vedcore
from tests.composer.tiny import GPT2, VIT, same_weights
from tests.hints.templates import told
from tests.hints.test_compose import BLIND, DECODER
from tests.hints.test_config_files import run
from tests.hub.client import offline
from tests.hub.conftest import cache, hub, no_xet
from tests.hub.server import Fault, Hub, _Handler
from tests.plugins.test_plugins import site, write_distribution
from vedcore.hub import push_folder

__all__ = ["cache", "hub", "no_xet", "site"]

NAME = "org/model"
PULL = "run {…}"


@pytest.fixture
def model(hub: Hub) -> vedcore.VisionEncoderDecoder:
    """The model that ``org/model`` holds."""
    made = vedcore.compose(VIT, GPT2, seed=0)
    (folder := hub.folder / NAME).joinpath("tokenizer.json").unlink()
    made.save_pretrained(folder)
    return made


def pull(hint: str) -> None:
    """Run the command of ``vedcore pull`` that a hint has."""
    run(*re.findall(r"`vedcore (pull [^`]*)`", hint)[0].split())


@pytest.mark.parametrize(
    ("fault", "template"),
    [
        (Fault("status", status=401), "check the name; set HF_TOKEN for a private repo"),
        (Fault("status", status=403), "set HF_TOKEN to a token that has this right"),
        (
            Fault("status", status=403, headers={"X-Error-Code": "GatedRepo"}),
            "ask for access on its page, then set HF_TOKEN ({…})",
        ),
        (Fault("status", status=429), "try again {…}; with HF_TOKEN set the limit is higher"),
        (Fault("status", status=500), "try again later{…}"),
        (Fault("hang"), "check the network, and try again{…}"),
        (Fault("status", status=200), "check that HF_ENDPOINT is the address of a hub"),
    ],
    ids=lambda value: f"{value.kind}-{value.status}" if isinstance(value, Fault) else None,
)
def test_answers_that_are_not_the_right_ones(
    hub: Hub, model: Any, fault: Fault, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.faults = [Fault(fault.kind, "/api/models", status=fault.status, headers=fault.headers)]
    assert not told(template, vedcore.load, NAME).hint.endswith("cached copy")
    told(template, vedcore.compose, f"hub:{NAME}", GPT2)
    told(template, run, "pull", NAME)
    if "HF_TOKEN" in template:
        monkeypatch.setenv("HF_TOKEN", "hf_mine")
    hub.faults = []
    assert same_weights(vedcore.load(NAME), model)
    assert "HF_TOKEN" not in template or "Bearer hf_mine" in hub.tokens


def test_the_cached_copy_is_offered_where_there_is_one(hub: Hub, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    vedcore.load(NAME)
    hub.faults = [Fault("hang", "/api/models")]
    assert told("check the network, and try again{…}", vedcore.load, NAME).hint.endswith("uses the cached copy")
    offline(monkeypatch)  # as of a new process
    assert same_weights(vedcore.load(NAME), model)
    assert same_weights(vedcore.compose(f"hub:{NAME}", f"hub:{NAME}"), model)


@pytest.mark.parametrize(
    ("code", "template"),
    [
        ("RevisionNotFound", "name a branch, a tag or a commit of it"),
        ("EntryNotFound", "name another revision, or try again"),
    ],
)
def test_revisions(hub: Hub, model: Any, code: str, template: str) -> None:
    match = "/resolve/" if code == "EntryNotFound" else "/api/models"
    hub.faults = [Fault("status", match, status=404, headers={"X-Error-Code": code}, times=6)]
    told(template, vedcore.load, NAME, revision="main" if code == "EntryNotFound" else "v2")
    hub.faults = []
    assert same_weights(vedcore.load(NAME, revision=hub.head(NAME)), model)


@pytest.mark.parametrize(
    ("template", "call", "mended"),
    [
        ("a name is org/name, such as openai-community/gpt2", ["load", "hub:org--model"], ["load", f"hub:{NAME}"]),
        ("name a branch, a tag or a commit of 40 digits", ["load", f"hub:{NAME}@.."], ["load", f"hub:{NAME}@main"]),
        (
            "a name is org/name, such as openai-community/gpt2",
            ["compose", "hub:org--model", "gpt2"],
            ["compose", f"hub:{NAME}", GPT2],
        ),
        (
            "name a branch, a tag or a commit of 40 digits",
            ["compose", f"hub:{NAME}@..", "gpt2"],
            ["compose", f"hub:{NAME}@main", GPT2],
        ),
        ("a name is org/name, such as openai-community/gpt2", ["pull", "org--model"], ["pull", NAME]),
    ],
)
def test_names(hub: Hub, model: Any, template: str, call: list[Any], mended: list[Any]) -> None:
    calls: dict[str, Callable[..., Any]] = {
        "load": vedcore.load,
        "compose": vedcore.compose,
        "pull": lambda *words: run("pull", *words),
    }
    told(template, calls[call[0]], *call[1:])
    loaded = calls[mended[0]](*mended[1:])
    assert loaded is None or same_weights(loaded.encoder, model.encoder)


@pytest.mark.usefixtures("no_xet")
def test_names_to_push_to(hub: Hub, model: Any) -> None:
    told("a name is org/name, such as openai-community/gpt2", model.push_to_hub, "hub:me/new")
    told("name a branch, a tag or a commit of 40 digits", model.push_to_hub, "me/new", revision="..")
    model.push_to_hub("me/new")
    assert same_weights(vedcore.load("me/new"), model)


def test_two_revisions(hub: Hub, model: Any) -> None:
    told("give only one of them", vedcore.load, f"{NAME}@main", revision="v2")
    assert same_weights(vedcore.load(f"{NAME}@main"), model)


def test_subfolders(hub: Hub, model: Any, tmp_path: Path) -> None:
    (inner := hub.folder / NAME / "a").mkdir()
    for path in (hub.folder / NAME).iterdir():
        if path.is_file():
            path.rename(inner / path.name)
    told("name a model's repo, or another revision or subfolder", vedcore.load, NAME)
    told("set subfolder= to a folder in it", vedcore.load, NAME, subfolder="../a")
    assert same_weights(vedcore.load(NAME, subfolder="a"), model)
    told("set subfolder= to a folder in it", vedcore.load, hub.folder / NAME, subfolder="..")
    assert same_weights(vedcore.load(hub.folder / NAME, subfolder="a"), model)


def test_no_network_and_no_copy(hub: Hub, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    template = "name a cached commit, or run {…}"
    hint = told(template, vedcore.load, NAME, local_files_only=True).hint
    pull(hint)
    loaded = vedcore.load(NAME, local_files_only=True)
    assert same_weights(loaded, model)
    offline(monkeypatch)
    told(template, vedcore.load, NAME, revision="v2")
    assert same_weights(vedcore.load(NAME, revision=hub.head(NAME)), model)
    hint = told(PULL, vedcore.load, NAME, revision="0" * 40).hint
    assert f"`vedcore pull {NAME} --revision {'0' * 40}` online" in hint


def test_a_copy_that_is_incomplete(hub: Hub, cache: Path, model: Any) -> None:
    commit = hub.head(NAME)
    model.save_pretrained(hub.folder / NAME, max_shard_size="20KB")
    commit = hub.head(NAME)
    vedcore.load(NAME)
    snapshot = cache / f"models--org--model/snapshots/{commit}"
    shard = next(snapshot.glob("model-00002*"))
    blob = Path(os.path.realpath(shard))
    shard.unlink()
    pull(told(PULL, vedcore.load, NAME, local_files_only=True).hint)
    assert same_weights(vedcore.load(NAME, local_files_only=True), model)
    blob.write_bytes(b"damaged")
    shard.unlink()
    shard.symlink_to("../../blobs/none")
    hint = told("`vedcore cache verify {…}` lists the damage, {…}", vedcore.load, NAME, local_files_only=True).hint
    told("run `vedcore pull` for {…}", run, "cache", "verify", NAME)
    pull(hint)
    run("cache", "verify", NAME)
    assert same_weights(vedcore.load(NAME, local_files_only=True), model)


def test_an_index_without_its_files(hub: Hub, model: Any) -> None:
    good = hub.head(NAME)
    model.save_pretrained(hub.folder / NAME, max_shard_size="20KB")
    sharded = hub.head(NAME)
    next((hub.folder / NAME).glob("model-00002*")).unlink()
    told("name another revision", vedcore.load, NAME)
    assert same_weights(vedcore.load(NAME, revision=sharded), model)
    (hub.folder / NAME / "model.safetensors.index.json").write_text("{}")
    told("name another revision", vedcore.load, NAME)
    assert same_weights(vedcore.load(NAME, revision=good), model)


def test_a_repo_that_is_not_in_the_cache(hub: Hub, model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    hint = told("run `vedcore pull {…}`", run, "cache", "verify", NAME).hint
    pull(hint)
    run("cache", "verify", NAME)
    assert "0 damaged" in capsys.readouterr().out


def test_bytes_that_a_proxy_changes(hub: Hub, model: Any) -> None:
    hub.faults = [Fault("wrong", "model.safetensors", "GET")]
    template = "is a proxy in between? run `vedcore cache verify {…}`, and {…}"
    hint = told(template, vedcore.load, NAME).hint
    run("cache", "verify", NAME)
    hub.faults = []
    pull(hint)
    assert same_weights(vedcore.load(NAME, local_files_only=True), model)


def test_a_hub_that_is_none(hub: Hub, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    head = Hub.head

    def odd(self: Hub, repo: str) -> str:
        self.commits[repo, "x"] = self.commits[repo, str(head(self, repo))]
        return "x"

    with monkeypatch.context() as patch:
        patch.setattr(Hub, "head", odd)
        told("check HF_ENDPOINT", vedcore.load, NAME)
    hub.faults = [Fault("etag", "config.json", value='"../evil"')]
    told("check HF_ENDPOINT", vedcore.load, NAME)
    hub.faults = []
    assert same_weights(vedcore.load(NAME), model)


def test_a_file_outside_of_its_repo(hub: Hub, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(hub.folder / NAME, hub.folder / "org/other")
    files = _Handler._files

    def evil(self: _Handler, repo: str, revision: str) -> Any:
        there = files(self, repo, revision)
        return (there[0], {**there[1], "../evil": b"x"}) if there and repo == NAME else there

    monkeypatch.setattr(_Handler, "_files", evil)
    told("take another repo", vedcore.load, NAME)
    assert same_weights(vedcore.load("org/other"), model)


def test_a_branch_that_moves_between_two_answers(hub: Hub, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = huggingface_hub.get_hf_file_metadata

    def moved(*arguments: Any, **options: Any) -> Any:
        import dataclasses

        return dataclasses.replace(asked(*arguments, **options), commit_hash="1" * 40)

    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub, "get_hf_file_metadata", moved)
        told("try again", vedcore.load, NAME)
    assert same_weights(vedcore.load(NAME), model)


@pytest.mark.parametrize("own", [False, True], ids=["default", "cache_dir"])
@pytest.mark.parametrize("full", [False, True], ids=["not writable", "full"])
def test_a_cache_that_cannot_be_written(
    hub: Hub, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: bool, full: bool
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        code = errno.ENOSPC if full else errno.EACCES
        raise OSError(code, os.strerror(code), "cache")

    options: dict[str, Any] = {"cache_dir": tmp_path / "mine"} if own else {}
    with monkeypatch.context() as patch:
        for owner, name in ((os, "makedirs"), (Path, "mkdir")):
            patch.setattr(owner, name, refuse)
        hint = told("{…}set {…} to {…} folder", vedcore.load, NAME, **options).hint
    assert hint.startswith("make room, or set") == full
    if own:
        assert "set cache_dir= to" in hint
        loaded = vedcore.load(NAME, cache_dir=tmp_path / "another")
    else:
        assert "set HF_HUB_CACHE to" in hint
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "another"))  # as of a new process
        loaded = vedcore.load(NAME)
    assert same_weights(loaded, model)
    assert (tmp_path / "another").is_dir()


def test_fewer_bytes(hub: Hub, model: Any) -> None:
    hub.faults = [Fault("short", "model.safetensors", "GET", times=1)]
    told("check the network, and try again{…}", vedcore.load, NAME)
    assert same_weights(vedcore.load(NAME), model)


@pytest.mark.usefixtures("no_xet")
def test_folders_to_push(hub: Hub, model: Any, tmp_path: Path) -> None:
    model.save_pretrained(made := tmp_path / "made")
    for wrong in (tmp_path / "none", tmp_path):
        told("name the folder that save_pretrained wrote", push_folder, wrong, "me/new")
    (tmp_path / "card").write_text("# Mine")
    (made / "README.md").unlink()
    (made / "README.md").symlink_to(tmp_path / "card")
    told("replace it with a copy of the file", push_folder, made, "me/new")
    (made / "README.md").unlink()
    shutil.copy(tmp_path / "card", made / "README.md")
    push_folder(made, "me/new")
    assert same_weights(vedcore.load("me/new"), model)
    assert (hub.folder / "me/new/README.md").read_text() == "# Mine"


def test_published_weights(hub: Hub, model: Any, site: Path, tmp_path: Path) -> None:
    part = BLIND % "pass"
    write_distribution(site, "mine", DECODER)
    (site / "mine_part.py").write_text(part.replace("hub_repos = {}", 'hub_repos = {"gpt2": "org/gpt2"}'))
    model.save_pretrained(encoder := tmp_path / "model")
    model.save_pretrained(hub.folder / "org/gpt2", format="transformers", part="decoder")
    other = {"name": "mine", "variant": "gpt2-medium"}
    hint = told("choose one of {…}", vedcore.compose, str(encoder), other, pretrained=True).hint
    chosen = {"name": "mine", "variant": hint.removeprefix("choose one of ")}
    assert same_weights(vedcore.compose(str(encoder), chosen, pretrained=True), model)
