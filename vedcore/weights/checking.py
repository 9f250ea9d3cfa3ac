"""Comparison of a checkpoint with a model: all mismatches are collected and raised at once."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from vedcore.errors import MAX_MESSAGE, CheckpointMismatchError, warn_caller
from vedcore.weights.keymap import MAX_NAMES_SHOWN
from vedcore.weights.origins import Origin
from vedcore.weights.safetensors_file import StoredTensor

__all__ = ["CheckpointTensors", "Comparison", "Fit", "LoadReport", "abbreviated", "compare", "mismatch", "same_tensors"]

Fit: TypeAlias = Callable[[str, Tensor], Tensor | None]
"""Given the model's name of a stored tensor and its values, maybe on the meta device: those that the model takes in
their place, or None to take them as they are."""

MAX_PATH_SHOWN = 100
"""Characters of a path in a message."""
MIN_NAME_SHOWN = 16
"""Characters that a name in a message keeps however little room there is."""
MAX_PAIRED = 8
"""Names whose nearest counterpart is sought."""
MAX_COUNTERPARTS = 40
"""Names that each of them is compared with, beginning with those of the same end, and of the same beginning."""
MAX_COMPARED = 200
"""Characters of a name that are compared: its last ones."""
MAX_COMPONENTS = 16
"""Components at the end and at the beginning of a name by which its counterparts are looked up."""
MIN_SIMILARITY = 0.6
"""Similarity of two names that are a pair."""


class LoadReport(NamedTuple):
    """The outcome of loading a checkpoint into a model or a part of one; ``str(report)`` is a table."""

    source: str
    """The folder of the checkpoint."""
    loaded: list[str]
    """Parameters and buffers of the model that got values."""
    fresh: list[str]
    """Parameters and buffers of the model that were left unchanged."""
    left: list[str]
    """Tensors of the checkpoint that are not in the model."""
    resampled: Sequence[str] = ()
    """Parameters and buffers of the model whose values were made to fit images of another size."""
    origins: Mapping[str, Origin] = {}
    """Parameters and buffers of the model that got values, to where these came from."""

    def __str__(self) -> str:
        lines = [self.source]
        rows = [("loaded", self.loaded), ("fresh", self.fresh), ("left behind", self.left)]
        for what, names in [*rows, *([("resampled", self.resampled)] if self.resampled else [])]:
            layers: dict[str, int] = {}
            for name in names:
                pattern = re.sub(r"(?<=\.)\d+(?=\.)", "*", name)
                layers[pattern] = layers.get(pattern, 0) + 1
            lines.append(f"  {what:<12} {len(names):>5} tensors")
            if what != "loaded":
                lines += [f"    {count:>4} x {pattern}" for pattern, count in layers.items()]
        return "\n".join(lines)


@dataclass(frozen=True)
class CheckpointTensors:
    """The tensors of a checkpoint, under the model's names."""

    folder: Path
    tensors: Mapping[str, StoredTensor]
    """Names to types and shapes."""
    ties: Mapping[str, str]
    """Names that are not stored because they share a tensor, to the name that is."""
    unexpected: Collection[str]
    """Tensors that no row of the key map matches, under their names in the file."""
    file_names_of: Callable[[str], list[str]]
    """Maps a name of the model to those in the file of the tensors that it is made of, for messages."""


class Comparison(NamedTuple):
    """Names of the model's tensors that a checkpoint does not have, and that it has for images of another size."""

    absent: list[str]
    resampled: list[str]


