"""Names to entries: the registered parts, the distributions they come from, and the meaning of each name.

Nothing here imports a part: an entry carries the dotted path of its target, which is imported when it is first used.
"""

from __future__ import annotations

import fnmatch
import functools
import importlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from vedcore.errors import (
    PluginConflictError,
    PluginContractError,
    PluginError,
    PluginLoadError,
    UnknownComponentError,
    close_matches,
    described,
    did_you_mean,
    printable,
)

__all__ = ["KINDS", "Entry", "Kind", "Owner", "Registry", "ResolvedEntry"]

Kind = Literal["encoder", "decoder", "projector", "format", "model", "exporter", "command"]
KINDS: tuple[Kind, ...] = get_args(Kind)
BUILT_IN = "vedcore"
"""The distribution whose names are reserved."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, order=True)
class Owner:
    """The distribution that registered an entry."""

    distribution: str
    version: str = ""

    def __str__(self) -> str:
        return f"{self.distribution}=={self.version}" if self.version else self.distribution


@dataclass(frozen=True)
class Entry:
    """A registered part: a family of encoders or decoders, a projector, a format, a model, an exporter or a command.

    Args:
        name: the family's name, of letters, digits, ``-``, ``_`` and ``.``.
        target: dotted path, ``"package.module:Attribute"``, imported when the part is first used.
        summary: one line for lists.
        variants: names of variants, or glob patterns for them.
        default_variant: the variant that the bare family name means.
        aliases: other names of the family.
        prefix: when set, ``prefix/anything`` means this family with ``anything`` as its variant.
        model_types: each ``model_type`` of transformers' config.json whose checkpoints this family opens; the target
            describes them in its attribute ``transformers``.
    """

    name: str
    target: str
    summary: str = ""
    variants: tuple[str, ...] = ()
    default_variant: str | None = None
    aliases: tuple[str, ...] = ()
    prefix: str | None = None
    model_types: tuple[str, ...] = ()
    owner: Owner = field(default=Owner(BUILT_IN), compare=False)

    def load(self) -> Any:
        """Import and return the target.

        Raises:
            PluginLoadError: the module does not import, or lacks the attribute.
        """
        module_name, _, attribute = self.target.partition(":")
        try:
            target: Any = importlib.import_module(module_name)
            for part in attribute.split("."):
                target = getattr(target, part)
        except (KeyboardInterrupt, MemoryError):
            raise
        except BaseException as error:
            raise PluginLoadError(
                f"{self.name!r} of {self.owner}: {self.target} does not load: {described(error)}",
                plugin=self.owner.distribution,
                hint=f"repair or uninstall {self.owner.distribution}",
            ) from error
        return target

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """The exact names of this family: its name, its aliases, and variants that are not patterns."""
        exact = (*self.variants, self.default_variant or self.name)
        return tuple(dict.fromkeys([self.name, *self.aliases, *(n for n in exact if not set(n) & set("*?["))]))


@dataclass(frozen=True)
class ResolvedEntry:
    """The meaning of a name: an entry, and one of its variants."""

    entry: Entry
    variant: str | None


class Registry:
    """All entries by kind.

    The names of built-in parts, their variants and their prefixes are reserved: they mean the built-in part even where
    another distribution registers them. Where two other distributions own a name, it is ambiguous and an error. In both
    cases ``distribution:name`` picks one.
    """

    def __init__(self) -> None:
        self._entries: dict[Kind, list[Entry]] = {kind: [] for kind in KINDS}
        self.notes: list[str] = []
        """Problems during discovery, repeated in the error for an unknown name."""
        self.failures: dict[str, PluginError] = {}
        """Normalised names of distributions whose plugin failed, to the error."""

    def add(self, entries: Iterable[tuple[Kind, Entry]], owner: Owner) -> None:
        """Add the entries of one owner, all or none.

        Raises:
            PluginContractError: not an entry, a malformed field, or a name that the owner has registered before.
        """
        new: dict[tuple[Kind, str], Entry] = {}
        for kind, entry in entries:
            check_entry(kind, entry, owner)
            mine = (same.name for same in self._entries[kind] if same.owner == owner)
            if (kind, entry.name) in new or entry.name in mine:
                raise PluginContractError(
                    f"{owner} registers {kind} {entry.name!r} twice", plugin=owner.distribution, hint="keep one of them"
                )
            new[kind, entry.name] = replace(entry, owner=owner)
        for (kind, _), entry in new.items():
            self._entries[kind].append(entry)

    def entries(self, kind: Kind) -> list[Entry]:
        """All entries of a kind, sorted by name, then owner."""
        return sorted(self._entries[kind], key=lambda e: (e.name, e.owner))

    def find(self, kind: Kind, name: str) -> ResolvedEntry:
        """The entry and variant that ``name`` means; nothing is imported.

        Args:
            kind: the kind of part.
            name: a family, an alias, a variant or ``prefix/variant``; ``distribution:`` may stand before each.

        Raises:
            UnknownComponentError: unknown; offers the nearest names.
            PluginConflictError: two distributions own the name, and neither is vedcore.
            PluginError: the named distribution has a plugin that failed; the error is that failure.
        """
        distribution, colon, bare = name.partition(":")
        if not colon or not _NAME.fullmatch(distribution):  # a colon inside a variant, as in timm/hf-hub:org/name
            distribution, bare = "", name
        groups = self._by_rank(kind)
        if distribution:
            wanted = canonical(distribution)
            groups = [[e for e in self.entries(kind) if canonical(e.owner.distribution) == wanted]]
        for group in groups:
            for matches in (_by_name, _by_prefix, _by_pattern):
                found = [e for e in group if matches(e, bare)]
                if len(found) > 1:
                    raise _conflict(kind, bare, sorted(found, key=lambda e: e.owner))
                if found:
                    return ResolvedEntry(found[0], _variant(found[0], bare))
        if distribution and canonical(distribution) in self.failures:
            raise self.failures[canonical(distribution)]
        raise self._unknown(kind, name)

    def find_model_type(self, kind: Kind, model_type: str) -> Entry:
        """The family that opens transformers' checkpoints of that ``model_type``; built-in families take precedence.

        Raises:
            UnknownComponentError: no family does; offers the nearest types.
        """
        entries = [entry for group in self._by_rank(kind) for entry in group]
        for entry in entries:
            if model_type in entry.model_types:
                return entry
        known = sorted({name for entry in entries for name in entry.model_types})
        hint = did_you_mean(model_type, known) or f"there are: {', '.join(known)}"
        shown = printable(model_type)
        raise UnknownComponentError(
            f"no {kind} opens transformers' model_type '{shown[:60]}'",
            hint=f"{_cut(hint, 110)}; a plugin may add it",
        )

    def conflicts(self, kind: Kind, entry: Entry) -> list[PluginConflictError]:
        """An error for each name of ``entry`` that means another entry, or is ambiguous."""
        built_in, others = self._by_rank(kind)
        problems = []
        for name in () if entry in built_in and _is_built_in(entry) else entry.names:
            owners = [e for e in built_in if _matches(e, name)]
            if not owners:
                owners = [e for e in others if e.owner != entry.owner and _by_name(e, name)]
            if owners:
                problems.append(_conflict(kind, name, [owners[0], entry]))
        return problems

    def shown_name(self, kind: Kind, entry: Entry) -> str:
        """The name that finds ``entry``: its own, or ``distribution:name`` where that means another entry."""
        try:
            mine = self.find(kind, entry.name).entry
        except PluginConflictError:
            mine = None
        alone = mine is not None and mine.owner == entry.owner
        return entry.name if alone else f"{entry.owner.distribution}:{entry.name}"

    def known_names(self, kind: Kind) -> list[str]:
        """All exact names: families, aliases, and variants that are not patterns."""
        return sorted({name for entry in self._entries[kind] for name in entry.names})

    def _by_rank(self, kind: Kind) -> list[list[Entry]]:
        """Built-in entries, then the others."""
        entries = self.entries(kind)
        return [[e for e in entries if _is_built_in(e)], [e for e in entries if not _is_built_in(e)]]

    def _unknown(self, kind: Kind, name: str) -> UnknownComponentError:
        families = [self.shown_name(kind, e) for e in self.entries(kind)]
        near = close_matches(name, {*self.known_names(kind), *families})
        hint = (
            f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are: {', '.join(families) or 'none'}"
        )
        shown = printable(name)
        return UnknownComponentError(
            f"no {kind} named '{shown[:60]}{'…' if len(shown) > 60 else ''}'",
            hint=" ".join([_cut(hint, 110), *(f"[{_cut(note, 110)}]" for note in self.notes[:1])]),
            details="\n".join([f"{kind}s: {', '.join(families)}", *self.notes]),
        )


@functools.lru_cache(maxsize=4096)
def canonical(distribution: str) -> str:
    """The normalised name of a distribution: lower case, with single hyphens."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def check_entry(kind: Kind, entry: object, owner: Owner) -> None:
    """Refuse anything but a well-formed entry.

    Raises:
        PluginContractError: naming the field.
    """

    def refuse(message: str, hint: str) -> PluginContractError:
        return PluginContractError(f"{owner}: register_{kind}s: {message}", plugin=owner.distribution, hint=hint)

    if not isinstance(entry, Entry):
        raise refuse(f"gave {type(entry).__name__}, not Entry", "return a list of vedcore.Entry(name, target)")
    for name in (
        entry.name,
        *_texts(entry.aliases, "aliases", refuse),
        *([] if entry.prefix is None else [entry.prefix]),
    ):
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise refuse(f"{str(name)[:60]!r} is not a name", "use letters, digits, - _ .")
    _texts(entry.variants, "variants", refuse)
    _texts(entry.model_types, "model_types", refuse)
    if not isinstance(entry.summary, str) or not isinstance(entry.default_variant, str | None):
        raise refuse(f"{entry.name!r}: summary and default_variant are text", "see vedcore.Entry")
    module, colon, attribute = str(entry.target).partition(":")
    if not colon or not all(part.isidentifier() for part in [*module.split("."), *attribute.split(".")]):
        raise refuse(f"target {str(entry.target)[:60]!r} is not a dotted path", "write 'package.module:Attribute'")


