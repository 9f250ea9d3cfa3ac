"""Writing a folder: whole or not at all, with other savers and readers, and with files of the user in it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from vedcore.errors import CheckpointNotFoundError, CheckpointUnsafeError, CheckpointWriteError
from vedcore.model_files import MANIFEST
from vedcore.weights import atomic_swap, folder, saving
from vedcore.weights.folder import FileWriter, save_folder
from vedcore.weights.manifest import FileRecord
from vedcore.weights.saving import weight_files
from vedcore.weights.snapshot import Snapshot, backup_path, read_folder

SCRIPT = Path(__file__).with_name("interrupt_saves.py")


@pytest.fixture
def workplace() -> Iterator[Path]:
    """A folder in memory where the system has one, for hundreds of saves."""
    shared = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(prefix="vedcore-test-", dir=shared if os.access(shared, os.W_OK) else None))
    yield path
    shutil.rmtree(path)


def content(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


# -- a save -----------------------------------------------------------------------------------------------------


def test_files_and_manifest(tmp_path: Path) -> None:
    target = save_folder(tmp_path / "m", {"a.json": b"{}", "b.bin": FileWriter(3, partial(put, data=b"abc"))})
    assert content(target).keys() == {"a.json", "b.bin", MANIFEST}
    manifest = json.loads((target / MANIFEST).read_text())
    assert manifest["files"]["b.bin"] == {"size": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}
    assert os.listdir(tmp_path) == ["m"]


def put(path: Path, data: bytes) -> FileRecord:
    path.write_bytes(data)
    return FileRecord.of(data)


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs Linux to name an open file")
def test_the_order_of_things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fsync of the files, the manifest last; of the folder; exchange; fsync of the parent; removal of the old one."""
    save_folder(tmp_path / "m", {"a": b"1"})
    events: list[str] = []

    def name_of(descriptor: int) -> str:
        path = os.path.relpath(os.readlink(f"/proc/self/fd/{descriptor}"), tmp_path)
        return re.sub(r"\.vedcore-tmp-[^/]*", "stage", path)

    real = {"fsync": os.fsync, "replace": atomic_swap.replace_folder, "rmtree": shutil.rmtree}
    monkeypatch.setattr(os, "fsync", lambda d: (events.append(f"fsync {name_of(d)}"), real["fsync"](d))[1])
    monkeypatch.setattr(folder, "replace_folder", lambda *a: (events.append("exchange"), real["replace"](*a))[1])
    monkeypatch.setattr(shutil, "rmtree", lambda *a, **k: (events.append("drop"), real["rmtree"](*a, **k))[1])
    save_folder(tmp_path / "m", {"a": b"2", "b": b"3"})
    files = ["fsync stage/a", "fsync stage/b", f"fsync stage/{MANIFEST}"]
    assert events[:7] == [*files, "fsync stage", "exchange", "fsync .", "drop"]


def test_files_are_as_readable_as_others(tmp_path: Path) -> None:
    def private(path: Path) -> FileRecord:
        path.touch(0o600)
        return put(path, b"x")

    before = os.umask(0o022)
    try:
        target = save_folder(tmp_path / "m", {"a": FileWriter(1, private)})
    finally:
        os.umask(before)
    assert (target / "a").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("name", ["../../x", "/abs", "a/b", "a\\b", "C:x", "", ".", "..", "a\0b", "a\nb", "x" * 256])
def test_unsafe_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointUnsafeError, match="not a plain file name"):
        save_folder(tmp_path / "m", {name: b""})
    assert os.listdir(tmp_path) == []


