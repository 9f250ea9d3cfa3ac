"""Adapters of LoRA ("LoRA", Hu et al. 2021) in PEFT's files, merged into the weights of a model.

A folder of PEFT's has ``adapter_config.json`` and ``adapter_model.safetensors``. The file holds, under the names of the
modules of the model that was trained, pairs of matrices, and whole tensors where PEFT trained those
(``modules_to_save``, biases). A weight W becomes W + scale * B A, which is computed in float32.

Shape letters: O output width, I input width, R rank.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
import re
import string
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar, Unpack

import torch
from torch import Tensor, nn

from vedcore.checkpoints.formats import resolve_folder
from vedcore.checkpoints.model_loading import refuse_adapted
from vedcore.checkpoints.transformers import PROJECTOR_ROW
from vedcore.config import Config, Size
from vedcore.config_files.plain import short
from vedcore.errors import (
    CheckpointNotFoundError,
    ConfigLimitError,
    ConfigSchemaError,
    IncompatibleError,
    NonFiniteError,
    UsageError,
)
from vedcore.generation.constraints.regex import CharacterAutomaton, compile_pattern
from vedcore.hub import FetchOptions
from vedcore.weights.checking import abbreviated, mismatch, same_tensors
from vedcore.weights.finite import is_finite
from vedcore.weights.keymap import TRANSPOSED, Row, assign, names_in_row, under
from vedcore.weights.opening import open_tensors
from vedcore.weights.origins import folder_label
from vedcore.weights.snapshot import Snapshot, json_object, read_folder
from vedcore.weights.unwrapping import ADAPTER_CONFIG, ADAPTER_WEIGHTS

if TYPE_CHECKING:
    from vedcore.model import VisionEncoderDecoder

__all__ = ["merge_adapter"]

T = TypeVar("T")

_PREFIX = "base_model.model."
"""Prefix of the names of a model's modules in PEFT's files."""
_CHARACTERS = "".join(sorted(string.ascii_letters + string.digits + "_-."))
"""Those of the names of modules."""
_LORA = re.compile(r"(.+)\.(lora_A|lora_B)\.(weight|bias)|(.+)\.(lora_embedding_A|lora_embedding_B)")
_WITHOUT_EFFECT = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "bias",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "fan_in_fan_out",
        "inference_mode",
        "init_lora_weights",
        "loftq_config",
        "lora_bias",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "task_type",
        "velora_config",
    }
)
"""Fields that change how an adapter is trained, or that the names in the file say too."""
_PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal")
"""Initialisations that leave the weights of the model as they are."""
_PEFT_HINT = "peft opens it: peft.PeftModel.from_pretrained(model, folder)"


class LoraConfig(Config):
    """The fields of ``adapter_config.json`` that say where the adapters are and how much they count."""

    r: Size = 8
    """R, where ``rank_pattern`` says no other."""
    lora_alpha: float = 8
    """The scale is ``lora_alpha`` / R."""
    use_rslora: bool = False
    """Whether the scale is ``lora_alpha`` / sqrt(R)."""
    rank_pattern: Mapping[str, Size] | None = None
    """Ends of module names, as regular expressions, to ranks."""
    alpha_pattern: Mapping[str, float] | None = None
    """Ends of module names, as regular expressions, to values of ``lora_alpha``."""
    target_modules: tuple[str, ...] | str | None = None
    """Ends of the names of the adapted modules, or a regular expression."""
    exclude_modules: tuple[str, ...] | str | None = None
    """Modules that are not adapted, in the same way."""
    modules_to_save: tuple[str, ...] | None = None
    """Modules that are stored whole."""
    layers_to_transform: tuple[int, ...] | int | None = None
    """Numbers of the adapted layers; None means all."""
    layers_pattern: tuple[str, ...] | str | None = None
    """Names of the lists of layers that those numbers count in."""

    def patterns(self) -> list[str]:
        """The regular expressions in it."""
        whole = [names for names in (self.target_modules, self.exclude_modules) if isinstance(names, str)]
        return [*whole, *map(_end, (*(self.rank_pattern or ()), *(self.alpha_pattern or ())))]

    def scale(self, module: str, rank: int) -> float:
        """The factor of B A."""
        alpha = _of_pattern(self.alpha_pattern, module, self.lora_alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def rank(self, module: str) -> int:
        """R of a module."""
        return _of_pattern(self.rank_pattern, module, self.r)

    def targets(self, module: str) -> bool:
        """Whether the module has adapters, by PEFT's rules."""
        if self.target_modules is None or _is_named(module, self.exclude_modules):
            return False
        if any(re.match(rf"(.*\.)?{re.escape(name)}($|\..*)", module) for name in self.modules_to_save or ()):
            return False
        return _is_named(module, self.target_modules) and self._is_in_layers(module)

    def _is_in_layers(self, module: str) -> bool:
        numbers = self.layers_to_transform
        if numbers is None or numbers == () or isinstance(self.target_modules, str):
            return True
        lists = (self.layers_pattern,) if isinstance(self.layers_pattern, str) else self.layers_pattern
        patterns = [rf"(?:.*?\.)?{re.escape(name)}\.(\d+)\." for name in lists or ()] or [r".*?\.[^.]*\.(\d+)\."]
        found = next((match for pattern in patterns if (match := re.match(pattern, module))), None)
        return found is not None and int(found[1]) in ((numbers,) if isinstance(numbers, int) else numbers)


