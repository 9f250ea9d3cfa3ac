"""The real client against a hub on the loopback: what comes, what is checked, and what every fault ends in."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner
from huggingface_hub import constants, get_session
from huggingface_hub.utils._shared_blobs import publish_blob_to_shared_store

from tests.hub.conftest import TOKEN, fill
from tests.hub.server import Fault, Hub
from vedcore import hub as ours
from vedcore.cli.app import group
from vedcore.errors import CheckpointNotFoundError, CheckpointUnsafeError, HubError, VedcoreError
from vedcore.hub import fetching
from vedcore.weights.snapshot import Snapshot

WANTED = ["config.json", "model.safetensors", "tokenizer.json"]


def fails(call: Callable[[], object], *words: str, kind: type[VedcoreError] = HubError) -> VedcoreError:
    """The error of ``call``: one line, with the words, and without the token anywhere."""
    with pytest.raises(VedcoreError) as caught:
        call()
    error = caught.value
    assert isinstance(error, kind), repr(error)
    message = str(error)
    assert len(message) <= 300
    assert message.isprintable()
    for word in words:
        assert word in message, message
    assert error.hint
    frames = traceback.TracebackException.from_exception(error, capture_locals=True)
    frames.stack = traceback.StackSummary.from_list(
        [f for f in frames.stack if Path(f.filename).parent == Path(ours.__file__).parent]
    )
    dump = "".join(frames.format(chain=True)) + repr(error) + repr(vars(error)) + error.details
    assert TOKEN not in dump
    assert error.__context__ is None or isinstance(error.__context__, VedcoreError)
    pickle.dumps(error.args)
    return error


def fetch(**arguments: object) -> Path:
    return ours.fetch_folder("org/model", **arguments)  # type: ignore[arg-type]


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


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
    fails(lambda: fetch(subfolder="a"), "no a/config.json", "subfolder=")
    (folder / "config.json").resolve().write_text("{}")
    fails(lambda: fetch(subfolder="a/b"), "vedcore cache verify org/model", "vedcore pull org/model --subfolder a/b")
    assert CliRunner().invoke(group, ["pull", "org/model", "--subfolder", "a/b"]).stdout == f"{folder}\n"


@pytest.mark.parametrize("subfolder", ["..", "a/../..", "/a", "a//b", "./a", "C:\\a", "a\\b", "a\0", "/"])
def test_a_subfolder_that_leads_out(hub: Hub, subfolder: str) -> None:
    fails(lambda: fetch(subfolder=subfolder), "org/model", "subfolder=", kind=CheckpointUnsafeError)
    assert hub.requests == []


def test_a_cache_of_its_own(hub: Hub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "mine"
    folder = fetch(cache_dir=mine)
    assert folder.is_relative_to(mine)
    assert not cache.exists()
    assert fetch(cache_dir=str(mine), local_files_only=True) == folder
    where = f"HF_HUB_CACHE={mine}"
    fails(lambda: fetch(cache_dir=mine, local_files_only=True, revision="v2"), "org/model --revision v2`", where)
    (folder / "config.json").resolve().write_text("{}")
    fails(lambda: fetch(cache_dir=mine), "vedcore cache verify org/model", "vedcore pull org/model", where)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(mine))
    assert len(ours.verify("org/model")[1]) == 1
    assert CliRunner().invoke(group, ["pull", "org/model"]).stdout == f"{folder}\n"
    assert ours.verify() == (3, [])
    assert not cache.exists()


def test_local_files_only_is_offline_for_one_call(hub: Hub) -> None:
    fails(lambda: fetch(local_files_only=True), "not in the cache, and local_files_only is set", "vedcore pull")
    assert hub.requests == []
    folder = fetch()
    asked = len(hub.requests)
    assert fetch(local_files_only=True) == folder
    assert len(hub.requests) == asked


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
        (Fault("status", status=404, headers={"X-Error-Code": "RevisionNotFound"}), ["'main'", "revision="]),
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
    start = time.monotonic()
    fails(fetch, "org/model", *words)
    assert time.monotonic() - start < 10
    assert max(hub.requests.count(request) for request in hub.requests) <= 6  # as often as the library tries
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


def test_no_model(hub: Hub) -> None:
    os.remove(hub.folder / "org/model/config.json")
    fails(fetch, "no config.json")


# The cache.


def test_offline(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch)
    fails(fetch, "not in the cache", "vedcore pull org/model", "revision=")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    folder = fetch()
    offline(monkeypatch)
    asked = len(hub.requests)
    assert fetch() == fetch(revision=folder.name) == folder
    fails(lambda: fetch(revision="v2"), "'v2'", "vedcore pull")
    fails(lambda: fetch(revision="0" * 40), "vedcore pull")
    (cache / "models--org--model/refs/main").unlink()
    fails(fetch, "revision=")
    assert fetch(revision=folder.name) == folder
    assert len(hub.requests) == asked


def test_a_cache_that_is_damaged(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch()
    ref = folder.parents[1] / "refs" / "main"

    def cut(name: str) -> None:
        os.truncate(folder / name, (folder / name).stat().st_size // 2)

    damages: list[Callable[[], object]] = [
        lambda: cut("config.json"),
        lambda: cut("model.safetensors"),
        lambda: os.remove(os.path.realpath(folder / "model.safetensors")),
        lambda: ref.write_text(""),
        lambda: ref.write_text("../../evil"),
    ]
    for damage in damages:
        damage()
        offline(monkeypatch)
        fails(fetch, "vedcore cache verify", "vedcore pull")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        damaged = ours.verify("org/model")[1]
        assert len(damaged) == 1
        result = CliRunner().invoke(group, ["cache", "verify", "--json"])
        assert json.loads(result.stdout)["damaged"][0]["repo"] == "org/model"
        assert isinstance(result.exception, HubError)
        result = CliRunner().invoke(group, ["pull", "org/model"])
        assert result.stdout.strip() == str(folder)
        assert ours.verify()[1] == []
    assert CliRunner().invoke(group, ["cache", "verify", "org/model"]).stdout == "3 files, 0 damaged\n"


def test_a_cache_that_cannot_be_written(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "cache"))
    fails(fetch, "cannot be cached", "HF_HOME")


def test_a_cache_that_is_read_only_serves_what_it_has(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **more: object) -> None:
        raise PermissionError(13, "Permission denied")

    folder = fetch()
    fill(hub.folder / "org/model", seed=1)
    with monkeypatch.context() as patch:  # root may write where no one may
        for owner, name in ((os, "replace"), (os, "makedirs"), (Path, "mkdir")):
            patch.setattr(owner, name, refuse)
        assert fetch(revision=folder.name) == folder
        fails(fetch, "cannot be cached: permission denied", "HF_HOME")
    fill(hub.folder / "org/model")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        (cache / "models--org--model/refs/main").write_text("0" * 40)
        assert fetch() == folder


def test_large_files_of_the_cache_are_left_to_the_loader(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch()
    (folder / "model.safetensors").write_bytes(b"cut")
    monkeypatch.setattr(fetching, "MAX_REHASHED_BYTES", 2)
    expected = ours.expected_hashes(fetch())
    assert expected["model.safetensors"] != hashlib.sha256(b"cut").hexdigest()


@pytest.mark.parametrize("fault", ["", "elsewhere", "prefix", "third", "folder", "blobs", "gone", "device"])
def test_the_store_that_repositories_share(hub: Hub, cache: Path, tmp_path: Path, fault: str) -> None:
    """As huggingface_hub makes it of what hf_xet fetched: a blob is a link itself, and nothing else may be one."""
    folder = fetch()
    data = (folder / "model.safetensors").read_bytes()
    blob = (folder / "model.safetensors").resolve()
    name = "ab" + "0" * 62
    assert publish_blob_to_shared_store(
        blob_path=str(blob), xet_hash=name, cache_dir=cache, expected_size=len(data), replace_existing=False
    )
    assert os.readlink(blob) == f"../../blobs/ab/{name}"
    stored, outside = cache / "blobs" / "ab" / name, tmp_path / "outside"
    if fault == "elsewhere":  # where the link leads, or what stands there
        blob.unlink()
        blob.symlink_to(shutil.copy(stored, outside))
    elif fault == "prefix":
        blob.unlink()
        blob.symlink_to(f"../../blobs/cd/{name}")
        shutil.copytree(stored.parent, cache / "blobs" / "cd")
    elif fault == "third":
        shutil.move(stored, outside)
        stored.symlink_to(outside)
    elif fault in ("folder", "blobs"):
        moved = stored.parent if fault == "folder" else stored.parent.parent
        shutil.move(moved, outside)
        moved.symlink_to(outside)
    elif fault == "gone":
        stored.unlink()
    elif fault == "device":
        stored.unlink()
        os.mkfifo(stored)
    with Snapshot(folder) as snapshot:
        if fault:
            with pytest.raises(CheckpointNotFoundError if fault == "gone" else CheckpointUnsafeError):
                snapshot.open("model.safetensors")
            return
        assert snapshot.open("model.safetensors").readall() == data
    assert ours.verify() == (3, [])
    assert fetch() == folder
    stored.chmod(0o600)
    stored.write_bytes(b"x" * len(data))
    assert [damage.path for damage in ours.verify()[1]] == [str(blob)]
    ours.repair("org/model")
    assert (fetch() / "model.safetensors").read_bytes() == data


CHILD = """
import sys
from vedcore import hub
print(hub.fetch_folder("org/model"), flush=True)
"""


def child(hub: Hub, cache: Path, code: str = CHILD, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(cache), **variables}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )


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
"""A fetch a line in a process of its own, which need not import everything again."""


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
    (hub.folder / "org/model/model.safetensors").write_bytes(bytes(20 << 20))  # for 32 s, if it is slow
    hub.faults = [fault]
    with child(hub, cache, "from vedcore.cli.app import main; main()", "pull", "org/model") as process:
        end = time.monotonic() + 30
        while not hub.asked(fault.match, fault.method):
            assert time.monotonic() < end
            time.sleep(0.01)
        hub.closing.wait(0.5)
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.wait(30)
        assert time.monotonic() - start < 2
        assert process.returncode == 130
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


# Up.


@pytest.mark.usefixtures("no_xet")
def test_push_is_one_commit_and_comes_back(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    fill(folder, seed=3)
    (folder / ".hidden").write_text("mine")
    (folder / "model-2.safetensors").write_bytes(b"more")
    url = ours.push_folder(folder, "me/new", private=True, commit_message="First", token=TOKEN)
    assert url.startswith(f"{hub.url}/me/new/commit/")
    [pushed] = hub.pushed
    assert pushed["summary"] == "First"
    kinds = {line["value"]["path"]: line["key"] for line in pushed["lines"][1:]}
    assert kinds["model.safetensors"] == kinds["model-2.safetensors"] == "lfsFile"
    assert kinds["config.json"] == "file"
    assert set(kinds) == {name for name in os.listdir(folder) if name not in (".hidden", "onnx")}
    back = ours.fetch_folder("me/new")
    assert (back / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert ours.push_folder(folder, "me/new", create_pr=True).endswith("/discussions/1")


@pytest.mark.usefixtures("no_xet")
@pytest.mark.parametrize("match", ["/api/repos/create", "/preupload/", "/info/lfs", "/storage/", "/commit/"])
@pytest.mark.parametrize(
    "fault", [Fault("status", status=403), Fault("status", status=500), Fault("hang")], ids=["403", "500", "hang"]
)
def test_faults_of_a_push(hub: Hub, tmp_path: Path, match: str, fault: Fault) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    fill(folder)
    hub.faults = [Fault(fault.kind, match, status=fault.status)]
    hub.patience = 0.3  # the library sets no timeout to what it sends
    fails(lambda: ours.push_folder(folder, "me/new"), "me/new")
    assert hub.asked(match) <= 6
    assert hub.pushed == []


def test_nothing_to_push(hub: Hub, tmp_path: Path) -> None:
    fails(lambda: ours.push_folder(tmp_path / "none", "me/new"), "no such file")
    fails(lambda: ours.push_folder(hub.folder, "me/new"), "no files")
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "config.json").symlink_to("/etc/hostname")
    fails(lambda: ours.push_folder(tmp_path / "made", "me/new"), "a link", kind=CheckpointUnsafeError)
    assert hub.requests == []


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


# Names.


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("hub:org/name", ("org/name", None)),
        ("hub:org/name@v1.0", ("org/name", "v1.0")),
        ("hf://org/name@refs/pr/1", ("org/name", "refs/pr/1")),
        ("hub:gpt2", ("gpt2", None)),
        ("org/na.me-2_b", ("org/na.me-2_b", None)),
        ("org/name@main", ("org/name", "main")),
        ("gpt2", None),
        ("./org/name", None),
        ("/org/name", None),
        ("../name", None),
        ("a/b/c", None),
        ("org/name ", None),
        ("", None),
        ("C:\\models", None),
        ("timm/vit:x", None),
    ],
)
def test_names_of_repos(text: str, named: tuple[str, str | None] | None) -> None:
    assert ours.parse_repo(text) == named


@pytest.mark.parametrize(
    "text",
    [
        "hub:",
        "hub:/",
        "hub:a/b/c",
        "hub:../x",
        "hub:org/..",
        "hub:org/na me",
        "hub:org/name@",
        "hub:org/name@../x",
        "hub:org/name@-x",
        "hub:org/name@a//b",
        "hf://",
        "hub:org/a--b",
        "hub:org/x.git",
        "hub:org/\u202ename",
        f"hub:org/{'x' * 99}",
        "hub:org/name@a\nb",
        f"hub:org/name@{'x' * 999}",
    ],
)
def test_names_that_are_wrong(text: str) -> None:
    fails(lambda: ours.parse_repo(text), " is not ")


@pytest.mark.parametrize("revision", ["../../x", "/x", "a/../b", "", "a b", "x\0", "refs/", "~1"])
def test_revisions_that_are_wrong(hub: Hub, revision: str) -> None:
    fails(lambda: fetch(revision=revision), "is not a revision")
    assert hub.requests == []


def test_a_repo_that_is_none(hub: Hub) -> None:
    fails(lambda: ours.fetch_folder("../x"), "is not the name of a repo")
    fails(lambda: ours.verify("org/none"), "vedcore pull org/none")
    assert ours.verify() == (0, [])