def compare(
    stored: CheckpointTensors,
    model: nn.Module,
    *,
    strict: bool = True,
    fresh: Collection[str] = (),
    settings: Mapping[str, Any] | None = None,
    fit: Fit | None = None,
    loose_hint: str = "",
) -> Comparison:
    """Compare names, shapes and kinds of numbers with the model's, which may be on the meta device.

    Args:
        stored: the checkpoint.
        model: the module that the tensors are for.
        strict: False accepts names that only one side has, and warns of them.
        fresh: names of the model that may be missing.
        settings: dotted names to values of the config, to name the one that a wrong shape comes from.
        fit: asked for each stored tensor, with its type and shape alone, before a wrong shape counts.
        loose_hint: how to take what fits, for the message where only names differ.

    Raises:
        CheckpointMismatchError: with all mismatches.
    """
    ours, same = model.state_dict(keep_vars=True), same_tensors(model)
    there = {name: stored.tensors[stored.ties.get(name, name)] for name in (*stored.tensors, *stored.ties)}
    absent = [n for n in ours if n not in there and not any(twin in there for twin in same.get(n, ()))]
    missing = [name for name in absent if name not in fresh]
    unexpected = sorted([*(name for name in there if name not in ours), *stored.unexpected])
    pairs = [(name, there[name], tensor) for name, tensor in ours.items() if name in there]
    floats = [(name, found) for name, found, _ in pairs if found.dtype.is_floating_point and found.dtype.itemsize > 1]
    fitted = {name: fit(name, found.empty()) for name, found in floats} if fit else {}
    resampled = [name for name, _, due in pairs if (made := fitted.get(name)) is not None and made.shape == due.shape]
    shapes = [
        (name, found.shape, tuple(due.shape))
        for name, found, due in pairs
        if found.shape != due.shape and name not in resampled
    ]
    kinds = [(n, found.dtype, due.dtype) for n, found, due in pairs if _kind(found.dtype) != _kind(due.dtype)]
    if not strict:
        said = {"left random": missing, "not used": unexpected}
        message = "; ".join(f"{what}: {abbreviated(names)}" for what, names in said.items() if names)
        if message:
            warn_caller(f"{stored.folder}: {message}")
        missing, unexpected = [], []

    def file_name_of(name: str) -> str:
        return ", ".join(stored.file_names_of(name))

    problems = {
        "missing": list(dict.fromkeys(chain.from_iterable(map(stored.file_names_of, missing)))),
        "unexpected": unexpected,
        "of a wrong shape": [f"{file_name_of(n)} {list(found)} instead of {list(due)}" for n, found, due in shapes],
        "of another kind of number": [f"{file_name_of(n)} {_short(a)} instead of {_short(b)}" for n, a, b in kinds],
    }
    if any(problems.values()):
        hint = "is it the checkpoint of this config.json?"
        if loose_hint and pairs and not shapes and not kinds:
            hint = loose_hint
        elif kinds and not shapes:
            hint = "quantized checkpoints are not supported: load the one that it was made from"
        raise mismatch(stored.folder, problems, _suspect(shapes, settings or {}) or hint)
    return Comparison(absent, resampled)


