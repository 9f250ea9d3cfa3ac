"""The models that the checks of a format save, the folders they become, and what must come back."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from vedcore.checkpoints.formats import LoadOptions
from vedcore.composer.build import compose
from vedcore.errors import IncompatibleError
from vedcore.generation.options.config import GenerationConfig
from vedcore.testing.cases import Case
from vedcore.testing.checks import fail

__all__ = ["contents", "copied", "load", "make_model", "refuse_others", "saved", "text_of"]

_VIT = {"name": "vit", "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 40, "patch_size": 8}
_GPT2 = {"name": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 20}
_MODELS: tuple[Mapping[str, Any], ...] = (
    {"encoder_hidden_size": 24, "projector": "mlp", "image_size": (32, 48)},
    {"encoder_hidden_size": 24, "image_size": (32, 32)},
    {"encoder_hidden_size": 16, "image_size": (32, 32)},
)
"""Small models of ViT and GPT2, of which a format must be able to hold one."""


def make_model(case: Case, format: Any, *, seed: int = 0) -> Any:
    """A small model that the format can hold: that of the case, or one of ViT and GPT2."""
    if case.make_model is not None:
        return _named(case.make_model(), seed)
    for settings in _MODELS:
        model = _named(compose(_VIT, _GPT2, tokenizer="char", seed=seed, **settings), seed)
        try:
            with tempfile.TemporaryDirectory() as place:
                format.save(model, Path(place) / "model")
        except IncompatibleError as error:
            refusal = str(error)
            continue
        return model
    fail(
        "a small model of ViT and GPT2 to be written",
        f"{refusal}; give Case.of(format, make_model=…) one that it holds",
    )


@torch.no_grad()
def _named(model: Any, seed: int) -> Any:
    """The model with options of its own, and with weights that depend on the seed."""
    model.generation_config = GenerationConfig(num_beams=3, max_new_tokens=7)
    if seed:
        for parameter in model.parameters():
            parameter.add_(seed)
    return model


@contextlib.contextmanager
def saved(case: Case, format: Any) -> Iterator[tuple[Any, Path]]:
    """A model, and the folder in which the format has saved it; in a folder of its own, which goes afterwards."""
    model = make_model(case, format)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        format.save(model, folder)
        if not folder.is_dir():
            fail("a folder", "none" if not folder.exists() else "a file")
        yield model, folder


def load(format: Any, folder: Path, **options: Any) -> Any:
    """The model in the folder, by the defaults of `vedcore.load` but for ``options``; its warnings are not shown."""
    given = LoadOptions(
        device=None,
        dtype=None,
        strict=True,
        check_finite=True,
        verify=True,
        mmap=False,
        image_size=None,
        tokenizer=None,
        preprocessing=None,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return format.load(folder, {**given, **options})


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of each file below a folder, by its path in it."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def copied(folder: Path, name: str) -> Path:
    """A copy of the folder beside it, in place of an earlier one of that name."""
    target = folder.with_name(name)
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(folder, target))


def refuse_others(expected: Any, came: Any) -> None:
    """Refuse a model whose tensors are not those of another, bit for bit and in their types.

    Raises:
        CheckError: naming the first.
    """
    first, second = expected.state_dict(), came.state_dict()
    wrong = sorted(first.keys() ^ second.keys())
    wrong = wrong or [n for n in first if first[n].dtype != second[n].dtype or not torch.equal(first[n], second[n])]
    if wrong:
        fail("the tensors that were saved", f"others, such as {wrong[0]}")


def text_of(error: BaseException) -> str:
    """All that an error says."""
    return f"{error} {getattr(error, 'path', '')} {getattr(error, 'details', '')}"
