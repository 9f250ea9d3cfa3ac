"""The origin of each tensor of a model: a file and its hash, random numbers, another tensor; and the changes since.

`provenance.json` in a model's folder has them in rows, one for all tensors of one origin:

    {"version": 1, "origins": [
        {"tensors": ["decoder.layers.*.cross_attention.key.weight"], "source": "random", "seed": 0},
        {"tensors": ["encoder.norm.bias"], "source": "file", "file": "vit/model.safetensors", "sha256": "…",
         "steps": ["changed"]}]}

``*`` in the name of a tensor stands for any number between two dots.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, Field

from vedcore.config import Config
from vedcore.config_files import parse_json
from vedcore.config_files.plain import short
from vedcore.errors import CheckpointError, ConfigLimitError, ConfigSchemaError, VedcoreError, printable
from vedcore.files import open_regular
from vedcore.model_files import PROVENANCE
from vedcore.weights.manifest import FileRecord, file_sha256
from vedcore.weights.snapshot import Snapshot

__all__ = ["CHANGED", "Origin", "Provenance", "Unhashed", "folder_label", "read_provenance"]

MAX_PROVENANCE_BYTES = 4_000_000
"""Of `provenance.json`."""
MAX_LABEL = 1000
"""Characters of a name, and of a step."""
MAX_ROWS = 4096
"""Origins in a file."""
MAX_STEPS = 64
"""Changes of a tensor that are kept: the last ones."""
VERSION = 1
"""Of the layout of `provenance.json`."""
CHANGED = "changed"
"""The step of a tensor that has other values than it had: it was trained, or set."""
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
_SNAPSHOT = re.compile(r"models--([^/]+)/snapshots/([0-9a-f]{40})((?:/[^/]+)*)$")


def _printable(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError("text without control characters expected")
    return text


Source: TypeAlias = Literal["file", "published", "random", "tied", "unknown"]
Text = Annotated[str, Field(max_length=MAX_LABEL), AfterValidator(_printable)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Unhashed:
    """A file whose sha256 nobody has computed yet, and what tells that it is the same file still."""

    path: str
    stamp: tuple[int, ...]

    @classmethod
    def of(cls, path: str | os.PathLike[str], file: io.FileIO) -> Unhashed:
        """An opened file."""
        return cls(os.path.abspath(path), _stamp(os.fstat(file.fileno())))

    def sha256(self) -> str | None:
        """The sha256 of the file; None where it was changed or removed meanwhile."""
        try:
            with open_regular(self.path, CheckpointError, "") as file:
                if _stamp(os.fstat(file.fileno())) != self.stamp:
                    return None
                (digest,) = file_sha256(file.raw)  # type: ignore[attr-defined]
                return digest if _stamp(os.fstat(file.fileno())) == self.stamp else None
        except (CheckpointError, OSError):
            return None


def _stamp(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@dataclass(frozen=True)
class Origin:
    """The source of a tensor's values."""

    source: Source
    """``file``; ``published``: weights that the encoder's library fetched; ``random``: as the model initialises it;
    ``tied``: it is another tensor of the model; ``unknown``."""
    file: str | None = None
    """Folder or repository, and file; of published weights, the variant."""
    sha256: str | None = None
    """Of the file."""
    manifest_sha256: str | None = None
    """Of the file's ``manifest.json``, which has the hash of each tensor, in place of ``sha256``."""
    seed: int | None = None
    """Of random numbers; None without one."""
    tied_to: str | None = None
    """Name of the tensor that it is."""
    steps: tuple[str, ...] = ()
    """Changes since, oldest first: ``resized from (50257, 768)``, ``merged with lora/adapter_model.safetensors (sha256
    …)``, ``changed``."""
    unhashed: Unhashed | None = field(default=None, repr=False)

    def then(self, step: str) -> Origin:
        """The origin with a change; the same change twice in a row is one."""
        if self.steps[-1:] == (step,):
            return self
        return replace(self, steps=(*self.steps, step)[-MAX_STEPS:])

    @property
    def is_untrained(self) -> bool:
        """Whether the values are random, and were at most resized."""
        return self.source == "random" and all(step.startswith("resized") for step in self.steps)

    def as_json(self) -> dict[str, Any]:
        """The fields that are set, as plain data; a random tensor has a ``seed`` always."""
        found = {name: value for name, value in asdict(replace(self, unhashed=None)).items() if value not in (None, ())}
        if self.source == "random":
            found["seed"] = self.seed
        return found | ({"steps": list(self.steps)} if self.steps else {})

    def __str__(self) -> str:
        digest, kind = (self.sha256, "sha256") if self.sha256 else (self.manifest_sha256, "manifest")
        start = {
            "file": f"from {self.file} ({f'{kind} {digest[:12]}…' if digest else 'no hash'})",
            "published": f"the published weights of {self.file}",
            "random": "random, without a seed" if self.seed is None else f"random, seed {self.seed}",
            "tied": f"tied to {self.tied_to}",
            "unknown": "of unknown origin",
        }[self.source]
        return ", then ".join([start, *self.steps])