def _of_pattern(pattern: Mapping[str, T] | None, module: str, default: T) -> T:
    return next((value for key, value in (pattern or {}).items() if _automaton(_end(key)).matches(module)), default)


def _end(pattern: str) -> str:
    """An expression of the names that end in ``pattern``."""
    return rf"(.*\.)?({pattern})"


@functools.lru_cache(1024)
def _automaton(pattern: str) -> CharacterAutomaton:
    """The automaton of an expression, so that none, as that of a stranger may, takes long to look for."""
    return compile_pattern(pattern, _CHARACTERS)


def _is_named(module: str, names: tuple[str, ...] | str | None) -> bool:
    if isinstance(names, str):
        return _automaton(names).matches(module)
    return any(module == name or module.endswith(f".{name}") for name in names or ())


@dataclass
class _Update:
    """The change of one tensor, under the name that it has in the model that was trained."""

    module: str
    whole: str = ""
    """The tensor of the file that replaces it."""
    pair: dict[str, str] = field(default_factory=dict)
    """``"A"`` and ``"B"`` to the tensors of the file whose product is added; a bias has only a B."""
    is_table: bool = False
    """Whether it is the weight of an embedding."""


class _Adapter(NamedTuple):
    """A folder of PEFT's."""

    path: Path
    label: str
    """Folder or repository, file, and its sha256."""
    config: LoraConfig
    tensors: dict[str, Tensor]
    updates: dict[str, _Update]
    """Names of the tensors of the model that was trained to their changes."""


class _Place(NamedTuple):
    """A tensor of the model that was trained, in ours."""

    names: tuple[str, ...]
    """Tensors of ours that are made of it together with its neighbours, concatenated along the first axis."""
    part: int
    """Its number among the neighbours."""
    parts: int
    """Number of neighbours, itself included."""
    transposed: bool = False
    """Whether a matrix of it is stored as (I, O), as transformers' ``Conv1D`` does."""


class _Naming(NamedTuple):
    """The names of an adapter as names of our model."""

    places: dict[str, _Place]
    unexpected: list[str]
    missing: list[str]
    """Tensors that the config says are adapted, and that the file lacks."""


def merge_adapter(
    model: VisionEncoderDecoder,
    folder_or_name: str | os.PathLike[str],
    revision: str | None = None,
    **options: Unpack[FetchOptions],
) -> None:
    """Merge the adapters in a folder into a model's weights; see `VisionEncoderDecoder.load_adapter`."""
    folder = resolve_folder(folder_or_name, revision, **options)
    adapter = read_folder(folder, _read)
    with model.lock.held(alone=lambda: True), torch.no_grad():
        refuse_adapted(model, IncompatibleError)
        naming = _naming(model, adapter)
        state = model.state_dict(keep_vars=True)
        _check(adapter, naming, state)
        merged = _merged(adapter, naming.places, state)
        model.origin_record.settle(model)
        _set(model, merged, folder)
        model.origin_record.settle(model, f"merged with {adapter.label}", merged)


