"""The real client against a hub on the loopback: files, checks, and the errors of every fault."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner
from huggingface_hub import constants, get_session

from tests.hub.client import WANTED, child, fails, fetch, offline
from tests.hub.conftest import TOKEN, fill
from tests.hub.server import Fault, Hub
from vedcore import hub as ours
from vedcore.cli.app import group
from vedcore.errors import CheckpointUnsafeError
from vedcore.weights.snapshot import Snapshot


def test_a_folder_of_links_with_what_a_model_needs(hub: Hub, cache: Path) -> None:
    folder = fetch()
    assert folder == cache / "models--org--model" / "snapshots" / str(hub.head("org/model"))
    assert sorted(os.listdir(folder)) == WANTED
    data = (hub.folder / "org/model/model.safetensors").read_bytes()
    with Snapshot(folder) as snapshot:
        assert snapshot.read("model.safetensors") == data
    assert ours.expected_hashes(folder) == {"model.safetensors": hashlib.sha256(data).hexdigest()}
    assert hub.tokens == {f"Bearer {TOKEN}"}
    asked = len(hub.requests)
    assert fetch() == folder
    assert len(hub.requests) == asked + 1  # what main is now, and no file again
    assert fetch(revision=folder.name) == folder
    assert len(hub.requests) == asked + 1  # a commit does not change


def test_a_subfolder_and_nothing_else(hub: Hub, cache: Path) -> None:
    (hub.folder / "org/model/a/b").mkdir(parents=True)
    fill(hub.folder / "org/model/a/b", seed=5)
    folder = fetch(subfolder="a/b/")
    commit = cache / "models--org--model" / "snapshots" / str(hub.head("org/model"))
    assert folder == commit / "a" / "b"
    assert sorted(os.listdir(folder)) == WANTED
    assert os.listdir(commit) == ["a"]
    data = (hub.folder / "org/model/a/b/model.safetensors").read_bytes()
    with Snapshot(folder) as snapshot:
        assert snapshot.read("model.safetensors") == data
    assert ours.expected_hashes(folder) == {"model.safetensors": hashlib.sha256(data).hexdigest()}
    asked = len(hub.requests)
    assert fetch(subfolder="a/b", revision=commit.name) == fetch(subfolder="a/b", local_files_only=True) == folder
    assert len(hub.requests) == asked
    fails(lambda: fetch(subfolder="a", local_files_only=True), "vedcore pull org/model --subfolder a")
    fails(lambda: fetch(subfolder="a"), "no a/config.json", "subfolder")
    (folder / "config.json").resolve().write_text("{}")
    fails(lambda: fetch(subfolder="a/b"), "vedcore cache verify org/model", "vedcore pull org/model --subfolder a/b")
    assert CliRunner().invoke(group, ["pull", "org/model", "--subfolder", "a/b"]).stdout == f"{folder}\n"


@pytest.mark.parametrize("subfolder", ["..", "a/../..", "/a", "a//b", "./a", "C:\\a", "a\\b", "a\0", "/"])
def test_a_subfolder_that_leads_out(hub: Hub, subfolder: str) -> None:
    fails(lambda: fetch(subfolder=subfolder), "org/model", "subfolder=", kind=CheckpointUnsafeError)
    assert hub.requests == []


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_shards_by_their_index(hub: Hub, ending: str) -> None:
    repo = hub.folder / "org/model"
    stem = {"safetensors": "model", "bin": "pytorch_model"}[ending]
    os.rename(repo / "model.safetensors", repo / f"{stem}-00001-of-00002.{ending}")
    (repo / f"{stem}-00002-of-00002.{ending}").write_bytes(b"two")
    (repo / f"{stem}-00003-of-00003.{ending}").write_bytes(b"of another save")
    index = {"weight_map": {"a": f"{stem}-00001-of-00002.{ending}", "b": f"{stem}-00002-of-00002.{ending}"}}
    (repo / f"{stem}.{ending}.index.json").write_text(json.dumps(index))
    assert len(os.listdir(folder := fetch())) == 5
    assert not (folder / f"{stem}-00003-of-00003.{ending}").exists()
    index["weight_map"]["c"] = f"{stem}-00004-of-00004.{ending}"
    (repo / f"{stem}.{ending}.index.json").write_text(json.dumps(index))
    fails(fetch, "00004-of-00004")
    index["weight_map"]["c"] = "../../../evil"
    (repo / f"{stem}.{ending}.index.json").write_text(json.dumps(index))
    fails(fetch, "evil", kind=CheckpointUnsafeError)


def test_safetensors_before_bin(hub: Hub) -> None:
    (hub.folder / "org/model/pytorch_model.bin").write_bytes(b"legacy")
    assert sorted(os.listdir(fetch())) == WANTED
    os.remove(hub.folder / "org/model/model.safetensors")
    assert sorted(os.listdir(fetch())) == ["config.json", "pytorch_model.bin", "tokenizer.json"]


def test_a_branch_that_moves_meanwhile_gives_one_commit(hub: Hub) -> None:
    repo, before = hub.folder / "org/model", hub.head("org/model")

    def move(method: str, path: str) -> None:
        if path.endswith("/config.json"):
            fill(repo, seed=7)

    hub.on_request = move
    folder = fetch()
    assert folder.name == before != hub.head("org/model")
    assert json.loads((folder / "config.json").read_text()) == {"seed": 0}
    assert json.loads((folder / "tokenizer.json").read_text()) == {"words": 0}
    hub.on_request = lambda method, path: None
    assert fetch().name == hub.head("org/model")


# Faults of the network and of the server.


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault("status", status=401), ["401", "HF_TOKEN"]),
        (
            Fault("status", status=401, headers={"X-Error-Message": "Invalid credentials in Authorization header"}),
            ["401", "HF_TOKEN"],
        ),
        (Fault("status", status=403), ["403", "HF_TOKEN"]),
        (Fault("status", status=403, headers={"X-Error-Code": "GatedRepo"}), ["gated", "ask for access", "HF_TOKEN"]),
        (Fault("status", status=404, headers={"X-Error-Code": "RepoNotFound"}), ["404", "check the name"]),
        (Fault("status", status=404, headers={"X-Error-Code": "RevisionNotFound"}), ["'main'", "name a branch"]),
        (Fault("status", status=404, headers={"X-Error-Code": "EntryNotFound"}), ["404"]),
        (Fault("status", status=429, headers={"Retry-After": "3600"}), ["429", "3600 s"]),
        (Fault("status", status=429, headers={"Retry-After": TOKEN}), ["429"]),
        (Fault("status", status=500, headers={"X-Error-Message": TOKEN}), ["500", "later"]),
        (Fault("status", status=503), ["503"]),
        (Fault("status", status=418), ["418"]),
        (Fault("hang"), ["no", "check the network"]),
        (Fault("status", status=200), []),
    ],
    ids=lambda value: f"{value.kind}-{value.status}" if isinstance(value, Fault) else None,
)
@pytest.mark.parametrize("match", ["/api/models", "/resolve/"])
def test_faults_of_each_request(hub: Hub, cache: Path, fault: Fault, words: list[str], match: str) -> None:
    hub.faults = [Fault(fault.kind, match, status=fault.status, headers=fault.headers)]
    fails(fetch, "org/model", *words)
    assert len(hub.requests) <= 7  # a listing, and a file as often as the library tries
    assert max(hub.requests.count(request) for request in hub.requests) <= 6
    assert fault.kind != "hang" or not [path for _, path in hub.answered if match in path]
    assert ours.verify()[1] == []


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", "model.safetensors", "HEAD", times=3),
        Fault("status", "model.safetensors", status=429, headers={"Retry-After": "1"}, times=2),
        Fault("drop", "model.safetensors", "GET", times=2),
        Fault("drop", "model.safetensors", "GET", times=2, value="ignore_range"),
        Fault("hang", "/resolve/", times=2),
        Fault("hang_half", "model.safetensors", "GET", times=2),
        Fault("ignore_range"),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}-{fault.match.strip('/')}-{fault.method}",
)
def test_faults_that_pass(hub: Hub, fault: Fault) -> None:
    hub.faults = [fault]
    folder = fetch()
    assert (folder / "model.safetensors").read_bytes() == (hub.folder / "org/model/model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        (Fault("status", "/api/models", times=1), "500"),
        (Fault("hang", "/api/models", times=1), "no answer"),
        (Fault("status", "model.safetensors", "GET", times=1), "500"),
        (Fault("short", "model.safetensors", "GET", times=1), "fewer bytes"),
    ],
    ids=lambda value: f"{value.kind}-{value.match.strip('/')}" if isinstance(value, Fault) else None,
)
def test_faults_that_the_library_does_not_try_again(hub: Hub, fault: Fault, word: str) -> None:
    hub.faults = [fault]
    fails(fetch, "org/model", word)
    assert ours.verify()[1] == []
    assert (fetch() / "model.safetensors").read_bytes() == (hub.folder / "org/model/model.safetensors").read_bytes()


@pytest.mark.parametrize("kind", ["drop", "short", "hang_half"])
def test_faults_of_a_body_that_stay(hub: Hub, kind: str) -> None:
    hub.faults = [Fault(kind, "model.safetensors", "GET", value="ignore_range")]
    fails(fetch, "org/model/model.safetensors", "check the network")
    assert hub.asked("model.safetensors", "GET") <= 6
    hub.faults = []
    assert (fetch() / "model.safetensors").exists()


def test_no_hub_at_all(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    fails(fetch, "no connection", "check the network")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_wrong_bytes_of_the_right_size(hub: Hub, cache: Path, name: str) -> None:
    hub.faults = [Fault("wrong", name, "GET")]
    fails(fetch, name, "hash", "vedcore cache verify")
    assert ours.verify()[1] == []  # they are not kept
    hub.faults = []
    assert (fetch() / name).read_bytes() == (hub.folder / "org/model" / name).read_bytes()


@pytest.mark.parametrize("etag", ['"../../../../evil"', '"/evil"', '"a/b"', '"a\\\\b"', '""'])
def test_an_etag_that_is_a_path(hub: Hub, tmp_path: Path, etag: str) -> None:
    hub.faults = [Fault("etag", "config.json", value=etag)]
    fails(fetch, "hash", kind=CheckpointUnsafeError)
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "a/../../evil",
        "..",
        "a/..",
        "/evil",
        "C:\\evil",
        "C:evil",
        "a/C:evil",
        "\\\\host\\share\\evil",
        "..\\evil",
        "a\\b",
        "a\0b",
        "a\nb",
        "",
        "./a",
        "a//b",
        "x" * 300,
    ],
)
def test_file_names_that_lead_out(hub: Hub, cache: Path, name: str) -> None:
    hub.listed["org/model"] = [name]
    fails(fetch, "org/model", kind=CheckpointUnsafeError)
    assert not cache.exists()


def test_a_repo_without_a_model(hub: Hub) -> None:
    os.remove(hub.folder / "org/model/config.json")
    fails(fetch, "no config.json")


FORKS = """
import os, sys
from huggingface_hub import HfApi, hf_hub_download
from vedcore import hub
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        hub.fetch_folder("org/model")
        os._exit(0)
    print(pid, flush=True)
    print(os.waitpid(pid, 0)[1], flush=True)
