"""Key maps: the names and layouts of tensors in another library's checkpoint and in our model, as data.

A family writes its key map as a table with one row per module; the other library's name is on the left::

    KEY_MAP = (
        Row("[transformer.]wte",               "embedding"),
        Row("[transformer.]h.{}.ln_1",         "layers.{}.self_attention_norm"),
        Row("[transformer.]h.{}.attn.c_attn",  "layers.{}.self_attention.query+key+value", TRANSPOSED),
        ignored("[transformer.]h.{}.attn.bias"),
    )

- A row names a module, for all of its tensors (``weight``, ``bias`` and the statistics of a norm), or a single tensor.
  ``gamma`` and ``beta``, the old names of a norm's tensors, are read as ``weight`` and ``bias``.
- ``{}`` is the number of a layer; ``{+1}`` on our side is that number plus one.
- ``query+key+value`` is several modules with the same parent. Where only one side has several, their tensors are
  concatenated along the first axis, in this order, and in the other direction split into equal parts.
- ``[text]`` is an optional prefix: read with and without, always written.
- ``*`` at the end matches any text.
- `never_theirs` marks tensors of ours that their format has no place for: none is read, and none is written.

Where several rows name the same tensor of ours, the first that the file has is read, and all are written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from vedcore.errors import CheckpointMismatchError

__all__ = [
    "SAME",
    "TRANSPOSED",
    "Assignment",
    "Assignments",
    "Change",
    "Row",
    "assign",
    "ignored",
    "matcher",
    "names_in_row",
    "never_theirs",
    "their_name",
    "to_ours",
    "to_theirs",
    "under",
    "without_place",
]

MAX_NAMES_SHOWN = 5
"""Names in the message of an error; all of them are in its details."""
_TENSOR_NAME = r"(?:\.(weight|bias|gamma|beta|running_mean|running_var|num_batches_tracked))?"
_OLD_TENSOR_NAMES = {"gamma": "weight", "beta": "bias"}


@dataclass(frozen=True)
class Change:
    """A conversion between the layout of a tensor in the file and in our model.

    Args:
        name: name of the conversion.
        to_ours: function of each tensor of the file, before they are concatenated.
        to_theirs: its inverse.
    """

    name: str
    to_ours: Callable[[Tensor], Tensor]
    to_theirs: Callable[[Tensor], Tensor]


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.t() if tensor.ndim == 2 else tensor


SAME = Change("same", _same, _same)
"""The tensor as it is."""
TRANSPOSED = Change("transposed", _transposed, _transposed)
"""A matrix stored as (input, output), as in GPT2's ``Conv1D``; a bias stays as it is."""


@dataclass(frozen=True)
class Row:
    """One row of a key map.

    Args:
        theirs: the name in the file, as the module's docstring describes; empty for tensors that no file ever has.
        ours: the name in our model; empty for tensors that are ignored when read and never written.
        change: conversion of the tensors.
        optional: may be absent on either side; the loader decides whether the model can do without.
        read_only: a name of other versions of the file format, which is read but never written.
    """

    theirs: str
    ours: str
    change: Change = SAME
    optional: bool = False
    read_only: bool = False


def ignored(theirs: str) -> Row:
    """A row for tensors that our model does not have: masks, position numbers, other heads."""
    return Row(theirs, "", optional=True, read_only=True)


def never_theirs(ours: str) -> Row:
    """A row for tensors of ours that their format has no place for: cross-attention in a language model's."""
    return Row("", ours, optional=True)


def without_place(names: Iterable[str], rows: Iterable[Row]) -> list[str]:
    """Those of our names that only a row of `never_theirs` has."""
    rows = [row for row in rows if row.ours and not row.read_only]
    never, others = ([_Side(row.ours) for row in rows if bool(row.theirs) is kept] for kept in (False, True))

    def has(sides: Sequence[_Side], name: str) -> bool:
        return any(side.match(name) is not None for side in sides)

    return [name for name in names if has(never, name) and not has(others, name)]


def under(rows: Iterable[Row], theirs: str, ours: str) -> tuple[Row, ...]:
    """The rows of a part of a larger model, with the prefixes ``theirs`` in the file and ``ours`` in our model."""
    return tuple(
        replace(row, theirs=row.theirs and theirs + row.theirs, ours=row.ours and ours + row.ours) for row in rows
    )


def to_ours(state: Mapping[str, Tensor], rows: Iterable[Row]) -> dict[str, Tensor]:
    """The tensors of a file under our names and in our layout; those that need no conversion are not copied.

    Args:
        state: names in the file to tensors.
        rows: the family's key map.

    Raises:
        CheckpointMismatchError: tensors that no row matches, rows that are not optional and match no tensor, and
            tensors that cannot be split; all of them at once.
    """
    return _translate(state, tuple(rows), back=False)


