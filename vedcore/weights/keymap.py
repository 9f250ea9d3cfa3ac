"""Names and layouts of tensors in somebody else's checkpoint, and ours: the map between them, as data.

A family writes its map as a table, one row a module::

    KEY_MAP = (
        Row("[transformer.]wte",               "embedding"),
        Row("[transformer.]h.{}.ln_1",         "layers.{}.self_attention_norm"),
        Row("[transformer.]h.{}.attn.c_attn",  "layers.{}.self_attention.query+key+value", TRANSPOSED),
        ignored("[transformer.]h.{}.attn.bias"),
    )

- A row names a module, and stands for the tensors in it (``weight``, ``bias`` and a norm's statistics), or names one
  tensor outright. ``gamma`` and ``beta``, as old files call a norm's tensors, are read as ``weight`` and ``bias``.
- ``{}`` stands for a layer's number; ``{+1}`` on our side for that number plus one.
- ``query+key+value`` stands for several modules beside each other. Where one side has several and the other one,
  they are joined along their first axis, in this order; going back, the one is cut into equal parts.
- ``[text]`` is an optional beginning: read with and without, always written.
- ``*`` at the end stands for anything.

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
    "mismatch",
    "their_name",
    "to_ours",
    "to_theirs",
    "under",
]

NAMES_SHOWN = 5
_LEAF = r"(?:\.(weight|bias|gamma|beta|running_mean|running_var|num_batches_tracked))?"
_OLD_LEAVES = {"gamma": "weight", "beta": "bias"}


@dataclass(frozen=True)
class Change:
    """How a tensor of theirs becomes one of ours, and back.

    Args:
        name: what to call it.
        to_ours: what happens to each of their tensors, before they are joined.
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
"""A matrix stored input by output, as GPT2's ``Conv1D`` has it; a bias stays as it is."""


@dataclass(frozen=True)
class Row:
    """One row of a key map.

    Args:
        theirs: their name, see the module.
        ours: our name; empty for what is ignored when read and never written.
        change: what happens on the way.
        optional: may be absent on either side; whether the model can do without is the loader's to say.
        read_only: a name that files of another make have, never written.
    """

    theirs: str
    ours: str
    change: Change = SAME
    optional: bool = False
    read_only: bool = False


def ignored(theirs: str) -> Row:
    """A row for tensors that hold nothing of ours: masks, position numbers, other heads."""
    return Row(theirs, "", optional=True, read_only=True)


def under(rows: Iterable[Row], theirs: str, ours: str) -> tuple[Row, ...]:
    """The rows of a part that stands in a larger checkpoint, under ``theirs`` there and ``ours`` here."""
    return tuple(replace(row, theirs=theirs + row.theirs, ours=row.ours and ours + row.ours) for row in rows)


def to_ours(state: Mapping[str, Tensor], rows: Iterable[Row], *, path: object = None) -> dict[str, Tensor]:
    """Their tensors under our names, in our layout; what is neither joined nor changed is the same tensor.

    Args:
        state: their names to tensors.
        rows: the family's key map.
        path: the file, for messages.

    Raises:
        CheckpointMismatchError: tensors that no row explains, rows that are not optional and match nothing, and
            tensors that cannot be cut; all of them at once.
    """
    return _translate(state, tuple(rows), back=False, path=path)


def to_theirs(state: Mapping[str, Tensor], rows: Iterable[Row], *, views: bool = False) -> dict[str, Tensor]:
    """Our tensors under their names, in their layout: the inverse of `to_ours`.

    Args:
        state: our names to tensors.
        rows: the family's key map.
        views: leave views of ours, in any layout, where nothing is joined: for who copies them anyway.

    Raises:
        CheckpointMismatchError: as `to_ours`.
    """
    return _translate(state, tuple(rows), back=True, path=None, views=views)


class _Side:
    """One side of a row: its names as patterns, and how to write them."""

    def __init__(self, template: str) -> None:
        last = re.split(r"[.\]]", template)[-1]
        stem = template.removesuffix(last)
        self.names = [stem + part for part in last.split("+")] if template else []
        self.shifts = [int(shift or 0) for shift in re.findall(r"\{([+-]\d+)?\}", self.names[0])] if template else []
        self.written = [re.sub(r"[][]", "", re.sub(r"\{[+-]\d+\}", "{}", name)) for name in self.names]
        """The names as `str.format` takes them, with what is optional in them."""

    @cached_property
    def patterns(self) -> list[re.Pattern[str]]:
        """Of the names; a side that is only written to needs none."""
        return [re.compile(_pattern(name)) for name in self.names]

    def match(self, key: str) -> tuple[int, tuple[int, ...], str] | None:
        """Which of the names ``key`` is, the layer numbers in it, and the tensor's own name in the module."""
        for position, pattern in enumerate(self.patterns):
            found = pattern.fullmatch(key)
            if found:
                *numbers, leaf = found.groups()
                return position, tuple(int(n) - s for n, s in zip(numbers, self.shifts, strict=True)), leaf or ""
        return None

    def write(self, numbers: Sequence[int], leaf: str) -> list[str]:
        """The full names of one layer's tensors."""
        values = [number + shift for number, shift in zip(numbers, self.shifts, strict=True)]
        return [name.format(*values) + (f".{leaf}" if leaf else "") for name in self.written]

    def layers(self) -> str | None:
        """The text up to the last layer number; rows that share it have the same layers."""
        head, brace, _ = self.names[0].rpartition("{")
        return head if brace else None


