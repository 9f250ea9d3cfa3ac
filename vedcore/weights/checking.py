"""What a checkpoint has, and what a model asks for: names and shapes, and all that does not fit, at once."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from vedcore.errors import CheckpointMismatchError
from vedcore.weights.keymap import NAMES_SHOWN, their_name

if TYPE_CHECKING:
    from vedcore.weights.loading import Weights

__all__ = ["Check", "LoadReport", "some"]


class LoadReport(NamedTuple):
    """What became of a checkpoint and of the part of a model that it was loaded into; ``str(report)`` is a table."""

    source: str
    """The folder."""
    loaded: list[str]
    """Parameters and buffers of ours that were filled."""
    fresh: list[str]
    """Those that were left as they were."""
    left: list[str]
    """Tensors of the checkpoint that were not used."""

    def __str__(self) -> str:
        lines = [self.source]
        for what, names in (("loaded", self.loaded), ("fresh", self.fresh), ("left behind", self.left)):
            layers: dict[str, int] = {}
            for name in names:
                pattern = re.sub(r"(?<=\.)\d+(?=\.)", "*", name)
                layers[pattern] = layers.get(pattern, 0) + 1
            lines.append(f"  {what:<12} {len(names):>5} tensors")
            if what != "loaded":
                lines += [f"    {count:>4} x {pattern}" for pattern, count in layers.items()]
        return "\n".join(lines)


class Check:
    """The comparison of what is stored with what the model has."""

    def __init__(self, weights: Weights, model: nn.Module, settings: Mapping[str, Any]) -> None:
        self.weights, self.settings = weights, settings
        self.shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        self.same = _groups(model)

    def names(self, strict: bool, fresh: Collection[str]) -> LoadReport:
        """Raise one error for all that does not fit."""
        weights, stored, ties = self.weights, self.weights.tensors, self.weights.ties
        there = {*stored, *ties}
        absent = [n for n in self.shapes if n not in there and not any(twin in there for twin in self.same.get(n, ()))]
        missing = [name for name in absent if name not in fresh]
        unexpected = [*(n for n in there if n not in self.shapes), *weights.assignments.unexpected]
        shapes = ((name, stored[ties.get(name, name)], shape) for name, shape in self.shapes.items() if name in there)
        wrong = [(name, found, due) for name, found, due in shapes if found != due]
        if not strict and (missing or unexpected):
            said = {"left random": missing, "not used": sorted(unexpected)}
            message = "; ".join(f"{what}: {some(names)}" for what, names in said.items() if names)
            warnings.warn(f"{weights.folder}: {message}", UserWarning, stacklevel=6)
        if wrong or (strict and (missing or unexpected)):
            raise self._mismatch(missing if strict else [], sorted(unexpected) if strict else [], wrong)
        used = {name for plan in weights.plans for name in plan.sources}
        left = [name for name in weights.stored if name not in used]
        return LoadReport(str(weights.folder), [n for n in self.shapes if n not in absent], absent, left)

    def _theirs(self, name: str) -> str:
        """A tensor's name as the file has it, so that one can look it up there."""
        return name if self.weights.rows is None else their_name(name, self.weights.rows) or name

    def _mismatch(
        self, missing: list[str], unexpected: list[str], wrong: list[tuple[str, tuple[int, ...], tuple[int, ...]]]
    ) -> CheckpointMismatchError:
        missing = list(dict.fromkeys(map(self._theirs, missing)))
        shapes = [f"{self._theirs(name)} {list(found)} instead of {list(due)}" for name, found, due in wrong]
        parts = (("missing", missing), ("unexpected", unexpected), ("of a wrong shape", shapes))
        room = NAMES_SHOWN
        said = []
        for what, names in parts:
            if names:
                said.append(f"{len(names)} {what}: {', '.join(names[: max(1, room)])}")
                room -= len(names[: max(1, room)])
        hint = self._suspect(wrong) or "is it the checkpoint of this config.json? strict=False takes what fits"
        return CheckpointMismatchError(
            f"tensors {'; '.join(said)}", path=self.weights.folder, hint=hint,
            details="\n".join(f"{what}: {name}" for what, names in parts for name in names),
        )  # fmt: skip

    def _suspect(self, wrong: list[tuple[str, tuple[int, ...], tuple[int, ...]]]) -> str:
        """The config field that has the number which the model has and the file has not."""
        for name, found, due in wrong:
            pairs = [(a, b) for a, b in zip(found, due, strict=False) if a != b] if len(found) == len(due) else []
            for there, here in pairs:
                part = name.partition(".")[0]
                fields = [
                    f for f, v in self.settings.items() if v == here and ("." not in f or f.startswith(f"{part}."))
                ]
                if fields:
                    return f"{' or '.join(fields[:3])} is {here} in config.json, and {there} in the file"
        return ""


def _groups(model: nn.Module) -> dict[str, list[str]]:
    """For each name of a tensor that has several: all of them."""
    names: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    return {name: group for group in names.values() if len(group) > 1 for name in group}


def some(names: Iterable[str]) -> str:
    """The first few names, and how many there are beside them."""
    names = list(names)
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