def to_theirs(state: Mapping[str, Tensor], rows: Iterable[Row], *, views: bool = False) -> dict[str, Tensor]:
    """Our tensors under the names and in the layout of the file: the inverse of `to_ours`.

    Args:
        state: our names to tensors.
        rows: the family's key map.
        views: return views of our tensors, contiguous or not, where none are concatenated: for callers that copy them.

    Raises:
        CheckpointMismatchError: as `to_ours`.
    """
    return _translate(state, tuple(rows), back=True, views=views)


class _Side:
    """One side of a row: its names, as patterns and as templates."""

    def __init__(self, template: str) -> None:
        last = re.split(r"[.\]]", template)[-1]
        stem = template.removesuffix(last)
        self.names = [stem + part for part in last.split("+")] if template else []
        self.shifts = [int(shift or 0) for shift in re.findall(r"\{([+-]\d+)?\}", self.names[0])] if template else []
        self.templates = [re.sub(r"[][]", "", re.sub(r"\{[+-]\d+\}", "{}", name)) for name in self.names]
        """The names for `str.format`, with their optional prefix."""

    @cached_property
    def patterns(self) -> list[re.Pattern[str]]:
        """Patterns of the names; compiled on demand, as a side that is only written needs none."""
        return [re.compile(_pattern(name)) for name in self.names]

    def match(self, key: str) -> tuple[int, tuple[int, ...], str] | None:
        """The index of the name that ``key`` matches, its layer numbers, and the name of the tensor in its module."""
        for index, pattern in enumerate(self.patterns):
            found = pattern.fullmatch(key)
            if found:
                *numbers, leaf = found.groups()
                return index, tuple(int(n) - s for n, s in zip(numbers, self.shifts, strict=True)), leaf or ""
        return None

    def write(self, numbers: Sequence[int], leaf: str) -> list[str]:
        """The full names of the tensors of one layer."""
        values = [number + shift for number, shift in zip(numbers, self.shifts, strict=True)]
        return [name.format(*values) + (f".{leaf}" if leaf else "") for name in self.templates]

    def layers(self) -> str | None:
        """The text before the last layer number: rows that share it have the same layers."""
        head, brace, _ = self.names[0].rpartition("{")
        return head if brace else None


def _pattern(name: str) -> str:
    text, star = re.escape(name.removesuffix("*")), name.endswith("*")
    text = re.sub(r"\\\{(?:\\?[+-]\d+)?\\\}", "(0|[1-9][0-9]{0,5})", text)  # {} and {+1}
    text = re.sub(r"\\\[(.*?)\\\]", r"(?:\1)?", text)  # [optional prefix]
    return text + ("(.*)" if star else _TENSOR_NAME)


Group = tuple[int, tuple[int, ...], str]
"""Index of a row, layer numbers, and the name of a tensor in its module."""