def test_nowhere_to_write(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    bad: list[str | Path] = [
        "",
        tmp_path / "file",
        tmp_path / "missing" / "m",
        tmp_path / "file" / "m",
        tmp_path / ("x" * 256),
        tmp_path / "a\0b",
        tmp_path / "loop",
        "/",
        "/proc",
    ]
    for path in bad:
        with pytest.raises(CheckpointWriteError) as error:
            save_folder(path, {"a": b""})
        assert error.value.hint
        assert len(str(error.value)) <= 300
    assert sorted(os.listdir(tmp_path)) == ["file", "loop"]


def test_no_permission(workplace: Path) -> None:
    workplace.chmod(0o555)
    run(f"""
        import os, pytest
        from vedcore.weights.folder import save_folder
        from vedcore.errors import CheckpointWriteError
        if os.getuid() == 0:
            os.setuid(65534)
        with pytest.raises(CheckpointWriteError, match="permission denied"):
            save_folder({str(workplace / "m")!r}, {{"a": b""}})
    """)


def run(script: str, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- what the user keeps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("exchanges", [True, False])
def test_the_users_files_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool) -> None:
    if not exchanges:
        monkeypatch.setattr(atomic_swap, "_renameat2", lambda: None)
    target = tmp_path / "m"
    save_folder(target, {"a": b"old", "gone": b"old", "README.md": b"card"})
    (target / "runs" / "1").mkdir(parents=True)
    mine = {"notes.safetensors": b"1", ".tmpX": b"2", "runs/1/log": b"3", "README.md": b"card, edited"}
    for name, data in mine.items():
        (target / name).write_bytes(data)
    (target / "link").symlink_to("/nowhere")
    os.mkfifo(target / "pipe")
    inode = (target / "notes.safetensors").stat().st_ino
    for _ in range(2):
        save_folder(target, {"a": b"new", "README.md": b"a new card"})
        now = content(target)
        del now[MANIFEST]
        assert now == {"a": b"new", **mine}
        assert os.readlink(target / "link") == "/nowhere"
        assert (target / "notes.safetensors").stat().st_ino == inode
        assert (target / "pipe").is_fifo()
    assert os.listdir(tmp_path) == ["m"]


def test_a_card_that_nobody_edited_is_renewed(tmp_path: Path) -> None:
    save_folder(tmp_path / "m", {"README.md": b"one"})
    save_folder(tmp_path / "m", {"README.md": b"two"})
    assert (tmp_path / "m" / "README.md").read_bytes() == b"two"


def test_an_earlier_models_files_go_whoever_wrote_them(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    for name in ("model.safetensors", "notes"):
        (tmp_path / "m" / name).touch()
    save_folder(tmp_path / "m", {"a": b""}, re.compile("model.*"))
    assert content(tmp_path / "m").keys() == {"a", "notes", MANIFEST}


def test_without_hard_links_files_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    save_folder(tmp_path / "m", {"a": b"old"})
    (tmp_path / "m" / "notes").write_bytes(b"mine")
    monkeypatch.setattr(os, "link", refuse)
    save_folder(tmp_path / "m", {"a": b"new"})
    assert (tmp_path / "m" / "notes").read_bytes() == b"mine"


def test_links_and_folders_in_the_way_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "m" / "b").mkdir(parents=True)
    (tmp_path / "m" / "a").symlink_to("/etc/hostname")
    for name in ("a", "b"):
        with pytest.raises(CheckpointWriteError, match="in the way"):
            save_folder(tmp_path / "m", {name: b""})
    assert sorted(os.listdir(tmp_path / "m")) == ["a", "b"]


def test_a_link_to_a_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert save_folder(tmp_path / "link", {"a": b"1"}) == tmp_path / "real"
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "a").read_bytes() == b"1"


def test_saving_into_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m" / "runs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "m" / "runs")
    for value in (b"1", b"2"):
        save_folder("..", {"a": value})
        assert Path.cwd() == tmp_path / "m" / "runs"
        assert Path("../a").read_bytes() == value


# -- leftovers and locks ----------------------------------------------------------------------------------------


