"""A new plugin from templates: the smallest correct part of a kind, its tests and its packaging."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import vedcore
from vedcore.distributions.names import DistributionName, check_free, is_installed, parse_name
from vedcore.errors import UsageError
from vedcore.registry import Kind

__all__ = ["KINDS", "filled", "new_plugin"]

_TEMPLATES = Path(__file__).parent / "templates"
_A_KIND: Mapping[Kind, str] = {
    "encoder": "a vision encoder",
    "decoder": "a text decoder",
    "projector": "a projector",
    "model": "a trained model",
    "format": "a checkpoint format",
    "command": "a command",
}
KINDS = tuple(_A_KIND)
"""Those that have a template."""
_SUMMARY: Mapping[Kind, str] = {
    "encoder": "one convolution over patches",
    "decoder": "a small causal transformer",
    "projector": "a norm and a linear layer",
    "model": "a model with random weights",
    "format": "safetensors and settings of its own",
    "command": "Count the parameters of a model.",
}
_USE: Mapping[Kind, str] = {
    "encoder": '`vedcore.compose("{name}", "gpt2")` makes a model with it.',
    "decoder": '`vedcore.compose("vit", "{name}", tokenizer="char")` makes a model with it.',
    "projector": '`vedcore.compose("vit", "gpt2", projector="{name}")` makes a model with it.',
    "model": '`vedcore.load("{name}")` opens it. Its weights are random: save a trained one with\n'
    '`model.save_pretrained("{package}/{name}")`.',
    "format": '`model.save_pretrained(folder, format="{name}")` writes it, and `vedcore.load(folder)` reads it.',
    "command": "`vedcore {name} --help` shows how it is used.",
}


def new_plugin(distribution: str, kind: Kind, output: str | os.PathLike[str] | None = None) -> Path:
    """Write a distribution with one part, which installs, is listed and passes its tests.

    Args:
        distribution: its name; the part is called that without ``vedcore-``.
        kind: of the part.
        output: the folder to create; by default the name, in the working folder.

    Returns:
        The folder.

    Raises:
        UsageError: a bad name, one of something that is installed, or a folder that cannot be created.
    """
    name = parse_name(distribution)
    if is_installed(distribution):
        raise UsageError(f"{distribution} is installed already", field="NAME", hint="choose another name")
    check_free(name, kind)
    folder = Path(distribution if output is None else output)
    if os.path.lexists(folder):
        raise UsageError(f"{str(folder)!r} exists already", field="--output", hint="name a new folder")
    stage = folder.with_name(f".vedcore-tmp-{secrets.token_hex(4)}")
    try:
        for path, content in _files(name, kind).items():
            (stage / path).parent.mkdir(parents=True, exist_ok=True)
            (stage / path).write_text(content, encoding="utf-8", newline="\n")
        if kind == "model":
            _random_model().save_pretrained(stage / name.package / name.component)
        os.rename(stage, folder)
    except OSError as error:
        message = f"{str(folder)!r} cannot be written: {(error.strerror or str(error)).lower()}"
        raise UsageError(message, field="--output", hint="name a folder to create") from None
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return folder


def filled(template: str, name: DistributionName, kind: Kind, summary: str) -> str:
    """The text of a template file.

    Args:
        template: its path below ``templates``.
        name: the names.
        kind: of the part.
        summary: one line for lists.
    """
    words = {
        "distribution": name.distribution,
        "package": name.package,
        "component": name.component,
        "class_name": name.class_name,
        "kind": kind,
        "a_kind": _A_KIND[kind],
        "summary": json.dumps(summary, ensure_ascii=False),
        "use": _USE[kind].format(name=name.component, package=name.package),
        "vedcore_version": vedcore.__version__,
    }
    text = (_TEMPLATES / template).read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: words[found[1]], text)


def _files(name: DistributionName, kind: Kind) -> dict[str, str]:
    """Paths in the new folder to contents."""
    fill: Callable[[str], str] = lambda template: filled(template, name, kind, _SUMMARY[kind])  # noqa: E731
    files = {
        "pyproject.toml": fill("common/pyproject.toml.txt"),
        "README.md": fill("common/README.md.txt"),
        ".github/workflows/test.yml": fill("common/test.yml.txt"),
        f"{name.package}/__init__.py": fill(f"{kind}/init.py.txt"),
        f"tests/test_{name.package}.py": fill(f"{kind}/test.py.txt"),
    }
    if kind != "model":
        files[f"{name.package}/{kind}.py"] = fill(f"{kind}/{kind}.py.txt")
    return files


def _random_model() -> vedcore.VisionEncoderDecoder:
    """A model of a few thousand parameters, to be replaced by a trained one."""
    encoder = {"name": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    decoder = {"name": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
    return vedcore.compose(encoder, decoder, tokenizer="char", image_size=32, seed=0)