@dataclass(frozen=True)
class Assignment:
    """Tensors of one side that are converted together to tensors of the other side.

    Attributes:
        sources: names on the one side, in the order of the row.
        targets: names on the other side, in the order of the row.
        row: the row that matches them.
        back: whether the sources are our tensors, and the targets those of the file.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    row: Row
    back: bool

    def apply(self, found: Sequence[Tensor]) -> dict[str, Tensor] | None:
        """The targets, made from the sources; None where these cannot be split into equal parts.

        Args:
            found: the source tensors, in the order of their names.

        Returns:
            Names to tensors, which are views of the sources where none were concatenated.
        """
        change = self.row.change
        tensors = _changed(found, len(self.targets), change.to_theirs if self.back else change.to_ours, back=self.back)
        return None if tensors is None else dict(zip(self.targets, tensors, strict=True))


class Assignments(NamedTuple):
    """The names of a checkpoint, matched with the rows of a key map."""

    found: list[Assignment]
    missing: list[str]
    """Names that rows require and the checkpoint lacks."""
    unexpected: list[str]
    """Names that no row matches."""


def assign(names: Iterable[str], rows: Sequence[Row], *, back: bool = False, complete: bool = True) -> Assignments:
    """Match names with the rows of a key map; no tensors are needed.

    Args:
        names: names in the file, or our names where ``back``.
        rows: the key map.
        back: convert our tensors to those of the file.
        complete: leave out tensors of which some parts are missing; else the missing parts are named too.
    """
    rows = [row for row in rows if not (back and row.read_only)]
    sides = [(_Side(row.theirs), _Side(row.ours)) for row in rows]
    if back:
        sides = [(ours, theirs) for theirs, ours in sides]
    groups, unexpected = _grouped(names, sides, first_only=not back)
    missing = _unmatched(rows, sides, groups)
    found: list[Assignment] = []
    assigned: set[str] = set()
    for (index, numbers, leaf), present in sorted(groups.items(), key=lambda item: item[0]):
        row, (source, target) = rows[index], sides[index]
        if not target.names:
            continue
        targets = target.write(numbers, leaf)
        if not back and assigned.issuperset(targets):
            continue  # an earlier row has read it
        written = source.write(numbers, leaf)
        absent = [name for i, name in enumerate(written) if i not in present]
        missing += absent
        if absent and complete:
            continue
        assigned.update(targets)
        sources = tuple(present.get(i, name) for i, name in enumerate(written))
        found.append(Assignment(sources, tuple(targets), row, back))
    return Assignments(found, missing, unexpected)


def matcher(rows: Iterable[Row]) -> Callable[[str], bool]:
    """A function that tells whether any row has a name of the file."""
    sides = [_Side(row.theirs) for row in rows]
    return lambda name: any(side.match(name) is not None for side in sides)


def names_in_row(row: Row, ours: Iterable[str]) -> list[str]:
    """The names in the file, by one row, of those of our tensors that the row has."""
    ours_side, theirs = _Side(row.ours), _Side(row.theirs)
    matches = (match for name in ours if (match := ours_side.match(name)) is not None)
    return [name for _, numbers, leaf in matches for name in theirs.write(numbers, leaf)]


def their_name(name: str, rows: Iterable[Row]) -> str | None:
    """The name in the file of a tensor of ours, for messages; None where no row has it."""
    for row in rows:
        side = None if row.read_only else _Side(row.ours)
        if side is not None and (match := side.match(name)) is not None:
            index, numbers, leaf = match
            names = _Side(row.theirs).write(numbers, leaf)
            return (names[index] if len(names) == len(side.names) else ", ".join(names)) or None
    return None


def _translate(
    state: Mapping[str, Tensor], rows: Sequence[Row], *, back: bool, views: bool = False
) -> dict[str, Tensor]:
    assignments = assign(state, rows, back=back)
    unexpected = list(assignments.unexpected)
    out: dict[str, Tensor] = {}
    for assignment in assignments.found:
        targets = assignment.apply([state[name] for name in assignment.sources])
        if targets is None:
            name = assignment.sources[0]
            shape, parts = tuple(state[name].shape), len(assignment.targets)
            unexpected.append(f"{name} of shape {shape}, not divisible into {parts}")
        else:
            split = len(assignment.targets) > 1
            if not views:
                targets = {n: t.clone() if split and t.is_contiguous() else t.contiguous() for n, t in targets.items()}
            out |= targets
    if assignments.missing or unexpected:
        raise _mismatch(assignments.missing, unexpected)
    return out


def _grouped(
    names: Iterable[str], sides: list[tuple[_Side, _Side]], *, first_only: bool
) -> tuple[dict[Group, dict[int, str]], list[str]]:
    """The names by group, each under its index among the names of the row; and those that no row matches."""
    groups: dict[Group, dict[int, str]] = {}
    unexpected = []
    for key in names:
        every = ((i, m) for i, (source, _) in enumerate(sides) if (m := source.match(key)))
        matches = list(islice(every, 1) if first_only else every)
        if not matches:
            unexpected.append(key)
        for row, (index, numbers, leaf) in matches:
            groups.setdefault((row, numbers, _OLD_TENSOR_NAMES.get(leaf, leaf)), {})[index] = key
    return groups, unexpected


def _unmatched(rows: Sequence[Row], sides: list[tuple[_Side, _Side]], groups: Iterable[Group]) -> list[str]:
    """Names of rows that are not optional and match nothing, for each layer that any row matches."""
    matched = {(index, numbers) for index, numbers, _ in groups}
    layers: dict[str | None, set[tuple[int, ...]]] = {None: {()}}
    for index, numbers in matched:
        if sides[index][0].shifts:
            layers.setdefault(sides[index][0].layers(), set()).add(numbers)
    return [
        name
        for index, row in enumerate(rows)
        if not row.optional
        for numbers in sorted(layers.get(sides[index][0].layers(), ()))
        if (index, numbers) not in matched
        for name in sides[index][0].write(numbers, "")
    ]


def _changed(
    tensors: Sequence[Tensor], parts: int, change: Callable[[Tensor], Tensor], *, back: bool
) -> list[Tensor] | None:
    """Concatenate and split in our layout, with the change before or after; None where ``parts`` do not divide it."""
    if not back:
        tensors = [change(t) for t in tensors]
    whole = tensors[0] if len(tensors) == 1 else torch.cat(tuple(tensors))
    if parts == 1:
        equal_parts = [whole]
    elif whole.ndim and whole.shape[0] % parts == 0:
        equal_parts = list(whole.chunk(parts))
    else:
        return None
    return [change(part) for part in equal_parts] if back else equal_parts


def _mismatch(missing: Sequence[str], unexpected: Sequence[str]) -> CheckpointMismatchError:
    """The error for tensors that the checkpoint lacks, and for those that no row matches."""
    shown = missing[:MAX_NAMES_SHOWN], unexpected[: max(0, MAX_NAMES_SHOWN - len(missing))]
    said = [
        f"{len(names)} tensor{'s' * (len(names) != 1)} {what}" + (f" ({', '.join(few)})" if few else "")
        for what, names, few in (("missing", missing, shown[0]), ("unexpected", unexpected, shown[1]))
        if names
    ]
    return CheckpointMismatchError(
        "; ".join(said),
        hint="is it a checkpoint of another architecture?",
        details="\n".join([*(f"missing: {n}" for n in missing), *(f"unexpected: {n}" for n in unexpected)]),
    )