def _texts(value: object, field: str, refuse: Any) -> tuple[str, ...]:
    """The value of a field that is a tuple of names."""
    if not isinstance(value, tuple) or not all(isinstance(v, str) and v for v in value):
        raise refuse(f"{field} is {str(value)[:40]!r}, not a tuple of names", f'write {field}=("a", "b")')
    return value


def _conflict(kind: Kind, name: str, entries: Iterable[Entry]) -> PluginConflictError:
    first, *_, last = list(entries)
    if _is_built_in(first):
        hint = f"write {last.owner.distribution}:{last.name} for the other"
        message = f"{kind} {name!r} of {last.owner} is the name of a built-in of vedcore, {first.name!r}"
    else:
        message = f"{kind} {name!r} is owned by both {first.owner} and {last.owner}"
        other = last.owner.distribution
        hint = f"write {first.owner.distribution}:{name}, or block one with VEDCORE_DISABLE_PLUGINS={other}"
    return PluginConflictError(message, plugin=last.owner.distribution, hint=hint)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _is_built_in(entry: Entry) -> bool:
    return canonical(entry.owner.distribution) == BUILT_IN


def _matches(entry: Entry, name: str) -> bool:
    return _by_name(entry, name) or _by_prefix(entry, name) or _by_pattern(entry, name)


def _by_name(entry: Entry, name: str) -> bool:
    return name in entry.names


def _by_prefix(entry: Entry, name: str) -> bool:
    return entry.prefix is not None and name.startswith(entry.prefix + "/") and len(name) > len(entry.prefix) + 1


def _by_pattern(entry: Entry, name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in entry.variants)


def _variant(entry: Entry, name: str) -> str | None:
    """The variant of ``entry`` that ``name`` means."""
    if name == entry.name or name in entry.aliases:
        return entry.default_variant
    return name.removeprefix(f"{entry.prefix}/") if _by_prefix(entry, name) else name
