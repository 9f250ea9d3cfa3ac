"""Hints of errors name things that exist: arguments, attributes of a model, public names, commands."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

import vedcore
from tests.hints.templates import hints
from tests.model.tiny import tiny
from vedcore import data
from vedcore.cli.app import group

OTHER_ARGUMENTS = {
    "encoding",
    "errors",
    "VEDCORE_DISABLE_PLUGINS",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "VEDCORE_PLUGINS",
    "processing_class",
}
"""Arguments and variables of Python, of the system, of the hub and of transformers' Trainer."""


def arguments() -> set[str]:
    """Names that a user may give to a public function, as an option of generation, or as a setting of a part."""
    model = vedcore.VisionEncoderDecoder
    functions: list[Any] = [vedcore.compose, vedcore.plan, vedcore.load, vedcore.Processor, vedcore.Processor.__call__]
    functions += [vedcore.make_tokenizer, data.open_data, data.split, data.keep_states, data.Loader]
    owners = [vars(each) for each in model.__mro__ if each.__module__.startswith("vedcore")]
    functions += [each for own in owners for name, each in own.items() if callable(each) and name[0] != "_"]
    named = {name for function in functions for name in inspect.signature(function).parameters}
    configs = (vedcore.GenerationConfig, vedcore.ModelConfig, vedcore.Preprocessing, vedcore.TokenIds)
    return named | {field for config in configs for field in config.model_fields} | OTHER_ARGUMENTS


HINTS = list(hints())


def test_there_are_hints() -> None:
    assert len(HINTS) > 250


@pytest.mark.parametrize(("where", "hint"), HINTS, ids=[where for where, _ in HINTS])
def test_a_hint_names_things_that_exist(where: str, hint: str) -> None:
    for name in re.findall(r"(?<![\w.{-])([A-Za-z_]\w*)=(?!=)", hint):
        assert name in arguments() | {"format", "max_shard_size"}, f"{hint}: no argument {name}"
    for name in re.findall(r"\bvedcore\.(\w+)", hint):
        assert hasattr(vedcore, name), f"{hint}: no vedcore.{name}"
    for path in re.findall(r"\bmodel\.([a-z_]+(?:\.[a-z_]+)*)", hint):
        here: Any = tiny()
        for name in path.split("."):
            assert hasattr(here, name), f"{hint}: no model.{path}"
            here = getattr(here, name)
    for command in re.findall(r"`vedcore ([a-z-]+)", hint):
        assert group.get_command(None, command) is not None, f"{hint}: no command {command}"  # type: ignore[arg-type]