def _pattern(name: str) -> str:
    text, star = re.escape(name.removesuffix("*")), name.endswith("*")
    text = re.sub(r"\\\{(?:\\?[+-]\d+)?\\\}", "(0|[1-9][0-9]{0,5})", text)  # {} and {+1}
    text = re.sub(r"\\\[(.*?)\\\]", r"(?:\1)?", text)  # [optional beginning]
    return text + ("(.*)" if star else _LEAF)


Group = tuple[int, tuple[int, ...], str]
"""A row's number, layer numbers, and the tensor's own name in its module."""


@dataclass(frozen=True)
class Assignment:
    """Tensors of one side that together become tensors of the other.

    Attributes:
        sources: names on the one side, in their order.
        targets: names on the other side, in their order.
        row: the row that says so.
        back: whether the sources are ours.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    row: Row
    back: bool

    def apply(self, found: Sequence[Tensor]) -> dict[str, Tensor] | None:
        """The targets for the sources; None where they are not to be cut into so many.

        Args:
            found: the tensors, in the order of the names.

        Returns:
            Names to tensors, which are views of the sources where nothing was joined.
        """
        change = self.row.change
        tensors = _changed(found, len(self.targets), change.to_theirs if self.back else change.to_ours, back=self.back)
        return None if tensors is None else dict(zip(self.targets, tensors, strict=True))


class Assignments(NamedTuple):
    """What becomes of the names of a checkpoint."""

    found: list[Assignment]
    missing: list[str]
    """Names that rows ask for and the checkpoint has not."""
    unexpected: list[str]
    """Names that no row explains."""


def assign(names: Iterable[str], rows: Sequence[Row], *, back: bool = False) -> Assignments:
    """Which tensors become which, by their names alone.

    Args:
        names: of the one side; theirs, or ours where ``back``.
        rows: the key map.
        back: from ours to theirs.
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
        absent = [name for i, name in enumerate(source.write(numbers, leaf)) if i not in present]
        if absent:
            missing += absent
            continue
        assigned.update(targets)
        found.append(Assignment(tuple(present[i] for i in range(len(source.names))), tuple(targets), row, back))
    return Assignments(found, missing, unexpected)


def their_name(name: str, rows: Iterable[Row]) -> str | None:
    """What a file of theirs would call a tensor of ours, for messages; None where no row says."""
    for row in rows:
        side = None if row.read_only else _Side(row.ours)
        if side is not None and (match := side.match(name)) is not None:
            position, numbers, leaf = match
            written = _Side(row.theirs).write(numbers, leaf)
            return written[position] if len(written) == len(side.names) else ", ".join(written)
    return None


def _translate(
    state: Mapping[str, Tensor], rows: Sequence[Row], *, back: bool, path: object, views: bool = False
) -> dict[str, Tensor]:
    assignments = assign(state, rows, back=back)
    unexpected = list(assignments.unexpected)
    out: dict[str, Tensor] = {}
    for assignment in assignments.found:
        targets = assignment.apply([state[name] for name in assignment.sources])
        if targets is None:
            name = assignment.sources[0]
            shape, parts = tuple(state[name].shape), len(assignment.targets)
            unexpected.append(f"{name} of shape {shape}, not to be cut into {parts}")
        else:
            cut = len(assignment.targets) > 1
            if not views:
                targets = {n: t.clone() if cut and t.is_contiguous() else t.contiguous() for n, t in targets.items()}
            out |= targets
    if assignments.missing or unexpected:
        raise mismatch(assignments.missing, unexpected, path)
    return out


def _grouped(
    names: Iterable[str], sides: list[tuple[_Side, _Side]], *, first_only: bool
) -> tuple[dict[Group, dict[int, str]], list[str]]:
    """The names by row, layer and leaf, each by its position among the row's names; and those of no row."""
    groups: dict[Group, dict[int, str]] = {}
    unexpected = []
    for key in names:
        every = ((i, m) for i, (source, _) in enumerate(sides) if (m := source.match(key)))
        matches = list(islice(every, 1) if first_only else every)
        if not matches:
            unexpected.append(key)
        for index, (position, numbers, leaf) in matches:
            groups.setdefault((index, numbers, _OLD_LEAVES.get(leaf, leaf)), {})[position] = key
    return groups, unexpected


def _unmatched(rows: Sequence[Row], sides: list[tuple[_Side, _Side]], groups: Iterable[Group]) -> list[str]:
    """Names of rows that must match and do not, for every layer that any row has."""
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
    """Join and cut in our layout, and change theirs before or after; None where it does not cut into ``parts``."""
    if not back:
        tensors = [change(t) for t in tensors]
    whole = tensors[0] if len(tensors) == 1 else torch.cat(tuple(tensors))
    if parts == 1:
        pieces = [whole]
    elif whole.ndim and whole.shape[0] % parts == 0:
        pieces = list(whole.chunk(parts))
    else:
        return None
    return [change(piece) for piece in pieces] if back else pieces


def mismatch(missing: Sequence[str], unexpected: Sequence[str], path: object) -> CheckpointMismatchError:
    """The error for tensors that a key map does not find, and for those that it does not know."""
    shown = missing[:NAMES_SHOWN], unexpected[: max(0, NAMES_SHOWN - len(missing))]
    said = [
        f"{len(names)} tensor{'s' * (len(names) != 1)} {what}" + (f" ({', '.join(few)})" if few else "")
        for what, names, few in (("missing", missing, shown[0]), ("unexpected", unexpected, shown[1]))
        if names
    ]
    return CheckpointMismatchError(
        "; ".join(said),
        path=path,
        hint="is it a checkpoint of another architecture?",
        details="\n".join([*(f"missing: {n}" for n in missing), *(f"unexpected: {n}" for n in unexpected)]),
    )
