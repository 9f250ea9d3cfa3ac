"""Windows and macOS, simulated: a process without the functions of Linux or POSIX still does everything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Run after the libraries are imported, which ask for the system in other ways, and before vedcore is.
WITHOUT_POSIX = """
import fcntl, mmap, os, signal, sys
import click, huggingface_hub, numpy, PIL.Image, pluggy, pydantic, safetensors.torch, tokenizers, tqdm, yaml
import timm, torch
MACOS = [
    "O_DIRECT", "O_NOATIME", "O_PATH", "O_TMPFILE", "posix_fadvise", "posix_fallocate", "copy_file_range", "sendfile",
    "sched_getaffinity", "sched_setaffinity", "memfd_create", "getrandom", "eventfd", "splice", "preadv", "pwritev",
]
WINDOWS = [
    *MACOS, "O_NONBLOCK", "O_CLOEXEC", "O_NOFOLLOW", "O_DIRECTORY", "O_SYNC", "O_DSYNC", "pread", "pwrite", "fork",
    "forkpty", "getuid", "geteuid", "getgid", "getegid", "getgroups", "setuid", "setsid", "getpgid", "killpg", "mkfifo",
    "mknod", "fchmod", "fchown", "chown", "lchown", "fchdir", "fdatasync", "sync", "lockf",
    "nice", "uname", "getloadavg", "sysconf", "wait", "wait4", "WNOHANG", "getxattr", "setxattr", "ttyname", "openpty",
]
system = sys.argv[1]
for name in {"windows": WINDOWS, "macos": MACOS}[system]:
    if hasattr(os, name):
        delattr(os, name)
for name in ("MADV_HUGEPAGE", "MADV_POPULATE_READ", "MADV_POPULATE_WRITE", "MADV_DONTDUMP"):
    if hasattr(mmap, name):
        delattr(mmap, name)
torch._C._has_mkldnn = False
if system == "windows":
    for name in ("fcntl", "resource", "pwd", "grp", "termios", "posix"):
        sys.modules[name] = None
    for name in ("SIGPIPE", "SIGHUP", "SIGKILL", "SIGALRM", "SIGUSR1", "SIGXFSZ", "SIGCHLD", "setitimer", "alarm",
                 "pthread_sigmask", "pthread_kill", "sigwait"):
        delattr(signal, name)
    for name in ("MAP_SHARED", "MAP_PRIVATE", "PROT_READ", "PROT_WRITE"):
        delattr(mmap, name)
import ctypes
class NoLibrary:
    def __init__(self, *arguments, **options): raise OSError("no such library")
ctypes.CDLL = NoLibrary
"""

WORK = """
import vedcore
vit = {"name": "vit", "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 40,
       "patch_size": 8, "image_size": [16, 24]}
gpt2 = {"name": "gpt2", "n_embd": 24, "n_layer": 1, "n_head": 3, "n_positions": 20}
model = vedcore.compose(vit, gpt2, tokenizer="char", seed=1)
picture = numpy.zeros((16, 24, 3), dtype=numpy.uint8)
PIL.Image.fromarray(picture).save("picture.png")
texts = [result.text for result in model.generate_text(["picture.png"], max_new_tokens=5, num_beams=2)]
labels = model.processor(text=["a"])["labels"]
model.train()
model(torch.zeros(1, 3, 16, 24), labels=labels).loss.backward()
assert len(texts) == 1
open("tiny.yaml", "w").write("encoder: vit\\ndecoder: gpt2\\n")
assert vedcore.plan("tiny.yaml").parameters == vedcore.plan("vit", "gpt2").parameters
from vedcore.cli import main
for arguments in (["list", "encoders"], ["plugins"], ["plan", "vit", "gpt2"], ["lst"], ["generate", "nothing", "."]):
    try:
        main(arguments)
    except SystemExit as end:
        assert end.code == {"lst": 2, "generate": 1}.get(arguments[0], 0), arguments
"""


@pytest.mark.parametrize("system", ["windows", "macos"])
def test_compose_train_generate_and_commands(system: str, tmp_path: Path) -> None:
    """Saving and loading are tested in ``tests/weights``."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_POSIX + WORK, system],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