"""
"""Forks a process for each line of input, so that each fetch need not import everything again."""


def test_killed_while_it_fetches(hub: Hub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def files(folder: Path) -> set[Path]:
        return {path.relative_to(folder) for path in folder.rglob("*") if path.is_symlink() or path.is_file()}

    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "whole"))
        fetch()
    hub.requests.clear()
    hub.faults = [Fault("slow", "model.safetensors", "GET")]
    with child(hub, cache, FORKS) as process:

        def start() -> int:
            print(file=process.stdin, flush=True)
            return answer()

        def answer() -> int:
            assert process.stdout is not None
            return int(process.stdout.readline())

        for kill in range(20):
            pid = start()
            end = time.monotonic() + 30
            while hub.asked("model.safetensors", "GET") <= kill:
                assert time.monotonic() < end
                time.sleep(0.002)
            hub.closing.wait(0.06 * (kill % 6))  # the body takes five times 0.1 s
            os.kill(pid, signal.SIGKILL)
            assert answer() == signal.SIGKILL
            garbage = files(cache) - files(tmp_path / "whole")
            assert len(garbage) <= kill + 1
            assert all(path.name.endswith(".incomplete") for path in garbage)
            assert ours.verify()[1] == []
            offline(monkeypatch)
            fails(fetch, "vedcore pull org/model")
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        hub.faults = []
        start()
        assert answer() == 0
    offline(monkeypatch)
    assert fetch() == next((cache / "models--org--model/snapshots").iterdir())
    assert ours.verify()[1] == []
    assert files(tmp_path / "whole") <= files(cache)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("slow", "model.safetensors", "GET"),
        Fault("hang", "model.safetensors", "GET"),
        Fault("hang", "/api/models"),
        Fault("status", "/resolve/", status=503),
        Fault("status", "/resolve/", status=429, headers={"Retry-After": "60"}),
    ],
    ids=["body", "answer", "listing", "pause", "long pause"],
)
def test_ctrl_c_ends_a_download_at_once(hub: Hub, cache: Path, fault: Fault) -> None:
    """The client ends while the hub is still answering, and does not try again."""
    (hub.folder / "org/model/model.safetensors").write_bytes(bytes(60 << 20))  # for 96 s, if it is slow
    hub.faults = [fault]
    hub.patience = 120.0
    code = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # background processes of a shell ignore it
from vedcore.cli.app import main
main()
"""
    with child(hub, cache, code, "pull", "org/model") as process:
        end = time.monotonic() + 30
        while not hub.asked(fault.match, fault.method):
            assert time.monotonic() < end
            time.sleep(0.01)
        hub.closing.wait(0.5)
        asked = len(hub.requests)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert len(hub.requests) <= asked + 1  # a try may have come before the signal
    if fault.kind != "status":
        assert not [path for method, path in hub.answered if fault.match in path and fault.method in ("", method)]
    assert not list(cache.rglob("*.incomplete"))