def _read(snapshot: Snapshot) -> _Adapter:
    """Config and tensors of a folder of PEFT's."""
    if not snapshot.has(ADAPTER_CONFIG):
        raise CheckpointNotFoundError(f"no {ADAPTER_CONFIG}", path=snapshot.path, hint=snapshot.listing())
    path = snapshot.path / ADAPTER_CONFIG
    data = json_object(snapshot.read(ADAPTER_CONFIG), path)
    if data.get("peft_type") != "LORA":
        message = f"adapters of type {short(data.get('peft_type'))}, and only LORA is merged"
        raise IncompatibleError(message, path=path, field="peft_type", hint=_PEFT_HINT)
    if data.get("init_lora_weights", True) not in _PLAIN_STARTS:
        raise IncompatibleError(
            f"{short(data['init_lora_weights'])} starts from other weights than the model's",
            path=path,
            field="init_lora_weights",
            hint="save it as plain LoRA: path_initial_model_for_weight_conversion of peft's save_pretrained",
        )
    known = _WITHOUT_EFFECT | LoraConfig.model_fields.keys()
    for name, value in data.items():
        if name not in known and value:
            message = f"{short(value)}, and only plain LoRA is merged"
            raise IncompatibleError(message, path=path, field=short(name), hint=_PEFT_HINT)
    config = LoraConfig.parse({k: v for k, v in data.items() if k in LoraConfig.model_fields}, path=path)
    for pattern in config.patterns():
        try:
            _automaton(pattern)
        except (UsageError, ConfigLimitError) as error:
            raise ConfigSchemaError(f"{short(pattern)}: {error.message}", path=path, hint=_PEFT_HINT) from None
    weights = next((name for name in ADAPTER_WEIGHTS if snapshot.has(name)), None)
    if weights is None:
        none = f"no {' and no '.join(ADAPTER_WEIGHTS)}"
        raise CheckpointNotFoundError(none, path=snapshot.path, hint=snapshot.listing())
    file = open_tensors(snapshot, weights)
    tensors = {name: file.get(name).clone() for name in file.tensors}
    not_finite = [name for name, tensor in tensors.items() if not is_finite(tensor)]
    if not_finite:
        raise NonFiniteError(f"NaN or Inf in {abbreviated(not_finite)}", path=file.path, hint="take an earlier one")
    label = f"{folder_label(snapshot.path)}/{weights} (sha256 {file.sha256()})"
    return _Adapter(snapshot.path, label, config, tensors, _updates(tensors))


def _updates(names: Iterable[str]) -> dict[str, _Update]:
    """The tensors of a file by the tensor of the model that they change."""
    updates: dict[str, _Update] = {}
    for name in names:
        plain = name.removeprefix(_PREFIX)
        found = _LORA.fullmatch(plain)
        module, kind, leaf = (found[1] or found[4], found[2] or found[5], found[3] or "weight") if found else ("",) * 3
        if not found:
            plain = plain.replace(".base_layer.", ".")
            updates.setdefault(plain, _Update(plain.rpartition(".")[0])).whole = name
            continue
        update = updates.setdefault(f"{module}.{leaf}", _Update(module))
        update.pair[kind[-1]] = name
        update.is_table = "embedding" in kind
    return updates


def _naming(model: VisionEncoderDecoder, adapter: _Adapter) -> _Naming:
    """The names of the adapter as ours: names of our model or a part of it, else of transformers' classes."""
    prefixes = ("", "decoder.", "encoder.", "projector.")
    classes = [getattr(part, "transformers", ()) or (None,) for part in (model.encoder, model.decoder)]
    tables = [
        (
            *(under(encoder.key_map, "encoder.", "encoder.") if encoder else ()),
            *(under(decoder.key_map, "decoder.", "decoder.") if decoder else ()),
            PROJECTOR_ROW,
        )
        for encoder, decoder in itertools.product(*classes)
    ]
    ours = model.state_dict(keep_vars=True).keys()
    best: _Naming | None = None
    for rows in (None, *tables):
        for prefix in prefixes:
            found = _own_names(adapter, ours, prefix) if rows is None else _their_names(adapter, ours, prefix, rows)
            if best is None or len(found.unexpected) < len(best.unexpected):
                best = found
            if not best.unexpected:
                return best
    assert best is not None
    return best


