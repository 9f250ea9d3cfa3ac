"""Saving and loading without the system calls of Linux, which are removed before vedcore is imported."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

MACOS = """
    import ctypes, os, shutil, sys
    import huggingface_hub, safetensors.torch, timm, tokenizers, torch

    real = ctypes.CDLL
    ctypes.CDLL = lambda name, *rest, **more: object() if name is None else real(name)  # no renameat2
"""
WINDOWS = f"""{MACOS}
    for name in ("O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "pread", "preadv", "pwrite", "pwritev",
                 "posix_fadvise", "posix_fallocate", "fchmod", "fork", "getuid", "sched_getaffinity", "mkfifo"):
        delattr(os, name)
    real_open = os.open

    def open_file(path, flags, *rest, dir_fd=None, **more):
        if dir_fd is not None:
            raise NotImplementedError("dir_fd unavailable on this platform")
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied")
        return real_open(path, flags, *rest, **more)

    def link(source, target, *, follow_symlinks=True):
        raise NotImplementedError("link: follow_symlinks unavailable on this platform")

    os.open, os.link = open_file, link
    os.supports_dir_fd.clear()
    shutil._use_fd_functions = False
    sys.modules["fcntl"] = sys.modules["resource"] = None
    os.kill = lambda *_: sys.exit("this would send Ctrl-C")
"""
WORK = """
    from pathlib import Path
    import vedcore
    from vedcore.weights.snapshot import backup_path

    renamed, rename = set(), os.rename

    def watched_rename(source, target):
        renamed.add(os.fspath(target))
        rename(source, target)

    os.rename = watched_rename
    root, folder = sys.argv[1], os.path.join(sys.argv[1], "m")
    models = [vedcore.compose(
        {"name": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32},
        {"name": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 20}, tokenizer="char", seed=seed,
    ) for seed in range(3)]

    def same(one, other):
        a, b = one.state_dict(), other.state_dict()
        return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)

    os.mkdir(os.path.join(root, ".vedcore-tmp-00000000-1-ab"))
    models[0].save_pretrained(folder)
    with open(os.path.join(folder, "notes.txt"), "w") as notes:
        notes.write("mine")
    for format in ("native", "transformers"):
        for model, size in ((models[1], 2000), (models[2], "5GB")):
            model.save_pretrained(folder, format=format, max_shard_size=size)
            assert same(vedcore.load(folder), model)
            assert same(vedcore.load(folder, mmap=True), model)
            assert "notes.txt" in os.listdir(folder)
    assert str(backup_path(Path(os.path.realpath(folder)))) in renamed  # the two names were not exchanged in one step
    assert same(vedcore.compose(folder, folder).encoder, model.encoder)
    assert vedcore.load(folder).generate_text([torch.zeros(3, 32, 32)], max_new_tokens=3)
    tensors = safetensors.torch.load_file(os.path.join(folder, "model.safetensors"))
    torch.save(tensors, os.path.join(folder, "pytorch_model.bin"))
    os.remove(os.path.join(folder, "model.safetensors"))
    assert same(vedcore.load(folder, verify=False), model)
    left = {name for name in os.listdir(root) if not name.startswith(".vedcore-lock-")}
    assert left <= {"m", ".vedcore-tmp-00000000-1-ab"}, left
    for name in ("none", "m/config.json"):
        try:
            vedcore.load(os.path.join(root, name))
        except vedcore.CheckpointNotFoundError as error:
            print(error)
"""


@pytest.mark.parametrize("system", [MACOS, WINDOWS], ids=["macos", "windows"])
def test_saves_and_loads(tmp_path: Path, system: str) -> None:
    command = [sys.executable, "-c", textwrap.dedent(system) + textwrap.dedent(WORK), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "no such folder" in done.stdout
    assert "a file, not a folder" in done.stdout