def test_the_token_is_in_no_output_of_a_process(hub: Hub, cache: Path) -> None:
    hub.faults = [Fault("status", "/api/models", status=403, headers={"X-Error-Message": TOKEN})]
    process = child(hub, cache, HF_TOKEN=TOKEN, HF_DEBUG="0")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "HubError: org/model: access denied (403)" in err
    assert TOKEN not in out + err


def test_the_token_that_is_passed_is_in_no_error(hub: Hub) -> None:
    hub.faults = [Fault("status", status=403)]
    token = f"{TOKEN}x"
    fails(lambda: fetch(token=token), "403")
    assert hub.tokens == {f"Bearer {token}"}


def test_folders_are_fetched_at_once_in_threads(hub: Hub) -> None:
    repos = [f"org/m{i}" for i in range(6)]
    for seed, repo in enumerate(repos):
        (hub.folder / repo).mkdir()
        fill(hub.folder / repo, seed)
    hub.faults = [Fault("drop", "model.safetensors", "GET", times=4)]
    before = dict(vars(constants))
    with ThreadPoolExecutor(6) as pool:
        folders = list(pool.map(ours.fetch_folder, repos * 2))
    assert [json.loads((folder / "config.json").read_text())["seed"] for folder in folders] == [*range(6)] * 2
    assert vars(constants) == before
    assert constants.HF_HUB_DISABLE_XET is False
    assert [len(hooks) for hooks in get_session().event_hooks.values()] == [1, 0]
