"""Names of tensors as training wraps them: the components that are not the model's are taken out of them.

``module.`` of DistributedDataParallel and DeepSpeed, ``_orig_mod.`` of torch.compile, ``model.`` of Lightning, and
those of FSDP and Fabric, nested in any order. A prefix of any other name is one too where the rest of the names fits
the model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from vedcore.config_files.plain import short
from vedcore.errors import CheckpointMismatchError

__all__ = [
    "ADAPTER_ALONE",
    "ADAPTER_CONFIG",
    "ADAPTER_HINT",
    "ADAPTER_WEIGHTS",
    "MERGE_HINT",
    "NameMatch",
    "Unwrapped",
    "adapter_names",
    "refuse_adapters",
    "unwrap",
]

WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_forward_module", "_checkpoint_wrapped_module"})
"""Components that wrappers put at any place of a name, and that no model has."""
DATA_PARALLEL = "module"
"""The component of DataParallel and DistributedDataParallel."""
MAX_OUTSIDE = 3
"""Names of any file that may lack the prefix of the others; of a larger file, a tenth of its names."""
MAX_PREFIX_DEPTH = 8
"""Components of a prefix."""
MAX_SHOWN = 3
"""Prefixes, and names without the prefix, that the note shows."""
ADAPTER_CONFIG = "adapter_config.json"
"""The file by which peft marks a folder of adapters."""
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
"""The files of adapters, in order of precedence."""
ADAPTER_ALONE = "adapters of LoRA without the model that they were trained for"
ADAPTER_HINT = "load that model, then call model.load_adapter(folder)"
MERGE_HINT = "open it with peft, call merge_and_unload() and save the model again"
_ADAPTER = re.compile(r"(?:^|\.)(lora_\w+|base_layer|original_module|modules_to_save|token_adapter)(?:\.|$)")
"""Components of names that peft's layers add to those of the layers that they stand for."""


class NameMatch(NamedTuple):
    """The names of a model among some names."""

    fitting: Collection[str]
    """Names that the model has."""
    others: Collection[str]
    """Names that it lacks, but for those of parts that are not read."""


class Unwrapped(NamedTuple):
    """The names of a file without its wrappers."""

    names: dict[str, str]
    """Names in the file to names without the wrappers; the few that are outside of the prefix are left out."""
    note: str
    """The components that were taken out, for a warning; empty if there are none."""


def adapter_names(names: Iterable[str]) -> list[str]:
    """The names of tensors in layers that peft has put around a model's, those of adapters first."""
    return sorted((name for name in names if _ADAPTER.search(name)), key=lambda name: "lora_" not in name)


def refuse_adapters(names: Iterable[str], path: object) -> None:
    """Refuse the weights of a model with adapters of LoRA that were not merged.

    Raises:
        CheckpointMismatchError: naming an adapter's tensor.
    """
    found = adapter_names(names)
    if found:
        raise CheckpointMismatchError(
            f"adapters of LoRA that were not merged into the weights, such as {short(found[0])} ({len(found)} tensors)",
            path=path,
            hint=MERGE_HINT,
            details="\n".join(found),
        )


def unwrap(names: Sequence[str], fit: Callable[[Sequence[str]], NameMatch]) -> Unwrapped:
    """Take the wrappers' components out of the names of a file, where more of them fit the model without.

    Args:
        names: all names in the file.
        fit: tells which of some names the model has.
    """
    best, prefix, found = list(names), "", fit(names)
    if found.others or not found.fitting:
        for candidate, cut in _candidates(names):
            other = fit(candidate)
            if len(other.fitting) > len(found.fitting):
                best, prefix, found = candidate, cut, other
    removed = {name: _removed(name, new) for name, new in zip(names, best, strict=True)}
    pieces = Counter(piece for each in removed.values() for piece in each)
    if not pieces:
        return Unwrapped(dict(zip(names, names, strict=True)), "")
    others = set(found.others)
    outside = [name for name, new in zip(names, best, strict=True) if new in others and not removed[name]]
    few = bool(prefix) and len(outside) <= _max_outside(len(names)) and len(outside) < len(found.fitting)
    taken = dict[str, str]()
    for name, new in zip(names, best, strict=True):
        if not (few and name in outside):
            taken[name] = new
    if len(set(taken.values())) < len(taken):  # two names would become one: each stays what it is, and is refused
        twice = {new for new, count in Counter(taken.values()).items() if count > 1}
        taken = {name: name if new in twice else new for name, new in taken.items()}
    note = "names without " + " and ".join(short(piece) for piece, _ in pieces.most_common(MAX_SHOWN))
    if few and outside:
        more = f" and {len(outside) - MAX_SHOWN} more" if len(outside) > MAX_SHOWN else ""
        note += f"; left are {', '.join(map(short, outside[:MAX_SHOWN]))}{more}"
    return Unwrapped(taken, note)


def _candidates(names: Sequence[str]) -> Iterator[tuple[list[str], str]]:
    """The names without wrappers and without a prefix that nearly all share, and the prefix; shorter ones first."""
    seen: list[list[str]] = [list(names)]
    for dropped in (frozenset(), WRAPPERS, WRAPPERS | {DATA_PARALLEL}):
        plain = [_without(name, dropped) for name in names]
        for prefix in ("", *_shared_prefixes(plain)):
            candidate = [name.removeprefix(prefix) for name in plain]
            if candidate not in seen:
                seen.append(candidate)
                yield candidate, prefix


def _without(name: str, components: Collection[str]) -> str:
    """The name without the components; the last one, which is the tensor's own, stays."""
    *path, last = name.split(".")
    return ".".join([*(part for part in path if part not in components), last])


def _shared_prefixes(names: Sequence[str]) -> Iterator[str]:
    """The prefixes that all of the names share, but for a few."""
    prefix, inside = "", list(names)
    for _ in range(MAX_PREFIX_DEPTH):
        heads = Counter(name.partition(".")[0] for name in inside if "." in name)
        head, count = max(heads.items(), key=lambda item: item[1], default=("", 0))
        if len(names) - count > _max_outside(len(names)) or 2 * count <= len(names):
            return
        prefix += f"{head}."
        inside = [name.partition(".")[2] for name in inside if name.startswith(f"{head}.")]
        yield prefix


def _max_outside(count: int) -> int:
    """The number of names that may lack a prefix, of ``count``."""
    return max(MAX_OUTSIDE, count // 10)


def _removed(name: str, new: str) -> list[str]:
    """The runs of components that the name has more than the new one, each with a dot after it."""
    parts, kept = name.split("."), new.split(".")
    runs: list[list[str]] = []
    open_run = False
    for part in reversed(parts):
        if kept and part == kept[-1]:
            kept.pop()
            open_run = False
        elif open_run:
            runs[-1].append(part)
        else:
            runs.append([part])
            open_run = True
    return [f"{'.'.join(reversed(run))}." for run in reversed(runs)]