def mismatch(folder: Path, problems: Mapping[str, Sequence[str]], hint: str) -> CheckpointMismatchError:
    """The error for the problems, with a few names of each in its message and all of them in its details.

    The first missing and the first unexpected name are the nearest pair, where two names are near. They are shown whole
    where there is room.
    """
    pair = _nearest(problems.get("missing", ()), problems.get("unexpected", ()))
    lists = {what: list(names) for what, names in problems.items() if names}
    for name, what in zip(pair or (), ("missing", "unexpected"), strict=False):
        lists[what].remove(name)
        lists[what].insert(0, name)
    end = "; nearest: the first of each" if pair else ""
    room = MAX_MESSAGE - len("tensors : ") - min(len(str(folder)), MAX_PATH_SHOWN) - len(hint) - len(end)
    room -= sum(len(f"{len(names)} {what}: ; ") for what, names in lists.items())
    shown: dict[str, list[str]] = {}
    for what, names in sorted(lists.items(), key=lambda item: len(item[1][0])):  # long names take what short ones leave
        shown[what] = [_elided(names[0], max(MIN_NAME_SHOWN, room // (len(lists) - len(shown))))]
        room -= len(shown[what][0])
    for place in range(1, MAX_NAMES_SHOWN):
        for what, names in lists.items():
            full = sum(map(len, shown.values())) >= MAX_NAMES_SHOWN
            if place < len(names) and not full and len(names[place]) + 2 <= room:
                shown[what].append(names[place])
                room -= len(names[place]) + 2
    said = "; ".join(f"{len(names)} {what}: {', '.join(shown[what])}" for what, names in lists.items())
    details = [f"{what}: {name}" for what, names in problems.items() for name in names]
    if pair:
        details.append(f"nearest: {pair[1]} (unexpected) and {pair[0]} (missing)")
    return CheckpointMismatchError(f"tensors {said}{end}", path=folder, hint=hint, details="\n".join(details))


def _elided(name: str, room: int) -> str:
    """The name, without its middle where it has more than ``room`` characters."""
    return name if len(name) <= room else f"{name[: room // 3]}…{name[len(name) - room + room // 3 + 1 :]}"


def _nearest(missing: Sequence[str], unexpected: Sequence[str]) -> tuple[str, str] | None:
    """The missing and the unexpected name that are most alike, among the first; None where none are."""
    both = set(missing).intersection(unexpected)  # of tensors that cannot be joined: they are no renamed ones
    few, many = sorted(([n for n in missing if n not in both], [n for n in unexpected if n not in both]), key=len)
    swapped = bool(few) and few[0] not in missing
    by_end, by_start = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for name in many:
        for end in _ends(name):
            by_end[end].append(name)
        for start in _starts(name):
            by_start[start].append(name)
    best, pair = MIN_SIMILARITY, None
    for name in few[:MAX_PAIRED]:
        alike = next((by_end[end] for end in _ends(name) if end in by_end), [])[: MAX_COUNTERPARTS // 2]
        alike += next((by_start[start] for start in _starts(name) if start in by_start), [])[: MAX_COUNTERPARTS // 2]
        for other in [*alike, *many[: MAX_COUNTERPARTS - len(alike)]]:
            ratio = SequenceMatcher(None, name[-MAX_COMPARED:], other[-MAX_COMPARED:], autojunk=False).ratio()
            if ratio > best:
                best, pair = ratio, (name, other) if not swapped else (other, name)
    return pair


def _ends(name: str) -> list[str]:
    """Endings of the name, from the longest of `MAX_COMPONENTS` components to the last one."""
    parts = name.split(".")[-MAX_COMPONENTS:]
    return [".".join(parts[index:]) for index in range(len(parts))]


def _starts(name: str) -> list[str]:
    """Beginnings of the name, from the longest of `MAX_COMPONENTS` components to the first one."""
    parts = name.split(".")[:MAX_COMPONENTS]
    return [".".join(parts[:index]) for index in range(len(parts), 0, -1)]


def _suspect(wrong: Iterable[tuple[str, tuple[int, ...], tuple[int, ...]]], settings: Mapping[str, Any]) -> str:
    """The config field with the size that the model has and the file does not, as a hint."""
    for name, found, due in wrong:
        pairs = [(a, b) for a, b in zip(found, due, strict=False) if a != b] if len(found) == len(due) else []
        for there, here in pairs:
            part = name.partition(".")[0]
            fields = [f for f, v in settings.items() if v == here and ("." not in f or f.startswith(f"{part}."))]
            if fields:
                return f"{' or '.join(fields[:3])} is {here} in config.json, and {there} in the file"
    return ""


def _kind(dtype: torch.dtype) -> str:
    if dtype == torch.bool:
        return "bool"
    return "float" if dtype.is_floating_point else "complex" if dtype.is_complex else "integer"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def same_tensors(model: nn.Module) -> dict[str, list[str]]:
    """Each name of a tensor that has several names, to all of them."""
    names: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    return {name: group for group in names.values() if len(group) > 1 for name in group}


def abbreviated(names: Iterable[str]) -> str:
    """The first names, and the number of the others."""
    names = list(names)
    more = len(names) - MAX_NAMES_SHOWN
    return ", ".join(names[:MAX_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