def _own_names(adapter: _Adapter, ours: Iterable[str], prefix: str) -> _Naming:
    """The adapter of a model of ours, or of its part ``prefix``."""
    here = {name.removeprefix(prefix): name for name in ours if name.startswith(prefix)}
    places = {name: _Place((here[name],), 0, 1) for name in adapter.updates if name in here}
    due = (name for name in here if name.endswith(".weight") and adapter.config.targets(name.removesuffix(".weight")))
    return _Naming(
        places,
        [name for name in adapter.updates if name not in here],
        [name for name in due if name not in adapter.updates],
    )


def _their_names(adapter: _Adapter, ours: Iterable[str], prefix: str, rows: Sequence[Row]) -> _Naming:
    """The adapter of a model of transformers, or of its part ``prefix``, by a key map."""
    ours = set(ours)
    names = {prefix + name: name for name in adapter.updates}
    found = assign(names, rows, complete=False)
    places, unexpected = dict[str, _Place](), [names[name] for name in found.unexpected]
    used: set[int] = set()
    for each in found.found:
        given = [name for name in each.sources if name in names]
        if not ours.issuperset(each.targets):
            unexpected += [names[name] for name in given]
            continue
        for name in given:
            place = _Place(each.targets, each.sources.index(name), len(each.sources), each.row.change is TRANSPOSED)
            places[names[name]] = place
            if adapter.updates[names[name]].pair:
                used.add(id(each.row))
    due = (
        name.removeprefix(prefix)
        for row in rows
        if id(row) in used  # a class may have other names for the others, which the adapter cannot know
        for name in names_in_row(row, ours)
    )
    missing = [
        name
        for name in dict.fromkeys(due)
        if name.endswith(".weight")
        and name not in adapter.updates
        and adapter.config.targets(name.removesuffix(".weight"))
    ]
    return _Naming(places, unexpected, missing)


def _check(adapter: _Adapter, naming: _Naming, state: Mapping[str, Tensor]) -> None:
    """Refuse tensors without a place, adapters that are missing, and shapes that do not fit, all at once."""
    unexpected = [
        name
        for plain in naming.unexpected
        for name in (adapter.updates[plain].whole, *adapter.updates[plain].pair.values())
        if name
    ]
    missing = [f"{_PREFIX}{name.removesuffix('.weight')}.lora_A.weight" for name in naming.missing]
    wrong = []
    for name, place in naming.places.items():
        update = adapter.updates[name]
        due = _shape(place, state)
        kind = "lora_embedding_{}" if update.is_table else "lora_{}.weight"
        wanted = {"A": 0, "B": 0} if update.pair and name.endswith(".weight") else {}
        missing += [f"{_PREFIX}{update.module}.{kind.format(end)}" for end in wanted if end not in update.pair]
        shapes = _pair_shapes(update, due, adapter.config.rank(update.module))
        if update.whole:
            shapes[update.whole] = due[::-1] if place.transposed and len(due) == 2 else due
        for stored, shape in shapes.items():
            if (found := tuple(adapter.tensors[stored].shape)) != shape:
                wrong.append(f"{stored} {list(found)} instead of {list(shape)}")
    problems = {"missing": missing, "unexpected": unexpected, "of a wrong shape": wrong}
    if not adapter.updates or any(problems.values()):
        hint = "are they the adapters of this model?"
        raise mismatch(adapter.path, problems if adapter.updates else {"missing": ["lora_A.weight"]}, hint)