def test_leftovers_of_the_dead_are_swept(tmp_path: Path) -> None:
    script = f"""
        import os
        from vedcore.weights.folder import FileWriter, save_folder
        save_folder({str(tmp_path / "m")!r}, {{"a": FileWriter(1, lambda path: os._exit(9))}})
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    (left,) = (name for name in os.listdir(tmp_path) if name.startswith(".vedcore-tmp-"))
    host, pid, _ = left.removeprefix(".vedcore-tmp-").split("-")
    names = {
        left: True,
        f".vedcore-tmp-{host}-{pid}-ab12": True,
        f".vedcore-tmp-{host}-{os.getpid()}-ab12": False,
        f".vedcore-tmp-00000000-{pid}-ab12": False,
        ".vedcore-tmp-old": True,
        ".vedcore-tmp-new": False,
    }
    for name in names:
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "model.safetensors").touch()
        if name.endswith("old"):
            for path in (tmp_path / name / "model.safetensors", tmp_path / name):
                os.utime(path, (time.time() - 7200,) * 2)
    (tmp_path / ".tmpX").touch()
    save_folder(tmp_path / "m", {"a": b""})
    assert {*os.listdir(tmp_path)} == {"m", ".tmpX", *(name for name, swept in names.items() if not swept)}


def test_a_saver_that_died_between_two_renames(tmp_path: Path) -> None:
    """Where names cannot be exchanged: the folder is read from its other name, and the next save restores it."""
    target = tmp_path / "m"
    save_folder(target, {"a": b"1"})
    os.rename(target, backup_path(target))
    assert read_folder(target, lambda snapshot: snapshot.read("a")) == b"1"
    save_folder(target, {"b": b"2"})
    assert os.listdir(tmp_path) == ["m"]


def lock_of(target: Path) -> Path:
    return target.with_name(f".vedcore-lock-{hashlib.sha256(target.name.encode()).hexdigest()[:12]}")


def test_one_saver_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "LOCK_TIMEOUT_SECONDS", 0.2)
    target = tmp_path / "m"
    with (
        atomic_swap.locked(lock_of(target), 0),
        pytest.raises(CheckpointWriteError, match=rf"locked by pid {os.getpid()} on "),
    ):
        save_folder(target, {"a": b""})
    save_folder(target, {"a": b""})
    assert os.listdir(tmp_path) == ["m"]


def test_the_second_saver_waits(tmp_path: Path) -> None:
    target = tmp_path / "m"
    order = []

    def slow(path: Path) -> FileRecord:
        started.set()
        time.sleep(0.3)
        order.append(1)
        return put(path, b"1")

    def quick(path: Path) -> FileRecord:
        order.append(2)
        return put(path, b"2")

    started = threading.Event()
    first = threading.Thread(target=save_folder, args=(target, {"a": FileWriter(1, slow)}))
    first.start()
    started.wait()
    save_folder(target, {"a": FileWriter(1, quick)})
    first.join()
    assert order == [1, 2]
    assert (target / "a").read_bytes() == b"2"


def test_the_lock_of_a_dead_process_is_free(tmp_path: Path) -> None:
    lock_of(tmp_path / "m").write_text("pid 1 on elsewhere")
    save_folder(tmp_path / "m", {"a": b""})
    assert os.listdir(tmp_path) == ["m"]


# -- no space ---------------------------------------------------------------------------------------------------


def test_no_space_is_said_before_anything_is_written(tmp_path: Path) -> None:
    save_folder(tmp_path / "m", {"a": b"old"})
    with pytest.raises(
        CheckpointWriteError, match=r"no space left.*1,000,000,000,000,000 bytes needed, [\d,]+ free"
    ) as error:
        save_folder(tmp_path / "m", {"a": FileWriter(10**15, lambda path: pytest.fail("written"))})
    assert error.value.errno == errno.ENOSPC
    assert (tmp_path / "m" / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["m"]


def test_a_limit_on_file_sizes(tmp_path: Path) -> None:
    """A write of tensors or of bytes fails in the middle."""
    script = f"""
        import os, resource, signal, torch
        from vedcore.weights.folder import save_folder
        from vedcore.weights.saving import weight_files
        from vedcore.errors import CheckpointWriteError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        folder = {str(tmp_path / "m")!r}
        save_folder(folder, {{"a": b"old"}})
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        tensors = (weight_files({{"x": torch.ones(n)}}) for n in (5000, 20_000_000))
        for files in (*tensors, {{"a": bytes(5001)}}):
            try:
                save_folder(folder, files)
            except CheckpointWriteError as error:
                print(error)
        assert open(folder + "/a", "rb").read() == b"old"
        assert os.listdir({str(tmp_path)!r}) == ["m"]
    """
    assert re.findall(r"([\d,]+) bytes needed, [\d,]+ free", run(script)) == ["20,000", "80,000,000", "5,001"]


@pytest.mark.parametrize("call", ["save_file", "fsync"])
def test_a_disk_that_fails_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """It fails while tensors are written, or after; the old folder stays."""
    save_folder(tmp_path / "m", {"a": b"old"})

    def fails(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os if call == "fsync" else saving, call, fails)
    with pytest.raises(CheckpointWriteError, match="input/output error"):
        save_folder(tmp_path / "m", weight_files({"x": torch.ones(20 << 18)}))
    assert os.listdir(tmp_path) == ["m"]
    assert content(tmp_path / "m").keys() == {"a", MANIFEST}


# -- being stopped, and concurrency -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "how", "exchanges", "before", "step"),
    [
        ("tensors", "kill", "yes", "single", 7),
        ("tensors", "kill", "no", "shards", 7),
        ("tensors", "interrupt", "no", "nothing", 7),
        ("tensors", "interrupt", "yes", "shards", 7),
        ("tensors", "full", "no", "single", 7),
        ("native", "kill", "yes", "shards", 61),
        ("transformers", "kill", "yes", "single", 61),
        ("transformers", "kill", "no", "shards", 61),
        ("transformers", "full", "yes", "shards", 31),
    ],
)
def test_stopped_at_any_point(workplace: Path, what: str, how: str, exchanges: str, before: str, step: int) -> None:
    """The folder is the old or the new one, and no file is left over; the script can also stop at every point."""
    command = [sys.executable, str(SCRIPT), what, how, exchanges, before, str(step), str(workplace)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 90


@pytest.mark.parametrize("locks", [True, False])
def test_two_savers_and_a_reader(workplace: Path, monkeypatch: pytest.MonkeyPatch, locks: bool) -> None:
    """Every read is of one save, even where the file system grants every lock."""
    target = workplace / "m"
    save_folder(target, {"a": b"0" * 9, "b": b"0" * 9})
    child = f"""
        import fcntl, sys
        from vedcore.weights.folder import save_folder
        if not {locks}:
            fcntl.flock = lambda file, operation: None
        for _ in range(200):
            value = (sys.argv[1] * 9).encode()
            save_folder({str(target)!r}, {{"a": value, "b": value, "only" + sys.argv[1]: b""}})
    """
    command = [sys.executable, "-c", textwrap.dedent(child)]
    savers = [subprocess.Popen([*command, who]) for who in "12"]
    seen = set()
    while any(saver.poll() is None for saver in savers):
        one, other = read_folder(target, lambda snapshot: (snapshot.read("a"), snapshot.read("b")))
        assert one == other
        seen.add(one)
    assert [saver.returncode for saver in savers] == [0, 0]
    assert len(seen) > 1
    assert os.listdir(workplace) == ["m"]


def test_an_opened_file_outlives_its_folder(tmp_path: Path) -> None:
    save_folder(tmp_path / "m", {"a": b"old"})
    with Snapshot(tmp_path / "m") as snapshot:
        file = snapshot.open("a")
        assert not snapshot.replaced()
        save_folder(tmp_path / "m", {"b": b"new"})
        assert snapshot.replaced()
        assert file.read() == b"old"
        with pytest.raises(CheckpointNotFoundError):
            snapshot.read("a")


def test_a_real_ctrl_c(tmp_path: Path) -> None:
    script = f"""
        import signal, time
        from vedcore.weights.folder import FileWriter, save_folder
        signal.signal(signal.SIGINT, signal.default_int_handler)  # background processes of a shell ignore it
        save_folder({str(tmp_path / "m")!r}, {{"a": b"old"}})
        print("ready", flush=True)
        save_folder({str(tmp_path / "m")!r}, {{"a": FileWriter(1, lambda path: time.sleep(30))}})
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert child.stdout is not None
    child.stdout.readline()
    time.sleep(0.2)
    child.send_signal(signal.SIGINT)
    assert child.wait(10) == -signal.SIGINT
    assert os.listdir(tmp_path) == ["m"]
    assert (tmp_path / "m" / "a").read_bytes() == b"old"