class _Row(Config):
    """One row of `provenance.json`."""

    tensors: Annotated[tuple[Text, ...], Field(min_length=1)]
    source: Source
    file: Text | None = None
    sha256: Digest | None = None
    manifest_sha256: Digest | None = None
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] | None = None
    tied_to: Text | None = None
    steps: Annotated[tuple[Text, ...], Field(max_length=MAX_STEPS)] = ()


_NEEDED = {"file": "file", "published": "file", "tied": "tied_to"}
"""Sources to the field that their rows have."""


class Provenance(Mapping[str, Origin]):
    """Names of a model's tensors to their origins; ``str(provenance)`` is a table of the parts.

    Args:
        origins: by name; in a file also by a name with ``*`` for numbers.
    """

    def __init__(self, origins: Mapping[str, Origin]) -> None:
        self._origins = dict(origins)

    def __getitem__(self, name: str) -> Origin:
        found = self._origins.get(name)
        return self._origins[_NUMBER.sub("*", name)] if found is None else found

    def __iter__(self) -> Iterator[str]:
        return iter(self._origins)

    def __len__(self) -> int:
        return len(self._origins)

    def __repr__(self) -> str:
        return f"<origins of {len(self)} tensors>"

    def __str__(self) -> str:
        return "\n".join(f"{part:<10}  {text}" for part, text in self.summary())

    def summary(self) -> list[tuple[str, str]]:
        """Each part with the origins of its tensors, in words, one a row."""
        counts: dict[tuple[str, str], int] = {}
        for name, origin in self.items():
            key = name.partition(".")[0], str(origin)
            counts[key] = counts.get(key, 0) + 1
        return [(part, f"{n} tensor{'s' * (n > 1)} {text}") for (part, text), n in counts.items()]

    def rows(self) -> list[dict[str, Any]]:
        """The rows of `provenance.json`."""
        shown = {printable(name): origin for name, origin in self.items() if len(printable(name)) <= MAX_LABEL}
        alike: dict[str, set[Origin]] = {}
        for name, origin in shown.items():
            alike.setdefault(_NUMBER.sub("*", name), set()).add(origin)
        rows: dict[Origin, dict[str, None]] = {}
        for name, origin in shown.items():
            pattern = _NUMBER.sub("*", name)
            rows.setdefault(origin, {})[pattern if len(alike[pattern]) == 1 else name] = None
        return [{"tensors": list(names), **origin.as_json()} for origin, names in rows.items()]

    def to_bytes(self) -> bytes:
        """The contents of `provenance.json`."""
        return (json.dumps({"version": VERSION, "origins": self.rows()}, indent=1) + "\n").encode()


def read_provenance(snapshot: Snapshot, manifest: Mapping[str, FileRecord]) -> Provenance | None:
    """The origins in an opened folder; None where the save that wrote its manifest wrote none, or it is gone.

    Raises:
        ConfigError: not JSON, or not such rows.
        CheckpointError: a file of more than 4 MB, or not a regular one.
    """
    if PROVENANCE not in manifest or not snapshot.has(PROVENANCE):
        return None
    path = snapshot.path / PROVENANCE
    try:
        return _parsed(parse_json(snapshot.read(PROVENANCE, MAX_PROVENANCE_BYTES), path), path)
    except VedcoreError as error:
        hint = "delete it, as the model loads without it, or get the folder again"
        raise error.with_hint(hint) from error.__cause__


def _parsed(data: Mapping[str, Any], path: Path) -> Provenance:
    """The origins in the contents of a file."""
    if type(data.get("version")) is not int or data["version"] != VERSION:
        raise ConfigSchemaError(f"version {VERSION} expected", path=path, field="version")
    for key in data.keys() - {"version", "origins"}:
        raise ConfigSchemaError("unknown key", path=path, field=key)
    if not isinstance(data.get("origins"), list):
        raise ConfigSchemaError("a list of rows expected", path=path, field="origins")
    if len(data["origins"]) > MAX_ROWS:
        message = f"{len(data['origins']):,} rows, and at most {MAX_ROWS:,} are read"
        raise ConfigLimitError(message, path=path, field="origins")
    origins: dict[str, Origin] = {}
    for number, row in enumerate(data["origins"]):
        fields = _Row.parse(row, path=path, prefix=f"origins.{number}.").model_dump()
        names, needed = fields.pop("tensors"), _NEEDED.get(fields["source"])
        if needed is not None and fields[needed] is None:
            raise ConfigSchemaError(f"{needed} expected", path=path, field=f"origins.{number}")
        origin = Origin(**fields)
        for name in names:
            if name in origins:
                raise ConfigSchemaError(f"{short(name)} stands twice", path=path, field=f"origins.{number}.tensors")
            origins[name] = origin
    return Provenance(origins)


def folder_label(folder: str | os.PathLike[str]) -> str:
    """A name of a folder without the paths of this machine: its last part, or the repository that it is cached from."""
    path = os.path.abspath(folder)
    found = _SNAPSHOT.search(Path(path).as_posix())
    name = f"hub:{found[1].replace('--', '/', 1)}@{found[2]}{found[3]}" if found else os.path.basename(path)
    return printable(name)[:200]