def _shape(place: _Place, state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """The shape, in our layout, of the part of our tensors that a place means."""
    rows = sum(state[name].shape[0] if state[name].ndim else 0 for name in place.names)
    first = state[place.names[0]].shape
    return (rows // place.parts, *first[1:]) if first else ()


def _pair_shapes(update: _Update, due: tuple[int, ...], rank: int) -> dict[str, tuple[int, ...]]:
    """The shapes that A and B must have for a weight of shape ``due``, by their names in the file."""
    if set(update.pair) == {"B"} and len(due) == 1:
        return {update.pair["B"]: due}
    if not {"A", "B"} <= update.pair.keys() or len(due) < 2:
        return {}
    down, up = (rank, *due[1:]), (due[0], rank, *(1,) * (len(due) - 2))
    if update.is_table:  # (R, V) and (D, R) for a table (V, D)
        down, up = (rank, due[0]), (due[1], rank)
    return {update.pair["A"]: down, update.pair["B"]: up}


def _merged(adapter: _Adapter, places: Mapping[str, _Place], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The new values of our tensors."""
    groups = defaultdict[tuple[str, ...], list[str]](list)
    for name, place in places.items():
        groups[place.names].append(name)
    merged: dict[str, Tensor] = {}
    for names, changed in groups.items():
        old = [state[name] for name in names]
        exact = [tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in old]
        whole = torch.cat(exact) if len(old) > 1 else exact[0]
        parts = list(whole.chunk(places[changed[0]].parts)) if whole.ndim else [whole]
        for name in changed:
            index = places[name].part
            parts[index] = _changed(parts[index], adapter, adapter.updates[name], places[name].transposed)
        whole = torch.cat(parts) if len(parts) > 1 else parts[0]
        pieces = whole.chunk(len(names)) if len(names) > 1 else [whole]
        merged |= {name: new.to(due.dtype) for name, new, due in zip(names, pieces, old, strict=True)}
    not_finite = [name for name, tensor in merged.items() if not is_finite(tensor)]
    if not_finite:
        raise NonFiniteError(
            f"NaN or Inf in {abbreviated(not_finite)} once merged",
            path=adapter.path,
            hint='load the model with dtype="float32"',
        )
    return merged


def _changed(part: Tensor, adapter: _Adapter, update: _Update, transposed: bool) -> Tensor:
    """A part of a tensor of ours, in float32 or wider, with its change."""
    tensors = {end: adapter.tensors[name].to(part) for end, name in update.pair.items()}
    if update.whole:
        part = adapter.tensors[update.whole].to(part)
        part = part.t() if transposed and part.ndim == 2 else part
    if not tensors:
        return part
    if "A" not in tensors:
        return part + adapter.config.scale(update.module, adapter.config.rank(update.module)) * tensors["B"]
    down, up = tensors["A"], tensors["B"]
    scale = adapter.config.scale(update.module, down.shape[0])
    product = up.flatten(1) @ down.flatten(1)  # (O, R) @ (R, I * kernel)
    return part + scale * (product.t() if update.is_table else product.reshape(part.shape))


def _set(model: VisionEncoderDecoder, merged: dict[str, Tensor], folder: Path) -> None:
    """Set the new values; an output layer and an embedding that share a weight get one each where they now differ."""
    state, ties = model.state_dict(keep_vars=True), same_tensors(model)
    apart: list[str] = []
    for name in merged:
        twins = [twin for twin in ties.get(name, ()) if twin != name]
        if any(twin not in merged or not torch.equal(merged[twin], merged[name]) for twin in twins):
            apart.append(name)
    if apart:
        _untie(model, apart, ties, folder)
        state = model.state_dict(keep_vars=True)
    for name, value in merged.items():
        state[name].copy_(value)


def _untie(model: VisionEncoderDecoder, names: Sequence[str], ties: Mapping[str, list[str]], folder: Path) -> None:
    """Give the output layer a weight of its own."""
    decoder = model.decoder
    output, embedding = decoder.get_output_embeddings(), decoder.get_input_embeddings()
    known = {name for name, t in model.state_dict(keep_vars=True).items() if t is embedding.weight is output.weight}
    for name in names:
        if name not in known or "tie_word_embeddings" not in type(decoder.config).model_fields:
            other = next(twin for twin in ties[name] if twin != name)
            raise IncompatibleError(
                f"{name} and {other} are one tensor, which the adapters change in {name} alone",
                path=folder,
                field=name,
                hint="train other modules, or both of them alike",
            )
    output.weight = nn.Parameter(output.weight.detach().clone(), output.weight.requires_grad)
    decoder.config = decoder.config.changed(tie_word_embeddings=False)
